//! A small cluster to plan for.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::model::config::MplsLabels;
use crate::model::{BucketCount, Cluster, Endpoint, MarkField, Mode, Node, ServiceRef, Vip};
use crate::plan::Settings;
use crate::plan::node::{RouteFact, Routes};

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub fn settings(node: &str) -> Settings {
    Settings {
        node_name: node.to_owned(),
        buckets: BucketCount::new(16).unwrap(),
        table_base: 10_000,
        link_prefix: "kst-".to_owned(),
        hash_seed: 0x6b73_7401,
        mark: MarkField::DEFAULT,
        rule_priority: 101,
        labels: MplsLabels::new(100, 65_536).unwrap(),
        vxlan_port: 4790,
        unavailable: BTreeMap::new(),
    }
}

/// Pod `n` of `node`: UID `uid-n`, address `10.244.<node>.<n>`.
pub fn endpoint(n: u8, node: &str) -> Endpoint {
    let third = node.trim_start_matches(char::is_alphabetic).parse().unwrap();
    Endpoint {
        pod_uid: format!("uid-{n}"),
        namespace: "default".to_owned(),
        pod: format!("echo-{n}"),
        node: node.to_owned(),
        address: Ipv4Addr::new(10, 244, third, n),
        eligible: true,
    }
}

pub fn vip(address: &str, mode: Mode, endpoints: Vec<Endpoint>) -> Vip {
    Vip {
        address: ip(address),
        service: ServiceRef { namespace: "default".into(), name: format!("svc-{address}"), uid: address.to_owned() },
        mode,
        client_ip_affinity: false,
        endpoints,
    }
}

/// Nodes `n1` and `n2`, both ingress nodes, 10.0.0.1 and 10.0.0.2.
pub fn cluster(vips: Vec<Vip>) -> Cluster {
    let node =
        |n: u8| Node { name: format!("n{n}"), addresses: vec![Ipv4Addr::new(10, 0, 0, n).into()], ingress: true };
    Cluster {
        vips: vips.into_iter().map(|v| (v.address, v)).collect(),
        nodes: [node(1), node(2)].into_iter().map(|n| (n.name.clone(), n)).collect(),
        problems: Vec::new(),
    }
}

/// Routes as node `n1` has them: own pods on `veth<n>`, everything else through eth0.
pub fn routes(cluster: &Cluster) -> Routes {
    let mut out = BTreeMap::new();
    for endpoint in cluster.vips.values().flat_map(|v| &v.endpoints) {
        let octets = endpoint.address.octets();
        let fact = match octets[2] {
            1 => RouteFact { dev: format!("veth{}", octets[3]), gateway: None, mtu: 1500, bare: true },
            other => {
                RouteFact { dev: "eth0".into(), gateway: Some(Ipv4Addr::new(10, 0, 0, other)), mtu: 1500, bare: false }
            }
        };
        out.insert(endpoint.address, fact);
    }
    for node in cluster.nodes.values().filter_map(Node::ipv4) {
        out.insert(node, RouteFact { dev: "eth0".into(), gateway: None, mtu: 1500, bare: false });
    }
    out
}
