//! The monitor wakes when something of ours is touched, and sleeps through what others do.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{PREFIX, netns, sh};
use tokio::time::timeout;
use tunnel_router::kernel::{Change, Monitor, Writer};
use tunnel_router::model::Family;
use tunnel_router::model::handover::TunnelId;
use tunnel_router::netns::Netns;
use tunnel_router::plan::nft::{Elements, NftAction, SetType, TableFamily, TableName};
use tunnel_router::plan::step::RouteWrite;
use tunnel_router::plan::{Nexthop, Plan, RouteKey, Step};

/// Longer than the kernel takes to tell, under emulation too.
const SOON: Duration = Duration::from_secs(20);
/// After this long without a word there will be none: notifications are sent by the system call that makes the change.
const NEVER: Duration = Duration::from_millis(300);

async fn changes(monitor: &mut Monitor) -> BTreeSet<Change> {
    timeout(SOON, monitor.changed()).await.expect("no change was reported").unwrap()
}

async fn nothing(monitor: &mut Monitor, after: &str) {
    if let Ok(change) = timeout(NEVER, monitor.changed()).await {
        panic!("{after}: {change:?}");
    }
}

fn lab() -> Netns {
    let target = netns();
    sh(
        &target,
        "ip link add eth0 type veth peer name far; ip link set eth0 up; ip link set far up
         ip addr add 10.0.0.11/24 dev eth0
         ip link add kst-vxlan type vxlan external gpe dstport 4790; ip link set kst-vxlan up
         ip nexthop add id 7 encap ip id 0 dst 10.0.0.2 dev kst-vxlan protocol 107
         ip nexthop add id 8 via 10.0.0.2 dev eth0
         ip route add 192.0.2.10/32 nhid 7 table 1000 protocol 107; ip route add 10.1.0.0/16 via 10.0.0.2
         ip rule add pref 101 fwmark 1 lookup 1000 protocol 107; ip rule add pref 5000 lookup 7
         nft add table inet kube_service_tunnel; nft add table inet other",
    );
    target
}

#[tokio::test]
async fn every_touch_of_ours_is_reported() {
    let target = lab();
    let mut monitor = Monitor::open_in(&target, PREFIX, None).unwrap();
    for (command, want) in [
        ("ip route del 192.0.2.10/32 table 1000", Change::Route),
        ("ip rule del pref 101", Change::Rule),
        ("ip nexthop del id 7", Change::Nexthop),
        ("nft add chain inet kube_service_tunnel c", Change::Nft),
        ("nft add rule inet kube_service_tunnel c drop", Change::Nft),
        ("nft flush chain inet kube_service_tunnel c", Change::Nft),
        ("nft add set inet kube_service_tunnel s '{ type mark; }'", Change::Nft),
        ("nft add element inet kube_service_tunnel s '{ 1 }'", Change::Nft),
        ("nft delete table inet kube_service_tunnel", Change::Nft),
        ("tc qdisc add dev kst-vxlan clsact", Change::Filter),
        ("tc qdisc del dev kst-vxlan clsact", Change::Filter),
        ("ip addr add 192.0.2.10/32 dev kst-vxlan", Change::Address),
        ("ip addr del 192.0.2.10/32 dev kst-vxlan", Change::Address),
        ("ip link set kst-vxlan down", Change::Link),
        ("ip link del kst-vxlan", Change::Link),
    ] {
        sh(&target, command);
        let seen = changes(&mut monitor).await;
        assert!(seen.contains(&want), "{command}: {seen:?}");
    }
    nothing(&mut monitor, "in the end").await;
}

#[tokio::test]
async fn what_is_written_by_our_own_socket_is_not_told() {
    let target = lab();
    let mut writer = Writer::open_in(&target).unwrap();
    let mut monitor = Monitor::open_in(&target, PREFIX, Some(writer.ports())).unwrap();
    let nexthop = Nexthop::EncapIp {
        family: Family::V4,
        dev: "kst-vxlan".to_owned(),
        src: "10.0.0.11".parse().unwrap(),
        dst: "10.0.0.3".parse().unwrap(),
        id: TunnelId::OWNER_ALONE,
    };
    let key = RouteKey { table: 1000, vip: "192.0.2.10".parse().unwrap() };
    let to = |id| Step::ReplaceRoute(key, RouteWrite::Nhid { id, mtu: 1400 });
    let steps = vec![Step::ReplaceNexthop(9, nexthop), to(9), Step::DelNexthop(7)];
    target.run(|| writer.apply(&Plan { steps })).unwrap().unwrap();
    assert!(sh(&target, "ip route show table 1000").contains("192.0.2.10 nhid 9"));
    nothing(&mut monitor, "our own").await;
    sh(&target, "ip route del 192.0.2.10/32 table 1000");
    assert_eq!(changes(&mut monitor).await, BTreeSet::from([Change::Route]), "of somebody else");
    sh(&target, "nft add set inet kube_service_tunnel endpoints '{ type ipv4_addr; counter; }'");
    assert_eq!(changes(&mut monitor).await, BTreeSet::from([Change::Nft]), "of somebody else");
    let elements = Elements {
        set: "endpoints".to_owned(),
        kind: SetType::Address(Family::V4),
        elements: ["10.0.0.3".to_owned()].into(),
    };
    let steps = vec![Step::Nft(TableName::ours(TableFamily::Inet).ops([NftAction::AddElements(elements)]))];
    target.run(|| writer.apply(&Plan { steps })).unwrap().unwrap();
    nothing(&mut monitor, "our own element").await;
    // Many times what the buffer holds.
    let steps = (0..20_000).map(|n| Step::ReplaceRoute(RouteKey { table: 2000 + n, ..key }, RouteWrite::Unreachable));
    target.run(|| writer.apply(&Plan { steps: steps.collect() })).unwrap().unwrap();
    nothing(&mut monitor, "our own, and many").await;
    sh(&target, "nft delete element inet kube_service_tunnel endpoints '{ 10.0.0.3 }'");
    assert_eq!(changes(&mut monitor).await, BTreeSet::from([Change::Nft]), "of somebody else");
}

