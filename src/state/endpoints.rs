//! The pods behind a Service, from its EndpointSlices.
//!
//! An endpoint is a pod: its UID is its identity, however many slices mention it. What is no pod with a network of its
//! own, or cannot be found from another node, is refused by name, and the other endpoints are served.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::annotation::is_unicast;
use super::foreign::{Foreign, foreign_network};
use super::key::{Key, ObjectKey};
use super::problems::{Limited, problem, shown};
use super::records::{AddressType, Condition, EndpointRecord, PodRecord, PodRef};
use super::view::View;
use crate::model::handover::EndpointState;
use crate::model::{Addresses, Endpoint, Family, Problem, Reason, ServiceRef};

impl<'a> View<'a> {
    /// The endpoints of a Service, sorted by pod UID, and what was refused.
    pub(super) fn endpoints(&self, service: &ServiceRef, key: &ObjectKey) -> (Vec<Endpoint>, Vec<Problem>) {
        let mut judged = Judged::default();
        for (key, slice) in self.links.slices(key).iter().filter_map(|key| self.stores.slices.entry(key)) {
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
        judged.finish(service, self.settings.buckets)
    }

    /// Whether an endpoint can be served.
    fn judge(
        &self,
        slice: &'a ObjectKey,
        address_type: &AddressType,
        endpoint: &'a EndpointRecord,
    ) -> Result<Candidate<'a>, (Subject<'a>, Why<'a>)> {
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
        if let Some(os) = self.links.other_system(node) {
            return refuse(Why::NodeOs(os));
        }
        Ok(Candidate { pod, node, address, condition: endpoint.condition, terminating: endpoint.terminating })
    }

    /// A pod of the own node.
    fn pod(&self, uid: &str) -> Option<(&'a Key, &'a Arc<PodRecord>)> {
        self.stores.pods.entry(self.links.pod(uid)?)
    }

    /// A pod in the node's network has the node's address; on the own node the pod says so itself.
    fn is_host_network(&self, uid: &str, address: IpAddr) -> bool {
        self.links.is_node_address(address) || self.pod(uid).is_some_and(|(_, pod)| pod.host_network)
    }

    /// Only the own node knows. The endpoint stays, so that all nodes compute the same map, and is never reported as set up.
    fn foreign_network(&self, uid: &str) -> Option<Foreign<'a>> {
        self.pod(uid).and_then(|(_, pod)| foreign_network(pod))
    }

    /// The namespace of the pod: what the pod itself says, where it can be seen, rather than who refers to it.
    /// Otherwise a hand-made EndpointSlice could bring a VIP into a pod of somebody else's.
    fn namespace(&self, pod: &'a PodRef) -> Option<&'a str> {
        match self.pod(&pod.uid) {
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
            let served = matches!(subject, Subject::Pod(pod) if self.good.contains_key(&*pod.uid));
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
        pod_uid: candidate.pod.uid.to_string(),
        namespace: service.namespace.clone(),
        pod: candidate.pod.name.clone(),
        node: candidate.node.to_owned(),
        addresses,
        state: candidate.state(),
    }
}
