//! What has to be written, from what is known. Pure: the time is passed in.

mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::absent::AbsentNodes;
use super::alarms::Alarms;
use super::concerns::Mentions;
use super::decision::{Decision, Write, is_urgent, moved};
use super::told::{Told, assigned, given_up};
use super::writes::{May, Writes};
use crate::model::cluster::differing;
use crate::model::handover::{
    Assignment, DrainLimits, Endpoint, FlowHash, HashKey, Inputs, Moment, NodeName, NodeReport, ServiceUid, Waiting,
    Witness,
};
use crate::model::{BucketCount, Cluster, EndpointId, Problem, Reason, Vip, Vips};
use crate::state::assignment::uid_of;
use crate::state::node_report::ReportFault;
use crate::state::{Index, StoredMap, StoredReport, problem};

/// What is the same for all Services.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Number of buckets of new maps.
    pub(super) buckets: BucketCount,
    /// Seed of the hash of new maps.
    pub(super) seed: u32,
    /// For how long packets that are not TCP stay with a former owner.
    pub(super) drain_non_tcp: Duration,
}

/// The time, by all clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For what begins and ends here, and for what is stored.
    pub(super) moment: Moment,
    /// Milliseconds since 1970 (UTC).
    pub(super) unix_ms: u64,
}

impl Now {
    pub(super) fn read() -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        Now { moment: Moment { instant: Instant::now(), unix: unix.as_secs() }, unix_ms }
    }
}

/// What follows from one look.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decided {
    /// Writes to be begun now.
    pub(super) begin: Vec<Decision>,
    /// Users have to know something else than before: [`Decider::problems`].
    pub(super) tells: bool,
    /// When to look again although nothing changes.
    pub(super) due: Option<Instant>,
}

/// What the controller remembers between two looks. All of it may be lost: another controller begins with nothing.
#[derive(Debug, Clone)]
pub(super) struct Decider {
    rules: Rules,
    /// What nodes have reported; fed from `heard`.
    witness: Witness,
    /// The reports that the witness has heard, by node.
    heard: BTreeMap<String, Result<Arc<NodeReport>, ReportFault>>,
    absent: AbsentNodes,
    /// Nodes that were gone at the last look.
    gone: BTreeSet<String>,
    writes: Writes,
    /// VIPs as they were at the last look.
    vips: Vips,
    /// Services with VIPs.
    cases: BTreeMap<ServiceUid, Case>,
    /// Services of which something has changed since they were decided upon.
    dirty: BTreeSet<ServiceUid>,
    /// When to decide again although nothing changes.
    alarms: Alarms,
    /// Endpoints and members, by UID.
    pods: Mentions<EndpointId>,
    /// Nodes of endpoints and members.
    nodes: Mentions<NodeName>,
    /// Nodes of the members of known maps, also while another controller leads.
    members: Mentions<NodeName>,
    looked: Option<Instant>,
}

/// A Service with VIPs.
#[derive(Debug, Clone, Default)]
struct Case {
    /// The VIPs, at least one. What is decided is the same for all.
    vips: BTreeMap<IpAddr, Arc<Vip>>,
    told: Told,
    /// What users have to know.
    problems: Vec<Problem>,
}

/// What is there of a Service's map.
#[derive(Clone, Copy)]
struct Stored<'a> {
    /// The newest one that is known.
    known: Option<&'a Assignment>,
    /// What is stored.
    stored: Option<&'a StoredMap>,
}

/// What a decision that gives buckets to newcomers waits for a pod that is ready and not set up yet. Otherwise the first one would get
/// everything, and the others take it away from it again. Who goes is replaced without waiting for anybody.
const GATHER: Duration = Duration::from_secs(1);
/// The same for the first decision about a Service, which may come together with agents that start.
const GATHER_FIRST: Duration = Duration::from_secs(3);

impl Decider {
    pub(super) fn new(rules: Rules) -> Decider {
        Decider {
            rules,
            witness: Witness::default(),
            heard: BTreeMap::new(),
            absent: AbsentNodes::default(),
            gone: BTreeSet::new(),
            writes: Writes::default(),
            vips: Vips::new(),
            cases: BTreeMap::new(),
            dirty: BTreeSet::new(),
            alarms: Alarms::default(),
            pods: Mentions::default(),
            nodes: Mentions::default(),
            members: Mentions::default(),
            looked: None,
        }
    }

