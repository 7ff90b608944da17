//! Objects as a real API server sends them.

use crate::model::handover::EndpointState;
use serde::de::DeserializeOwned;

use super::*;

fn read<K: DeserializeOwned>(text: &str) -> K {
    serde_json::from_str(text).unwrap()
}

macro_rules! fixture {
    ($name:literal) => {
        read(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/kubernetes/", $name, ".json")))
    };
}

/// Two nodes, Service `echo` with three pods, one of which is leaving.
fn world(slices: k8s_openapi::List<EndpointSlice>) -> World {
    let world = World::new().node(fixture!("node-worker-a")).node(fixture!("node-worker-b"));
    let world = world.service(fixture!("service")).pod(fixture!("pod-echo-1"));
    slices.items.into_iter().fold(world, World::slice)
}

#[test]
fn a_dual_stack_service_is_served_on_both_its_vips_by_pods_with_both_addresses() {
    let resolved = world(fixture!("endpointslices-with-terminating")).resolve();
    assert_eq!(vips(&resolved), ["192.0.2.10", "2001:db8::10"]);
    let vip = &resolved.cluster.vips[&ip("192.0.2.10")];
    let mut pods: Vec<_> =
        vip.endpoints.iter().map(|e| (e.pod.as_str(), e.node.as_str(), e.state == EndpointState::Ready)).collect();
    pods.sort_unstable();
    let expected = [("echo-1", "worker-a", false), ("echo-2", "worker-b", true), ("echo-3", "worker-a", true)];
    assert_eq!(pods, expected);
    assert!(vip.endpoints.iter().all(|e| e.addresses.v4.is_some() && e.addresses.v6.is_some()), "{vip:?}");
    assert_eq!(vip.endpoints, resolved.cluster.vips[&ip("2001:db8::10")].endpoints);
    assert_eq!(problems(&resolved), [""; 0]);
}

#[test]
fn a_pod_that_leaves_stays_listed_until_its_slice_drops_it() {
    let resolved = world(fixture!("endpointslices-terminating-not-serving")).resolve();
    let endpoints = &resolved.cluster.vips[&ip("192.0.2.10")].endpoints;
    assert_eq!(endpoints.iter().filter(|e| e.state == EndpointState::Ready).count(), 2);
    assert_eq!(endpoints.len(), 3);
}

#[test]
fn the_own_pod_of_an_endpoint_is_found() {
    let resolved = world(fixture!("endpointslices-with-terminating")).resolve();
    let endpoints = &resolved.cluster.vips[&ip("192.0.2.10")].endpoints;
    let local = endpoints.iter().find_map(|e| resolved.local_pods.get(&e.pod_uid)).unwrap();
    assert_eq!((local.name.as_str(), local.terminated), ("echo-1", false));
    assert_eq!(local.addresses[0].to_string(), "10.244.1.11");
}

#[test]
fn nodes_have_the_addresses_that_their_kubelets_reported() {
    let resolved = world(fixture!("endpointslices-with-terminating")).resolve();
    assert_eq!(resolved.cluster.nodes["worker-a"].tunnel_addresses(), ip("10.0.0.21").into());
    assert_eq!(resolved.cluster.nodes.len(), 2);
}
