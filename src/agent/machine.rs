//! The agent without its surroundings: events in, effects out. Nothing here asks a kernel or an API server, or waits.
//!
//! ```text
//!  watch event ─► index ─(gathered)─► resolve ─► Prepare ─► Prepared ─► goals ─► Start, Order ─► report
//!                                                (where pods of this node have a VIP)
//! ```
//!
//! One state of the cluster is on this way at a time; what is heard meanwhile waits for the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::drains::draining;
use super::event::{AgentEvent, Effect, Prepare, Prepared};
use super::follows::Follows;
use super::goals::{PodGoal, pod_goals, pod_target};
use super::here::Here;
use super::leaving::Leaving;
use super::losses::Watched;
use super::report::{ended, note_pods};
use super::status::Status;
use super::targets::Targets;
use super::waiting::Waiting;
use crate::inspect::Known;
use crate::metrics::Metrics;
use crate::model::handover::{Moment, NodeReport, ServiceUid, SetUp};
use crate::model::second_chance::Pairs;
use crate::model::{Cluster, Problem, Reason, ServiceRef, Subject, Vip};
use crate::netns::Netns;
use crate::plan::{self, losses::judged};
use crate::reconcile::target::{NODE, Report, State};
use crate::state::{Index, Resolved, Settings};

/// Events come in bursts (a rolling update touches pods, slices and Services). The first of them is resolved at once; what comes after it is
/// gathered for so many times the time that this took, and no longer than [`SETTLE`].
const GATHERED: u32 = 4;

/// News wait no longer than this.
const SETTLE: Duration = Duration::from_millis(20);

/// Between two looks at what pods pass on to each other.
const FORWARDS: Duration = Duration::from_secs(5);

/// Until what could not be prepared is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// A state of the cluster on its way to the targets.
#[derive(Debug)]
struct OnItsWay {
    resolved: Resolved,
    /// It is another one than the last.
    is_new: bool,
    /// By UID of the pod.
    goals: BTreeMap<String, PodGoal>,
}

/// What could not be prepared.
#[derive(Debug)]
struct Failed {
    error: String,
    again: Instant,
}

/// What the agent knows and means to do.
#[derive(Debug)]
pub(super) struct Agent {
    index: Index,
    settings: Settings,
    plan: Arc<plan::Settings>,
    resync: Duration,
    metrics: Arc<Metrics>,
    targets: Targets,
    status: Status,
    waiting: Waiting,
    follows: Follows,
    here: Here,
    leaving: Leaving,
    /// What is told of packets that come and get no further.
    losses: BTreeSet<Problem>,
    /// What the others have been told, but for what is over; `None` until there is something to tell.
    report: Option<NodeReport>,
    /// What users have been told.
    told: BTreeSet<Problem>,
    /// What has been said of the agent's readiness; `None` before the first time.
    unready: Option<Vec<String>>,
    /// The program that was prepared last.
    program: Option<u32>,
    failed: Option<Failed>,
    on_its_way: Option<OnItsWay>,
    /// What was dispatched last.
    last: Option<Resolved>,
    /// Since when a state of the cluster has been worked on.
    busy_since: Option<Instant>,
    /// Until when events are gathered.
    gathers_until: Instant,
    /// When to resolve what has been gathered.
    due: Option<Instant>,
    /// When to ask for the ways to other nodes again: their MTU may have changed, and nobody tells.
    refresh: Instant,
    /// When to look at what pods pass on to each other; `None` while nothing drains.
    forwards: Option<Instant>,
}

impl Agent {
    /// An agent that has heard nothing yet.
    pub(super) fn new(
        settings: Settings,
        plan: Arc<plan::Settings>,
        resync: Duration,
        (node_netns, metrics): (Netns, Arc<Metrics>),
        now: Instant,
    ) -> Self {
        Agent {
            index: Index::new(&settings.annotation),
            settings,
            plan,
            resync,
            metrics,
            targets: Targets::new(node_netns),
            status: Status::default(),
            waiting: Waiting::default(),
            follows: Follows::default(),
            here: Here::default(),
            leaving: Leaving::default(),
            losses: BTreeSet::new(),
            report: None,
            told: BTreeSet::new(),
            unready: None,
            program: None,
            failed: None,
            on_its_way: None,
            last: None,
            busy_since: None,
            gathers_until: now,
            due: None,
            refresh: now + resync,
            forwards: None,
        }
    }

    /// Takes what was heard `now`, and says what is to be done.
    pub(super) fn handle(&mut self, event: AgentEvent, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        let may_concern_users = !matches!(event, AgentEvent::Changed(_) | AgentEvent::Forwarded(_));
        match event {
            AgentEvent::Changed(change) => {
                if self.index.apply(change) && self.due.is_none() {
                    self.due = Some(self.gathers_until);
                }
            }
            AgentEvent::Reported(report) => self.reported(report, &mut effects),
            AgentEvent::Prepared(prepared) => {
                if let Some(next) = self.on_its_way.take() {
                    self.prepared(&prepared, &next.resolved.cluster, Instant::from_std(now.instant));
                    self.dispatch(next, &prepared, Instant::from_std(now.instant), &mut effects);
                }
            }
            AgentEvent::Forwarded(forwarding) => {
                let report = NodeReport { forwarding, ..self.report.clone().unwrap_or_default() };
                self.say(report, &mut effects);
            }
            AgentEvent::Lost(problems) => self.losses = problems,
            AgentEvent::Time => self.time(now, &mut effects),
        }
        if may_concern_users {
            self.tell(&mut effects);
        }
        self.show_readiness(&mut effects);
        effects
    }

