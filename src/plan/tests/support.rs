//! A small cluster to plan for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::config::MplsLabels;
use crate::model::handover::{
    self, Assignment, DrainLimits, EndpointState, FlowHash, Follow, Inputs, Intent, Moment, Name, NodeName, NodeReport,
    SetUp, Witness,
};
use crate::model::names::LinkPrefix;
use crate::model::{Addresses, BucketCount, Cluster, Endpoint, Family, MarkField, Mode, Node, ServiceRef, Vip};
use crate::plan::Settings;
use crate::plan::node::{RouteFact, Routes};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn settings(node: &str) -> Settings {
    Settings {
        node_name: node.to_owned(),
        buckets: BucketCount::new(16).unwrap(),
        table_base: 10_000,
        announce_table: None,
        link_prefix: LinkPrefix::new("kst-").unwrap(),
        hash_seed: 0x6b73_7401,
        mark: MarkField::DEFAULT,
        rule_priority: 101,
        labels: MplsLabels::new(100, 65_536).unwrap(),
        vxlan_port: 4790,
        proc_root: "/proc".into(),
        vip_ranges: BTreeSet::new(),
        limits_udp: true,
        unavailable: BTreeMap::new(),
    }
}

/// An endpoint with its IPv6 address besides or instead: `fd00:244:<node>::<n>` for `10.244.<node>.<n>`.
pub fn published(endpoint: Endpoint, families: &[Family]) -> Endpoint {
    let addresses = both(endpoint.addresses.v4.unwrap().into());
    let list: Vec<IpAddr> = families.iter().filter_map(|family| addresses.of(*family)).collect();
    Endpoint { addresses: Addresses::first_of(&list), ..endpoint }
}

/// An IPv4 address of the lab and its IPv6 twin.
pub fn both(address: IpAddr) -> Addresses {
    let IpAddr::V4(v4) = address else { panic!("{address}") };
    let [_, net, node, n] = v4.octets();
    let v6 = format!("fd00:{net}:{node}::{n}").parse().unwrap();
    Addresses { v4: Some(v4), v6: Some(v6) }
}

/// Pod `n` of `node`: UID `uid-n`, address `10.244.<node>.<n>`.
pub fn endpoint(n: u8, node: &str) -> Endpoint {
    let third = node.trim_start_matches(char::is_alphabetic).parse().unwrap();
    Endpoint {
        pod_uid: format!("uid-{n}"),
        namespace: "default".to_owned(),
        pod: format!("echo-{n}"),
        node: node.to_owned(),
        addresses: IpAddr::from([10, 244, third, n]).into(),
        state: EndpointState::Ready,
    }
}

/// A pod on each node.
pub fn on_nodes() -> Vec<Endpoint> {
    vec![endpoint(2, "n1"), endpoint(3, "n2")]
}

/// A pod that its readiness probe has given up.
pub fn unready(endpoint: Endpoint) -> Endpoint {
    Endpoint { state: EndpointState::NotReady, ..endpoint }
}

/// A VIP whose buckets were given out to its endpoints, none of which has owned one before.
pub fn vip(address: &str, mode: Mode, endpoints: Vec<Endpoint>) -> Vip {
    with_map(bare_vip(address, mode, endpoints.clone()), &endpoints)
}

/// A VIP without a map.
pub fn bare_vip(address: &str, mode: Mode, endpoints: Vec<Endpoint>) -> Vip {
    Vip {
        address: ip(address),
        service: ServiceRef { namespace: "default".into(), name: format!("svc-{address}"), uid: address.to_owned() },
        mode,
        client_ip_affinity: false,
        tracked: false,
        endpoints,
        local_only: false,
        drain_limit: None,
        map: None,
        intent: None,
        holds: false,
    }
}

/// A VIP whose buckets were given out to `before`, and then to its present endpoints. All of them are set up with the program,
/// and no pod has ended: whoever lost a bucket is a former owner.
pub fn draining_vip(address: &str, mode: Mode, endpoints: Vec<Endpoint>, before: &[Endpoint]) -> Vip {
    let map = next_map(&first_map(settings("n1").flows(), before), &endpoints);
    following(bare_vip(address, mode, endpoints), map)
}

/// The same VIP with the first map of these endpoints.
pub fn with_map(vip: Vip, endpoints: &[Endpoint]) -> Vip {
    let map = first_map(settings("n1").flows(), endpoints);
    following(vip, map)
}

