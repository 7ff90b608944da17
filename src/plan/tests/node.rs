//! What a node is asked for, case by case.

use std::collections::{BTreeMap, BTreeSet};

use super::fake::FakeKernel;
use super::support::{both, cluster, endpoint, ip, routes, settings, vip, with_nodes};
use crate::model::{BucketCount, Family, Flows, MarkField, Mode, Reason, SharedMap};
use crate::plan::diff::diff;
use crate::plan::node::desired_node;
use crate::plan::observed::ObservedRoute;
use crate::plan::{
    LabelRoute, Nexthop, PAUSED_TABLE, Plan, RouteKey, RouteTarget, RuleAction, Settings, Source, Sysctl,
};

fn on_nodes() -> Vec<crate::model::Endpoint> {
    vec![endpoint(2, "n1"), endpoint(3, "n2")]
}

#[test]
fn a_node_that_takes_nothing_in_and_runs_no_endpoint_holds_nothing() {
    let mut cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, vec![endpoint(3, "n2")])]);
    cluster.nodes.get_mut("n1").unwrap().ingress = false;
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    assert_eq!((desired, problems), Default::default());
}

#[test]
fn a_serving_node_untracks_replies_and_hashes_nothing() {
    let mut cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    cluster.nodes.get_mut("n1").unwrap().ingress = false;
    let (desired, _) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    let table = desired.nft.unwrap();
    assert!(!table.chains.contains_key("vip") && desired.links.is_empty());
    assert_eq!(table.sets["endpoint_devices"].elements, BTreeSet::from(["veth2".to_owned()]));
}

#[test]
fn a_device_without_an_address_gets_a_source_route_instead_of_loose_filtering() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    let mut facts = routes(&cluster);
    let (desired, _) = desired_node(&cluster, &facts, &settings("n1"));
    let key = RouteKey { table: 10_032, vip: ip("192.0.2.10") };
    assert_eq!(
        desired.routes[&key],
        RouteTarget::Devices(["eth0".to_owned(), "veth2".to_owned()].into()),
        "and the uplink"
    );
    assert!(desired.rules.iter().any(|r| r.mark == Some((0, 0xff)) && r.action == RuleAction::Lookup(10_032)));
    assert!(!desired.sysctls.contains_key(&Sysctl::RpFilter("veth2".into())));

    facts.get_mut(&ip("10.244.1.2")).unwrap().bare = false;
    let (desired, _) = desired_node(&cluster, &facts, &settings("n1"));
    assert!(!desired.routes.contains_key(&key) && desired.sysctls.contains_key(&Sysctl::RpFilter("veth2".into())));
}

#[test]
fn a_device_without_carrier_holds_up_nothing_but_what_goes_through_it() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Mpls, on_nodes())]);
    let (desired, _) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    kernel.device("veth2", false, 1500);
    let round = |kernel: &mut FakeKernel| {
        let plan = diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-");
        kernel.apply(&plan, usize::MAX);
        let again = diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-");
        assert!(again.steps.is_empty(), "{again}");
        let groups = kernel.observed.nexthops.values().filter_map(|nexthop| match &nexthop.source {
            Some(Source::Group(members)) => Some(members.len()),
            _ => None,
        });
        let unreachable = kernel.observed.routes.values().filter(|route| **route == ObservedRoute::Unreachable);
        (groups.collect::<Vec<_>>(), unreachable.count())
    };
    assert_eq!(round(&mut kernel), (vec![2], 0));
    kernel.carrier("veth2", false);
    let (groups, unreachable) = round(&mut kernel);
    assert!(groups == [1] && unreachable > 0 && unreachable < 16, "{groups:?}, {unreachable} unreachable");
    kernel.carrier("eth0", false);
    assert_eq!(round(&mut kernel), (vec![], 17), "all buckets, and the table of sources");
    kernel.carrier("veth2", true);
    kernel.carrier("eth0", true);
    assert_eq!(round(&mut kernel), (vec![2], 0));
}

