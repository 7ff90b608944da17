//! GRE and MPLS, which not every kernel has: without them these tests fail and name what is missing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::support::{PREFIX, apply_each_twice, apply_in, netns, observe_in, require, sh, try_apply};
use tunnel_router::kernel::{Change, Monitor};
use tunnel_router::model::Family;
use tunnel_router::model::Mode;
use tunnel_router::model::second_chance::TunnelId;
use tunnel_router::netns::Netns;
use tunnel_router::plan::observed::ObservedRoute;
use tunnel_router::plan::step::RouteWrite;
use tunnel_router::plan::{Address, LabelRoute, LinkKind, Nexthop, RouteKey, Step, Sysctl};

const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11));
const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 2));
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const GRE: &str = "kst-gre";

/// A namespace with a pod's veth in it, on a kernel that has the mode.
fn lab(mode: Mode) -> Netns {
    let target = netns();
    require(mode);
    sh(
        &target,
        "ip link add veth0 type veth peer name far; ip link set veth0 up; ip link set far up
         ip addr add 10.0.0.11/24 dev veth0; ip route add 10.244.1.2/32 dev veth0",
    );
    target
}

fn mpls_steps() -> Vec<Step> {
    let nexthop = Nexthop::mpls(Family::V4, 20001, POD, "veth0".into());
    let swap = LabelRoute::Swap { out: 100, via: POD, dev: "veth0".into() };
    let key = RouteKey { table: 1000, vip: VIP };
    vec![
        Step::SetSysctl(Sysctl::PlatformLabels, 100_000),
        Step::SetSysctl(Sysctl::MplsInput("veth0".into()), 1),
        Step::ReplaceLabel(100, LabelRoute::Pop { dev: "lo".into() }),
        Step::ReplaceLabel(20001, swap),
        Step::ReplaceNexthop(9, nexthop),
        Step::ReplaceRoute(key, RouteWrite::Nhid { id: 9, mtu: 1496 }),
        Step::AddAddress(Address { dev: "lo".into(), address: VIP }),
    ]
}

#[test]
fn the_machine_has_what_every_mode_needs() {
    Mode::ALL.into_iter().for_each(require);
}

#[test]
fn an_external_gre_device_encapsulates_per_nexthop() {
    let target = lab(Mode::Gre);
    let kind = LinkKind::GreExternal(Family::V4);
    let nexthop =
        Nexthop::EncapIp { family: Family::V4, dev: GRE.into(), src: NODE, dst: POD, id: TunnelId::OWNER_ALONE };
    let key = RouteKey { table: 1000, vip: VIP };
    apply_each_twice(
        &target,
        &[
            Step::AddLink(GRE.into(), kind.clone()),
            Step::LinkUp(GRE.into()),
            Step::ReplaceNexthop(1, nexthop.clone()),
            Step::ReplaceRoute(key, RouteWrite::Nhid { id: 1, mtu: 1476 }),
        ],
    );
    let link = sh(&target, "ip -d link show kst-gre");
    assert!(link.contains("gre external"), "{link}");
    let observed = observe_in(&target, &[]);
    assert_eq!(observed.links[GRE].kind, Some(kind));
    assert_eq!(observed.nexthops[&1].spec, Some(nexthop));
    assert_eq!(observed.routes[&key], ObservedRoute::Nhid { id: 1, mtu: Some(1476) });
}

#[test]
fn a_local_gre_device_is_as_ip_makes_it() {
    let target = lab(Mode::Gre);
    let other = lab(Mode::Gre);
    let kind = LinkKind::GreLocal(POD);
    apply_each_twice(&target, &[Step::AddLink(GRE.into(), kind.clone()), Step::LinkUp(GRE.into())]);
    sh(&other, "ip link add kst-gre type gre local 10.244.1.2 && ip link set kst-gre up");
    let detail = "ip -d link show kst-gre | sed -n '3,$p'";
    assert_eq!(sh(&target, detail), sh(&other, detail));
    assert_eq!(observe_in(&other, &[]).links[GRE].kind, Some(kind.clone()));
    assert_eq!(observe_in(&target, &[]).links[GRE].kind, Some(kind));
}

#[test]
fn other_peoples_gre_devices_are_not_taken_for_ours() {
    let target = lab(Mode::Gre);
    sh(
        &target,
        "ip link add keyed type gre local 10.0.0.11 key 7; ip link add peer type gre local 10.0.0.11 remote 10.0.0.12
         ip link add any type gre; ip link add tap type gretap external",
    );
    let links = observe_in(&target, &[]).links;
    for name in ["keyed", "peer", "any", "tap"] {
        assert_eq!(links.get(name).and_then(|link| link.kind.clone()), None, "{name}");
    }
}

