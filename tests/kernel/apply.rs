//! Applying steps, with `ip` and `nft` as witnesses of what they did.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use crate::support::{apply_each_twice, apply_in, netns, observe_in, sh, try_apply};
use tunnel_router::model::Family;
use tunnel_router::model::second_chance::TunnelId;
use tunnel_router::netns::Netns;
use tunnel_router::plan::nft::{Elements, NftAction, ObservedTable, SetType, TableFamily, TableName};
use tunnel_router::plan::observed::ObservedRoute;
use tunnel_router::plan::step::RouteWrite;
use tunnel_router::plan::{Address, LinkKind, Nexthop, RouteKey, RuleAction, RuleSpec, Source, Step, Sysctl};

const DEV: &str = "kst-vxlan";
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11));
const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 2));
const PORT: u16 = 4790;

fn device() -> Vec<Step> {
    vec![Step::AddLink(DEV.into(), LinkKind::VxlanGpe { port: PORT }), Step::LinkUp(DEV.into())]
}

fn encap(dst: IpAddr) -> Nexthop {
    Nexthop::EncapIp { family: Family::V4, dev: DEV.into(), src: NODE, dst, id: TunnelId::OWNER_ALONE }
}

fn on(dev: &str, nexthop: Nexthop) -> Nexthop {
    match nexthop {
        Nexthop::EncapIp { family, src, dst, id, .. } => Nexthop::EncapIp { family, dev: dev.into(), src, dst, id },
        mpls => mpls,
    }
}

fn address() -> Address {
    Address { dev: DEV.into(), address: VIP }
}

fn rule(priority: u32, mark: Option<(u32, u32)>, action: RuleAction) -> RuleSpec {
    RuleSpec { family: Family::V4, priority, mark, action }
}

/// Everything that an ingress node needs, in the order of a plan.
fn node_steps() -> Vec<Step> {
    let key = |table, last| RouteKey { table, vip: IpAddr::from([192, 0, 2, last]) };
    let mut steps = vec![Step::SetSysctl(Sysctl::RpFilter("lo".into()), 2)];
    steps.extend(device());
    steps.extend([
        Step::ReplaceNexthop(7, encap(POD)),
        Step::ReplaceRoute(key(1000, 10), RouteWrite::Nhid { id: 7, mtu: 1464 }),
        Step::ReplaceRoute(key(1001, 10), RouteWrite::Unreachable),
        Step::ReplaceRoute(key(100_000, 10), RouteWrite::Nhid { id: 7, mtu: 1414 }),
        Step::AddRule(rule(101, Some((0, 0xff)), RuleAction::Goto(300))),
        Step::AddRule(rule(102, Some((0x80, 0x80)), RuleAction::Goto(200))),
        Step::AddRule(rule(103, Some((0x40, 0xff)), RuleAction::Lookup(1000))),
        Step::AddRule(rule(200, None, RuleAction::Lookup(100_000))),
        Step::AddRule(rule(300, None, RuleAction::Nop)),
        Step::AddAddress(address()),
    ]);
    steps
}

fn lines_with(text: &str, needle: &str) -> usize {
    text.lines().filter(|line| line.contains(needle)).count()
}