    /// Everything that is stored differently from what it should be, as far as it may be written now: of Services of which
    /// something has changed, or is due. `cluster` is what `index` says.
    pub(super) fn decide(&mut self, index: &Index, cluster: &Cluster, now: Now) -> Decided {
        let instant = now.moment.instant;
        self.take_vips(cluster);
        self.dirty.extend(self.alarms.take_due(instant));
        let mut decided = Decided::default();
        for service in std::mem::take(&mut self.dirty) {
            let due = self.decide_service(&service, index, now, &mut decided);
            self.alarms.set(&service, due);
        }
        for report in self.gone.iter().filter_map(|node| index.stored_report(node)).filter(is_ours) {
            let decision = Decision::Delete { key: report.key, version: report.version };
            let due = begin(&mut self.writes, decision, instant, &mut decided);
            decided.wake_at(due);
        }
        for due in [self.witness.due(instant), self.absent.due(instant), self.alarms.next()] {
            decided.wake_at(due);
        }
        decided
    }

    /// What users have to know.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.cases.values().flat_map(|case| &case.problems)
    }

    /// Notes which Services have other VIPs than at the last look. A VIP that has not changed is the same object.
    fn take_vips(&mut self, cluster: &Cluster) {
        let mut is_new = false;
        for (old, new) in differing(&self.vips, &cluster.vips) {
            is_new = true;
            if let Some(vip) = old {
                let service = ServiceUid::from(vip.service.uid.as_str());
                self.cases.get_mut(&service).into_iter().for_each(|case| drop(case.vips.remove(&vip.address)));
                self.dirty.insert(service);
            }
            if let Some(vip) = new {
                let service = ServiceUid::from(vip.service.uid.as_str());
                self.cases.entry(service.clone()).or_default().vips.insert(vip.address, vip.clone());
                self.dirty.insert(service);
            }
        }
        if is_new {
            self.vips.clone_from(&cluster.vips);
        }
    }

    /// Decides about one Service, and says when to do it again although nothing changes.
    fn decide_service(
        &mut self,
        service: &ServiceUid,
        index: &Index,
        now: Now,
        decided: &mut Decided,
    ) -> Option<Instant> {
        let stored = index.stored_map(service.as_str());
        let case = self.cases.remove(service);
        let told = case.as_ref().map(|case| case.problems.clone()).unwrap_or_default();
        let Some(mut case) = case.filter(|case| !case.vips.is_empty()) else {
            decided.tells |= !told.is_empty();
            self.pods.set(service, BTreeSet::new());
            self.nodes.set(service, BTreeSet::new());
            let surplus = stored.filter(|map| !index.asks(service.as_str()) && map.may_be_replaced)?;
            let decision = Decision::Delete { key: surplus.key, version: surplus.version };
            return begin(&mut self.writes, decision, now.moment.instant, decided);
        };
        let known = index.assignment(service.as_str()).map(Arc::as_ref);
        self.link(service, &case, known);
        let due = self.decide_case(&mut case, Stored { known, stored: stored.as_ref() }, now, decided);
        decided.tells |= case.problems != told;
        self.cases.insert(service.clone(), case);
        due
    }

    /// Notes whose news concern a Service.
    fn link(&mut self, service: &ServiceUid, case: &Case, known: Option<&Assignment>) {
        let listed = || case.vips.values().flat_map(|vip| &vip.endpoints);
        let members = || known.into_iter().flat_map(|map| &map.members);
        let pods = listed().map(|e| e.pod_uid.as_str().into()).chain(members().map(|(id, _)| id.clone()));
        let nodes = listed().map(|e| e.node.as_str().into()).chain(members().map(|(_, member)| member.node.clone()));
        self.pods.set(service, pods.collect());
        self.nodes.set(service, nodes.collect());
    }

    fn decide_case(&mut self, case: &mut Case, maps: Stored<'_>, now: Now, decided: &mut Decided) -> Option<Instant> {
        let instant = now.moment.instant;
        let vip = case.vips.values().next()?.clone();
        if let Some(left) = maps.stored.filter(|stored| !stored.may_be_replaced) {
            case.problems = vec![left_alone(&vip, left)];
            return None;
        }
        let (write, waiting) = self.decide_one(&vip, case.vips.keys().copied().collect(), maps, now);
        if waiting.reports {
            case.problems.clear();
            return None;
        }
        case.told.look(&vip, &waiting, write.is_some(), instant);
        case.problems = case.told.problems(&vip, instant);
        let (gathers, due) =
            (gathers(&case.told, write.as_ref(), instant), waiting.due().map(|unix| now.moment.at(unix)));
        let again = match gathers {
            Some(until) => Some(until),
            None => write.and_then(|write| begin(&mut self.writes, Decision::Write(Box::new(write)), instant, decided)),
        };
        [due, again, case.told.due(instant)].into_iter().flatten().min()
    }

    /// What is to be stored for a Service, if that is not what is stored; and what it waits for.
    fn decide_one(&self, vip: &Vip, vips: BTreeSet<IpAddr>, maps: Stored<'_>, now: Now) -> (Option<Write>, Waiting) {
        let Stored { known, stored } = maps;
        let service = ServiceUid::from(vip.service.uid.as_str());
        let before = self.before(vip, known, &service, now);
        let endpoints: Vec<Endpoint> = vip.endpoints.iter().map(Endpoint::from).collect();
        let inputs = Inputs {
            service: &service,
            endpoints: &endpoints,
            witness: &self.witness,
            lost: &self.lost(&before, &endpoints, now.moment.instant),
            key: hash_key(vip),
            limits: DrainLimits { limit: vip.drain_limit, non_tcp: self.rules.drain_non_tcp },
            now: now.moment,
        };
        let (mut map, waiting) = before.next(&inputs);
        map.hold(&vips, now.moment.unix, before.generation);
        let is_stored = stored.and_then(|stored| stored.map.as_ref().ok()).is_some_and(|stored| **stored == map);
        if is_stored || waiting.reports {
            return (None, waiting);
        }
        let write = Write {
            service: vip.service.clone(),
            version: stored.map(|stored| stored.version.clone()),
            moved: moved(&before, &map),
            urgent: is_urgent(&before, &map),
            first: before.counts().is_empty() && !map.counts().is_empty(),
            tell: given_up(vip, &waiting).into_iter().chain(assigned(vip, &before, &map)).collect(),
            map,
        };
        (Some(write), waiting)
    }

    /// The decision that the next one goes on from: the newest that is known, whatever has become of what was stored; in a new
    /// life if nodes hold a later one; none at all, if nobody knows any.
    fn before(&self, vip: &Vip, known: Option<&Assignment>, service: &ServiceUid, now: Now) -> Assignment {
        let held = self.witness.held(service);
        match (known, held) {
            (Some(known), Some(held)) if held > known.generation => known.begin_again(service, now.unix_ms, held),
            (Some(known), _) => known.clone(),
            (None, _) => {
                let hash = FlowHash { buckets: self.rules.buckets, seed: self.rules.seed, key: hash_key(vip) };
                Assignment::begin(hash, service, now.unix_ms, held)
            }
        }
    }

    /// Members that no slice lists, of nodes that are gone: nobody will say that they have ended.
    fn lost(&self, map: &Assignment, endpoints: &[Endpoint], now: Instant) -> BTreeSet<EndpointId> {
        let gone = map.members.iter().filter(|(_, member)| self.absent.is_gone(member.node.as_str(), now));
        let unlisted = gone.filter(|(id, _)| !endpoints.iter().any(|endpoint| endpoint.id == **id));
        unlisted.map(|(id, _)| id.clone()).collect()
    }

    /// Takes the outcome of a write, and says when to look again if the watch brings nothing before.
    pub(super) fn finished(&mut self, decision: Decision, succeeded: bool, now: Instant) -> Instant {
        let name = decision.name();
        let mut next = self.writes.finished(&name, succeeded, now);
        let Some(service) = uid_of(&name).map(ServiceUid::from) else { return next };
        if let (true, Decision::Write(write), Some(case)) = (succeeded, decision, self.cases.get_mut(&service))
            && !write.tell.is_empty()
        {
            case.told.happened(write.tell, now);
            next = now;
        }
        self.alarms.set_earlier(&service, next);
        next
    }
}

