use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateRunning, ContainerStatus, PodOS};

use super::*;

const HASH: &str = "5f3a9c0e7b1d4e8fa2c6d9b0e4f71a35";

fn with_hash(mut pod: Pod, hash: &str) -> Pod {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.hash".to_owned(), hash.to_owned());
    pod
}

fn container(id: &str, runs: bool) -> ContainerStatus {
    let running = runs.then(ContainerStateRunning::default);
    let state = Some(ContainerState { running, ..ContainerState::default() });
    ContainerStatus { container_id: Some(id.to_owned()), state, ..ContainerStatus::default() }
}

fn with_phase(mut pod: Pod, phase: &str) -> Pod {
    pod.status.get_or_insert_default().phase = Some(phase.to_owned());
    pod
}

fn on_host_network(mut pod: Pod) -> Pod {
    pod.spec.get_or_insert_default().host_network = Some(true);
    pod
}

/// A world with Service `echo` and one endpoint, pod `a`.
fn world(address: &str) -> World {
    World::new().service(mk_service("echo", "192.0.2.10")).slice(mk_slice(
        "echo-1",
        "echo",
        vec![mk_endpoint("a", address)],
    ))
}

#[test]
fn pods_of_the_own_node_are_found_by_uid() {
    let resolved = World::new().pod(mk_pod("a", "10.244.1.1")).resolve();
    let expected = LocalPod {
        uid: "uid-a".to_owned(),
        namespace: "shop".to_owned(),
        name: "a".to_owned(),
        addresses: vec!["10.244.1.1".parse().unwrap()],
        host_network: false,
        terminated: false,
        config_hash: None,
        containers: BTreeSet::new(),
        foreign_network: false,
    };
    assert_eq!(resolved.local_pods["uid-a"], expected);
    assert_eq!(resolved.local_pods.len(), 1);
}

#[test]
fn both_addresses_of_a_dual_stack_pod_are_known() {
    let mut pod = mk_pod("a", "10.244.1.1");
    let ips = ["10.244.1.1", "fd00:1::1"].map(|ip| PodIP { ip: ip.to_owned() });
    pod.status.as_mut().unwrap().pod_ips = Some(ips.into());
    assert_eq!(World::new().pod(pod).resolve().local_pods["uid-a"].addresses.len(), 2);
}

#[test]
fn an_address_that_only_the_old_field_has_counts() {
    let mut pod = mk_pod("a", "10.244.1.1");
    pod.status.as_mut().unwrap().pod_ips = None;
    assert_eq!(World::new().pod(pod).resolve().local_pods["uid-a"].addresses.len(), 1);
}

#[test]
fn a_pod_that_has_no_address_yet_is_listed_without_one() {
    let pod = Pod { metadata: meta("a"), spec: None, status: None };
    assert!(World::new().pod(pod).resolve().local_pods["uid-a"].addresses.is_empty());
}

#[test]
fn a_pod_that_has_ended_says_so() {
    for (phase, terminated) in [("Pending", false), ("Running", false), ("Succeeded", true), ("Failed", true)] {
        let resolved = World::new().pod(with_phase(mk_pod("a", "10.244.1.1"), phase)).resolve();
        assert_eq!(resolved.local_pods["uid-a"].terminated, terminated, "{phase}");
    }
}

#[test]
fn an_own_pod_on_the_host_network_is_refused_even_before_its_node_has_an_address() {
    let resolved = world("10.0.0.21").pod(on_host_network(mk_pod("a", "10.0.0.21"))).resolve();
    assert!(resolved.cluster.vips[&ip("192.0.2.10")].endpoints.is_empty());
    assert_problem(&resolved, Reason::EndpointRefused, &["pod shop/a", "hostNetwork"]);
    assert!(resolved.local_pods["uid-a"].host_network);
}

#[test]
fn a_slice_cannot_bring_a_vip_into_an_own_pod_of_another_namespace() {
    let mut victim = mk_pod("a", "10.244.1.1");
    victim.metadata.namespace = Some("bank".to_owned());
    let resolved = world("10.244.1.1").pod(victim).resolve();
    assert!(resolved.cluster.vips[&ip("192.0.2.10")].endpoints.is_empty());
    assert_problem(&resolved, Reason::EndpointRefused, &["is in another namespace than the Service"]);
}

