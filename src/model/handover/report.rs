//! What the nodes say, and what the controller makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::endpoint::agree;
use super::{Endpoint, Generation, NodeName, ServiceUid};
use crate::model::second_chance::{Forwarding, Pair};
use crate::model::{Addresses, Bucket, EndpointId};

/// For how long a node has to say that a tunnel fell, before its endpoint loses anything.
pub const FALLEN: Duration = Duration::from_secs(5);

/// What a node says about its pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// Pods that the node has tried to set up.
    pub pods: BTreeMap<EndpointId, SetUp>,
    /// Drains that are over: the pod had no connection in the bucket for 15 s.
    pub over: BTreeSet<Over>,
    /// Pods that a map lists for this node, and that have ended.
    pub ended: BTreeSet<EndpointId>,
    /// Maps of which this node holds a later decision than the stored one.
    pub holds: BTreeMap<ServiceUid, Generation>,
    /// What the pods of this node know of each Service of theirs ([`super::Assignment::announced`]); `None`: an earlier version
    /// of the program, which does not say.
    pub knows: Option<BTreeMap<ServiceUid, Generation>>,
    /// Between which pods packets have been passed on.
    pub forwarding: Forwarding,
}

/// How a pod is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetUp {
    /// The addresses of the namespace that was set up.
    pub addresses: Addresses,
    /// The program is attached: the pod can forward to former owners.
    pub program: bool,
    /// The tunnel was up and is not any more.
    pub fallen: bool,
    /// Services for which it is not set up: their mode cannot be had in the pod, or on its node.
    pub lacks: BTreeSet<ServiceUid>,
}

/// A drain that is over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Over {
    /// The Service.
    pub service: ServiceUid,
    /// The former owner.
    pub pod: EndpointId,
    /// The decision that took the bucket away from it: another loss of the same bucket is another drain.
    pub generation: Generation,
    /// The bucket.
    pub bucket: Bucket,
}

/// What a report says about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Nothing, so nothing changes.
    Nothing,
    /// Its tunnel stands.
    Stands {
        /// The program is attached.
        program: bool,
    },
    /// Its tunnel fell more than [`FALLEN`] ago, or there is none for the Service.
    Fell,
}

/// All reports, as the controller has heard them. A report that is absent, late, deleted or unreadable says nothing.
#[derive(Debug, Clone, Default)]
pub struct Witness {
    reports: BTreeMap<NodeName, NodeReport>,
    /// Nodes that hold a later decision about a Service than the stored one, and that decision.
    held: BTreeMap<ServiceUid, BTreeMap<NodeName, Generation>>,
    /// Since when each pod's tunnel has been reported as fallen.
    fallen: BTreeMap<EndpointId, Instant>,
    complete: bool,
}

impl Witness {
    /// The first list of reports is complete: from now on decisions may rest on them.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// Whether decisions may rest on it.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes the report of a node; `None`: it was deleted, or cannot be read.
    pub fn hear(&mut self, node: &NodeName, report: Option<NodeReport>, now: Instant) {
        let fallen = |report: &Option<NodeReport>| -> BTreeSet<EndpointId> {
            let pods = report.iter().flat_map(|report| &report.pods).filter(|(_, pod)| pod.fallen);
            pods.map(|(id, _)| id.clone()).collect()
        };
        let old = self.reports.remove(node);
        let (before, present) = (fallen(&old), fallen(&report));
        for id in before.difference(&present) {
            self.fallen.remove(id);
        }
        for id in present {
            self.fallen.entry(id).or_insert(now);
        }
        self.hold(node, old.as_ref(), report.as_ref());
        self.reports.extend(report.map(|report| (node.clone(), report)));
    }

    /// Notes what a node holds now, in place of what it held before.
    fn hold(&mut self, node: &NodeName, old: Option<&NodeReport>, new: Option<&NodeReport>) {
        for service in old.iter().flat_map(|old| old.holds.keys()) {
            let Some(nodes) = self.held.get_mut(service) else { continue };
            nodes.remove(node);
            if nodes.is_empty() {
                self.held.remove(service);
            }
        }
        for (service, generation) in new.iter().flat_map(|new| &new.holds) {
            self.held.entry(service.clone()).or_default().insert(node.clone(), *generation);
        }
    }

    /// What a node has said.
    pub fn report(&self, node: &NodeName) -> Option<&NodeReport> {
        self.reports.get(node)
    }

    /// Pods whose tunnels have come to count as fallen after `before`.
    pub fn fell_after(&self, before: Instant, now: Instant) -> impl Iterator<Item = &EndpointId> {
        let counts = move |since: &Instant, at: Instant| at.saturating_duration_since(*since) > FALLEN;
        self.fallen.iter().filter(move |(_, since)| !counts(since, before) && counts(since, now)).map(|(id, _)| id)
    }

    /// What the endpoint's own node says about it, as an endpoint of this Service.
    pub fn said(&self, endpoint: &Endpoint, service: &ServiceUid, now: Instant) -> Said {
        let Some(report) = self.reports.get(&endpoint.node) else { return Said::Nothing };
        match report.pods.get(&endpoint.id) {
            Some(pod) if pod.fallen => match self.fallen.get(&endpoint.id) {
                Some(since) if now.saturating_duration_since(*since) > FALLEN => Said::Fell,
                _ => Said::Nothing,
            },
            // Nothing brings it about soon, so nobody waits for it.
            Some(pod) if pod.lacks.contains(service) => Said::Fell,
            Some(pod) if agree(pod.addresses, endpoint.addresses) => Said::Stands { program: pod.program },
            _ => Said::Nothing,
        }
    }

