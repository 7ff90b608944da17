use super::super::problems::MAX_NAMED;
use super::*;
use crate::model::Addresses;
use crate::model::Endpoint as Pod;

const VIP: &str = "192.0.2.10";

/// A world with Service `echo`.
fn world() -> World {
    World::new().service(mk_service("echo", VIP))
}

fn pods(resolved: &Resolved) -> &[Pod] {
    &resolved.cluster.vips[&ip(VIP)].endpoints
}

/// Every pod as "name", and those that get no new connections as "(name)".
fn names(resolved: &Resolved) -> Vec<String> {
    let best = pods(resolved).iter().map(|p| p.state).filter(|state| state.serves()).min();
    let gets_new = |p: &Pod| p.state.serves() && Some(p.state) == best;
    pods(resolved).iter().map(|p| if gets_new(p) { p.pod.clone() } else { format!("({})", p.pod) }).collect()
}

fn with_slice(endpoints: Vec<Endpoint>) -> Resolved {
    world().slice(mk_slice("echo-1", "echo", endpoints)).resolve()
}

#[test]
fn a_pod_has_everything_that_the_data_path_needs() {
    let resolved = with_slice(vec![mk_endpoint("a", "10.244.2.1")]);
    let expected = Pod {
        pod_uid: "uid-a".to_owned(),
        namespace: "shop".to_owned(),
        pod: "a".to_owned(),
        node: "worker-b".to_owned(),
        addresses: ip("10.244.2.1").into(),
        state: crate::model::handover::EndpointState::Ready,
    };
    assert_eq!(pods(&resolved), [expected]);
}

#[test]
fn pods_of_all_slices_are_joined_and_sorted_by_uid() {
    let world = world()
        .slice(mk_slice("echo-1", "echo", vec![mk_endpoint("c", "10.244.2.3"), mk_endpoint("a", "10.244.2.1")]))
        .slice(mk_slice("echo-2", "echo", vec![mk_endpoint("b", "10.244.2.2")]));
    assert_eq!(names(&world.resolve()), ["a", "b", "c"]);
}

#[test]
fn slices_of_other_services_and_namespaces_do_not_count() {
    let mut elsewhere = mk_slice("echo-2", "echo", vec![mk_endpoint("b", "10.244.2.2")]);
    elsewhere.metadata.namespace = Some("other".to_owned());
    let mut unlabelled = mk_slice("echo-3", "echo", vec![mk_endpoint("c", "10.244.2.3")]);
    unlabelled.metadata.labels = None;
    let world = world()
        .slice(mk_slice("other-1", "other", vec![mk_endpoint("a", "10.244.2.1")]))
        .slice(elsewhere)
        .slice(unlabelled);
    let resolved = world.resolve();
    assert!(pods(&resolved).is_empty());
    assert!(resolved.cluster.problems.is_empty());
}

#[test]
fn ipv6_slices_are_the_other_half_of_a_dual_stack_service() {
    let mut v6 = mk_slice("echo-6", "echo", vec![mk_endpoint("a", "fd00::1")]);
    v6.address_type = "IPv6".to_owned();
    let resolved = world().slice(v6).slice(mk_slice("echo-4", "echo", vec![mk_endpoint("a", "10.244.2.1")])).resolve();
    assert_eq!(names(&resolved), ["a"]);
    assert_eq!(pods(&resolved)[0].addresses, Addresses::first_of(&[ip("10.244.2.1"), ip("fd00::1")]));
    assert!(resolved.cluster.problems.is_empty());
}

#[test]
fn a_pod_with_slices_of_one_family_has_an_address_of_that_family_only() {
    let mut v6 = mk_slice("echo-6", "echo", vec![mk_endpoint("a", "fd00::1")]);
    v6.address_type = "IPv6".to_owned();
    assert_eq!(pods(&world().slice(v6).resolve())[0].addresses, ip("fd00::1").into());
}

