//! What each pod of this node is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::handover::ServiceUid;
use crate::model::{Addresses, Cluster, Family, Mode, Node, ServiceRef, Vip};
use crate::netns::PodQuery;
use crate::plan::Settings;
use crate::plan::pod::PodInput;
use crate::state::LocalPod;

/// Name of a pod's target; the node itself is [`NODE`](crate::reconcile::target::NODE).
pub fn pod_target(uid: &str) -> String {
    format!("pod {uid}")
}

/// What one pod is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct PodGoal {
    /// `namespace/name`, for people.
    pub name: String,
    /// The Services behind its VIPs, and their modes.
    pub services: BTreeMap<ServiceRef, Mode>,
    /// Services that it is an endpoint of, too, in modes that this node cannot do.
    pub unavailable: BTreeSet<ServiceUid>,
    /// How its namespace is found.
    pub query: PodQuery,
    /// VIPs, addresses.
    pub input: PodInput,
}

impl PodGoal {
    /// What only this node's kernel knows is filled in: the MTU of the ways to other nodes, as far as they are known, and the program that is
    /// to be attached.
    #[must_use]
    pub fn prepared(mut self, cluster: &Cluster, underlay: &BTreeMap<IpAddr, u32>, program: Option<u32>) -> PodGoal {
        self.input.underlay_mtu = underlay_mtu(self.input.addresses, cluster, underlay);
        self.input.program = program;
        self
    }
}

/// How the namespace of a pod is found, if it has an address. `listed` is what EndpointSlices say: they follow the pod's own
/// status, and are behind it after a restart of the pod or of the node.
pub(super) fn query(uid: &str, pod: Option<&LocalPod>, listed: Option<Addresses>) -> Option<PodQuery> {
    let own = pod.filter(|pod| !pod.addresses.is_empty()).map(|pod| Addresses::first_of(&pod.addresses));
    let query = PodQuery::new(uid, own.or(listed)?);
    Some(match pod {
        Some(pod) => PodQuery { config_hash: pod.config_hash.clone(), containers: pod.containers.clone(), ..query },
        None => query,
    })
}

/// Whether nothing can be set up in a pod: its namespace is gone, or is not one that this kernel runs.
pub(super) fn is_out_of_reach(pod: &LocalPod) -> bool {
    pod.terminated || pod.foreign_network
}

/// Goals of all pods of this node that serve a VIP, by pod UID: of those that slices list, and of those that a map names.
/// They have yet to be [prepared](PodGoal::prepared).
pub fn pod_goals(
    cluster: &Cluster,
    local_pods: &BTreeMap<String, LocalPod>,
    settings: &Settings,
) -> BTreeMap<String, PodGoal> {
    let nodes: BTreeSet<IpAddr> = cluster.nodes.values().flat_map(|n| n.tunnel_addresses().iter()).collect();
    let mut goals = BTreeMap::new();
    for vip in cluster.vips().filter(|v| !settings.unavailable.contains_key(&v.mode)) {
        for (uid, listed) in vip.pods_of(&settings.node_name) {
            let pod = local_pods.get(uid);
            let Some(query) = query(uid, pod, Some(listed)) else { continue };
            let name = vip.endpoints.iter().find(|e| e.pod_uid == uid).map(|e| format!("{}/{}", e.namespace, e.pod));
            // Who is in no slice any more is there as long as its pod is.
            let name = name.or_else(|| pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)));
            let Some(name) = name.filter(|_| !pod.is_some_and(is_out_of_reach)) else { continue };
            let addresses = query.addresses;
            let goal = goals.entry(uid.to_owned()).or_insert_with(|| PodGoal {
                name,
                services: BTreeMap::new(),
                unavailable: unavailable(uid, cluster, settings),
                query,
                input: PodInput {
                    vips: BTreeMap::new(),
                    addresses,
                    outer: outer_families(addresses, cluster),
                    nodes: nodes.clone(),
                    underlay_mtu: None,
                    peers: BTreeSet::new(),
                    program: None,
                },
            });
            let others = vip.pods().into_iter().filter(|pod| pod.uid != uid && may_forward(vip, pod.uid));
            goal.input.peers.extend(others.flat_map(|pod| pod.addresses.iter()));
            goal.services.insert(vip.service.clone(), vip.mode);
            goal.input.vips.insert(vip.address, vip.mode);
        }
    }
    goals
}

/// The Services of a pod whose mode this node cannot do.
fn unavailable(uid: &str, cluster: &Cluster, settings: &Settings) -> BTreeSet<ServiceUid> {
    if settings.unavailable.is_empty() {
        return BTreeSet::new();
    }
    let vips = cluster.vips().filter(|vip| settings.unavailable.contains_key(&vip.mode));
    let of_pod = vips.filter(|vip| vip.pods_of(&settings.node_name).contains_key(uid));
    of_pod.map(|vip| ServiceUid::from(vip.service.uid.as_str())).collect()
}

/// Whether a pod may forward packets to the others: those that the map names. While there is no map, it may name anybody.
fn may_forward(vip: &Vip, uid: &str) -> bool {
    vip.intent.as_ref().map_or(vip.holds, |intent| intent.members.contains_key(uid))
}

/// The families in which ingress nodes send to a pod; all of its own while there is no ingress node.
fn outer_families(pod: Addresses, cluster: &Cluster) -> BTreeSet<Family> {
    let ingress = cluster.nodes.values().filter(|n| n.ingress).map(Node::tunnel_addresses);
    let used: BTreeSet<Family> = ingress.filter_map(|node| node.common(pod)).collect();
    if used.is_empty() { pod.iter().map(Family::of).collect() } else { used }
}

