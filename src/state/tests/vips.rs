use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::model::config::VipRange;

use super::super::problems::MAX_NAMED;
use super::super::vips::MAX_VIPS;
use super::*;

fn created(mut service: Service, time: &str) -> Service {
    service.metadata.creation_timestamp = Some(Time(time.parse().unwrap()));
    service
}

#[test]
fn the_good_members_of_a_list_are_served() {
    let resolved = World::new().service(mk_service("echo", "banana,192.0.2.10,2001:db8::10,fe80::1")).resolve();
    assert_eq!(vips(&resolved), ["192.0.2.10", "2001:db8::10"]);
    let expected = [
        "InvalidVIP annotation cmd.nu/tunnel of Service shop/echo: \"banana\" is not an IP address: write IP addresses \
         separated by commas, such as 192.0.2.10,2001:db8::10",
        "InvalidVIP annotation cmd.nu/tunnel of Service shop/echo: \"fe80::1\" is a link-local address: use a unicast \
         address that is routed to the ingress nodes",
    ];
    assert_eq!(problems(&resolved), expected);
}

#[test]
fn an_empty_annotation_is_a_problem_of_its_own() {
    let resolved = World::new().service(mk_service("echo", "")).resolve();
    assert_problem(&resolved, Reason::InvalidVip, &["Service shop/echo", "is empty", "write an IP address"]);
}

#[test]
fn an_address_that_is_listed_twice_is_taken_once() {
    let resolved = World::new().service(mk_service("echo", "192.0.2.10,192.0.2.10, 192.0.2.10")).resolve();
    assert_eq!(vips(&resolved), ["192.0.2.10"]);
    assert!(resolved.cluster.problems.is_empty());
}

fn range(net: &str, namespaces: &[&str]) -> VipRange {
    VipRange { net: net.parse().unwrap(), namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect() }
}

#[test]
fn of_two_services_the_older_has_the_vip() {
    let old = created(mk_service("z-old", "192.0.2.10"), "2026-01-01T00:00:00Z");
    let young = created(mk_service("a-young", "192.0.2.10,192.0.2.11"), "2026-01-01T00:00:01Z");
    let resolved = World::new().service(young).service(old).resolve();
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].service.name, "z-old");
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.11")].service.name, "a-young");
    let parts = ["Service shop/a-young", "192.0.2.10 belongs to the older Service shop/z-old", "use another address"];
    assert_problem(&resolved, Reason::VipConflict, &parts);
    assert_eq!(problem(&resolved).subject.name(), "a-young");
}

#[test]
fn of_two_services_of_the_same_age_the_smaller_uid_has_the_vip() {
    let mut small = mk_service("z", "192.0.2.10");
    small.metadata.uid = Some("uid-0".to_owned());
    let resolved = World::new().service(mk_service("a", "192.0.2.10")).service(small).resolve();
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].service.name, "z");
}

#[test]
fn a_service_without_a_creation_time_is_younger_than_all() {
    let mut timeless = mk_service("a", "192.0.2.10");
    timeless.metadata.creation_timestamp = None;
    let resolved = World::new().service(timeless).service(mk_service("b", "192.0.2.10")).resolve();
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].service.name, "b");
}

#[test]
fn the_vip_passes_on_when_its_owner_lets_it_go() {
    let old = created(mk_service("old", "192.0.2.10"), "2025-01-01T00:00:00Z");
    let world = World::new().service(old.clone()).service(mk_service("young", "192.0.2.10"));
    assert_eq!(world.resolve().cluster.vips[&ip("192.0.2.10")].service.name, "old");
    let resolved = world.service(annotated(old, ANNOTATION, "192.0.2.20")).resolve();
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].service.name, "young");
    assert!(resolved.cluster.problems.is_empty());
}

#[test]
fn an_address_that_its_older_claimant_may_not_have_goes_to_nobody() {
    let world = World::new()
        .node(mk_node("worker-a", "192.0.2.10", "10.244.1.0/24"))
        .service(mk_service("a", "192.0.2.10"))
        .service(mk_service("b", "192.0.2.10"));
    let resolved = world.resolve();
    assert!(vips(&resolved).is_empty());
    assert!(resolved.cluster.problems.iter().all(|p| p.reason == Reason::InvalidVip));
    assert_eq!(resolved.cluster.problems.len(), 2);
}

#[test]
fn vips_must_be_in_the_networks_that_are_given() {
    let settings =
        Settings { vip_ranges: ["192.0.2.0/28", "198.51.100.1/32"].map(|net| range(net, &[])).into(), ..settings() };
    let world = World::new().service(mk_service("echo", "192.0.2.15,192.0.2.16,198.51.100.1"));
    let resolved = world.resolve_with(&settings);
    assert_eq!(vips(&resolved), ["192.0.2.15", "198.51.100.1"]);
    let parts = ["192.0.2.16 is outside", "use an address of 192.0.2.0/28, 198.51.100.1/32"];
    assert_problem(&resolved, Reason::InvalidVip, &parts);
    assert_eq!(vips(&world.resolve()).len(), 3);
}

