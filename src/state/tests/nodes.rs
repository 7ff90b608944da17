use super::*;
use k8s_openapi::api::core::v1::NodeCondition;

use crate::model::Addresses;

fn labelled(mut node: Node, label: &str, value: &str) -> Node {
    node.metadata.labels.get_or_insert_default().insert(label.to_owned(), value.to_owned());
    node
}

fn with_addresses(mut node: Node, addresses: &[(&str, &str)]) -> Node {
    let all = addresses.iter().map(|(type_, address)| node_address(type_, address)).collect();
    node.status.get_or_insert_default().addresses = Some(all);
    node
}

#[test]
fn a_node_has_its_internal_addresses_in_their_order() {
    let node = with_addresses(
        mk_node("worker-a", "", "10.244.1.0/24"),
        &[
            ("Hostname", "worker-a"),
            ("ExternalIP", "198.51.100.1"),
            ("InternalIP", "fd00::1"),
            ("InternalIP", "10.0.0.21"),
        ],
    );
    let resolved = World::new().node(node).resolve();
    let node = &resolved.cluster.nodes["worker-a"];
    assert_eq!(node.uid, "uid-worker-a");
    assert_eq!(node.addresses, ["fd00::1".parse::<std::net::IpAddr>().unwrap(), "10.0.0.21".parse().unwrap()]);
    assert_eq!(node.tunnel_addresses(), Addresses::first_of(&[ip("10.0.0.21"), ip("fd00::1")]));
}

#[test]
fn a_node_that_has_no_address_yet_is_listed_without_one() {
    let node = Node { metadata: mk_node("worker-a", "", "").metadata, spec: None, status: None };
    let resolved = World::new().node(node).resolve();
    assert_eq!(resolved.cluster.nodes["worker-a"].tunnel_addresses(), Addresses::default());
}

#[test]
fn without_a_selector_every_node_is_an_ingress_node() {
    let resolved = World::new().node(mk_node("worker-a", "10.0.0.21", "10.244.1.0/24")).resolve();
    assert!(resolved.cluster.nodes["worker-a"].ingress);
}

#[test]
fn the_selector_decides_which_nodes_are_ingress_nodes() {
    let tunnel = labelled(mk_node("worker-a", "10.0.0.21", "10.244.1.0/24"), "node", "tunnel");
    let world = World::new().node(tunnel).node(mk_node("worker-b", "10.0.0.22", "10.244.2.0/24"));
    let settings = Settings { ingress_nodes: Some("node=tunnel".parse().unwrap()), ..settings() };
    let resolved = world.resolve_with(&settings);
    assert!(resolved.cluster.nodes["worker-a"].ingress);
    assert!(!resolved.cluster.nodes["worker-b"].ingress);
}

#[test]
fn an_address_of_a_node_is_no_vip_whatever_its_type() {
    let node = with_addresses(
        mk_node("worker-a", "", "10.244.1.0/24"),
        &[("InternalIP", "10.0.0.21"), ("ExternalIP", "198.51.100.1"), ("InternalDNS", "192.0.2.77")],
    );
    let world = World::new().node(node).service(mk_service("echo", "10.0.0.21,198.51.100.1,192.0.2.77,192.0.2.10"));
    let resolved = world.resolve();
    assert_eq!(vips(&resolved), ["192.0.2.10"]);
    for address in ["10.0.0.21", "198.51.100.1", "192.0.2.77"] {
        let note = format!(
            "InvalidVIP annotation cmd.nu/tunnel of Service shop/echo: {address} is an address of node worker-a: use an \
             address that nothing in the cluster has"
        );
        assert!(problems(&resolved).contains(&note), "{:#?}", problems(&resolved));
    }
}

#[test]
fn an_address_of_a_pod_range_is_no_vip() {
    let mut node = mk_node("worker-a", "10.0.0.21", "10.244.1.0/24");
    node.spec.as_mut().unwrap().pod_cidrs = Some(vec!["10.244.1.0/24".to_owned(), "fd00:1::/64".to_owned()]);
    for vip in ["10.244.1.0", "10.244.1.7", "10.244.1.255"] {
        let parts = [vip, "is inside 10.244.1.0/24, the pod range of node worker-a"];
        let world = World::new().node(node.clone()).service(mk_service("echo", vip));
        assert_problem(&world.resolve(), Reason::InvalidVip, &parts);
    }
}

#[test]
fn the_neighbours_of_a_pod_range_are_free() {
    let world = World::new()
        .node(mk_node("worker-a", "10.0.0.21", "10.244.1.0/24"))
        .service(mk_service("echo", "10.244.0.255,10.244.2.0"));
    assert_eq!(vips(&world.resolve()), ["10.244.0.255", "10.244.2.0"]);
}