/// The MTU of the narrowest way by which an ingress node sends to a pod of this node.
fn underlay_mtu(pod: Addresses, cluster: &Cluster, underlay: &BTreeMap<IpAddr, u32>) -> Option<u32> {
    let ingress = cluster.nodes.values().filter(|n| n.ingress).map(Node::tunnel_addresses);
    let senders = ingress.filter_map(|node| node.of(node.common(pod)?));
    senders.filter_map(|node| underlay.get(&node)).min().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Endpoint;
    use crate::model::handover::EndpointState;
    use crate::plan::tests::support;
    use crate::state::Resolved;

    fn settings() -> Settings {
        support::settings("n1")
    }

    fn vip(address: &str, mode: Mode, nodes: &[&str]) -> Vip {
        let endpoint = |(n, node): (usize, &&str)| Endpoint {
            pod_uid: format!("uid-{node}"),
            namespace: "default".into(),
            pod: format!("echo-{n}"),
            node: (*node).to_owned(),
            addresses: std::net::Ipv4Addr::new(10, 244, 1, 2).into(),
            state: EndpointState::NotReady,
        };
        Vip {
            address: address.parse().unwrap(),
            service: ServiceRef { namespace: "default".into(), name: address.into(), uid: address.into() },
            mode,
            client_ip_affinity: false,
            tracked: false,
            endpoints: nodes.iter().enumerate().map(endpoint).collect(),
            local_only: false,
            drain_limit: None,
            map: None,
            intent: None,
            holds: false,
        }
    }

    fn resolved(vips: Vec<Vip>) -> Resolved {
        Resolved { cluster: Cluster::of_vips(vips), ..Resolved::default() }
    }

    fn local_pod(addresses: &[[u8; 4]]) -> LocalPod {
        LocalPod {
            uid: "uid-n1".into(),
            namespace: "default".into(),
            name: "echo-0".into(),
            addresses: addresses.iter().map(|octets| IpAddr::from(*octets)).collect(),
            host_network: false,
            terminated: false,
            config_hash: None,
            containers: BTreeSet::new(),
            foreign_network: false,
        }
    }

    /// The goal of the only pod, if it has one.
    fn goal_with(pod: LocalPod) -> Option<PodGoal> {
        let mut resolved = resolved(vec![vip("192.0.2.1", Mode::Gre, &["n1"])]);
        resolved.local_pods.insert(pod.uid.clone(), pod);
        pod_goals(&resolved.cluster, &resolved.local_pods, &settings()).remove("uid-n1")
    }

    #[test]
    fn a_pods_own_status_overrules_the_slices_that_follow_it() {
        let moved = goal_with(local_pod(&[[10, 244, 1, 9]])).unwrap();
        assert_eq!(moved.input.addresses, std::net::Ipv4Addr::new(10, 244, 1, 9).into());
        assert_eq!(moved.query.addresses, moved.input.addresses);
        let without = goal_with(local_pod(&[])).unwrap();
        assert_eq!(without.query.addresses, std::net::Ipv4Addr::new(10, 244, 1, 2).into());
    }

    #[test]
    fn a_pod_is_looked_for_again_when_other_containers_run() {
        let with = |id: &str| LocalPod { containers: [id.to_owned()].into(), ..local_pod(&[[10, 244, 1, 2]]) };
        let (before, after) = (goal_with(with("a")).unwrap(), goal_with(with("b")).unwrap());
        assert_eq!(before.input, after.input);
        assert_ne!(before.query, after.query);
    }

    #[test]
    fn a_pod_that_has_ended_or_has_a_foreign_network_is_not_looked_for() {
        let pod = local_pod(&[[10, 244, 1, 2]]);
        assert!(goal_with(LocalPod { terminated: true, ..pod.clone() }).is_none());
        assert!(goal_with(LocalPod { foreign_network: true, ..pod }).is_none());
    }

    #[test]
    fn a_pod_gets_the_vips_of_all_its_services_also_before_it_is_ready() {
        let resolved =
            resolved(vec![vip("192.0.2.1", Mode::Gre, &["n1", "n2"]), vip("192.0.2.2", Mode::Mpls, &["n1"])]);
        let goals = pod_goals(&resolved.cluster, &resolved.local_pods, &settings());
        assert_eq!(goals.keys().collect::<Vec<_>>(), ["uid-n1"]);
        let goal = &goals["uid-n1"];
        assert_eq!(goal.services.len(), 2);
        assert_eq!(goal.input.vips.values().collect::<Vec<_>>(), [&Mode::Gre, &Mode::Mpls]);
    }

    #[test]
    fn a_mode_that_the_node_cannot_do_is_not_asked_of_its_pods() {
        let resolved = resolved(vec![vip("192.0.2.1", Mode::Gre, &["n1"]), vip("192.0.2.2", Mode::Mpls, &["n1"])]);
        let mut settings = settings();
        settings.unavailable.insert(Mode::Mpls, "no module".into());
        let goals = pod_goals(&resolved.cluster, &resolved.local_pods, &settings);
        assert_eq!(goals["uid-n1"].input.vips.values().collect::<Vec<_>>(), [&Mode::Gre]);
        assert_eq!(goals["uid-n1"].unavailable, ["192.0.2.2".into()].into());
    }
}