#[test]
fn a_service_outside_the_networks_claims_nothing() {
    let settings = Settings { vip_ranges: vec![range("2001:db8::/32", &[])], ..settings() };
    let world = World::new().service(mk_service("a", "192.0.2.10")).service(mk_service("b", "192.0.2.10"));
    let resolved = world.resolve_with(&settings);
    assert!(resolved.cluster.problems.iter().all(|p| p.reason == Reason::InvalidVip), "{:?}", problems(&resolved));
}

#[test]
fn a_network_can_be_kept_for_namespaces() {
    let of = |nets: [&str; 2], namespace: &str| {
        let vip_ranges = nets.map(|net| range(net, &["web", namespace])).into();
        World::new().service(mk_service("echo", "192.0.2.15")).resolve_with(&Settings { vip_ranges, ..settings() })
    };
    assert_eq!(vips(&of(["192.0.2.0/28", "198.51.100.0/24"], "shop")), ["192.0.2.15"]);
    let parts =
        ["192.0.2.15 is outside the networks that VIPs of namespace shop must be in", "ask for one in --vip-cidrs"];
    assert_problem(&of(["192.0.2.0/28", "198.51.100.0/24"], "other"), Reason::InvalidVip, &parts);
    let parts = ["192.0.2.15 is outside", "use an address of 198.51.100.0/24, 203.0.113.0/24"];
    assert_problem(&of(["198.51.100.0/24", "203.0.113.0/24"], "shop"), Reason::InvalidVip, &parts);
}

#[test]
fn an_annotation_that_is_too_long_is_not_read() {
    let resolved = World::new().service(mk_service("echo", &format!("192.0.2.10{}", ",".repeat(256 << 10)))).resolve();
    assert!(vips(&resolved).is_empty());
    assert_problem(&resolved, Reason::InvalidVip, &["has more than 2048 bytes", "list at most 16 VIPs"]);
}

#[test]
fn a_list_of_garbage_makes_few_problems() {
    let bananas: Vec<String> = (0..201).map(|n| format!("banana{n}")).collect();
    let resolved = World::new().service(mk_service("echo", &bananas.join(","))).resolve();
    assert_eq!(resolved.cluster.problems.len(), MAX_NAMED + 1);
    assert!(
        problems(&resolved).iter().any(|p| p.contains("and 191 more VIPs are refused")),
        "{:?}",
        problems(&resolved)
    );
}

#[test]
fn the_same_garbage_twice_is_one_problem() {
    let resolved = World::new().service(mk_service("echo", "banana,banana,,,banana")).resolve();
    assert_eq!(resolved.cluster.problems.len(), 2);
}

#[test]
fn one_service_cannot_have_vips_without_end() {
    let all: Vec<String> = (0..140).map(|n| format!("198.51.100.{n}")).collect();
    let resolved = World::new().service(mk_service("echo", &all.join(","))).resolve();
    assert_eq!(resolved.cluster.vips.len(), MAX_VIPS);
    assert_eq!(resolved.cluster.problems.len(), MAX_NAMED + 1);
    let expected = "198.51.100.16 is beyond the 16 VIPs that a Service may have: spread the VIPs over several Services";
    assert!(problems(&resolved).iter().any(|p| p.ends_with(expected)), "{:?}", problems(&resolved));
}

#[test]
fn notes_of_the_longest_names_and_members_fit_into_an_event() {
    let mut service = mk_service(&"n".repeat(63), &"\u{1}".repeat(2048));
    service.metadata.namespace = Some("s".repeat(63));
    let resolved = World::new().service(service).resolve();
    let note = &problem(&resolved).note;
    assert!(note.len() <= MAX_NOTE, "{}", note.len());
    assert!(note.contains("(2048 bytes) is not an IP address: write IP addresses"), "{note}");
}

#[test]
fn an_ipv6_address_inside_a_pod_range_is_refused() {
    let node = mk_node("worker-a", "fd00::1", "fd00:244:1::/64");
    let resolved = World::new().node(node).service(mk_service("echo", "fd00:244:1::7,fd00::1,2001:db8::10")).resolve();
    assert_eq!(vips(&resolved), ["2001:db8::10"]);
    let [range, address] = &problems(&resolved)[..] else { panic!("{:?}", problems(&resolved)) };
    assert!(range.contains("fd00:244:1::7 is inside fd00:244:1::/64, the pod range of node worker-a"), "{range}");
    assert!(address.contains("fd00::1 is an address of node worker-a"), "{address}");
}