#[test]
fn an_address_of_another_family_than_its_slice_says_is_refused_by_name() {
    let resolved = with_slice(vec![mk_endpoint("a", "fd00::1")]);
    assert_problem(&resolved, Reason::EndpointRefused, &["pod shop/a", "\"fd00::1\"", "slice of its type"]);
}

#[test]
fn a_pod_whose_one_address_is_bad_is_served_by_the_other() {
    let mut v6 = mk_slice("echo-6", "echo", vec![mk_endpoint("a", "fe80::1")]);
    v6.address_type = "IPv6".to_owned();
    let resolved = world().slice(v6).slice(mk_slice("echo-4", "echo", vec![mk_endpoint("a", "10.244.2.1")])).resolve();
    assert_eq!(pods(&resolved)[0].addresses, ip("10.244.2.1").into());
    assert!(resolved.cluster.problems.is_empty());
}

#[test]
fn fqdn_slices_are_refused_by_name_once_each() {
    let endpoints = vec![mk_endpoint("a", "a.example.org"), mk_endpoint("b", "b.example.org")];
    let mut fqdn = mk_slice("echo-names", "echo", endpoints);
    fqdn.address_type = "FQDN".to_owned();
    let resolved = world().slice(fqdn).resolve();
    let parts = ["Service shop/echo", "EndpointSlice echo-names", "addressType \"FQDN\"", "use addressType IPv4"];
    assert_problem(&resolved, Reason::EndpointRefused, &parts);
}

#[test]
fn a_pod_that_is_not_ready_is_listed_and_gets_no_connections() {
    let endpoints = vec![
        mk_endpoint("a", "10.244.2.1"),
        with_conditions(mk_endpoint("b", "10.244.2.2"), false, false, false),
        with_conditions(mk_endpoint("c", "10.244.2.3"), false, true, true),
        with_conditions(mk_endpoint("d", "10.244.2.4"), false, false, true),
    ];
    assert_eq!(names(&with_slice(endpoints)), ["a", "(b)", "(c)", "(d)"]);
}

#[test]
fn without_a_ready_pod_those_that_leave_and_still_serve_are_used() {
    let endpoints = vec![
        with_conditions(mk_endpoint("b", "10.244.2.2"), false, false, false),
        with_conditions(mk_endpoint("c", "10.244.2.3"), false, true, true),
        with_conditions(mk_endpoint("d", "10.244.2.4"), false, false, true),
        with_conditions(mk_endpoint("e", "10.244.2.5"), false, true, false),
    ];
    assert_eq!(names(&with_slice(endpoints)), ["(b)", "c", "(d)", "(e)"]);
}

#[test]
fn with_nothing_that_serves_nobody_is_eligible() {
    let endpoints = vec![with_conditions(mk_endpoint("b", "10.244.2.2"), false, false, false)];
    assert_eq!(names(&with_slice(endpoints)), ["(b)"]);
}

#[test]
fn what_publish_not_ready_addresses_marks_as_ready_is_ready() {
    let endpoints = vec![with_conditions(mk_endpoint("a", "10.244.2.1"), true, false, true)];
    assert_eq!(names(&with_slice(endpoints)), ["a"]);
}

#[test]
fn conditions_that_are_left_out_mean_ready() {
    let none = Endpoint { conditions: None, ..mk_endpoint("a", "10.244.2.1") };
    let empty = Endpoint { conditions: Some(EndpointConditions::default()), ..mk_endpoint("b", "10.244.2.2") };
    assert_eq!(names(&with_slice(vec![none, empty])), ["a", "b"]);
}

#[test]
fn a_leaving_pod_serves_unless_it_says_otherwise() {
    let conditions = EndpointConditions { ready: Some(false), serving: None, terminating: Some(true) };
    let endpoint = Endpoint { conditions: Some(conditions), ..mk_endpoint("a", "10.244.2.1") };
    assert_eq!(names(&with_slice(vec![endpoint])), ["a"]);
}