/// Begins what may be written now, and says when to try again.
fn begin(writes: &mut Writes, decision: Decision, now: Instant, decided: &mut Decided) -> Option<Instant> {
    match writes.may(&decision.name(), decision.is_urgent(), now) {
        May::Now => {
            writes.begin(&decision.name(), decision.version(), now);
            decided.begin.push(decision);
            None
        }
        May::At(at) => Some(at),
        May::WhenFinished => None,
    }
}

/// Until when a decision waits that gives buckets to some, because others are about to be set up.
fn gathers(told: &Told, write: Option<&Write>, now: Instant) -> Option<Instant> {
    let patience = match write? {
        Write { first: true, .. } => GATHER_FIRST,
        Write { urgent: true, .. } => return None,
        _ => GATHER,
    };
    told.not_set_up_since().map(|since| since + patience).filter(|until| now < *until)
}

/// What a later version has written stays.
fn is_ours(report: &StoredReport) -> bool {
    report.report.as_ref().err().is_none_or(ReportFault::may_be_replaced)
}

impl Decided {
    fn wake_at(&mut self, at: Option<Instant>) {
        self.due = [self.due, at].into_iter().flatten().min();
    }
}

fn hash_key(vip: &Vip) -> HashKey {
    if vip.client_ip_affinity { HashKey::Addresses } else { HashKey::Ports }
}

/// What a later version of the program has written is its own controller's.
fn left_alone(vip: &Vip, stored: &StoredMap) -> Problem {
    let service = &vip.service;
    let what = format!(
        "bucket map {} of Service {service} was written by a later version of tunnel-router, and this controller leaves it as it \
         is",
        stored.key
    );
    let remedy = "run controllers of that version, or delete the ConfigMap to begin anew";
    problem(service, Reason::InvalidMap, what, remedy)
}