    /// Whether the node says that this drain is over.
    pub fn is_over(&self, node: &NodeName, over: &Over) -> bool {
        self.reports.get(node).is_some_and(|report| report.over.contains(over))
    }

    /// Whether the node says that its pod has ended.
    pub fn has_ended(&self, node: &NodeName, pod: &EndpointId) -> bool {
        self.reports.get(node).is_some_and(|report| report.ended.contains(pod))
    }

    /// The latest decision about a Service that a node holds although an earlier one is stored.
    pub fn held(&self, service: &ServiceUid) -> Option<Generation> {
        self.held.get(service)?.values().max().copied()
    }

    /// What the pods of a node know of a Service; `None`: its node does not say so. Of an earlier version of the program, which
    /// never does, nothing better is known than the present decision.
    pub fn knows(&self, node: &NodeName, service: &ServiceUid, present: Generation) -> Option<Generation> {
        let report = self.reports.get(node)?;
        report.knows.as_ref().map_or(Some(present), |knows| knows.get(service).copied())
    }

    /// Whether the node of `from` says that a pod of it has passed packets on, and the node of `to` does not say that any has
    /// come. A node without a report says nothing.
    pub fn is_lost(&self, pair: Pair, from: &NodeName, to: &NodeName) -> bool {
        let has_passed = self.reports.get(from).is_some_and(|report| report.forwarding.passed.contains(&pair));
        let of_receiver = self.reports.get(to).filter(|report| !report.pods.is_empty());
        has_passed && of_receiver.is_some_and(|report| !report.forwarding.received.contains(&pair))
    }

    /// When a tunnel that is reported as fallen counts as such, if one is still to.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.fallen.values().map(|since| *since + FALLEN + Duration::from_millis(1)).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::handover::EndpointState;

    fn report(address: [u8; 4], fallen: bool) -> NodeReport {
        let pod = SetUp {
            addresses: Addresses::from(std::net::Ipv4Addr::from(address)),
            program: true,
            fallen,
            ..SetUp::default()
        };
        NodeReport { pods: [("p".into(), pod)].into(), ..NodeReport::default() }
    }

    fn endpoint(node: &str) -> Endpoint {
        let addresses = Addresses::from(std::net::Ipv4Addr::from([10, 0, 0, 1]));
        Endpoint { id: "p".into(), node: node.into(), addresses, state: EndpointState::Ready }
    }

    #[test]
    fn a_report_counts_for_the_pods_of_its_node_at_their_addresses() {
        let (now, mut witness) = (Instant::now(), Witness::default());
        witness.hear(&"n1".into(), Some(report([10, 0, 0, 1], false)), now);
        assert_eq!(witness.said(&endpoint("n1"), &"s".into(), now), Said::Stands { program: true });
        assert_eq!(witness.said(&endpoint("n2"), &"s".into(), now), Said::Nothing);
        witness.hear(&"n1".into(), Some(report([10, 0, 0, 2], false)), now);
        assert_eq!(witness.said(&endpoint("n1"), &"s".into(), now), Said::Nothing);
        witness.hear(&"n1".into(), None, now);
        assert_eq!(witness.said(&endpoint("n1"), &"s".into(), now), Said::Nothing);
    }

    #[test]
    fn a_tunnel_has_fallen_when_that_was_said_for_more_than_5_s() {
        let (start, mut witness) = (Instant::now(), Witness::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in [0, 3] {
            witness.hear(&"n1".into(), Some(report([10, 0, 0, 1], true)), at(second));
        }
        assert_eq!(witness.said(&endpoint("n1"), &"s".into(), at(5)), Said::Nothing);
        let due = witness.due(at(5)).unwrap();
        assert_eq!(witness.said(&endpoint("n1"), &"s".into(), due), Said::Fell);
        witness.hear(&"n1".into(), Some(report([10, 0, 0, 1], false)), at(6));
        witness.hear(&"n1".into(), Some(report([10, 0, 0, 1], true)), at(7));
        assert_eq!(witness.said(&endpoint("n1"), &"s".into(), at(12)), Said::Nothing, "it stood in between");
        witness.hear(&"n1".into(), None, at(13));
        assert_eq!((witness.said(&endpoint("n1"), &"s".into(), at(30)), witness.due(at(30))), (Said::Nothing, None));
    }

    #[test]
    fn a_pod_that_lacks_a_service_stands_for_the_others() {
        let (now, mut witness) = (Instant::now(), Witness::default());
        let mut lacking = report([10, 0, 0, 1], false);
        lacking.pods.values_mut().for_each(|pod| pod.lacks = ["s".into()].into());
        witness.hear(&"n1".into(), Some(lacking), now);
        assert_eq!(witness.said(&endpoint("n1"), &"s".into(), now), Said::Fell);
        assert_eq!(witness.said(&endpoint("n1"), &"t".into(), now), Said::Stands { program: true });
    }
}
