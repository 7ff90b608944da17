//! The same steps for IPv6 VIPs and IPv6 underlays, in every mode that this kernel has.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::support::{apply_each_twice, apply_in, known_features, netns, observe_in, sh};
use tunnel_router::model::second_chance::TunnelId;
use tunnel_router::model::{Family, Mode};
use tunnel_router::netns::Netns;
use tunnel_router::plan::diff::diff;
use tunnel_router::plan::step::RouteWrite;
use tunnel_router::plan::{
    Address, Desired, LabelRoute, LinkKind, Nexthop, RouteKey, RouteTarget, RuleAction, RuleSpec, Step, Sysctl,
    SysctlWant,
};

const PORT: u16 = 4790;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node with an uplink of both families. A module that is loaded later adds its devices to every namespace.
fn node() -> Netns {
    let target = netns();
    sh(&target, "modprobe -qa ip_gre ip6_gre vxlan mpls_router mpls_iptunnel || true");
    sh(
        &target,
        "ip link set lo up; ip link add eth0 type veth peer name far
         sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0; sysctl -qw net.ipv6.conf.lo.disable_ipv6=0
         ip link set eth0 up; ip link set far up
         ip addr add 10.0.0.11/24 dev eth0; ip addr add fd00::11/64 dev eth0 nodad",
    );
    target
}

/// One next hop for each family of VIPs over each family of underlay, without names and with as many as fit.
fn nexthops(mode: Mode) -> Vec<(&'static str, Nexthop)> {
    let (alone, id) = (TunnelId::OWNER_ALONE, TunnelId::from_bits(0x7f_ffff));
    let pairs = [
        ("192.0.2.10", "10.0.0", alone),
        ("192.0.2.11", "fd00:", alone),
        ("2001:db8::10", "10.0.0", alone),
        ("2001:db8::11", "fd00:", alone),
        ("192.0.2.20", "10.0.0", id),
        ("192.0.2.21", "fd00:", id),
        ("2001:db8::20", "10.0.0", id),
        ("2001:db8::21", "fd00:", id),
    ];
    pairs.map(|(vip, net, id)| (vip, nexthop(mode, Family::of(ip(vip)), net, id))).into()
}

fn nexthop(mode: Mode, family: Family, net: &str, id: TunnelId) -> Nexthop {
    let (src, dst) = match net {
        "fd00:" => (ip("fd00::11"), ip("fd00::12")),
        _ => (ip("10.0.0.11"), ip("10.0.0.12")),
    };
    match mode {
        Mode::Mpls => Nexthop::mpls(family, 20001, dst, "eth0".into()),
        Mode::Vxlan => Nexthop::EncapIp { family, dev: "kst-vxlan".into(), src, dst, id },
        Mode::Gre if src.is_ipv6() => Nexthop::EncapIp { family, dev: "kst-gre6".into(), src, dst, id },
        Mode::Gre => Nexthop::EncapIp { family, dev: "kst-gre".into(), src, dst, id },
    }
}

fn links(mode: Mode) -> BTreeMap<String, LinkKind> {
    match mode {
        Mode::Gre => BTreeMap::from([
            ("kst-gre".to_owned(), LinkKind::GreExternal(Family::V4)),
            ("kst-gre6".to_owned(), LinkKind::GreExternal(Family::V6)),
        ]),
        Mode::Vxlan => BTreeMap::from([("kst-vxlan".to_owned(), LinkKind::VxlanGpe { port: PORT })]),
        Mode::Mpls => BTreeMap::new(),
    }
}

fn desired(mode: Mode) -> Desired {
    let mut desired = Desired { links: links(mode), ..Desired::default() };
    for link in desired.links.keys() {
        desired.sysctls.insert(Sysctl::DisableIpv6(link.clone()), SysctlWant::Exactly(0));
    }
    for (vip, nexthop) in nexthops(mode) {
        let key = |table| RouteKey { table, vip: ip(vip) };
        desired.routes.insert(key(1000), RouteTarget::Via { nexthop: nexthop.into(), mtu: 1400 });
        desired.routes.insert(key(1001), RouteTarget::Unreachable);
    }
    let rule = |family, priority, mark, action| RuleSpec { family, priority, mark, action };
    for family in Family::ALL {
        desired.rules.insert(rule(family, 101, Some((0, 0x80)), RuleAction::Goto(103)));
        desired.rules.insert(rule(family, 102, Some((0x80, 0xff)), RuleAction::Lookup(1000)));
        desired.rules.insert(rule(family, 103, None, RuleAction::Nop));
    }
    desired
}