#[test]
fn a_pod_in_two_slices_is_one_pod_and_the_readier_mention_holds() {
    let ready = || mk_endpoint("a", "10.244.2.1");
    let not_ready = || with_conditions(mk_endpoint("a", "10.244.2.1"), false, false, false);
    for (one, other) in [(ready(), not_ready()), (not_ready(), ready())] {
        let world = world().slice(mk_slice("echo-1", "echo", vec![one])).slice(mk_slice("echo-2", "echo", vec![other]));
        assert_eq!(names(&world.resolve()), ["a"]);
    }
}

#[test]
fn of_equally_ready_mentions_the_younger_generation_holds() {
    let mut young = mk_slice("echo-2", "echo", vec![mk_endpoint("a", "10.244.2.2")]);
    young.metadata.generation = Some(7);
    let resolved =
        world().slice(young).slice(mk_slice("echo-1", "echo", vec![mk_endpoint("a", "10.244.2.1")])).resolve();
    assert_eq!(pods(&resolved)[0].addresses, ip("10.244.2.2").into());
    assert_eq!(pods(&resolved).len(), 1);
}

#[test]
fn an_endpoint_without_a_pod_is_refused_by_name() {
    let nobody = Endpoint { target_ref: None, ..mk_endpoint("x", "203.0.113.5") };
    let mut node = mk_endpoint("y", "203.0.113.6");
    node.target_ref.as_mut().unwrap().kind = Some("Node".to_owned());
    let mut no_uid = mk_endpoint("z", "203.0.113.7");
    no_uid.target_ref.as_mut().unwrap().uid = None;
    let resolved = with_slice(vec![nobody, node, no_uid, mk_endpoint("a", "10.244.2.1")]);
    assert_eq!(names(&resolved), ["a"]);
    let expected: Vec<String> = ["203.0.113.5", "203.0.113.6", "203.0.113.7"]
        .map(|address| {
            format!(
                "EndpointRefused Service shop/echo: endpoint \"{address}\" of EndpointSlice echo-1 does not refer to a pod: \
                 give the Service a selector, or the endpoint a targetRef with kind Pod and the pod's uid"
            )
        })
        .into();
    assert_eq!(problems(&resolved), expected);
}

#[test]
fn a_pod_without_a_node_is_refused_by_name() {
    for node_name in [None, Some(String::new())] {
        let endpoint = Endpoint { node_name, ..mk_endpoint("a", "10.244.2.1") };
        let parts = ["pod shop/a is on no node", "set nodeName in the EndpointSlice"];
        assert_problem(&with_slice(vec![endpoint]), Reason::EndpointRefused, &parts);
    }
}

#[test]
fn a_pod_with_an_address_that_is_none_is_refused_by_name() {
    for (address, words) in [
        ("banana", "has address \"banana\", which is no pod's address in a slice of its type"),
        ("fd00::1", "has address \"fd00::1\""),
        ("0.0.0.0", "has address \"0.0.0.0\""),
        ("127.0.0.1", "has address \"127.0.0.1\""),
        ("", "has no address"),
    ] {
        let resolved = with_slice(vec![mk_endpoint("a", address), mk_endpoint("b", "10.244.2.2")]);
        assert_eq!(names(&resolved), ["b"]);
        assert_problem(&resolved, Reason::EndpointRefused, &["pod shop/a", words, "correct the EndpointSlice"]);
    }
    let resolved = with_slice(vec![Endpoint { addresses: Vec::new(), ..mk_endpoint("a", "") }]);
    assert_problem(&resolved, Reason::EndpointRefused, &["pod shop/a has no address"]);
}

#[test]
fn only_the_first_address_of_an_endpoint_means_anything() {
    let mut endpoint = mk_endpoint("a", "10.244.2.1");
    endpoint.addresses.push("banana".to_owned());
    assert_eq!(pods(&with_slice(vec![endpoint]))[0].addresses, ip("10.244.2.1").into());
}