#[test]
fn a_mode_that_the_kernel_cannot_do_takes_only_its_own_vips_away() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes()), vip("192.0.2.11", Mode::Vxlan, on_nodes())]);
    let mut settings = settings("n1");
    settings.unavailable.insert(Mode::Gre, "no ip_gre: modprobe ip_gre".into());
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &settings);
    let target = |vip| &desired.routes[&RouteKey { table: 10_000, vip: ip(vip) }];
    assert_eq!(target("192.0.2.10"), &RouteTarget::Unreachable);
    assert!(matches!(target("192.0.2.11"), RouteTarget::Via { .. }));
    assert_eq!(desired.links.keys().collect::<Vec<_>>(), ["kst-vxlan"]);
    assert!(matches!(&problems[..], [p] if p.reason == Reason::NodeFailed && p.note.contains("modprobe ip_gre")));
}

#[test]
fn an_endpoint_that_this_node_cannot_reach_leaves_its_buckets_to_the_others() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    let mut facts = routes(&cluster);
    facts.remove(&ip("10.244.2.3"));
    let (desired, problems) = desired_node(&cluster, &facts, &settings("n1"));
    let destinations: BTreeSet<_> = desired.nexthops().into_iter().map(Nexthop::to_string).collect();
    assert_eq!(destinations.len(), 1, "{destinations:?}");
    assert!(desired.routes.values().all(|t| *t != RouteTarget::Unreachable));
    assert!(problems[0].note.contains("default/echo-3") && problems[0].note.contains("no route"));
}

#[test]
fn mpls_pushes_the_pods_own_label_at_home_and_its_address_label_abroad() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Mpls, on_nodes())]);
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    assert_eq!(problems, []);
    let ways: Vec<String> = desired.nexthops().into_iter().map(Nexthop::to_string).collect();
    assert_eq!(ways, ["encap mpls 100 via 10.244.1.2 dev veth2", "encap mpls 66051 via 10.0.0.2 dev eth0"]);
    let swap = LabelRoute::Swap { out: 100, via: ip("10.244.1.2"), dev: "veth2".into() };
    assert_eq!(desired.labels.into_iter().collect::<Vec<_>>(), [(65_794, swap)]);
}

#[test]
fn mpls_takes_the_neighbour_of_the_vips_family_if_there_is_one() {
    let both_families = |n, node| {
        let mut endpoint = endpoint(n, node);
        endpoint.addresses = both(endpoint.addresses.of(Family::V4).unwrap());
        endpoint
    };
    let endpoints = vec![both_families(2, "n1"), both_families(3, "n2")];
    let vips = vec![vip("2001:db8::10", Mode::Mpls, endpoints)];
    let cluster = with_nodes(cluster(vips), &Family::ALL);
    let mut facts = routes(&cluster);
    let vias = |facts: &_| -> Vec<String> {
        let (desired, problems) = desired_node(&cluster, facts, &settings("n1"));
        assert_eq!(problems, []);
        let ways = desired.nexthops().into_iter().map(Nexthop::to_string);
        ways.map(|way| way.split(' ').nth(4).unwrap_or_default().to_owned()).collect()
    };
    let six = |address: &str| both(ip(address)).of(Family::V6).unwrap();
    assert_eq!(vias(&facts), [six("10.244.1.2").to_string(), six("10.0.0.2").to_string()]);
    // Not if it lies behind a router.
    facts.get_mut(&six("10.0.0.2")).unwrap().gateway = Some(ip("fe80::1"));
    assert_eq!(vias(&facts)[1], "::ffff:10.0.0.2");
}

#[test]
fn of_two_pods_with_one_label_the_second_is_refused_by_name() {
    let mut twin = endpoint(9, "n2");
    twin.addresses = ip("10.245.2.3").into();
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Mpls, vec![endpoint(3, "n2"), twin])]);
    let mut facts = routes(&cluster);
    facts.insert(ip("10.245.2.3"), facts[&ip("10.244.2.3")].clone());
    let (_, problems) = desired_node(&cluster, &facts, &settings("n1"));
    assert_eq!(problems.len(), 1);
    assert!(problems[0].note.contains("echo-9") && problems[0].note.contains("also that of pod default/echo-3"));
}

#[test]
fn a_node_beyond_a_router_cannot_be_reached_with_mpls_and_is_named() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Mpls, on_nodes())]);
    let mut facts = routes(&cluster);
    facts.get_mut(&ip("10.0.0.2")).unwrap().gateway = Some(ip("10.0.0.254"));
    let (_, problems) = desired_node(&cluster, &facts, &settings("n1"));
    assert!(problems[0].note.contains("node n2 is not on the same link"), "{problems:?}");
}