/// The VIP on a node that has just begun to follow this map.
pub fn following(vip: Vip, map: Assignment) -> Vip {
    let map = Arc::new(map);
    let follow = Follow::new(map.clone(), vip.endpoints.iter().map(handover::Endpoint::from).collect(), now());
    Vip { intent: Some(Arc::new(Intent::of(&follow))), map: Some(map), ..vip }
}

/// The first map of a Service. Names begin at 1, in the order of the UIDs.
pub fn first_map(hash: FlowHash, endpoints: &[Endpoint]) -> Assignment {
    let mut nobody = Assignment::begin(hash, &SERVICE.into(), 0, None);
    nobody.last_name = Name::new(Name::MAX.into()).unwrap();
    next_map(&nobody, endpoints)
}

/// What the controller makes of a map once these endpoints are listed and set up.
pub fn next_map(before: &Assignment, endpoints: &[Endpoint]) -> Assignment {
    let endpoints: Vec<_> = endpoints.iter().map(handover::Endpoint::from).collect();
    let inputs = Inputs {
        service: &SERVICE.into(),
        endpoints: &endpoints,
        witness: &all_set_up(&endpoints),
        lost: &BTreeSet::new(),
        key: before.hash.key,
        limits: DrainLimits { limit: None, non_tcp: Duration::from_secs(30) },
        now: now(),
    };
    let decisions = std::iter::successors(Some(before.clone()), |map| Some(map.next(&inputs).0));
    // It puts balance off to a decision of its own.
    decisions.take(10).last().unwrap()
}

const SERVICE: &str = "service";

fn now() -> Moment {
    Moment { instant: Instant::now(), unix: 1000 }
}

fn all_set_up(endpoints: &[handover::Endpoint]) -> Witness {
    let mut reports: BTreeMap<NodeName, NodeReport> = BTreeMap::new();
    for endpoint in endpoints {
        let pod = SetUp { addresses: endpoint.addresses, program: true, ..SetUp::default() };
        reports.entry(endpoint.node.clone()).or_default().pods.insert(endpoint.id.clone(), pod);
    }
    let mut witness = Witness::default();
    reports.into_iter().for_each(|(node, report)| witness.hear(&node, Some(report), now().instant));
    witness.complete();
    witness
}

/// Nodes `n1` and `n2`, both ingress nodes, 10.0.0.1 and 10.0.0.2.
pub fn cluster(vips: Vec<Vip>) -> Cluster {
    let node = |n: u8| Node {
        name: format!("n{n}"),
        uid: format!("uid-n{n}"),
        addresses: vec![IpAddr::from([10, 0, 0, n])],
        ingress: true,
        cordoned: false,
    };
    Cluster {
        vips: vips.into_iter().map(|v| (v.address, Arc::new(v))).collect(),
        nodes: [node(1), node(2)].into_iter().map(|n| (n.name.clone(), n)).collect(),
        problems: Vec::new(),
    }
}

/// The same nodes with these families.
pub fn with_nodes(mut cluster: Cluster, families: &[Family]) -> Cluster {
    for node in cluster.nodes.values_mut() {
        let addresses = both(node.addresses[0]);
        node.addresses = families.iter().filter_map(|family| addresses.of(*family)).collect();
    }
    cluster
}

/// Routes as node `n1` has them: own pods on `veth<n>`, everything else through eth0; in both families.
pub fn routes(cluster: &Cluster) -> Routes {
    let uplink = |gateway| RouteFact { dev: "eth0".into(), gateway, mtu: 1500, bare: false, bridge: false, mac: None };
    let mut out = BTreeMap::new();
    for pod in cluster.vips().flat_map(Vip::pods) {
        let n = pod.uid.trim_start_matches("uid-");
        for address in pod.addresses.iter() {
            let fact = match pod.node {
                "n1" => RouteFact { dev: format!("veth{n}"), bare: true, ..uplink(None) },
                other => uplink(both(IpAddr::from([10, 0, 0, node_number(other)])).of(Family::of(address))),
            };
            out.insert(address, fact);
        }
    }
    for address in cluster.nodes.values().flat_map(|n| n.tunnel_addresses().iter()) {
        out.insert(address, uplink(None));
    }
    out
}

fn node_number(name: &str) -> u8 {
    name.trim_start_matches('n').parse().unwrap()
}