#[tokio::test]
async fn what_has_been_told_can_be_taken_at_once() {
    let target = lab();
    let mut monitor = Monitor::open_in(&target, PREFIX, None).unwrap();
    let many = "for i in $(seq 200); do echo \"route add unreachable 192.0.2.99 table $((2000 + i)) proto 107\"; done";
    sh(&target, &format!("({many}) | ip -batch -; ip link add kst-gre type veth peer name other"));
    changes(&mut monitor).await;
    // Not all of it was told at once.
    changes(&mut monitor).await;
    assert!(monitor.drain().unwrap().contains(&Change::Route));
    nothing(&mut monitor, "taken already").await;
    sh(&target, "ip addr add 192.0.2.10/32 dev kst-gre");
    assert_eq!(changes(&mut monitor).await, BTreeSet::from([Change::Address]), "the link is known");
}

#[tokio::test]
async fn links_of_others_matter_when_routes_could_be_lost_with_them() {
    let target = lab();
    let mut monitor = Monitor::open_in(&target, PREFIX, None).unwrap();
    for (command, veths) in [
        ("ip link add veth1 type veth peer name veth2", &["veth1", "veth2"][..]),
        ("ip link set veth1 up", &["veth1"]),
        ("ip link set veth1 mtu 1400", &["veth1"]),
        ("ip link set far down", &["eth0", "far"]),
        ("ip link set veth2 name veth3", &["veth2", "veth3"]),
        ("ip link del veth1", &["veth1", "veth3"]),
    ] {
        sh(&target, command);
        // One command may be told in two messages.
        let mut seen = BTreeSet::new();
        while let Ok(changes) = timeout(NEVER, monitor.changed()).await {
            seen.extend(changes.unwrap());
        }
        assert_eq!(seen, veths.iter().map(|name| Change::Veth((*name).to_owned())).collect(), "{command}");
    }
    for command in ["ip link add br0 type bridge", "ip link set br0 up", "ip link del br0"] {
        sh(&target, command);
        assert_eq!(changes(&mut monitor).await, BTreeSet::from([Change::Link]), "{command}");
    }
}

#[tokio::test]
async fn what_others_do_goes_unnoticed() {
    let target = lab();
    sh(&target, "ip link add br0 type bridge && ip link set br0 up && ip link set far up");
    let mut monitor = Monitor::open_in(&target, PREFIX, None).unwrap();
    for command in [
        "ip route add 10.2.0.0/16 via 10.0.0.2",
        "ip route add 192.0.2.99/32 via 10.0.0.2 table 1000",
        "ip route del 10.1.0.0/16",
        "ip rule add pref 6000 lookup 8",
        "ip rule del pref 5000",
        "ip nexthop del id 8",
        "ip addr add 10.0.0.12/24 dev eth0",
        "ip addr del 10.0.0.12/24 dev eth0",
        "ip link set eth0 alias somebody",
        "ip link set eth0 txqueuelen 77",
        "tc qdisc add dev eth0 clsact",
        "tc qdisc del dev eth0 clsact",
        "nft add chain inet other c",
        "nft add table arp kube_service_tunnel",
        "nft delete table inet other",
    ] {
        sh(&target, command);
        nothing(&mut monitor, command).await;
    }
}

#[tokio::test]
async fn lost_notifications_are_a_change_and_the_next_one_is_heard() {
    let target = lab();
    let mut monitor = Monitor::open_in(&target, PREFIX, None).unwrap();
    // More than a receive buffer full, all of it about other people's routes.
    sh(
        &target,
        "for i in $(seq 1 80); do for j in $(seq 1 200); do echo route add 10.3.$i.$j/32 via 10.0.0.2; done; done | ip -batch -",
    );
    assert_eq!(changes(&mut monitor).await, BTreeSet::from([Change::Overrun]));
    nothing(&mut monitor, "after the overrun").await;
    sh(&target, "ip route del 192.0.2.10/32 table 1000");
    assert_eq!(changes(&mut monitor).await, BTreeSet::from([Change::Route]));
}

#[tokio::test]
async fn a_monitor_can_be_given_up_at_any_moment() {
    let target = lab();
    let mut monitor = Monitor::open_in(&target, PREFIX, None).unwrap();
    for _ in 0..20 {
        assert!(timeout(Duration::from_micros(50), monitor.changed()).await.is_err());
    }
    sh(&target, "ip rule del pref 101");
    assert!(changes(&mut monitor).await.contains(&Change::Rule));
}

#[tokio::test]
async fn a_namespace_without_processes_or_handles_is_no_trouble() {
    let target = lab();
    let mut monitor = Monitor::open_in(&target, PREFIX, None).unwrap();
    drop(target);
    nothing(&mut monitor, "after the last handle was closed").await;
    drop(monitor);
}