/// A VIP whose stored map was made for this hash.
fn mapped(address: &str, buckets: u32, seed: u32) -> crate::model::Vip {
    let mut vip = vip(address, Mode::Gre, on_nodes());
    let flows = Flows { buckets: BucketCount::new(buckets).unwrap(), seed };
    vip.shared = Some(SharedMap::new(flows, &vip.endpoints).into());
    vip
}

#[test]
fn a_vip_is_hashed_as_its_map_says_and_the_others_as_the_flags_say() {
    let cluster = cluster(vec![mapped("192.0.2.10", 64, 7), vip("192.0.2.11", Mode::Gre, on_nodes())]);
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    assert_eq!(problems, []);
    let table = desired.nft.unwrap();
    let rules = |chain: &str| table.chains[chain].rules.iter().map(|r| r.text.clone()).collect::<Vec<_>>().join("\n");
    assert!(rules("vip").contains("ip daddr @vips_64_7_ goto vip_64_7_") && rules("vip").contains("mod 16 seed"));
    assert!(rules("vip_64_7_").contains("mod 64 seed 0x7") && !rules("vip_64_7_").contains("mod 16"));
    assert!(rules("icmp_error").contains("goto icmp_error_64_7_"));
    assert_eq!(table.sets["vips_64_7_"].elements, BTreeSet::from(["192.0.2.10".to_owned()]));
    let buckets = |vip| desired.routes.keys().filter(|key| key.vip == ip(vip) && key.table < 10_064).count();
    assert_eq!((buckets("192.0.2.10"), buckets("192.0.2.11")), (64, 16));
    // The tree tells 64 buckets apart, whatever our own flags say.
    assert!(desired.rules.iter().any(|r| r.mark == Some((0x80 | 63, 0xff)) && r.action == RuleAction::Lookup(10_063)));
}

#[test]
fn a_map_with_more_buckets_than_the_mark_can_hold_is_refused_and_the_others_are_served() {
    let cluster = cluster(vec![mapped("192.0.2.10", 128, 7), vip("192.0.2.11", Mode::Gre, on_nodes())]);
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    assert_eq!(problems.len(), 1);
    assert!(problems[0].reason == Reason::NodeFailed && problems[0].note.contains("128 buckets"), "{problems:?}");
    assert!(problems[0].note.contains("--mark-field 0xff"), "{problems:?}");
    let target = |vip| &desired.routes[&RouteKey { table: 10_000, vip: ip(vip) }];
    assert_eq!(target("192.0.2.10"), &RouteTarget::Unreachable);
    assert!(matches!(target("192.0.2.11"), RouteTarget::Via { .. }));
}

#[test]
fn no_packet_comes_in_while_the_tree_of_rules_takes_another_shape() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    kernel.device("veth2", false, 1500);
    let plan = |kernel: &FakeKernel, settings: &Settings| {
        let (desired, _) = desired_node(&cluster, &routes(&cluster), settings);
        diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-")
    };
    let nowhere = |plan: &Plan| !plan.to_string().contains(PAUSED_TABLE);
    let first = plan(&kernel, &settings("n1"));
    assert!(nowhere(&first), "nothing came in before");
    kernel.apply(&first, usize::MAX);

    let buckets = BucketCount::new(32).unwrap();
    let other = Settings { buckets, mark: MarkField::new(0x1ff, buckets).unwrap(), ..settings("n1") };
    let change = plan(&kernel, &other);
    let mut during = kernel.clone();
    for (step, n) in change.steps.iter().zip(1..) {
        let rules = during.observed.rules.clone();
        during = kernel.clone();
        during.apply(&change, n);
        let changed = during.observed.rules != rules;
        assert!(!changed || during.observed.paused, "packets come in while this is done: {step}");
    }
    let text = change.to_string();
    assert!(text.contains("ip daddr { 192.0.2.10 } drop") && !during.observed.paused, "{text}");
    assert!(plan(&during, &other).is_empty(), "{}", plan(&during, &other));

    // Whoever dies in the middle is made up for.
    let mut torn = kernel.clone();
    torn.apply(&change, change.steps.len() / 2);
    assert!(torn.observed.paused);
    let rest = plan(&torn, &other);
    torn.apply(&rest, usize::MAX);
    assert!(!torn.observed.paused && plan(&torn, &other).is_empty());
}
