//! The agent's main loop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Semaphore, mpsc, watch as watched};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::dispatch::{Dispatcher, send, send_part};
use super::drains::{Draining, draining, open_connections, watch_drains};
use super::follows::{Follows, moment};
use super::here::Here;
use super::leaving::Leaving;
use super::losses::{Ask, Watched, watch_losses};
use super::report::{ended, note_pods};
use super::second_chance::SecondChances;
use super::start::{preflight, state_settings};
use super::status::Status;
use super::waiting::Waiting;
use crate::inspect::connections::count;
use crate::inspect::{Known, socket};
use crate::kube::{Reporter, Scope, client, keep_report, tell_unbound, watch};
use crate::metrics::{Metrics, Ping, Reader, Server};
use crate::model::config::Config;
use crate::model::handover::{NodeReport, ServiceUid, SetUp};
use crate::model::{Problem, ServiceRef, Subject, Vip};
use crate::netns::{Netns, PodSearch, ProcFinder};
use crate::plan::{self, losses::judged};
use crate::reconcile::Places;
use crate::reconcile::target::{NODE, Report, Shared, State};
use crate::state::{Index, Resolved, Settings};

/// Events come in bursts (a rolling update touches pods, slices and Services). The first of them is resolved at once; what comes after it is
/// gathered for so many times the time that this took, and no longer than [`SETTLE`].
const GATHERED: u32 = 4;

/// News wait no longer than this.
const SETTLE: Duration = Duration::from_millis(20);

/// Between two looks at what pods pass on to each other.
const FORWARDS: Duration = Duration::from_secs(5);

/// Namespaces that are worked on at the same time.
const PARALLEL: usize = 8;

/// Runs the agent until `shutdown`. The kernel state stays.
///
/// # Errors
/// What is missing on this node, what stands in the way, or a kubeconfig that cannot be used; an API server that does not
/// answer is none: the agent waits, and what is in the kernel stays.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let node_netns = Netns::current()?;
    let settings = Arc::new(preflight(&node_netns, &config).await?);
    let client = client(config.kubeconfig.as_deref()).await.context("cannot talk to Kubernetes")?;
    let (reports, mut reported) = mpsc::unbounded_channel();
    let (pings, mut pinged) = mpsc::channel::<Ping>(1);
    let metrics = Arc::new(Metrics::of_agent());
    let (places, unready) = (Places::default(), watched::Sender::new(vec!["is starting".to_owned()]));
    if let Some(address) = config.metrics_address {
        let (metrics, places, unready) = (metrics.clone(), places.clone(), unready.subscribe());
        let (ping, node) = (pings.clone(), Some(node_netns.clone()));
        let server = Server { metrics, node, places, unready, ping, reader: Reader::default() };
        tokio::spawn(server.run(address, shutdown.clone()));
    }
    let second_chances = SecondChances::default();
    let shared = Shared {
        settings: settings.clone(),
        programs: second_chances.programs(),
        resync: config.resync,
        permits: Arc::new(Semaphore::new(PARALLEL)),
        search: Arc::new(PodSearch::new(ProcFinder::new(config.kernel.proc_root.clone()))),
        places: places.clone(),
        reports,
        shutdown: shutdown.clone(),
    };
    let mut agent = Agent {
        index: Index::new(config.annotation.as_str()),
        settings: state_settings(&config)?,
        plan: settings,
        dispatcher: Dispatcher::new(shared, node_netns),
        status: Status::default(),
        reporter: Reporter::new(client.clone(), &config.node_name, shutdown.clone()),
        metrics,
        unready,
        waiting: Waiting::default(),
        follows: Follows::default(),
        here: Here::default(),
        second_chances,
        leaving: Leaving::default(),
        places: places.clone(),
        config: config.clone(),
        draining: watched::Sender::new(Vec::new()),
        losses: BTreeSet::new(),
        report: watched::Sender::new(NodeReport::default()),
        refresh: tokio::time::Instant::now() + config.resync,
        forwards: None,
        gathers_until: tokio::time::Instant::now(),
        last: None,
    };
    tokio::spawn(watch_drains(agent.draining.subscribe(), places, agent.report.clone(), shutdown.clone()));
    let (lost, mut losses) = watched::channel(BTreeSet::new());
    let (asks, mut asked) = mpsc::channel::<Ask>(1);
    tokio::spawn(watch_losses(asks, agent.places.clone(), agent.plan.clone(), lost, shutdown.clone()));
    let (namespace, node) = (config.namespace.clone(), config.node_name.clone());
    tokio::spawn(keep_report(client.clone(), namespace, node, agent.report.subscribe(), shutdown.clone()));
    tokio::spawn(tell_unbound(client.clone(), config.node_name.clone(), shutdown.clone()));
    let (questions, mut questioned) = mpsc::channel(1);
    tokio::spawn(socket::serve(questions, shutdown.clone()));
    let mut changes = watch(client, scope(&config), shutdown.clone());
    info!(node = config.node_name, version = env!("CARGO_PKG_VERSION"), "agent started");
    if config.vip_ranges.is_empty() {
        info!("whoever may annotate a Service may take any free address for a VIP, --vip-cidrs limits that");
    }
    let mut due: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            change = changes.recv() => {
                let Some(change) = change else {
                    // What is known would silently grow old.
                    anyhow::ensure!(shutdown.is_cancelled(), "the watches have ended");
                    break;
                };
                if agent.index.apply(change) && due.is_none() {
                    due = Some(agent.gathers_until);
                }
            }
            Some(report) = reported.recv() => agent.reported(report),
            Some(answer) = pinged.recv() => {
                agent.second_chances.counts().iter().for_each(|(_, counts)| agent.metrics.second_chances(counts));
                // Who asks may have gone away.
                let _ = answer.send(());
            }
            Some(question) = questioned.recv() => agent.answer(question),
            () = at(due) => {
                due = None;
                agent.resolve_in_time();
            }
            () = at([agent.follows.due(), agent.leaving.due(), agent.second_chances.due()].into_iter().flatten().min()) => {
                agent.resolve_in_time();
            }
            () = at(agent.forwards) => agent.look_at_forwards(),
            () = at(Some(agent.refresh)) => agent.refresh(),
            Some(ask) = asked.recv() => {
                // Who asks may have gone away.
                drop(ask.send(agent.watched()));
            }
            Ok(()) = losses.changed() => {
                agent.losses = losses.borrow_and_update().clone();
                agent.tell_problems();
            }
            () = at(agent.waiting.due()) => {
                agent.waiting.ripen(tokio::time::Instant::now());
                agent.tell_problems();
            }
        }
        agent.tell_whether_ready();
    }
    info!("agent stopped, kernel state stays");
    Ok(())
}