#[test]
fn every_step_does_what_it_prints_and_may_be_applied_twice() {
    let target = netns();
    apply_each_twice(&target, &node_steps());
    let link = sh(&target, "ip -d link show kst-vxlan");
    assert!(link.contains("vxlan external") && link.contains("dstport 4790 nolearning"), "{link}");
    assert!(link.contains(" gpe ") && link.contains("udpcsum noudp6zerocsumtx udp6zerocsumrx"), "{link}");
    assert!(link.contains(",UP"), "{link}");
    let address = sh(&target, "ip -4 address show dev kst-vxlan");
    assert!(address.contains("inet 192.0.2.10/32 scope global"), "{address}");
    let nexthop = sh(&target, "ip nexthop show id 7");
    assert!(nexthop.contains("encap ip id 0 src 10.0.0.11 dst 10.244.1.2 ttl 64"), "{nexthop}");
    assert!(nexthop.contains("dev kst-vxlan") && nexthop.contains("proto 107"), "{nexthop}");
    let routes = sh(&target, "ip route show table all proto 107");
    assert_eq!(lines_with(&routes, "192.0.2.10"), 3, "{routes}");
    assert_eq!(lines_with(&routes, "192.0.2.10 nhid 7"), 2, "{routes}");
    assert_eq!(lines_with(&routes, "table 100000"), 1, "{routes}");
    assert_eq!(lines_with(&routes, "mtu 1414"), 1, "{routes}");
    assert_eq!(lines_with(&routes, "unreachable 192.0.2.10 table 1001"), 1, "{routes}");
    assert_eq!(sh(&target, "cat /proc/sys/net/ipv4/conf/lo/rp_filter").trim(), "2");
    let rules = sh(&target, "ip rule show");
    for want in [
        "101:\tfrom all fwmark 0/0xff goto 300 proto 107",
        "102:\tfrom all fwmark 0x80/0x80 goto 200 proto 107",
        "103:\tfrom all fwmark 0x40/0xff lookup 1000 proto 107",
        "200:\tfrom all lookup 100000 proto 107",
        "300:\tfrom all nop proto 107",
    ] {
        assert_eq!(lines_with(&rules, want), 1, "{want}\n{rules}");
    }
}

#[test]
fn what_was_applied_is_what_is_observed() {
    let target = netns();
    apply_in(&target, &node_steps());
    let observed = observe_in(&target, &[Sysctl::RpFilter("lo".into()), Sysctl::RpFilter("gone".into())]);
    let link = &observed.links[DEV];
    assert_eq!(link.kind, Some(LinkKind::VxlanGpe { port: PORT }));
    assert!(link.up && !link.loopback && link.mtu == 1500);
    assert!(observed.links["lo"].loopback);
    assert!(observed.addresses.contains(&(address(), 32, true)));
    assert!(observed.addresses.iter().any(|(a, len, ours)| a.dev == "lo" && *len == 8 && !ours));
    assert_eq!(observed.nexthops[&7].spec, Some(encap(POD)));
    assert!(observed.nexthops[&7].ours);
    let routes: Vec<_> = observed.routes.iter().map(|(key, route)| (key.table, key.vip, route.clone())).collect();
    let want = [
        (1000, VIP, ObservedRoute::Nhid { id: 7, mtu: Some(1464) }),
        (1001, VIP, ObservedRoute::Unreachable),
        (100_000, VIP, ObservedRoute::Nhid { id: 7, mtu: Some(1414) }),
    ];
    assert_eq!(routes, want);
    let ours: Vec<_> = observed.rules.iter().filter(|r| r.ours).map(|r| Step::AddRule(r.spec.unwrap())).collect();
    let wanted: Vec<_> = node_steps().into_iter().filter(|s| matches!(s, Step::AddRule(_))).collect();
    assert_eq!(ours, wanted);
    assert_eq!(observed.sysctls.into_iter().collect::<Vec<_>>(), [(Sysctl::RpFilter("lo".into()), 2)]);
    assert_eq!(observed.nft, None);
}

#[test]
fn a_next_hop_that_ip_has_made_as_printed_is_read_back_as_meant() {
    let target = netns();
    apply_in(&target, &device());
    let (src, dst) = ("fd00::11".parse().unwrap(), "fd00:244::2".parse().unwrap());
    for (outer_src, outer_dst) in [(NODE, POD), (src, dst)] {
        for id in [0, 1, 0x7f_ffff].map(TunnelId::from_bits) {
            for family in Family::ALL {
                let nexthop = Nexthop::EncapIp { family, dev: DEV.into(), src: outer_src, dst: outer_dst, id };
                sh(&target, &Step::ReplaceNexthop(7, nexthop.clone()).to_string());
                assert_eq!(observe_in(&target, &[]).nexthops[&7].spec, Some(nexthop.clone()), "{nexthop}");
                sh(&target, "ip nexthop del id 7");
            }
        }
    }
}

