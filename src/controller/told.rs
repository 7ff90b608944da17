//! What users are told about maps, in Events: only what lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::handover::{Assignment, NodeName, Waiting};
use crate::model::{Bucket, Endpoint, EndpointId, Problem, Reason, ServiceRef, Vip};
use crate::state::problem;

/// A condition that ends by itself sooner is none.
const PATIENCE: Duration = Duration::from_secs(30);
/// For how long what happened once is kept, so that an API server that is away for a while hears of it, too.
const KEPT: Duration = Duration::from_secs(600);
/// Pods that are named in an Event; the others are counted.
const NAMED: usize = 5;

/// An endpoint, and what it waits for.
type Condition = (Reason, EndpointId);

/// What is told about one Service, and what may have to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Since when each condition has held.
    since: BTreeMap<Condition, Instant>,
    /// Who passes packets on to a pod that they do not reach.
    senders: BTreeMap<EndpointId, EndpointId>,
    /// The nodes of which a pod waits for a word.
    silent: BTreeMap<EndpointId, BTreeSet<NodeName>>,
    /// What has happened, and until when it is told.
    happened: Vec<(Problem, Instant)>,
}

impl Told {
    /// Takes what the Service waits for. While its map changes no condition is over: what follows from the change is not decided.
    pub(super) fn look(&mut self, vip: &Vip, waiting: &Waiting, changes: bool, now: Instant) {
        let holds = |(reason, id): &Condition| match reason {
            Reason::NotSetUp => waiting.not_set_up.contains_key(id),
            Reason::ForwardingBlocked => waiting.unreached.contains_key(id),
            Reason::WaitingForNodes => waiting.unheard.contains_key(id),
            _ => waiting.balance.contains(id) || changes && vip.endpoints.iter().any(|e| e.pod_uid == id.as_str()),
        };
        self.since.retain(|condition, _| holds(condition));
        let not_set_up = waiting.not_set_up.keys().map(|id| (Reason::NotSetUp, id));
        let balance = waiting.balance.iter().map(|id| (Reason::WaitingForBalance, id));
        let unreached = waiting.unreached.keys().map(|id| (Reason::ForwardingBlocked, id));
        let unheard = waiting.unheard.keys().map(|id| (Reason::WaitingForNodes, id));
        for (reason, id) in not_set_up.chain(balance).chain(unreached).chain(unheard) {
            self.since.entry((reason, id.clone())).or_insert(now);
        }
        (self.senders, self.silent) = (waiting.unreached.clone(), waiting.unheard.clone());
        self.happened.retain(|(_, until)| *until > now);
    }

    /// Since when the last endpoint has been ready without being set up.
    pub(super) fn not_set_up_since(&self) -> Option<Instant> {
        self.since.iter().filter(|((reason, _), _)| *reason == Reason::NotSetUp).map(|(_, since)| *since).max()
    }

    /// Something has happened.
    pub(super) fn happened(&mut self, problems: Vec<Problem>, now: Instant) {
        self.happened.extend(problems.into_iter().map(|problem| (problem, now + KEPT)));
    }

    /// What users have to know about the Service.
    pub(super) fn problems(&self, vip: &Vip, now: Instant) -> Vec<Problem> {
        let lasting = |reason: Reason| -> Vec<&EndpointId> {
            let long = self
                .since
                .iter()
                .filter(|((what, _), since)| *what == reason && now.saturating_duration_since(**since) >= PATIENCE);
            long.map(|((_, id), _)| id).collect()
        };
        let happened = self.happened.iter().filter(|(problem, _)| problem.subject.service() == Some(&vip.service));
        let not_set_up = not_set_up(vip, &lasting(Reason::NotSetUp));
        let balance = waiting_for_balance(vip, &lasting(Reason::WaitingForBalance));
        let nodes = waiting_for_nodes(vip, &lasting(Reason::WaitingForNodes), &self.silent);
        let blocked = forwarding_blocked(vip, &lasting(Reason::ForwardingBlocked), &self.senders);
        not_set_up
            .into_iter()
            .chain(balance)
            .chain(nodes)
            .chain(blocked)
            .chain(happened.map(|(problem, _)| problem.clone()))
            .collect()
    }

    /// When there is something to tell, or to be told no longer.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let lasting = self.since.values().map(|since| *since + PATIENCE);
        lasting.chain(self.happened.iter().map(|(_, until)| *until)).filter(|at| *at > now).min()
    }
}

fn not_set_up(vip: &Vip, pods: &[&EndpointId]) -> Option<Problem> {
    let on_node = |e: &Endpoint| format!("{} on node {}", e.pod, e.node);
    let (service, named) = (&vip.service, named(vip, pods, on_node)?);
    let what = format!(
        "ready pods of Service {service} get no new connections, for {} s their nodes have not said that they are set up: {named}",
        PATIENCE.as_secs()
    );
    let remedy = "see the log of tunnel-router on these nodes, and whether it runs there";
    Some(problem(service, Reason::NotSetUp, what, remedy))
}

