//! The next hops of a VIP's buckets, case by case.

use std::collections::{BTreeMap, BTreeSet};

use super::support::{
    bare_vip, both, cluster, draining_vip, endpoint, ip, on_nodes, published, routes, settings, unready, vip,
    with_nodes,
};
use crate::model::handover::EndpointState;
use crate::model::{Cluster, Endpoint, Family, Mode, Reason, Vip};
use crate::plan::node::{addresses_of_interest, desired_node};
use crate::plan::{Desired, LabelRoute, Nexthop, RouteKey, RouteTarget, Settings};

/// How many buckets of a VIP lead to each next hop; `unreachable` is one.
fn shares(desired: &Desired, vip: &str) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for (_, target) in desired.routes.iter().filter(|(key, _)| key.vip == ip(vip) && key.table < 10_016) {
        let hop = match target {
            RouteTarget::Via { nexthop, .. } => nexthop.to_string(),
            _ => "unreachable".to_owned(),
        };
        *shares.entry(hop).or_default() += 1;
    }
    shares
}

/// The MTU metrics of a VIP's routes.
fn mtus(desired: &Desired) -> BTreeSet<u32> {
    let mtu = |target: &RouteTarget| match target {
        RouteTarget::Via { mtu, .. } => Some(*mtu),
        _ => None,
    };
    desired.routes.values().filter_map(mtu).collect()
}

#[test]
fn nobody_else_gets_the_buckets_of_an_owner_that_this_node_cannot_reach() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    let mut facts = routes(&cluster);
    facts.remove(&ip("10.244.2.3"));
    let (desired, problems) = desired_node(&cluster, &facts, &settings("n1"));
    assert_eq!(shares(&desired, "192.0.2.10")["unreachable"], 8);
    assert_eq!(problems.len(), 1, "each owner is named once: {problems:?}");
    assert!(problems[0].note.contains("pod default/echo-3 (10.244.2.3)") && problems[0].note.contains("no route"));
}

#[test]
fn a_node_without_an_address_is_told_once_whatever_it_cannot_reach() {
    let vips = ["192.0.2.10", "192.0.2.11"].map(|address| vip(address, Mode::Gre, on_nodes()));
    let mut cluster = cluster(vips.into());
    cluster.nodes.get_mut("n1").unwrap().addresses.clear();
    let (_, problems) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!((problem.subject.to_string().as_str(), problem.reason), ("node n1", Reason::NodeFailed));
    assert!(problem.note.contains("no InternalIP"), "{}", problem.note);
}

#[test]
fn a_vip_without_a_map_is_unreachable_and_not_announced() {
    let announcing = Settings { announce_table: Some(10_900), ..settings("n1") };
    let cluster = cluster(vec![bare_vip("192.0.2.10", Mode::Gre, on_nodes())]);
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &announcing);
    assert_eq!((shares(&desired, "192.0.2.10"), problems), ([("unreachable".to_owned(), 16)].into(), vec![]));
    assert!(desired.routes.keys().all(|key| key.table != 10_900));
}

#[test]
fn an_owner_that_no_slice_lists_is_reached_as_the_map_says_and_called_by_its_uid() {
    let mut vip = vip("192.0.2.10", Mode::Mpls, on_nodes());
    vip.endpoints.clear();
    let cluster = cluster(vec![vip]);
    let facts = routes(&cluster);
    let (desired, problems) = desired_node(&cluster, &facts, &settings("n1"));
    assert_eq!(problems, []);
    assert_eq!(
        shares(&desired, "192.0.2.10").into_keys().collect::<Vec<_>>(),
        ["encap mpls 100 via 10.244.1.2 dev veth2", "encap mpls 66051 via 10.0.0.2 dev eth0"]
    );
    assert!(desired.labels.contains_key(&65_794) && desired.routes.keys().any(|key| key.table == 10_032));
    assert!(addresses_of_interest(&cluster).is_superset(&["10.244.1.2", "10.244.2.3"].map(ip).into()));

    let without = facts.into_iter().filter(|(address, _)| *address != ip("10.244.2.3")).collect();
    let (_, problems) = desired_node(&cluster, &without, &settings("n1"));
    assert!(problems[0].note.starts_with("pod with UID uid-3 (10.244.2.3) gets no traffic"), "{problems:?}");
}