#[test]
fn deletions_leave_nothing_and_may_be_applied_twice() {
    let target = netns();
    let empty = observe_in(&target, &[]);
    apply_in(&target, &node_steps());
    let deletions: Vec<Step> = node_steps().iter().rev().filter_map(inverse).collect();
    apply_each_twice(&target, &deletions);
    assert_eq!(observe_in(&target, &[]), empty);
}

fn inverse(step: &Step) -> Option<Step> {
    Some(match step.clone() {
        Step::AddLink(name, _) => Step::DelLink(name),
        Step::AddAddress(address) => Step::DelAddress(address),
        Step::ReplaceNexthop(id, _) => Step::DelNexthop(id),
        Step::ReplaceRoute(key, _) => Step::DelRoute(key),
        Step::AddRule(spec) => Step::DelRule(spec),
        _ => return None,
    })
}

#[test]
fn an_endpoint_moves_with_one_replaced_nexthop_and_one_replaced_route() {
    let target = netns();
    apply_in(&target, &node_steps());
    let key = RouteKey { table: 1001, vip: VIP };
    let other = IpAddr::from([10, 244, 3, 2]);
    apply_in(
        &target,
        &[
            Step::ReplaceNexthop(7, encap(other)),
            Step::ReplaceNexthop(8, encap(POD)),
            Step::ReplaceRoute(key, RouteWrite::Nhid { id: 8, mtu: 1300 }),
        ],
    );
    let observed = observe_in(&target, &[]);
    assert_eq!(observed.nexthops[&7].spec, Some(encap(other)));
    assert_eq!(observed.routes[&key], ObservedRoute::Nhid { id: 8, mtu: Some(1300) });
    assert_eq!(observed.routes.len(), 3);
}

#[test]
fn a_route_by_a_group_outlives_a_device_of_the_group() {
    let target = netns();
    sh(
        &target,
        "for i in 1 2; do ip link add a$i type veth peer name b$i; ip link set a$i up; ip link set b$i up; done",
    );
    let key = RouteKey { table: 1000, vip: VIP };
    let device = |name: &str| Source::Device(name.into());
    let steps = [
        Step::ReplaceSource(7, device("a1")),
        Step::ReplaceSource(8, device("a2")),
        Step::ReplaceSource(9, Source::Group([7, 8].into())),
        Step::ReplaceRoute(key, RouteWrite::Group(9)),
    ];
    apply_each_twice(&target, &steps);
    let nexthops = sh(&target, "ip nexthop show protocol 107");
    assert_eq!(lines_with(&nexthops, "id 9 group 7/8 proto 107"), 1, "{nexthops}");
    assert_eq!(lines_with(&nexthops, "id 7 dev a1 scope host proto 107"), 1, "{nexthops}");
    let source_of = |id| observe_in(&target, &[]).nexthops[&id].source.clone();
    assert_eq!([7, 8, 9].map(source_of), [device("a1"), device("a2"), Source::Group([7, 8].into())].map(Some));
    let route = || observe_in(&target, &[]).routes.get(&key).cloned();
    assert_eq!(route(), Some(ObservedRoute::Nhid { id: 9, mtu: None }));

    sh(&target, "ip link del a1");
    assert_eq!(source_of(9), Some(Source::Group([8].into())));
    assert_eq!(route(), Some(ObservedRoute::Nhid { id: 9, mtu: None }));
    apply_each_twice(&target, &[Step::DelRoute(key), Step::DelNexthop(9), Step::DelNexthop(8)]);
    let observed = observe_in(&target, &[]);
    assert!(observed.routes.is_empty() && observed.nexthops.is_empty());
}

#[test]
fn a_rule_whose_goto_leads_elsewhere_is_not_taken_for_the_same() {
    let target = netns();
    let at = |goto| rule(150, Some((1, 0xff)), RuleAction::Goto(goto));
    apply_in(&target, &[Step::AddRule(at(200)), Step::AddRule(at(300)), Step::AddRule(at(300))]);
    let ours = |target: &Netns| -> Vec<_> {
        observe_in(target, &[]).rules.into_iter().filter(|r| r.ours).map(|r| r.spec.unwrap()).collect()
    };
    assert_eq!(ours(&target), [at(200), at(300)]);
    // The kernel deletes the first that fits, whatever its target: the older one.
    apply_in(&target, &[Step::DelRule(at(200))]);
    assert_eq!(ours(&target), [at(300)]);
}