/// Modes that this kernel has. Which ones it must have is said by the test that runs in a kernel with all of them.
fn modes() -> Vec<Mode> {
    let modes: Vec<Mode> = Mode::ALL.into_iter().filter(|mode| !known_features().lacking.contains_key(mode)).collect();
    let all = std::env::var_os("KST_INSIDE_VM").is_some();
    assert!(if all { modes.len() == 3 } else { modes.contains(&Mode::Vxlan) }, "{modes:?}");
    modes
}

#[test]
fn what_was_planned_for_either_family_over_either_is_what_is_read_back() {
    for mode in modes() {
        let target = node();
        let wanted = desired(mode);
        let keys: Vec<Sysctl> = wanted.sysctls.keys().cloned().collect();
        let plan = |desired: &Desired| diff(desired, &observe_in(&target, &keys), &BTreeMap::new(), "kst-");
        let make = plan(&wanted);
        assert!(make.steps.len() > 15, "{make}");
        apply_each_twice(&target, &make.steps);
        let again = plan(&wanted);
        assert!(again.is_empty(), "{mode}:\n{again}");
        apply_each_twice(&target, &plan(&Desired::default()).steps);
        let left = observe_in(&target, &[]);
        assert!(left.routes.is_empty() && left.nexthops.is_empty() && left.labels.is_empty(), "{mode}: {left:?}");
        assert!(left.rules.iter().all(|rule| !rule.ours), "{mode}: {left:?}");
        assert!(left.links.keys().all(|name| !name.starts_with("kst-")), "{mode}: {left:?}");
    }
}

#[test]
fn an_ipv6_vip_is_a_silent_address_that_is_never_preferred() {
    let target = netns();
    let address = Address { dev: "kst-vxlan".into(), address: ip("2001:db8::10") };
    let kind = LinkKind::VxlanGpe { port: PORT };
    apply_each_twice(
        &target,
        &[
            Step::AddLink(address.dev.clone(), kind),
            Step::SetSysctl(Sysctl::DisableIpv6(address.dev.clone()), 0),
            Step::LinkUp(address.dev.clone()),
            Step::AddAddress(address.clone()),
        ],
    );
    let shown = sh(&target, "ip -6 addr show dev kst-vxlan");
    let line = shown.lines().find(|line| line.contains("2001:db8::10/128 scope global")).unwrap();
    assert!(["deprecated", "nodad"].iter().all(|flag| line.contains(flag)), "{shown}");
    assert!(shown.contains("valid_lft forever preferred_lft 0sec"), "{shown}");
    assert!(observe_in(&target, &[]).addresses.contains(&(address.clone(), 128, true)));
    apply_each_twice(&target, &[Step::DelAddress(address)]);
    assert!(!sh(&target, "ip -6 addr").contains("2001:db8::10"));
}

#[test]
fn a_route_changes_between_unreachable_and_a_next_hop_in_place() {
    let target = node();
    let key = RouteKey { table: 1000, vip: ip("2001:db8::10") };
    let nexthop = nexthop(Mode::Vxlan, Family::V6, "10.0.0", TunnelId::OWNER_ALONE);
    let unreachable = Step::ReplaceRoute(key, RouteWrite::Unreachable);
    let via = |id| Step::ReplaceRoute(key, RouteWrite::Nhid { id, mtu: 1400 });
    apply_in(
        &target,
        &[
            Step::AddLink("kst-vxlan".into(), LinkKind::VxlanGpe { port: PORT }),
            Step::LinkUp("kst-vxlan".into()),
            Step::ReplaceNexthop(1, nexthop.clone()),
            Step::ReplaceNexthop(2, nexthop),
        ],
    );
    let count = || sh(&target, "ip -6 route show table 1000").lines().count();
    for step in [unreachable.clone(), via(1), via(2), unreachable, via(1)] {
        apply_each_twice(&target, &[step]);
        assert_eq!(count(), 1, "{}", sh(&target, "ip -6 route show table 1000"));
    }
    assert!(sh(&target, "ip -6 route show table 1000").contains("nhid 1"));
}

#[test]
fn labels_are_swapped_towards_ipv6_pods() {
    if !modes().contains(&Mode::Mpls) {
        return;
    }
    let target = node();
    sh(&target, "sysctl -qw net.mpls.platform_labels=100000");
    let swap = LabelRoute::Swap { out: 100, via: ip("fd00::12"), dev: "eth0".into() };
    apply_each_twice(&target, &[Step::ReplaceLabel(20001, swap.clone())]);
    assert!(sh(&target, "ip -f mpls route").contains("20001 as to 100 via inet6 fd00::12 dev eth0"));
    assert_eq!(observe_in(&target, &[]).labels[&20001], Some(swap));
}
