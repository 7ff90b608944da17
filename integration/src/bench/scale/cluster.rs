//! The cluster that the bench makes up: Services with ten endpoints each, on nodes of which there is nothing but what their
//! agents would have reported.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use tunnel_router::model::Addresses;
use tunnel_router::model::handover::{NodeReport, SetUp};

use crate::world::echo::ANNOTATION;
use crate::world::objects;

/// Endpoints of each Service.
pub const ENDPOINTS: u32 = 10;
/// As many pods as a kubelet may be allowed to run.
const PODS_PER_NODE: u32 = 250;
/// Pods of each node beyond these that no Service has at first.
const SPARES_PER_NODE: u32 = 5;

/// A pod behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// UID of the pod.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub address: IpAddr,
}

/// Pods that nobody runs, spread evenly over as many nodes as it takes.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    /// Those that are reported, besides the spare ones.
    pods: u32,
    /// All but the spare ones.
    whole: u32,
    nodes: u32,
}

impl Fleet {
    /// Enough for so many Services.
    pub fn of(services: u32) -> Fleet {
        let pods = services * ENDPOINTS;
        Fleet { pods, whole: pods, nodes: pods.div_ceil(PODS_PER_NODE).max(ENDPOINTS) }
    }

    /// The same where only the pods of the first Services have anything to do with a VIP.
    pub fn reporting(self, services: u32) -> Fleet {
        Fleet { pods: services * ENDPOINTS, ..self }
    }

    /// The endpoints of a Service, each on another node.
    pub fn endpoints(self, service: u32) -> Vec<Endpoint> {
        (service * ENDPOINTS..(service + 1) * ENDPOINTS).map(|number| self.pod(number)).collect()
    }

    /// How many pods are spare.
    pub fn spares(self) -> u32 {
        self.nodes * SPARES_PER_NODE
    }

    /// One of the spare pods; it is reported from the start.
    pub fn spare(self, number: u32) -> Endpoint {
        self.pod(self.whole + number)
    }

    fn pod(self, number: u32) -> Endpoint {
        let (node, host) = (number % self.nodes, number / self.nodes + 1);
        Endpoint {
            uid: format!("{number:08x}-0000-4000-8000-000000000000"),
            name: format!("pod-{number}"),
            node: node_name(node),
            address: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + 256 * node + host).into(),
        }
    }

    /// The Nodes, and what their agents report.
    pub fn objects(self) -> impl Iterator<Item = (Value, Value)> {
        (0..self.nodes).map(move |node| {
            let pods = (node..self.pods).step_by(self.nodes as usize).map(|number| self.pod(number));
            let spares = (0..self.spares()).filter(|number| (self.whole + number) % self.nodes == node);
            let spares = spares.map(|number| self.spare(number));
            (node_object(node), report(&node_name(node), pods.chain(spares)))
        })
    }
}

fn node_name(node: u32) -> String {
    format!("far-{node}")
}

/// The `n`th address of a network of which every fourth byte but 0 and 255 is used.
fn address([a, b, c]: [u8; 3], n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(a, b, c, 0)) + 256 * (n / 250) + n % 250 + 1)
}

/// The VIP of a Service.
pub fn vip(service: u32) -> Ipv4Addr {
    address([198, 18, 0], service)
}

/// A worker: it takes no traffic in.
fn node_object(node: u32) -> Value {
    let cidr = format!("10.{}.{}.0/24", 128 + node / 256, node % 256);
    objects::worker(&node_name(node), address([10, 1, 0], node), &cidr)
}

/// All pods of the node are set up.
fn report(node: &str, pods: impl Iterator<Item = Endpoint>) -> Value {
    let set_up = |pod: Endpoint| {
        let addresses = Addresses::first_of(&[pod.address]);
        (pod.uid.as_str().into(), SetUp { addresses, program: true, ..SetUp::default() })
    };
    objects::report(node, &NodeReport { pods: pods.map(set_up).collect(), ..NodeReport::default() })
}

/// Name of a Service, and of its only EndpointSlice.
pub fn name(service: u32) -> String {
    format!("svc-{service}")
}

/// A Service, with or without a VIP.
pub fn service(number: u32, vip: Option<Ipv4Addr>) -> Value {
    let name = name(number);
    let annotations = vip.map_or_else(|| json!({}), |vip| json!({ ANNOTATION: vip }));
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default", "annotations": annotations },
        "spec": {
            "clusterIP": address([10, 96, 16], number),
            "selector": { "app": name },
            "ports": [{ "name": "tcp", "protocol": "TCP", "port": 12345 }],
        },
    })
}

/// The EndpointSlice of a Service.
pub fn slice(service: u32, endpoints: &[Endpoint]) -> Value {
    let name = name(service);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": { "kubernetes.io/service-name": name },
        },
        "endpoints": listed(endpoints, None),
        "ports": [{ "name": "tcp", "protocol": "TCP", "port": 12345 }],
    })
}

/// The endpoints as their slice lists them; at most one is not ready.
pub fn listed(endpoints: &[Endpoint], not_ready: Option<usize>) -> Value {
    let endpoint = |(index, endpoint): (usize, &Endpoint)| {
        let ready = not_ready != Some(index);
        json!({
            "addresses": [endpoint.address], "nodeName": endpoint.node,
            "conditions": { "ready": ready, "serving": ready, "terminating": false },
            "targetRef": {
                "kind": "Pod", "namespace": "default", "name": endpoint.name, "uid": endpoint.uid,
            },
        })
    };
    endpoints.iter().enumerate().map(endpoint).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pod_has_an_address_in_the_network_of_its_node_and_is_reported_once() {
        let fleet = Fleet::of(300);
        let spares = (0..fleet.spares()).map(|number| fleet.spare(number));
        let pods: Vec<Endpoint> = (0..300).flat_map(|service| fleet.endpoints(service)).chain(spares).collect();
        let addresses: BTreeSet<IpAddr> = pods.iter().map(|pod| pod.address).collect();
        assert_eq!((fleet.nodes, addresses.len()), (12, 3060));
        let reported: String = fleet.objects().map(|(_, report)| report.to_string()).collect();
        assert_eq!(pods.iter().filter(|pod| reported.matches(&pod.uid).count() == 1).count(), 3060);
    }

    #[test]
    fn the_endpoints_of_a_service_are_on_different_nodes() {
        for services in [1, 1000] {
            let nodes: BTreeSet<String> = Fleet::of(services).endpoints(0).into_iter().map(|pod| pod.node).collect();
            assert_eq!(nodes.len(), 10);
        }
    }

    #[test]
    fn vips_differ() {
        let vips: BTreeSet<Ipv4Addr> = (0..12_000).map(vip).collect();
        assert_eq!((vips.len(), vips.first().unwrap().to_string()), (12_000, "198.18.0.1".to_owned()));
    }
}