#[test]
fn thousands_of_objects_are_applied_and_read_back() {
    let target = netns();
    apply_in(&target, &device());
    let address = |n: u32| IpAddr::V4(Ipv4Addr::from(0x0a80_0000 + n));
    let nexthops = (1..=3000).map(|n| Step::ReplaceNexthop(n, encap(address(n))));
    let routes = (1..=3000).map(|n| {
        let key = RouteKey { table: 1000 + n % 64, vip: address(n) };
        Step::ReplaceRoute(key, RouteWrite::Nhid { id: n, mtu: 1400 })
    });
    apply_in(&target, &nexthops.chain(routes).collect::<Vec<_>>());
    let observed = observe_in(&target, &[]);
    assert_eq!((observed.nexthops.len(), observed.routes.len()), (3000, 3000));
    let deletions = observed.routes.keys().map(|key| Step::DelRoute(*key));
    apply_in(&target, &deletions.chain((1..=3000).map(Step::DelNexthop)).collect::<Vec<_>>());
    let observed = observe_in(&target, &[]);
    assert_eq!((observed.nexthops.len(), observed.routes.len()), (0, 0));
}

#[test]
fn the_first_failing_step_is_named_and_later_kinds_are_not_tried() {
    let target = netns();
    let key = RouteKey { table: 1000, vip: VIP };
    let mut steps = device();
    steps.extend([
        Step::ReplaceNexthop(1, encap(POD)),
        Step::ReplaceNexthop(2, on("kst-nowhere", encap(POD))),
        Step::ReplaceRoute(key, RouteWrite::Nhid { id: 1, mtu: 1400 }),
    ]);
    let error = try_apply(&target, &steps).unwrap_err();
    assert_eq!((error.done, &*error.step), (3, &steps[3]));
    assert!(error.source.is_not_found());
    assert!(error.to_string().starts_with("ip nexthop replace id 2 encap ip"), "{error}");
    assert!(error.to_string().contains("no device kst-nowhere"), "{error}");
    let observed = observe_in(&target, &[]);
    assert!(observed.nexthops.contains_key(&1) && observed.routes.is_empty());
}

#[test]
fn the_kernels_own_words_are_part_of_the_error() {
    let target = netns();
    let key = RouteKey { table: 1000, vip: VIP };
    let error = try_apply(&target, &[Step::ReplaceRoute(key, RouteWrite::Nhid { id: 99, mtu: 1400 })]).unwrap_err();
    assert_eq!(error.done, 0);
    assert!(error.to_string().contains("Nexthop id does not exist"), "{error}");
    let backward = rule(200, None, RuleAction::Goto(100));
    let error = try_apply(&target, &[Step::AddRule(backward)]).unwrap_err();
    assert!(error.to_string().contains("Backward goto not supported"), "{error}");
    let down = [device().remove(0), Step::ReplaceNexthop(1, encap(POD))];
    let error = try_apply(&target, &down).unwrap_err();
    assert!(error.to_string().contains("down"), "{error}");
}

#[test]
fn a_link_of_ours_with_other_parameters_is_not_taken_for_the_wanted_one() {
    let target = netns();
    apply_in(&target, &device());
    let other = Step::AddLink(DEV.into(), LinkKind::VxlanGpe { port: 4791 });
    let error = try_apply(&target, std::slice::from_ref(&other)).unwrap_err();
    assert!(error.to_string().contains("kst-vxlan exists with other parameters"), "{error}");
    sh(&target, "ip link add kst-veth type veth peer name far");
    let error = try_apply(&target, &[Step::AddLink("kst-veth".into(), LinkKind::VxlanGpe { port: 4791 })]).unwrap_err();
    assert!(error.to_string().contains("kst-veth exists and is of another kind: veth"), "{error}");
}