#[test]
fn a_pod_with_the_address_of_its_node_is_refused_by_name() {
    let world = world().node(mk_node("worker-b", "10.0.0.22", "10.244.2.0/24")).slice(mk_slice(
        "echo-1",
        "echo",
        vec![mk_endpoint("a", "10.0.0.22"), mk_endpoint("b", "10.244.2.2")],
    ));
    let resolved = world.resolve();
    assert_eq!(names(&resolved), ["b"]);
    let parts = ["pod shop/a uses its node's network (hostNetwork)", "run the pod without hostNetwork"];
    assert_problem(&resolved, Reason::EndpointRefused, &parts);
}

#[test]
fn a_pod_of_another_namespace_is_refused_by_name() {
    let mut endpoint = mk_endpoint("a", "10.244.2.1");
    endpoint.target_ref.as_mut().unwrap().namespace = Some("bank".to_owned());
    let resolved = with_slice(vec![endpoint]);
    assert_problem(&resolved, Reason::EndpointRefused, &["pod bank/a is in another namespace than the Service"]);
}

#[test]
fn a_mention_that_can_be_served_makes_up_for_one_that_cannot() {
    let broken = Endpoint { node_name: None, ..mk_endpoint("a", "10.244.2.1") };
    let world = world().slice(mk_slice("echo-1", "echo", vec![broken])).slice(mk_slice(
        "echo-2",
        "echo",
        vec![mk_endpoint("a", "10.244.2.1")],
    ));
    let resolved = world.resolve();
    assert_eq!(names(&resolved), ["a"]);
    assert!(resolved.cluster.problems.is_empty());
}

#[test]
fn many_refused_endpoints_are_counted_rather_than_named() {
    let endpoints = (0..47).map(|n| Endpoint { node_name: None, ..mk_endpoint(&format!("p{n:02}"), "10.244.2.1") });
    let resolved = with_slice(endpoints.collect());
    assert_eq!(resolved.cluster.problems.len(), MAX_NAMED + 1);
    assert!(problems(&resolved).iter().any(|p| p.contains("and 37 more endpoints are refused")));
    assert!(problems(&resolved).iter().any(|p| p.contains("pod shop/p00 is on no node")));
}

#[test]
fn more_ready_pods_than_buckets_are_one_problem_and_all_are_listed() {
    let many =
        |n: usize| (0..n).map(|i| mk_endpoint(&format!("p{i:03}"), &format!("10.244.2.{i}"))).collect::<Vec<_>>();
    assert!(with_slice(many(64)).cluster.problems.is_empty());
    let resolved = with_slice(many(65));
    assert_eq!(pods(&resolved).len(), 65);
    let parts = ["Service shop/echo has more ready pods than the 64 buckets", "raise --buckets"];
    assert_problem(&resolved, Reason::TooManyEndpoints, &parts);
}

#[test]
fn pods_that_are_not_eligible_need_no_bucket() {
    let endpoint =
        |i: usize| with_conditions(mk_endpoint(&format!("p{i}"), &format!("10.244.2.{i}")), i < 64, false, false);
    assert!(with_slice((0..100).map(endpoint).collect()).cluster.problems.is_empty());
}

#[test]
fn the_address_of_a_pod_is_no_vip() {
    let resolved = world().slice(mk_slice("other-1", "other", vec![mk_endpoint("a", VIP)])).resolve();
    assert!(vips(&resolved).is_empty());
    assert_problem(&resolved, Reason::InvalidVip, &["192.0.2.10 is the address of pod shop/a"]);
}

#[test]
fn an_alias_for_a_vip_inside_the_cluster_does_not_take_it_down() {
    let alias = Endpoint { target_ref: None, node_name: None, ..mk_endpoint("-", VIP) };
    let resolved = world().slice(mk_slice("alias-1", "alias", vec![alias])).resolve();
    assert_eq!(vips(&resolved), [VIP]);
    assert!(resolved.cluster.problems.is_empty());
}
