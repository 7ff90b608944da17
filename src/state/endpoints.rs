//! The pods behind a Service, from its EndpointSlices.
//!
//! An endpoint is a pod: its UID is its identity, however many slices mention it. What is no pod with a network of its
//! own, or cannot be found from another node, is refused by name, and the other endpoints are served.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::annotation::is_unicast;
use super::foreign::{Foreign, LINUX, foreign_network};
use super::problems::{Limited, problem, shown};
use super::records::{AddressType, Condition, EndpointRecord, PodRecord, PodRef, SliceRecord};
use super::snapshot::{ObjectKey, Snapshot};
use crate::model::handover::EndpointState;
use crate::model::{Addresses, Endpoint, Family, Problem, Reason, ServiceRef};

/// What is looked up while endpoints are judged; made once per snapshot.
pub(super) struct Lookup<'a> {
    /// Slices by the Service that they belong to.
    slices: BTreeMap<(&'a str, &'a str), Vec<(&'a ObjectKey, &'a SliceRecord)>>,
    /// Addresses of nodes.
    nodes: BTreeSet<IpAddr>,
    /// Operating systems of nodes that run another one than agents do, by name of the node.
    other_systems: BTreeMap<&'a str, &'a str>,
    /// Pods of the own node by UID.
    pods: BTreeMap<&'a str, (&'a ObjectKey, &'a PodRecord)>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, slice) in snapshot.slices.iter() {
            if let Some(service) = &slice.service {
                slices.entry((key.namespace.as_str(), service.as_str())).or_default().push((key, &**slice));
            }
        }
        Self {
            slices,
            nodes: snapshot.nodes.values().flat_map(|node| node.all.iter().copied()).collect(),
            other_systems: snapshot
                .nodes
                .iter()
                .filter_map(|(key, node)| Some((key.name.as_str(), node.os().filter(|os| *os != LINUX)?)))
                .collect(),
            pods: snapshot.pods.iter().map(|(key, pod)| (pod.uid.as_str(), (key, &**pod))).collect(),
        }
    }

    /// The endpoints of a Service, sorted by pod UID, and what was refused.
    pub(super) fn endpoints(&self, service: &ServiceRef, buckets: u16) -> (Vec<Endpoint>, Vec<Problem>) {
        let mut judged = Judged::default();
        let own = self.slices.get(&(service.namespace.as_str(), service.name.as_str()));
        for (key, slice) in own.into_iter().flatten() {
            if let AddressType::Other(kind) = &slice.address_type {
                judged.refused.insert(Subject::Slice(key), Why::AddressType(kind));
            }
            for endpoint in &slice.endpoints {
                match self.judge(key, &slice.address_type, endpoint) {
                    Ok(candidate) => {
                        judged.offer(candidate, slice.generation, key);
                        if let Some(foreign) = self.foreign_network(&candidate.pod.uid) {
                            judged.refuse(Subject::Pod(candidate.pod), Why::Foreign(foreign));
                        }
                    }
                    Err((subject, why)) => judged.refuse(subject, why),
                }
            }
        }
        judged.finish(service, buckets)
    }

    /// Whether an endpoint can be served.
    fn judge<'r>(
        &'r self,
        slice: &'r ObjectKey,
        address_type: &AddressType,
        endpoint: &'r EndpointRecord,
    ) -> Result<Candidate<'r>, (Subject<'r>, Why<'r>)> {
        let Some(pod) = &endpoint.pod else {
            return Err((Subject::Address(slice, endpoint.address.as_deref().unwrap_or_default()), Why::NoPod));
        };
        let refuse = |why| Err((Subject::Pod(pod), why));
        let text = endpoint.address.as_deref().unwrap_or_default();
        let fits = |a: &IpAddr| is_unicast(*a) && *address_type == AddressType::Ip(Family::of(*a));
        let Some(address) = text.parse().ok().filter(fits) else {
            return refuse(Why::Address(text));
        };
        if self.is_host_network(&pod.uid, address) {
            return refuse(Why::HostNetwork);
        }
        if self.namespace(pod).is_some_and(|namespace| namespace != slice.namespace) {
            return refuse(Why::Namespace);
        }
        let Some(node) = endpoint.node.as_deref() else { return refuse(Why::NoNode) };
        if let Some(os) = self.other_systems.get(node) {
            return refuse(Why::NodeOs(os));
        }
        Ok(Candidate { pod, node, address, condition: endpoint.condition, terminating: endpoint.terminating })
    }

    /// A pod in the node's network has the node's address; on the own node the pod says so itself.
    fn is_host_network(&self, uid: &str, address: IpAddr) -> bool {
        self.nodes.contains(&address) || self.pods.get(uid).is_some_and(|(_, pod)| pod.host_network)
    }

    /// Only the own node knows. The endpoint stays, so that all nodes compute the same map, and is never reported as set up.
    fn foreign_network(&self, uid: &str) -> Option<Foreign<'_>> {
        self.pods.get(uid).and_then(|(_, pod)| foreign_network(pod))
    }

    /// The namespace of the pod: what the pod itself says, where it can be seen, rather than who refers to it.
    /// Otherwise a hand-made EndpointSlice could bring a VIP into a pod of somebody else's.
    fn namespace<'r>(&'r self, pod: &'r PodRef) -> Option<&'r str> {
        match self.pods.get(pod.uid.as_str()) {
            Some((key, _)) => Some(&key.namespace),
            None => pod.namespace.as_deref(),
        }
    }
}