#[test]
fn a_foreign_device_on_our_port_is_named() {
    let target = netns();
    sh(&target, "ip link add theirs type vxlan external gpe dstport 4790 && ip link set theirs up");
    let error = try_apply(&target, &device()).unwrap_err();
    assert!(error.to_string().contains("theirs is a `type vxlan external gpe dstport 4790"), "{error}");
    assert!(error.remedy().is_some());
}

#[test]
fn what_goes_with_a_missing_device_is_gone_already() {
    let target = netns();
    apply_in(&target, &[Step::DelAddress(address()), Step::DelLink(DEV.into())]);
    let error = try_apply(&target, &[Step::AddAddress(address())]).unwrap_err();
    assert!(error.source.is_not_found(), "{error}");
    let error = try_apply(&target, &[Step::SetSysctl(Sysctl::RpFilter("gone".into()), 2)]).unwrap_err();
    assert!(error.to_string().contains("/proc/sys/net/ipv4/conf/gone/rp_filter"), "{error}");
}

const TABLE: &str = "table inet kube_service_tunnel {
    set vips { type ipv4_addr; elements = { 192.0.2.10, 192.0.2.11 }; }
    set uplinks { type ifname; elements = { \"eth0\" }; }
    map saved_rp_filter { type ifname : mark; elements = { \"lo\" : 1, \"x.1\" : 0 }; }
    chain pre { type filter hook prerouting priority raw; policy accept;
        ip daddr @vips notrack comment \"ours #00000001\"
        ip daddr @vips meta mark set jhash ip saddr . ip daddr mod 64 seed 0x1 offset 64
    }
    chain sub { }
}
";

#[test]
fn an_nft_transaction_is_applied_and_the_table_read_back() {
    let target = netns();
    apply_in(&target, &[Step::NftText(TABLE.into())]);
    let listed = sh(&target, "nft list table inet kube_service_tunnel");
    assert!(listed.contains("jhash ip saddr . ip daddr mod 64 seed 0x1 offset 64"), "{listed}");
    let observed = observe_in(&target, &[]);
    // Sysctls whose old values are remembered are read without being asked for; the device x.1 does not exist.
    assert_eq!(observed.sysctls.keys().cloned().collect::<Vec<_>>(), [Sysctl::RpFilter("lo".into())]);
    let table: ObservedTable = observed.nft.unwrap();
    let elements = |name: &str| table.sets[name].elements.iter().cloned().collect::<Vec<_>>();
    assert_eq!(elements("vips"), ["192.0.2.10", "192.0.2.11"]);
    assert_eq!(elements("uplinks"), ["eth0"]);
    assert_eq!(elements("saved_rp_filter"), ["lo : 1", "x.1 : 0"]);
    assert_eq!(table.sets["saved_rp_filter"].kind, "ifname : mark");
    assert_eq!(table.chains["pre"].comments, ["ours #00000001", ""]);
    assert_eq!(table.chains["pre"].base, Some(("filter".into(), "prerouting".into(), -300)));
    assert_eq!(table.chains["sub"].base, None);
    apply_in(&target, &[Step::NftText("delete table inet kube_service_tunnel\n".into())]);
    assert_eq!(observe_in(&target, &[]).nft, None);
}

/// What becomes of sets when elements come and go.
fn element_steps() -> [Step; 2] {
    let v4 = (0..2500_u16).map(u16::to_be_bytes).map(|[high, low]| format!("10.1.{high}.{low}"));
    let listed = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    let marks = listed(&["192.0.2.10 . 64", "192.0.2.10 . 65", "192.0.2.11 . 64"]);
    // With those that go.
    let quoted = listed(&["3221225994 : 192.0.2.10", "3221225995 : 192.0.2.11"]);
    let quoted6 = listed(&["0x20010db8000000000000000000000001 : 2001:db8::1", "4096 : ::1000"]);
    let sets: [(&str, SetType, Vec<String>, Range<usize>); 5] = [
        ("endpoints", SetType::Address(Family::V4), v4.collect(), 100..2500),
        ("endpoints6", SetType::Address(Family::V6), listed(&["fd00::1", "fd00::2"]), 0..1),
        ("refusing", SetType::AddressMark(Family::V4), marks, 1..2),
        ("error_source", SetType::QuotedToAddress(Family::V4), quoted, 0..1),
        ("error_source6", SetType::QuotedToAddress(Family::V6), quoted6, 0..2),
    ];
    let elements = |set: &str, kind, some: &[String]| Elements {
        set: set.to_owned(),
        kind,
        elements: some.iter().cloned().collect(),
    };
    let come = sets.iter().map(|(set, kind, all, _)| NftAction::AddElements(elements(set, *kind, all)));
    let go = sets
        .iter()
        .map(|(set, kind, all, gone)| NftAction::DeleteElements(elements(set, *kind, &all[gone.clone()]).keys()));
    let table = TableName::ours(TableFamily::Inet);
    [Step::Nft(table.ops(come)), Step::Nft(table.ops(go))]
}

#[test]
fn elements_come_and_go_without_nft_as_they_do_with_it() {
    let [target, twin] = [netns(), netns()];
    for one in [&target, &twin] {
        sh(one, "nft add table inet kube_service_tunnel");
        sh(one, "nft add set inet kube_service_tunnel endpoints '{ typeof ip saddr; counter; }'");
        sh(one, "nft add set inet kube_service_tunnel endpoints6 '{ typeof ip6 saddr; counter; }'");
        sh(one, "nft add set inet kube_service_tunnel refusing '{ typeof ip saddr . meta mark; }'");
        sh(one, "nft add map inet kube_service_tunnel error_source '{ typeof @th,192,32 : ip saddr; }'");
        sh(one, "nft add map inet kube_service_tunnel error_source6 '{ typeof @th,256,128 : ip6 saddr; }'");
    }
    for step in element_steps() {
        sh(&twin, &step.to_string());
        apply_in(&target, &[step]);
        let [listed, wanted] = [&target, &twin].map(|one| observe_in(one, &[]).nft.unwrap().sets);
        assert_eq!(listed, wanted);
    }
    let sets = observe_in(&target, &[]).nft.unwrap().sets;
    let count = |set: &str| (sets[set].elements.len(), sets[set].counters.len());
    let counts = ["endpoints", "endpoints6", "refusing", "error_source", "error_source6"].map(count);
    assert_eq!(counts, [(100, 100), (1, 1), (2, 0), (1, 0), (0, 0)]);
    // Most of what the second one takes away is gone: then nothing goes.
    let error = try_apply(&target, &element_steps()[1..]).unwrap_err();
    assert!(error.to_string().starts_with("nft -f - (5 lines): ") && error.source.is_not_found(), "{error}");
    assert_eq!(observe_in(&target, &[]).nft.unwrap().sets, sets);
}

#[test]
fn more_elements_than_fit_into_a_datagram_come_all_the_same() {
    let target = netns();
    sh(&target, "nft add table inet kube_service_tunnel");
    sh(&target, "nft add set inet kube_service_tunnel endpoints '{ typeof ip saddr; counter; }'");
    let all = (0..60_000_u16).map(u16::to_be_bytes).map(|[high, low]| format!("10.1.{high}.{low}"));
    let elements =
        Elements { set: "endpoints".to_owned(), kind: SetType::Address(Family::V4), elements: all.collect() };
    let ops = TableName::ours(TableFamily::Inet).ops([NftAction::AddElements(elements)]);
    apply_in(&target, &[Step::Nft(ops), Step::Nft(Vec::new())]);
    assert_eq!(observe_in(&target, &[]).nft.unwrap().sets["endpoints"].elements.len(), 60_000);
}

#[test]
fn a_refused_nft_transaction_changes_nothing_and_says_why() {
    let target = netns();
    apply_in(&target, &[Step::NftText(TABLE.into())]);
    let script =
        "add element inet kube_service_tunnel vips { 192.0.2.12 }\nadd rule inet kube_service_tunnel nowhere drop\n";
    let error = try_apply(&target, &[Step::NftText(script.into())]).unwrap_err();
    assert!(error.to_string().starts_with("nft -f - (2 lines): nft: "), "{error}");
    assert!(error.to_string().contains("nowhere"), "{error}");
    let table = observe_in(&target, &[]).nft.unwrap();
    assert!(!table.sets["vips"].elements.contains("192.0.2.12"));
}

#[test]
fn foreign_objects_are_seen_as_foreign() {
    let target = netns();
    apply_in(&target, &device());
    sh(
        &target,
        "ip link add eth0 type veth peer name far; ip link set eth0 up; ip link set far up
         ip addr add 10.0.0.11/24 dev eth0; ip route add 10.1.0.0/16 via 10.0.0.1
         ip route add 192.0.2.1/32 dev eth0 table 1000; ip route add 192.0.2.2/32 dev eth0 table 1000
         ip route add 192.0.2.0/24 dev eth0 table 1001 proto 107
         ip route add 192.0.2.3/32 dev eth0 table 1002 proto 107
         ip nexthop add id 3 via 10.0.0.1 dev eth0; ip nexthop add id 4 blackhole
         ip nexthop add id 5 encap ip id 9 dst 10.0.0.2 dev kst-vxlan protocol 107
         ip rule add pref 50 from 10.0.0.0/8 fwmark 0x80/0xf0 lookup 1000
         ip rule add pref 51 fwmark 0x1 lookup 7; ip rule add pref 52 not fwmark 0x1 lookup 7 proto 107
         nft add table ip kube_service_tunnel; nft add table inet other",
    );
    let observed = observe_in(&target, &[]);
    assert_eq!(observed.links["eth0"].kind_name.as_deref(), Some("veth"));
    assert_eq!(observed.links["eth0"].kind, None);
    assert!(observed.has_address(NODE) && observed.addresses.iter().all(|(_, _, ours)| !ours));
    assert_eq!(observed.foreign_routes[&1000], 2);
    assert_eq!(observed.foreign_routes[&1001], 1);
    assert!(observed.foreign_routes[&254] >= 2);
    // Our number: ours to replace.
    let key = RouteKey { table: 1002, vip: IpAddr::from([192, 0, 2, 3]) };
    assert_eq!(observed.routes.into_iter().collect::<Vec<_>>(), [(key, ObservedRoute::Other)]);
    assert_eq!(observed.nexthops.keys().collect::<Vec<_>>(), [&3, &4, &5]);
    assert!(observed.nexthops.values().all(|nexthop| nexthop.spec.is_none() && nexthop.source.is_none()));
    assert_eq!(observed.nexthops.values().map(|n| n.ours).collect::<Vec<_>>(), [false, false, true]);
    let at = |priority: u32| observed.rules.iter().find(|r| r.priority == priority).unwrap();
    assert_eq!((at(50).spec, at(50).mark, at(50).ours), (None, Some((0x80, 0xf0)), false));
    assert_eq!(at(51).spec, Some(rule(51, Some((1, u32::MAX)), RuleAction::Lookup(7))));
    assert_eq!((at(52).spec, at(52).ours), (None, true));
    assert_eq!(at(32766).spec, Some(rule(32766, None, RuleAction::Lookup(254))));
    assert_eq!(observed.nft, None);
}

#[test]
fn a_list_that_is_read_while_links_come_and_go_misses_none() {
    let target = netns();
    sh(&target, "for i in $(seq 1 40); do echo link add a$i type veth peer name b$i; done | ip -batch -");
    let churn = target.clone();
    let others = std::thread::spawn(move || {
        let twice = "link add x type veth peer name y\nlink del x\n";
        sh(&churn, &format!("for i in $(seq 1 100); do printf '{twice}'; done | ip -batch -"));
    });
    let mut reads = 0;
    while !others.is_finished() || reads < 10 {
        let links = observe_in(&target, &[]).links;
        let stable = links.keys().filter(|name| name.starts_with(['a', 'b'])).count();
        assert_eq!(stable, 80, "read {reads}");
        reads += 1;
    }
    others.join().unwrap();
}