/// A VIP whose endpoint on `n2` has just lost its buckets to that on `n1`.
fn handed_over(address: &str, mode: Mode, families: &[Family]) -> Cluster {
    let endpoints = on_nodes().into_iter().map(|e| published(e, families)).collect::<Vec<_>>();
    let now = vec![endpoints[0].clone(), unready(endpoints[1].clone())];
    with_nodes(cluster(vec![draining_vip(address, mode, now, &endpoints)]), families)
}

#[test]
fn a_bucket_with_former_owners_has_a_next_hop_of_its_own() {
    let cluster = handed_over("192.0.2.10", Mode::Vxlan, &[Family::V4]);
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    assert_eq!(problems, []);
    assert_eq!(
        shares(&desired, "192.0.2.10"),
        [
            ("encap ip id 0 src 10.0.0.1 dst 10.244.1.2 ttl 64 dev kst-vxlan".to_owned(), 8),
            ("encap ip id 2 src 10.0.0.1 dst 10.244.1.2 ttl 64 key dev kst-vxlan".to_owned(), 8),
        ]
        .into()
    );
}

#[test]
fn with_mpls_a_bucket_with_former_owners_travels_in_a_tunnel() {
    let cluster = handed_over("192.0.2.10", Mode::Mpls, &[Family::V4]);
    let hops = |without: &[Mode]| {
        let mut settings = settings("n1");
        settings.unavailable.extend(without.iter().map(|mode| (*mode, "no module".to_owned())));
        let (desired, problems) = desired_node(&cluster, &routes(&cluster), &settings);
        assert_eq!(problems, []);
        let links = desired.links.keys().cloned().collect::<Vec<_>>().concat();
        (shares(&desired, "192.0.2.10"), mtus(&desired), links)
    };
    let label = "encap mpls 100 via 10.244.1.2 dev veth2".to_owned();
    let tunnel = |dev: &str| format!("encap ip id 2 src 10.0.0.1 dst 10.244.1.2 ttl 64 key dev {dev}");
    let by = |dev: &str, mtus: [u32; 2]| ([(label.clone(), 8), (tunnel(dev), 8)].into(), mtus.into(), dev.to_owned());
    // The metric of a route with a label counts the label.
    assert_eq!(hops(&[]), by("kst-vxlan", [1464, 1468]));
    assert_eq!(hops(&[Mode::Vxlan]), by("kst-gre", [1472, 1476]));
    let plain = ([(label.clone(), 16)].into(), [1500].into(), String::new());
    assert_eq!(hops(&[Mode::Vxlan, Mode::Gre]), plain, "without second chance");
}

#[test]
fn over_ipv6_the_mtu_is_that_of_the_narrowest_way_to_any_named_pod() {
    let narrow = |families: &[Family], address: &str| {
        let cluster = handed_over("2001:db8::10", Mode::Vxlan, families);
        let mut facts = routes(&cluster);
        facts.get_mut(&ip(address)).unwrap().mtu = 1400;
        let (desired, _) = desired_node(&cluster, &facts, &settings("n1"));
        mtus(&desired)
    };
    assert_eq!(narrow(&[Family::V6], "fd00:244:2::3"), [1344, 1444].into());
    assert_eq!(narrow(&[Family::V4], "10.244.2.3"), [1464].into(), "a pod may fragment over IPv4");
}