/// What the agent of a node watches.
pub(super) fn scope(config: &Config) -> Scope<'_> {
    Scope { node: Some(&config.node_name), namespace: &config.namespace }
}

/// Whether pods of this node may pass packets on, or receive what others pass on.
fn drains_here(vip: &Vip, node: &str) -> bool {
    let has_former = vip.map.iter().flat_map(|map| &map.holdings).any(|holding| !holding.former.is_empty());
    has_former && !vip.pods_of(node).is_empty()
}

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

struct Agent {
    index: Index,
    settings: Settings,
    plan: Arc<plan::Settings>,
    dispatcher: Dispatcher,
    status: Status,
    reporter: Reporter,
    metrics: Arc<Metrics>,
    unready: watched::Sender<Vec<String>>,
    waiting: Waiting,
    follows: Follows,
    here: Here,
    second_chances: SecondChances,
    leaving: Leaving,
    places: Places,
    config: Config,
    draining: watched::Sender<Vec<Draining>>,
    /// What is told of packets that come and get no further.
    losses: BTreeSet<Problem>,
    /// What the other nodes and the controller are told.
    report: watched::Sender<NodeReport>,
    /// When to ask for the ways to other nodes again: their MTU may have changed, and nobody tells.
    refresh: tokio::time::Instant,
    /// When to look at what pods pass on to each other; `None` while nothing drains.
    forwards: Option<tokio::time::Instant>,
    /// Until when events are gathered.
    gathers_until: tokio::time::Instant,
    /// What was dispatched last.
    last: Option<Resolved>,
}

impl Agent {
    /// Resolves what is known now, and says until when to gather news.
    fn resolve_in_time(&mut self) {
        let started = tokio::time::Instant::now();
        self.resolve();
        let ended = tokio::time::Instant::now();
        self.gathers_until = ended + (GATHERED * (ended - started)).min(SETTLE);
    }

    fn resolve(&mut self) {
        let Some(mut resolved) = self.index.resolve(&self.settings) else { return };
        self.follows.follow(&mut resolved.cluster, moment());
        let now = tokio::time::Instant::now();
        self.leaving.keep_absent(&mut resolved.cluster, now);
        // Otherwise routers follow nothing that this node announces.
        if self.config.kernel.announce_table.is_some() {
            self.leaving.go_on(&mut resolved.cluster, &self.settings.node_name, now);
        }
        self.here.look(&resolved.cluster, &self.settings.node_name);
        let is_new = self.last.as_ref() != Some(&resolved);
        if is_new || self.second_chances.due().is_some_and(|due| due <= now) {
            self.dispatch(&resolved);
        }
        let first = self.last.is_none();
        self.report.send_if_modified(|report| {
            let before = report.clone();
            note_pods(report, self.here.part(), &self.status, &self.settings.node_name);
            report.ended = ended(self.here.part(), &resolved.local_pods, &self.settings.node_name);
            report.holds = self.index.superseded();
            // The first one tells that nothing is to be told.
            first || *report != before
        });
        if is_new {
            self.last = Some(resolved);
        }
    }