#[test]
fn the_owner_of_the_only_external_gre_device_is_named() {
    let target = lab(Mode::Gre);
    sh(&target, "ip link add theirs type gre external");
    let error = try_apply(&target, &[Step::AddLink(GRE.into(), LinkKind::GreExternal(Family::V4))]).unwrap_err();
    assert!(error.to_string().contains("theirs is a `type gre external` already"), "{error}");
    assert!(error.to_string().contains("mode vxlan"), "{error}");
}

#[test]
fn labels_are_pushed_swapped_and_popped() {
    let target = lab(Mode::Mpls);
    apply_each_twice(&target, &mpls_steps());
    let labels = sh(&target, "ip -f mpls route show");
    assert!(labels.lines().any(|line| line.starts_with("100 dev lo proto 107")), "{labels}");
    assert!(labels.contains("20001 as to 100 via inet 10.244.1.2 dev veth0 proto 107"), "{labels}");
    let nexthop = sh(&target, "ip nexthop show id 9");
    assert!(nexthop.contains("encap mpls  20001 via 10.244.1.2 dev veth0"), "{nexthop}");
    assert_eq!(
        sh(&target, "cat /proc/sys/net/mpls/platform_labels /proc/sys/net/mpls/conf/veth0/input"),
        "100000\n1\n"
    );
}

#[test]
fn what_was_applied_is_what_is_observed() {
    let target = lab(Mode::Mpls);
    apply_in(&target, &mpls_steps());
    sh(
        &target,
        "ip -f mpls route add 200 dev lo; ip -f mpls route add 201 as 7/8 via inet 10.244.1.2 dev veth0 proto 107",
    );
    let wanted = [Sysctl::PlatformLabels, Sysctl::MplsInput("veth0".into()), Sysctl::MplsInput("gone".into())];
    let observed = observe_in(&target, &wanted);
    assert_eq!(observed.labels[&100], Some(LabelRoute::Pop { dev: "lo".into() }));
    assert_eq!(observed.labels[&20001], Some(LabelRoute::Swap { out: 100, via: POD, dev: "veth0".into() }));
    assert_eq!(observed.labels[&201], None);
    assert_eq!(observed.foreign_labels, BTreeSet::from([200]));
    assert_eq!(observed.nexthops[&9].spec, Some(Nexthop::mpls(Family::V4, 20001, POD, "veth0".into())));
    assert_eq!(observed.sysctls.into_values().collect::<Vec<_>>(), [1, 100_000]);
    assert!(observed.addresses.contains(&(Address { dev: "lo".into(), address: VIP }, 32, true)));
    assert!(!observed.routes.keys().any(|key| key.vip != VIP));
}

#[test]
fn deletions_may_be_applied_twice_and_after_the_labels_are_gone() {
    let target = lab(Mode::Mpls);
    apply_in(&target, &mpls_steps());
    let key = RouteKey { table: 1000, vip: VIP };
    apply_each_twice(
        &target,
        &[
            Step::DelAddress(Address { dev: "lo".into(), address: VIP }),
            Step::DelRoute(key),
            Step::DelNexthop(9),
            Step::DelLabel(20001),
            Step::SetSysctl(Sysctl::PlatformLabels, 0),
            Step::DelLabel(100),
        ],
    );
    let observed = observe_in(&target, &[]);
    assert!(observed.labels.is_empty() && observed.nexthops.is_empty() && observed.routes.is_empty());
    // A label that the namespace cannot have is an error where it is wanted.
    let error = try_apply(&target, &[Step::ReplaceLabel(100, LabelRoute::Pop { dev: "lo".into() })]).unwrap_err();
    assert!(error.to_string().starts_with("ip -f mpls route replace 100 dev lo"), "{error}");
}

#[tokio::test]
async fn a_deleted_label_wakes_the_monitor_and_a_foreign_one_does_not() {
    let target = lab(Mode::Mpls);
    apply_in(&target, &mpls_steps());
    sh(&target, "ip -f mpls route add 200 dev lo");
    let mut monitor = Monitor::open_in(&target, PREFIX, None).unwrap();
    sh(&target, "ip -f mpls route del 200");
    assert!(tokio::time::timeout(Duration::from_millis(300), monitor.changed()).await.is_err());
    sh(&target, "ip -f mpls route del 20001");
    let changes = tokio::time::timeout(Duration::from_secs(20), monitor.changed()).await.unwrap().unwrap();
    assert_eq!(changes, BTreeSet::from([Change::Route]));
}