/// An endpoint that can be served.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    pod: &'a PodRef,
    node: &'a str,
    address: IpAddr,
    condition: Condition,
    terminating: bool,
}

impl Candidate<'_> {
    fn state(&self) -> EndpointState {
        match self.condition {
            Condition::Ready => EndpointState::Ready,
            condition if self.terminating => EndpointState::Terminating { serving: condition == Condition::Leaving },
            Condition::NotReady | Condition::Leaving => EndpointState::NotReady,
        }
    }
}

/// Decides between two mentions of the same pod; the greatest holds. A pod that moves from one slice to another is in
/// both for a moment, and the two need not agree.
type Rank<'a> = (Condition, i64, Reverse<&'a ObjectKey>, Reverse<IpAddr>);

/// What the slices of one family say about a pod: the best mention.
type Mention<'a> = (Rank<'a>, Candidate<'a>);

/// What is refused. Ordered, so that the same ones are named on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject<'a> {
    Slice(&'a ObjectKey),
    Address(&'a ObjectKey, &'a str),
    Pod(&'a PodRef),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Slice(slice) => write!(f, "EndpointSlice {}", slice.name),
            Subject::Address(slice, text) => write!(f, "endpoint {} of EndpointSlice {}", shown(text), slice.name),
            Subject::Pod(pod) => match &pod.namespace {
                Some(namespace) => write!(f, "pod {namespace}/{}", pod.name),
                None => write!(f, "pod {}", pod.name),
            },
        }
    }
}

/// Why an endpoint is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why<'a> {
    AddressType(&'a str),
    NoPod,
    Address(&'a str),
    HostNetwork,
    Namespace,
    NoNode,
    NodeOs(&'a str),
    Foreign(Foreign<'a>),
}

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::AddressType(kind) => write!(f, "has addressType {}, which has no pods", shown(kind)),
            Why::NoPod => f.write_str("does not refer to a pod"),
            Why::Address("") => f.write_str("has no address"),
            Why::Address(text) => {
                write!(f, "has address {}, which is no pod's address in a slice of its type", shown(text))
            }
            Why::HostNetwork => {
                f.write_str("uses its node's network (hostNetwork), where a VIP would be the node's own")
            }
            Why::Namespace => f.write_str("is in another namespace than the Service"),
            Why::NoNode => f.write_str("is on no node (nodeName is missing)"),
            Why::NodeOs(os) => write!(f, "is on a node with kubernetes.io/os {}, where no agent runs", shown(os)),
            Why::Foreign(Foreign::RuntimeClass(name)) => {
                write!(f, "has RuntimeClass {}, whose pods do not use the network of the node's kernel", shown(name))
            }
            Why::Foreign(Foreign::Os(os)) => write!(f, "has spec.os.name {}, where no agent runs", shown(os)),
        }
    }
}