#[test]
fn buckets_that_refuse_syns_are_listed_and_their_vip_stays_announced() {
    let announcing = Settings { announce_table: Some(10_900), ..settings("n1") };
    let all_unready = on_nodes().into_iter().map(unready).collect();
    let cluster = cluster(vec![draining_vip("192.0.2.10", Mode::Gre, all_unready, &on_nodes())]);
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &announcing);
    assert_eq!(problems, []);
    assert!(!shares(&desired, "192.0.2.10").contains_key("unreachable"), "open connections go on");
    assert!(desired.routes.contains_key(&RouteKey { table: 10_900, vip: ip("192.0.2.10") }));
    let table = desired.nft.unwrap();
    let marks = (0x80..0x90).map(|mark| format!("192.0.2.10 . {mark}"));
    assert_eq!(table.sets["refusing"].elements, marks.collect());
    for chain in ["forward", "refuse"] {
        let rule = &table.chains[chain].rules[0].text;
        assert!(
            rule.starts_with("tcp flags & (syn | ack) == syn ip daddr . meta mark @refusing ")
                && rule.ends_with("tcp reset"),
            "{rule}"
        );
    }
}

#[test]
fn with_a_local_traffic_policy_only_nodes_with_a_serving_endpoint_announce() {
    let announcing = Settings { announce_table: Some(10_900), ..settings("n1") };
    let is_announced = |own: EndpointState| {
        let own = Endpoint { state: own, ..endpoint(2, "n1") };
        let vip = draining_vip("192.0.2.10", Mode::Gre, vec![own, endpoint(3, "n2")], &on_nodes());
        let cluster = cluster(vec![Vip { local_only: true, ..vip }]);
        let (desired, _) = desired_node(&cluster, &routes(&cluster), &announcing);
        desired.routes.contains_key(&RouteKey { table: 10_900, vip: ip("192.0.2.10") })
    };
    assert!(is_announced(EndpointState::Ready) && is_announced(EndpointState::Terminating { serving: true }));
    assert!(!is_announced(EndpointState::NotReady));
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

/// A kernel without any tunnel.
fn labels_only() -> Settings {
    let unavailable = [Mode::Gre, Mode::Vxlan].map(|mode| (mode, "no module".to_owned()));
    Settings { unavailable: unavailable.into(), ..settings("n1") }
}

#[test]
fn of_two_pods_with_one_label_the_second_goes_by_tunnel_or_is_refused_by_name() {
    let mut twin = endpoint(9, "n2");
    twin.addresses = ip("10.245.2.3").into();
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Mpls, vec![endpoint(3, "n2"), twin])]);
    let mut facts = routes(&cluster);
    facts.insert(ip("10.245.2.3"), facts[&ip("10.244.2.3")].clone());
    let (desired, problems) = desired_node(&cluster, &facts, &settings("n1"));
    assert_eq!(problems, []);
    assert_eq!(shares(&desired, "192.0.2.10")["encap ip id 0 src 10.0.0.1 dst 10.245.2.3 ttl 64 dev kst-vxlan"], 8);
    let (desired, problems) = desired_node(&cluster, &facts, &labels_only());
    assert_eq!((shares(&desired, "192.0.2.10")["unreachable"], problems.len()), (8, 1));
    assert!(problems[0].note.contains("echo-9") && problems[0].note.contains("also that of pod default/echo-3"));
}

#[test]
fn a_pod_beyond_a_router_goes_by_tunnel_where_mpls_is_asked_for_or_its_node_is_named() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Mpls, on_nodes())]);
    let mut facts = routes(&cluster);
    facts.get_mut(&ip("10.0.0.2")).unwrap().gateway = Some(ip("10.0.0.254"));
    let (desired, problems) = desired_node(&cluster, &facts, &settings("n1"));
    assert_eq!(problems, []);
    assert_eq!(shares(&desired, "192.0.2.10")["encap ip id 0 src 10.0.0.1 dst 10.244.2.3 ttl 64 dev kst-vxlan"], 8);
    let (_, problems) = desired_node(&cluster, &facts, &labels_only());
    assert!(problems[0].note.contains("node n2 is not on the same link"), "{problems:?}");
}