    /// The effects of the last event are carried out: news that come from now on are gathered for as long as all of this took.
    pub(super) fn rests(&mut self, now: Instant) {
        if self.on_its_way.is_none()
            && let Some(since) = self.busy_since.take()
        {
            self.gathers_until = now + (GATHERED * now.saturating_duration_since(since)).min(SETTLE);
        }
    }

    /// When there is something to do although nothing is heard.
    pub(super) fn due(&self) -> Option<Instant> {
        self.resolves_at()
            .into_iter()
            .chain([self.refreshes_at(), self.forwards, self.waiting.due()].into_iter().flatten())
            .min()
    }

    fn resolves_at(&self) -> Option<Instant> {
        let retry = self.failed.as_ref().map(|failed| failed.again);
        let all = [self.due, self.follows.due(), self.leaving.due(), retry];
        all.into_iter().flatten().min().filter(|_| self.on_its_way.is_none())
    }

    fn refreshes_at(&self) -> Option<Instant> {
        Some(self.refresh).filter(|_| self.on_its_way.is_none())
    }

    fn time(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let instant = Instant::from_std(now.instant);
        let has_come = |time: Option<Instant>| time.is_some_and(|time| time <= instant);
        if has_come(self.resolves_at()) {
            self.busy_since = Some(instant);
            self.resolve(now, effects);
        }
        if has_come(self.refreshes_at()) {
            self.refresh = instant + self.resync;
            if let Some(last) = self.last.clone() {
                self.prepare(last, false, instant, effects);
            }
        }
        if has_come(self.forwards) {
            self.forwards = Some(instant + FORWARDS);
            effects.push(Effect::LookAtForwards(self.here.part().clone()));
        }
        self.waiting.ripen(instant);
    }

    /// Resolves what is known now.
    fn resolve(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.due = None;
        let Some(mut resolved) = self.index.resolve(&self.settings) else { return };
        self.follows.follow(&mut resolved.cluster, now);
        let now = Instant::from_std(now.instant);
        self.leaving.keep_absent(&mut resolved.cluster, now);
        // Otherwise routers follow nothing that this node announces.
        if self.plan.announce_table.is_some() {
            self.leaving.go_on(&mut resolved.cluster, &self.settings.node_name, now);
        }
        self.here.look(&resolved.cluster, &self.settings.node_name);
        let is_new = self.last.as_ref() != Some(&resolved);
        if is_new || self.failed.as_ref().is_some_and(|failed| failed.again <= now) {
            self.prepare(resolved, is_new, now, effects);
        } else {
            self.note_all(&resolved, effects);
        }
    }

    /// Has the kernel asked, unless no pod of this node has a VIP.
    fn prepare(&mut self, resolved: Resolved, is_new: bool, now: Instant, effects: &mut Vec<Effect>) {
        let here = self.here.part();
        let goals = pod_goals(here, &resolved.local_pods, &self.plan);
        if here.vips.is_empty() {
            self.failed = None;
            let prepared = Prepared { program: self.program, ..Prepared::default() };
            return self.dispatch(OnItsWay { resolved, is_new, goals }, &prepared, now, effects);
        }
        let pods = goals.values().map(|goal| goal.query.clone()).collect();
        effects.push(Effect::Prepare(Prepare { here: here.clone(), pods }));
        self.on_its_way = Some(OnItsWay { resolved, is_new, goals });
    }

    fn prepared(&mut self, prepared: &Prepared, cluster: &Cluster, now: Instant) {
        self.program = prepared.program;
        let is_known = |error: &String| self.failed.as_ref().is_some_and(|failed| failed.error == *error);
        if let Some(error) = prepared.failed.as_ref().filter(|error| !is_known(error)) {
            warn!(
                error,
                node = cluster.node_ref(&self.settings.node_name).name,
                "no second chances for packets, or not for all"
            );
        }
        self.failed = prepared.failed.clone().map(|error| Failed { error, again: now + RETRY });
    }