impl Why<'_> {
    fn remedy(self) -> &'static str {
        match self {
            Why::AddressType(_) => "use addressType IPv4 or IPv6",
            Why::NoPod => "give the Service a selector, or the endpoint a targetRef with kind Pod and the pod's uid",
            Why::Address(_) => "correct the EndpointSlice, or see why the pod has no address",
            Why::HostNetwork => "run the pod without hostNetwork",
            Why::Namespace => "let the Service select pods of its own namespace",
            Why::NoNode => "set nodeName in the EndpointSlice",
            Why::NodeOs(_) | Why::Foreign(Foreign::Os(_)) => "run the pod on a Linux node",
            Why::Foreign(Foreign::RuntimeClass(_)) => {
                "run the pod without runtimeClassName, or with one of runc or crun"
            }
        }
    }
}

/// What became of the endpoints of one Service.
#[derive(Default)]
struct Judged<'a> {
    /// By pod UID; the mentions of each family, at least one.
    good: BTreeMap<&'a str, BTreeMap<Family, Mention<'a>>>,
    refused: BTreeMap<Subject<'a>, Why<'a>>,
}

impl<'a> Judged<'a> {
    fn offer(&mut self, candidate: Candidate<'a>, generation: i64, slice: &'a ObjectKey) {
        let rank = (candidate.condition, generation, Reverse(slice), Reverse(candidate.address));
        let mentions = self.good.entry(&candidate.pod.uid).or_default();
        let best = mentions.entry(Family::of(candidate.address)).or_insert((rank, candidate));
        if rank > best.0 {
            *best = (rank, candidate);
        }
    }

    fn refuse(&mut self, subject: Subject<'a>, why: Why<'a>) {
        let kept = self.refused.entry(subject).or_insert(why);
        *kept = (*kept).min(why);
    }

    fn finish(self, service: &ServiceRef, buckets: u16) -> (Vec<Endpoint>, Vec<Problem>) {
        let mut problems = self.refusals(service);
        // As kube-proxy does: a pod that is about to end but still serves is better than nothing.
        let pods: Vec<(Candidate<'_>, Addresses)> = self.good.values().filter_map(merged).collect();
        let best = pods.iter().map(|(c, _)| c.condition).max().unwrap_or(Condition::NotReady);
        let eligible = |c: &Candidate<'_>| c.condition == best && best > Condition::NotReady;
        let count = pods.iter().filter(|(c, _)| eligible(c)).count();
        if count > usize::from(buckets) {
            let what = format!("Service {service} has more ready pods than the {buckets} buckets, some get no traffic");
            problems.push(problem(service, Reason::TooManyEndpoints, what, "use fewer pods, or raise --buckets"));
        }
        let endpoints = pods.iter().map(|(c, addresses)| endpoint(c, *addresses, service)).collect();
        (endpoints, problems)
    }

    fn refusals(&self, service: &ServiceRef) -> Vec<Problem> {
        let mut limited = Limited::new(service, Reason::EndpointRefused);
        for (subject, why) in &self.refused {
            // Another slice has the same pod in a form that can be served.
            let served = matches!(subject, Subject::Pod(pod) if self.good.contains_key(pod.uid.as_str()));
            if !served || matches!(why, Why::Foreign(_)) {
                limited.push(format!("Service {service}: {subject} {why}"), why.remedy());
            }
        }
        limited.finish("endpoints")
    }
}

/// A pod's mentions in both families as one: the better one decides about everything but the addresses.
fn merged<'a>(mentions: &BTreeMap<Family, Mention<'a>>) -> Option<(Candidate<'a>, Addresses)> {
    let addresses: Vec<IpAddr> = mentions.values().map(|(_, c)| c.address).collect();
    let (_, best) = mentions.values().max_by_key(|(rank, _)| rank)?;
    Some((*best, Addresses::first_of(&addresses)))
}

fn endpoint(candidate: &Candidate<'_>, addresses: Addresses, service: &ServiceRef) -> Endpoint {
    Endpoint {
        pod_uid: candidate.pod.uid.clone(),
        namespace: service.namespace.clone(),
        pod: candidate.pod.name.clone(),
        node: candidate.node.to_owned(),
        addresses,
        state: candidate.state(),
    }
}
