//! A small cluster to plan for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::config::MplsLabels;
use crate::model::names::LinkPrefix;
use crate::model::{
    Addresses, BucketCount, Cluster, DrainRules, Endpoint, Family, MarkField, Mode, Node, ServiceRef, SharedMap,
    Staged, Vip,
};
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
        eligible: true,
        terminating: false,
        state: crate::model::handover::EndpointState::Ready,
    }
}

pub fn vip(address: &str, mode: Mode, endpoints: Vec<Endpoint>) -> Vip {
    Vip {
        address: ip(address),
        service: ServiceRef { namespace: "default".into(), name: format!("svc-{address}"), uid: address.to_owned() },
        mode,
        client_ip_affinity: false,
        tracked: false,
        endpoints,
        local_only: false,
        drain_limit: None,
        shared: None,
        staged: None,
        map: None,
        intent: None,
    }
}

/// A VIP with a stored map that was made for `before` and then for its present endpoints: what moved between the two drains.
pub fn draining_vip(address: &str, mode: Mode, endpoints: Vec<Endpoint>, before: &[Endpoint]) -> Vip {
    let rules = DrainRules { limit: None, datagrams: Duration::from_secs(30) };
    let map = SharedMap::new(settings("n1").flows(), before).next(&endpoints, 1, rules, |_, _| false);
    Vip { shared: Some(Arc::new(map)), ..vip(address, mode, endpoints) }
}

/// The same while it is not known whether the nodes of its endpoints are prepared: former owners are asked first.
pub fn unprepared(vip: Vip) -> Vip {
    let map = vip.bucket_map(settings("n1").flows());
    let first =
        map.previous.iter().map(|(bucket, drains)| (*bucket, drains[drains.len() - 1].endpoint.clone())).collect();
    let (onward, admitted) = (map.onward(), BTreeSet::new());
    let (unsettled, turning, entering) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    let followed = map.generation;
    Vip {
        staged: Some(Arc::new(Staged { map, first, onward, admitted, unsettled, turning, entering, followed })),
        ..vip
    }
}

/// Nodes `n1` and `n2`, both ingress nodes, 10.0.0.1 and 10.0.0.2.
pub fn cluster(vips: Vec<Vip>) -> Cluster {
    let node = |n: u8| Node {
        name: format!("n{n}"),
        addresses: vec![IpAddr::from([10, 0, 0, n])],
        ingress: true,
        cordoned: false,
    };
    Cluster {
        vips: vips.into_iter().map(|v| (v.address, v)).collect(),
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
    for endpoint in cluster.vips.values().flat_map(|v| &v.endpoints) {
        let n = endpoint.pod_uid.trim_start_matches("uid-");
        for address in endpoint.addresses.iter() {
            let fact = match endpoint.node.as_str() {
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