    fn dispatch(&mut self, resolved: &Resolved) {
        let (cluster, here) = (&resolved.cluster, self.here.part());
        let node = &self.settings.node_name;
        let mut pods = self.dispatcher.pod_goals(here, &resolved.local_pods);
        let program = self.second_chances.serve(here, node, &pods, &self.config.kernel);
        pods.values_mut().for_each(|pod| pod.input.program = program);
        self.dispatcher.dispatch(resolved, &pods);
        self.status.dispatched(&cluster.problems, cluster.node_ref(node), pods);
        send(&self.draining, draining(here, node));
        let drains = program.is_some() && here.vips().any(|vip| drains_here(vip, node));
        self.forwards = drains.then(|| self.forwards.unwrap_or_else(|| tokio::time::Instant::now() + FORWARDS));
        let set_up = self.status.set_up();
        let lacks = |pod: &SetUp, service: &ServiceRef| pod.lacks.contains(&ServiceUid::from(service.uid.as_str()));
        let stands = |uid: &str, service: &ServiceRef| set_up.get(uid).is_some_and(|pod| !lacks(pod, service));
        self.waiting.dispatched((cluster, here), stands, tokio::time::Instant::now());
        let old = self.last.as_ref().map(|last| &last.cluster);
        let (names, waiting) = (self.status.pod_names(), self.status.waiting());
        self.metrics.dispatched(old, cluster, &names, &waiting);
        self.tell_problems();
    }

    /// Hands out goals again, as the ways to other nodes are now.
    fn refresh(&mut self) {
        self.refresh = tokio::time::Instant::now() + self.config.resync;
        if let Some(last) = self.last.clone() {
            self.dispatch(&last);
        }
    }

    fn look_at_forwards(&mut self) {
        self.forwards = Some(tokio::time::Instant::now() + FORWARDS);
        let forwarding = self.second_chances.forwarding(self.here.part());
        send_part(&self.report, |report| &mut report.forwarding, forwarding);
    }

    /// What users have to know now.
    fn problems(&self) -> BTreeSet<Problem> {
        let mut problems = self.status.problems();
        problems.extend(self.waiting.problems());
        problems.extend(self.second_chances.problem());
        problems.extend(self.losses.iter().cloned());
        problems
    }

    /// Where packets must get through; `None` before the first dispatch.
    fn watched(&self) -> Option<Watched> {
        let cluster = &self.last.as_ref()?.cluster;
        let troubled = self.status.problems().iter().filter_map(|p| p.subject.service().cloned()).collect();
        let node = Subject::Node(cluster.node_ref(&self.config.node_name));
        Some(Watched { judged: judged(cluster, &troubled, &self.plan), node })
    }

    fn tell_problems(&mut self) {
        let problems = self.problems();
        self.metrics.problems(&problems);
        self.reporter.report(problems);
    }

    fn tell_whether_ready(&mut self) {
        send(&self.unready, self.status.unready(&self.index.missing()));
    }

    /// Answers somebody on this node; pods are looked into aside.
    fn answer(&mut self, question: socket::Question) {
        let known = Known {
            node: self.config.node_name.clone(),
            cluster: self.last.as_ref().map(|last| last.cluster.clone()).unwrap_or_default(),
            labels: self.config.mpls,
            any_address: self.config.vip_ranges.is_empty(),
            unready: self.status.unready(&self.index.missing()),
            pending: self.status.pending(),
            problems: self.problems(),
            second_chances: self.second_chances.counts(),
            pairs: self.second_chances.pairs(),
        };
        let places = self.places.clone();
        tokio::task::spawn_blocking(move || {
            let mut status = known.status();
            let open = open_connections(&known.local_pods(), &places);
            count(&mut status, |endpoint| open.get(endpoint.id.as_str()).map(Vec::as_slice));
            // Who asked may have gone away.
            drop(question.send(status));
        });
    }

    fn reported(&mut self, report: Report) {
        let ended = matches!(report.state, State::Gone) && report.target != NODE;
        let target = report.target.clone();
        self.metrics.reported(&report);
        self.status.reported(&self.settings.node_name, report);
        self.status.announce();
        // There is no target before the first dispatch.
        if self.last.is_some() {
            self.report.send_if_modified(|report| {
                let before = report.clone();
                note_pods(report, self.here.part(), &self.status, &self.settings.node_name);
                *report != before
            });
        }
        if ended {
            self.dispatcher.ended(&target);
            // The pod may have got a VIP again in the meantime.
            if let Some(last) = &self.last {
                self.dispatcher.dispatch(last, self.status.pods());
            }
        }
        self.tell_problems();
    }
}