#[test]
fn a_pod_range_that_only_the_old_field_has_counts() {
    let mut node = mk_node("worker-a", "10.0.0.21", "10.244.1.0/24");
    node.spec.as_mut().unwrap().pod_cidrs = None;
    let resolved = World::new().node(node).service(mk_service("echo", "10.244.1.7")).resolve();
    assert!(vips(&resolved).is_empty());
}

#[test]
fn of_several_holders_the_same_one_is_named_everywhere() {
    let a = mk_node("worker-a", "10.0.0.21", "10.244.0.0/16");
    let b = mk_node("worker-b", "10.244.1.7", "10.244.1.0/24");
    let service = || mk_service("echo", "10.244.1.7");
    let one = World::new().node(a.clone()).node(b.clone()).service(service()).resolve();
    let other = World::new().service(service()).node(b).node(a).resolve();
    assert_eq!(one, other);
    assert_problem(&one, Reason::InvalidVip, &["is an address of node worker-b"]);
}

#[test]
fn a_heartbeat_changes_nothing() {
    let mut world = World::new().node(mk_node("worker-a", "10.0.0.21", "10.244.1.0/24"));
    let mut node = mk_node("worker-a", "10.0.0.21", "10.244.1.0/24");
    node.metadata.resource_version = Some("99".to_owned());
    node.status.as_mut().unwrap().conditions = Some(Vec::new());
    assert!(!world.0.apply(Change::Node(Watched::Apply(Box::new(node)))));
}

#[test]
fn a_node_with_another_operating_system_takes_no_traffic_in_and_its_pods_are_refused() {
    let slice = mk_slice("echo-1", "echo", vec![mk_endpoint("a", "10.244.2.1")]);
    let world = World::new().service(mk_service("echo", "192.0.2.10")).slice(slice);
    let windows = labelled(mk_node("worker-b", "10.0.0.22", "10.244.2.0/24"), "kubernetes.io/os", "windows");
    let resolved = world.node(windows).resolve();
    assert!(!resolved.cluster.nodes["worker-b"].ingress);
    assert!(resolved.cluster.vips[&ip("192.0.2.10")].endpoints.is_empty());
    assert_problem(&resolved, Reason::EndpointRefused, &["pod shop/a", "kubernetes.io/os \"windows\""]);
}

#[test]
fn a_linux_node_is_served() {
    let slice = mk_slice("echo-1", "echo", vec![mk_endpoint("a", "10.244.2.1")]);
    let world = World::new().service(mk_service("echo", "192.0.2.10")).slice(slice);
    let linux = labelled(mk_node("worker-b", "10.0.0.22", "10.244.2.0/24"), "kubernetes.io/os", "linux");
    let resolved = world.node(linux).resolve();
    assert!(resolved.cluster.nodes["worker-b"].ingress && resolved.cluster.problems.is_empty());
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].endpoints.len(), 1);
}

fn cordoned(mut node: Node) -> Node {
    node.spec.get_or_insert_default().unschedulable = Some(true);
    node
}

fn not_ready(mut node: Node) -> Node {
    let condition =
        NodeCondition { type_: "Ready".to_owned(), status: "Unknown".to_owned(), ..NodeCondition::default() };
    node.status.get_or_insert_default().conditions = Some(vec![condition]);
    node
}

#[test]
fn cordon_counts_only_while_another_ingress_node_serves() {
    let node = |n: u8| mk_node(&format!("worker-{n}"), &format!("10.0.0.{n}"), "10.244.1.0/24");
    let cordoned_nodes = |nodes: [Node; 2]| {
        let resolved = nodes.into_iter().fold(World::new(), World::node).resolve();
        resolved.cluster.nodes.values().map(|node| node.cordoned).collect::<Vec<_>>()
    };
    assert_eq!(cordoned_nodes([cordoned(node(1)), node(2)]), [true, false]);
    assert_eq!(cordoned_nodes([cordoned(node(1)), cordoned(node(2))]), [false, false]);
    assert_eq!(cordoned_nodes([cordoned(node(1)), not_ready(node(2))]), [false, false]);
    let excluded = labelled(node(1), "node.kubernetes.io/exclude-from-external-load-balancers", "");
    assert_eq!(cordoned_nodes([excluded, node(2)]), [true, false]);
}

#[test]
fn a_pods_address_is_no_nodes_address_but_the_first_of_each_family() {
    let node = with_addresses(
        mk_node("worker-b", "", "10.244.1.0/24"),
        &["10.0.0.21", "10.0.0.99", "fd00::1", "10.0.0.22"].map(|address| ("InternalIP", address)),
    );
    // A pod with an address of its own, and one on the host's network.
    let pods = vec![mk_endpoint("a", "10.0.0.99"), mk_endpoint("host", "10.0.0.21")];
    let resolved = World::new().node(node).slice(mk_slice("echo-1", "echo", pods)).resolve();
    assert_eq!(resolved.cluster.nodes["worker-b"].addresses, ["10.0.0.21", "fd00::1", "10.0.0.22"].map(ip));
}
