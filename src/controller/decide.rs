//! What has to be written, from what is known. Pure: the time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::warn;

use super::absent::AbsentNodes;
use super::decision::{Decision, Write, is_urgent, moved};
use super::told::{Told, assigned, given_up};
use super::writes::{May, Writes};
use crate::model::handover::{
    Assignment, DrainLimits, Endpoint, FlowHash, HashKey, Inputs, Moment, NodeReport, ServiceUid, Waiting, Witness,
};
use crate::model::{BucketCount, Cluster, EndpointId, Problem, Reason, Vip};
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
    /// What users have to know.
    pub(super) problems: Vec<Problem>,
    /// When to look again although nothing changes.
    pub(super) due: Option<Instant>,
}

/// What the controller remembers between two looks. All of it may be lost: another controller begins with nothing.
#[derive(Debug)]
pub(super) struct Decider {
    rules: Rules,
    /// What nodes have reported; fed from `heard`.
    witness: Witness,
    /// The reports that the witness has heard, by node.
    heard: BTreeMap<String, Result<Arc<NodeReport>, ReportFault>>,
    absent: AbsentNodes,
    writes: Writes,
    told: Told,
}

/// What a Service asks for.
struct Asked<'a> {
    /// One of its VIPs: what is decided is the same for all.
    vip: &'a Vip,
    /// All of them.
    vips: BTreeSet<IpAddr>,
}

fn services(cluster: &Cluster) -> BTreeMap<&str, Asked<'_>> {
    let mut services: BTreeMap<&str, Asked<'_>> = BTreeMap::new();
    for vip in cluster.vips() {
        let asked = services.entry(&vip.service.uid).or_insert_with(|| Asked { vip, vips: BTreeSet::new() });
        asked.vips.insert(vip.address);
    }
    services
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
            writes: Writes::default(),
            told: Told::default(),
        }
    }

    /// Takes in what is known now. Controllers that do not lead do it, too, so that the next leader knows since when a node has
    /// been absent.
    pub(super) fn observe(&mut self, index: &Index, now: Instant) {
        let (Some(reports), Some(nodes)) = (index.stored_reports(), index.node_names()) else { return };
        self.hear(&reports, now);
        let members = index.assignments().values().flat_map(|map| map.members.values());
        let mentioned = members.map(|member| member.node.as_str()).chain(reports.keys().map(String::as_str));
        self.absent.look(mentioned, &nodes, now);
        let maps = index.stored_maps();
        let of_maps = maps.values().map(|map| (map.key.name.as_str(), map.version.as_str()));
        let of_reports = reports.values().map(|report| (report.key.name.as_str(), report.version.as_str()));
        let versions: BTreeMap<&str, &str> = of_maps.chain(of_reports).collect();
        self.writes.look(|name| versions.get(name).copied(), now);
    }

    fn hear(&mut self, reports: &BTreeMap<String, StoredReport>, now: Instant) {
        let gone: Vec<String> = self.heard.keys().filter(|node| !reports.contains_key(*node)).cloned().collect();
        for node in gone {
            self.heard.remove(&node);
            self.witness.hear(&node.as_str().into(), None, now);
        }
        for (node, StoredReport { report, .. }) in reports {
            if self.heard.get(node) == Some(report) {
                continue;
            }
            if let Err(fault) = report.as_ref().map_err(Clone::clone) {
                warn!(node, %fault, "report of a node says nothing");
            }
            let said = report.as_ref().ok().map(|report| NodeReport::clone(report));
            self.witness.hear(&node.as_str().into(), said, now);
            self.heard.insert(node.clone(), report.clone());
        }
        self.witness.complete();
    }

    /// Everything that is stored differently from what it should be, as far as it may be written now. `cluster` is what `index`
    /// says.
    pub(super) fn decide(&mut self, index: &Index, cluster: &Cluster, now: Now) -> Decided {
        let instant = now.moment.instant;
        let services = services(cluster);
        self.told.forget(|uid| services.contains_key(uid), instant);
        let stored = index.stored_maps();
        let mut wanted = Vec::new();
        let mut decided = Decided::default();
        for (uid, asked) in &services {
            let (vip, stored) = (asked.vip, stored.get(*uid));
            if let Some(left) = stored.filter(|stored| !stored.may_be_replaced) {
                decided.problems.push(left_alone(vip, left));
                continue;
            }
            let known = index.assignments().get(*uid).map(Arc::as_ref);
            let (write, waiting) = self.decide_one(asked, Stored { known, stored }, now);
            if waiting.reports {
                continue;
            }
            self.told.look(vip, &waiting, write.is_some(), instant);
            decided.problems.extend(self.told.problems(vip, instant));
            decided.wake_at(waiting.due().map(|unix| now.moment.at(unix)));
            match self.gathers(uid, write.as_ref(), instant) {
                Some(until) => decided.wake_at(Some(until)),
                None => wanted.extend(write.map(|write| Decision::Write(Box::new(write)))),
            }
        }
        wanted.extend(self.surplus(index, stored, instant));
        for decision in wanted {
            match self.writes.may(&decision.name(), decision.is_urgent(), instant) {
                May::Now => {
                    self.writes.begin(&decision.name(), decision.version(), instant);
                    decided.begin.push(decision);
                }
                May::At(at) => decided.wake_at(Some(at)),
                May::WhenFinished => {}
            }
        }
        for due in [self.witness.due(instant), self.absent.due(instant), self.told.due(instant)] {
            decided.wake_at(due);
        }
        decided
    }

    /// Until when a decision waits that gives buckets to some, because others are about to be set up.
    fn gathers(&self, uid: &str, write: Option<&Write>, now: Instant) -> Option<Instant> {
        let patience = match write? {
            Write { first: true, .. } => GATHER_FIRST,
            Write { urgent: true, .. } => return None,
            _ => GATHER,
        };
        self.told.not_set_up_since(uid).map(|since| since + patience).filter(|until| now < *until)
    }

    /// What is to be stored for a Service, if that is not what is stored; and what it waits for.
    fn decide_one(&self, asked: &Asked<'_>, maps: Stored<'_>, now: Now) -> (Option<Write>, Waiting) {
        let (vip, Stored { known, stored }) = (asked.vip, maps);
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
        map.hold(&asked.vips, now.moment.unix, before.generation);
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

    /// Maps of Services that do not ask for a VIP any more, and reports of nodes that are gone. What a later version has written
    /// stays.
    fn surplus(&self, index: &Index, maps: BTreeMap<String, StoredMap>, now: Instant) -> Vec<Decision> {
        let wanted = index.services_with_annotation();
        let maps = maps.into_iter().filter(|(uid, map)| !wanted.contains(uid) && map.may_be_replaced);
        let maps = maps.map(|(_, map)| Decision::Delete { key: map.key, version: map.version });
        let reports = index.stored_reports().unwrap_or_default();
        let is_ours = |report: &StoredReport| report.report.as_ref().err().is_none_or(ReportFault::may_be_replaced);
        let reports = reports.into_iter().filter(|(node, report)| self.absent.is_gone(node, now) && is_ours(report));
        maps.chain(reports.map(|(_, report)| Decision::Delete { key: report.key, version: report.version })).collect()
    }

    /// Takes the outcome of a write, and says when to look again if the watch brings nothing before.
    pub(super) fn finished(&mut self, decision: Decision, succeeded: bool, now: Instant) -> Instant {
        let mut next = self.writes.finished(&decision.name(), succeeded, now);
        if let (true, Decision::Write(write)) = (succeeded, decision)
            && !write.tell.is_empty()
        {
            self.told.happened(write.tell, now);
            next = now;
        }
        next
    }
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