#[test]
fn an_endpoint_whose_pod_is_not_seen_yet_is_served_meanwhile() {
    let resolved = world("10.244.1.1").resolve();
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].endpoints.len(), 1);
    assert!(resolved.local_pods.is_empty());
}

#[test]
fn the_address_of_an_own_pod_is_no_vip_until_the_pod_has_ended() {
    let world = World::new().service(mk_service("echo", "10.244.1.1")).pod(mk_pod("a", "10.244.1.1"));
    assert_problem(&world.resolve(), Reason::InvalidVip, &["10.244.1.1 is the address of pod shop/a"]);
    let world = world.pod(with_phase(mk_pod("a", "10.244.1.1"), "Succeeded"));
    assert_eq!(vips(&world.resolve()), ["10.244.1.1"]);
}

#[test]
fn a_pod_that_is_replaced_under_its_name_is_another_pod() {
    let mut again = mk_pod("a", "10.244.1.2");
    again.metadata.uid = Some("uid-a2".to_owned());
    let resolved = World::new().pod(mk_pod("a", "10.244.1.1")).pod(again).resolve();
    assert_eq!(resolved.local_pods.keys().collect::<Vec<_>>(), ["uid-a2"]);
}

#[test]
fn a_static_pod_is_found_by_the_hash_of_its_manifest() {
    let pod = with_hash(mk_pod("a", "10.244.1.1"), HASH);
    assert_eq!(World::new().pod(pod).resolve().local_pods["uid-a"].config_hash.as_deref(), Some(HASH));
}

#[test]
fn a_hash_does_not_lead_to_another_pod_nor_without_an_address() {
    let borrowed = with_hash(mk_pod("a", "10.244.1.1"), "uid-b");
    let resolved = World::new().pod(borrowed).pod(mk_pod("b", "10.244.1.2")).resolve();
    assert_eq!(resolved.local_pods["uid-a"].config_hash, None);
    let mut unborn = with_hash(mk_pod("a", "10.244.1.1"), HASH);
    unborn.status = None;
    assert_eq!(World::new().pod(unborn).resolve().local_pods["uid-a"].config_hash, None);
}

#[test]
fn the_running_containers_of_a_pod_are_known() {
    let mut pod = mk_pod("a", "10.244.1.1");
    let status = pod.status.get_or_insert_default();
    status.container_statuses = Some(vec![container("containerd://1", true), container("containerd://2", false)]);
    status.init_container_statuses = Some(vec![container("containerd://3", true)]);
    let resolved = World::new().pod(pod).resolve();
    let known: Vec<&str> = resolved.local_pods["uid-a"].containers.iter().map(String::as_str).collect();
    assert_eq!(known, ["containerd://1", "containerd://3"]);
}

#[test]
fn a_runtime_class_without_this_kernels_network_is_refused_by_name() {
    let mut pod = mk_pod("a", "10.244.1.1");
    pod.spec.get_or_insert_default().runtime_class_name = Some("kata-qemu".to_owned());
    let resolved = world("10.244.1.1").pod(pod).resolve();
    assert_problem(&resolved, Reason::EndpointRefused, &["pod shop/a", "RuntimeClass \"kata-qemu\"", "runc or crun"]);
    assert!(resolved.local_pods["uid-a"].foreign_network);
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].endpoints.len(), 1, "all nodes compute the same map");
}

#[test]
fn a_pod_of_another_operating_system_is_refused_by_name() {
    let mut pod = mk_pod("a", "10.244.1.1");
    pod.spec.get_or_insert_default().os = Some(PodOS { name: "windows".to_owned() });
    let resolved = world("10.244.1.1").pod(pod).resolve();
    assert_problem(&resolved, Reason::EndpointRefused, &["pod shop/a", "spec.os.name \"windows\"", "Linux node"]);
}