    fn dispatch(&mut self, next: OnItsWay, prepared: &Prepared, now: Instant, effects: &mut Vec<Effect>) {
        let OnItsWay { resolved, is_new, goals } = next;
        let (cluster, here) = (&resolved.cluster, self.here.part());
        let node = &self.settings.node_name;
        let goals = goals.into_iter().map(|(uid, goal)| (pod_target(&uid), goal));
        let Prepared { underlay, program, .. } = prepared;
        let pods = goals.map(|(target, goal)| (target, goal.prepared(here, underlay, *program))).collect();
        self.targets.dispatch(&resolved, &pods, effects);
        self.status.dispatched(&cluster.problems, cluster.node_ref(node), pods);
        effects.push(Effect::Drain(draining(here, node)));
        let drains = program.is_some() && here.vips().any(|vip| drains_here(vip, node));
        self.forwards = drains.then(|| self.forwards.unwrap_or(now + FORWARDS));
        let set_up = self.status.set_up();
        let lacks = |pod: &SetUp, service: &ServiceRef| pod.lacks.contains(&ServiceUid::from(service.uid.as_str()));
        let stands = |uid: &str, service: &ServiceRef| set_up.get(uid).is_some_and(|pod| !lacks(pod, service));
        self.waiting.dispatched((self.here.unmapped(), here), stands, now);
        let old = self.last.as_ref().map(|last| &last.cluster);
        self.metrics.dispatched(old, cluster, &self.status.pod_names(), &self.status.waiting());
        self.note_all(&resolved, effects);
        if is_new {
            self.last = Some(resolved);
        }
    }

    /// Takes down how the pods of this node are, as far as their goals are handed out, and what else the others have to know.
    fn note_all(&mut self, resolved: &Resolved, effects: &mut Vec<Effect>) {
        let (here, node) = (self.here.part(), &self.settings.node_name);
        let mut report = self.report.clone().unwrap_or_default();
        note_pods(&mut report, here, &self.status, node);
        report.ended = ended(here, &resolved.local_pods, node);
        report.holds = self.index.superseded();
        self.say(report, effects);
    }

    /// The first report tells that nothing is to be told.
    fn say(&mut self, report: NodeReport, effects: &mut Vec<Effect>) {
        if self.report.as_ref() != Some(&report) {
            self.report = Some(report.clone());
            effects.push(Effect::Report(report));
        }
    }

    fn reported(&mut self, report: Report, effects: &mut Vec<Effect>) {
        let ended = matches!(report.state, State::Gone) && report.target != NODE;
        let target = report.target.clone();
        self.metrics.reported(&report);
        self.status.reported(&self.settings.node_name, report);
        self.status.announce();
        // While a state is on its way, pods are as the one before it asks for; what is said of them is said of that one.
        if self.last.is_some() && self.on_its_way.is_none() {
            let mut report = self.report.clone().unwrap_or_default();
            note_pods(&mut report, self.here.part(), &self.status, &self.settings.node_name);
            self.say(report, effects);
        }
        if ended {
            self.targets.ended(&target, effects);
            // The pod may have got a VIP again in the meantime.
            if let Some(last) = &self.last {
                self.targets.dispatch(last, self.status.pods(), effects);
            }
        }
    }

    /// What users have to know now.
    fn problems(&self) -> BTreeSet<Problem> {
        let mut problems = self.status.problems();
        problems.extend(self.waiting.problems());
        problems.extend(self.without_second_chance());
        problems.extend(self.losses.iter().cloned());
        problems
    }

    fn without_second_chance(&self) -> Option<Problem> {
        let (failed, last) = (self.failed.as_ref()?, self.last.as_ref()?);
        let node = last.cluster.node_ref(&self.settings.node_name);
        let note = format!(
            "pods of node {} lose their connections when buckets of their Services move: {}; it is tried again",
            node.name, failed.error
        );
        Some(Problem { subject: Subject::Node(node), reason: Reason::NoSecondChance, note })
    }

    fn tell(&mut self, effects: &mut Vec<Effect>) {
        let problems = self.problems();
        if problems != self.told {
            self.metrics.problems(&problems);
            self.told.clone_from(&problems);
            effects.push(Effect::Tell(problems));
        }
    }

    fn show_readiness(&mut self, effects: &mut Vec<Effect>) {
        let unready = self.status.unready(&self.index.missing());
        if self.unready.as_ref() != Some(&unready) {
            self.unready = Some(unready.clone());
            effects.push(Effect::Unready(unready));
        }
    }

    /// Where packets must get through; `None` before the first dispatch.
    pub(super) fn watched(&self) -> Option<Watched> {
        let cluster = &self.last.as_ref()?.cluster;
        let troubled = self.status.problems().iter().filter_map(|p| p.subject.service().cloned()).collect();
        let node = Subject::Node(cluster.node_ref(&self.settings.node_name));
        Some(Watched { judged: judged(cluster, &troubled, &self.plan), node })
    }

    /// What somebody on this node is told, but for what only the kernel knows.
    pub(super) fn known(&self) -> Known {
        Known {
            node: self.settings.node_name.clone(),
            cluster: self.last.as_ref().map(|last| last.cluster.clone()).unwrap_or_default(),
            labels: self.plan.labels,
            any_address: self.settings.vip_ranges.is_empty(),
            unready: self.unready.clone().unwrap_or_default(),
            pending: self.status.pending(),
            problems: self.told.clone(),
            second_chances: None,
            pairs: Pairs::default(),
        }
    }
}

/// Whether pods of this node may pass packets on, or receive what others pass on.
fn drains_here(vip: &Vip, node: &str) -> bool {
    let has_former = vip.map.iter().flat_map(|map| &map.holdings).any(|holding| !holding.former.is_empty());
    has_former && !vip.pods_of(node).is_empty()
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