fn waiting_for_balance(vip: &Vip, pods: &[&EndpointId]) -> Option<Problem> {
    let (service, named) = (&vip.service, named(vip, pods, |e| e.pod.clone())?);
    let what = format!(
        "pods of Service {service} have less than their share, for the buckets have former owners with open connections: {named}"
    );
    let remedy = "they get it as connections end; the Service's annotation about draining sets a limit";
    Some(problem(service, Reason::WaitingForBalance, what, remedy))
}

fn waiting_for_nodes(
    vip: &Vip,
    pods: &[&EndpointId],
    silent: &BTreeMap<EndpointId, BTreeSet<NodeName>>,
) -> Option<Problem> {
    let (service, named) = (&vip.service, named(vip, pods, |e| e.pod.clone())?);
    let nodes: BTreeSet<&str> = pods.iter().filter_map(|id| silent.get(*id)).flatten().map(NodeName::as_str).collect();
    let nodes: Vec<&str> = nodes.into_iter().take(NAMED).collect();
    let what = format!(
        "pods of Service {service} have less than their share, for nodes with others that have more have not said that they know of \
         them: {named}, waiting for {}",
        nodes.join(", ")
    );
    let remedy = "see whether tunnel-router runs on these nodes, and its log there";
    Some(problem(service, Reason::WaitingForNodes, what, remedy))
}

fn forwarding_blocked(vip: &Vip, to: &[&EndpointId], senders: &BTreeMap<EndpointId, EndpointId>) -> Option<Problem> {
    let service = &vip.service;
    let sent = |to: &&EndpointId| Some(format!("from {} to {}", pod_of(vip, senders.get(*to)?), pod_of(vip, to)));
    let ways: Vec<String> = to.iter().filter_map(sent).take(NAMED).collect();
    let what = format!(
        "connections of Service {service} break while its buckets move, for what a pod passes on does not arrive: {}",
        ways.join(", ")
    );
    let remedy =
        "let the tunnel's packets pass between pods, as between nodes and pods: look at network policies and firewalls";
    (!ways.is_empty()).then(|| problem(service, Reason::ForwardingBlocked, what, remedy))
}

/// The addresses that the Service holds by this decision, and did not hold before.
pub(super) fn assigned(vip: &Vip, before: &Assignment, after: &Assignment) -> Option<Problem> {
    let new = after.vips.iter().flat_map(BTreeMap::keys).filter(|vip| before.holds(**vip).is_none());
    let new: Vec<String> = new.map(ToString::to_string).collect();
    // What was written before VIPs were stored has held them all along.
    if new.is_empty() || before.vips.is_none() {
        return None;
    }
    let what = format!("Service {} holds {}", vip.service, new.join(", "));
    Some(problem(
        &vip.service,
        Reason::VipAssigned,
        what,
        "nobody else gets an address for as long as the Service asks for it",
    ))
}

/// What it costs to store this decision; told when it is stored.
pub(super) fn given_up(vip: &Vip, waiting: &Waiting) -> Vec<Problem> {
    let mut buckets: BTreeMap<&EndpointId, BTreeSet<Bucket>> = BTreeMap::new();
    for (bucket, id) in &waiting.given_up {
        buckets.entry(id).or_default().insert(*bucket);
    }
    let one =
        |(id, buckets): (&EndpointId, BTreeSet<Bucket>)| lost_connections(&vip.service, &pod_of(vip, id), &buckets);
    buckets.into_iter().map(one).collect()
}

/// The buckets are named: a pod that loses others later gets another Event.
fn lost_connections(service: &ServiceRef, pod: &str, buckets: &BTreeSet<Bucket>) -> Problem {
    let named: Vec<String> = buckets.iter().take(NAMED).map(|bucket| bucket.number().to_string()).collect();
    let more = buckets.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let noun = if buckets.len() == 1 { "bucket" } else { "buckets" };
    let what = format!(
        "{pod} of Service {service} has lost the connections that it had in {noun} {}{more}: two later owners have some, too, and a \
         bucket has no more than two former owners",
        named.join(", ")
    );
    problem(service, Reason::ConnectionsGivenUp, what, "let pods of the Service change more slowly")
}

fn pod_of(vip: &Vip, id: &EndpointId) -> String {
    let listed = vip.endpoints.iter().find(|e| e.pod_uid == id.as_str());
    listed.map_or_else(|| format!("a pod that is not listed any more (UID {id})"), |e| format!("pod {}", e.pod))
}

/// The first pods by name, and how many others there are; `None` without any.
fn named(vip: &Vip, ids: &[&EndpointId], name: impl Fn(&Endpoint) -> String) -> Option<String> {
    let listed = vip.endpoints.iter().filter(|e| ids.iter().any(|id| id.as_str() == e.pod_uid));
    let mut names: Vec<String> = listed.map(name).collect();
    names.sort();
    let others = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let others = (others > 0).then(|| format!("{others} more"));
    Some(names.into_iter().chain(others).collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
}
