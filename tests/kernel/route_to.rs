//! Asking the kernel for the way to an address, and how large a packet may be on it.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::{netns, settle, sh};
use nix::errno::Errno;
use tunnel_router::kernel::{KernelError, MarkedRoute, RouteFact, marked_route, route_to, routes_to};
use tunnel_router::netns::Netns;

fn uplink() -> Netns {
    let target = netns();
    sh(
        &target,
        "ip link add eth0 mtu 1450 type veth peer name far; ip link set eth0 up; ip link set far up
         ip addr add 10.0.0.11/24 dev eth0; ip route add default via 10.0.0.1
         ip route add 10.1.0.0/16 via 10.0.0.2 mtu 1300; ip route add unreachable 10.2.0.0/16
         ip route add prohibit 10.3.0.0/16; ip route add blackhole 10.4.0.0/16",
    );
    target
}

fn ask(target: &Netns, to: [u8; 4]) -> Result<RouteFact, KernelError> {
    target.run(|| route_to(IpAddr::from(to))).unwrap()
}

fn fact(dev: &str, gateway: Option<[u8; 4]>, mtu: u32, local: bool) -> RouteFact {
    RouteFact { dev: dev.to_owned(), gateway: gateway.map(IpAddr::from), mtu, local }
}

#[test]
fn the_device_the_gateway_and_the_mtu_are_told() {
    let target = uplink();
    assert_eq!(ask(&target, [10, 0, 0, 5]).unwrap(), fact("eth0", None, 1450, false));
    assert_eq!(ask(&target, [203, 0, 113, 1]).unwrap(), fact("eth0", Some([10, 0, 0, 1]), 1450, false));
    assert_eq!(ask(&target, [10, 1, 2, 3]).unwrap(), fact("eth0", Some([10, 0, 0, 2]), 1300, false));
    assert_eq!(ask(&target, [10, 0, 0, 11]).unwrap(), fact("lo", None, 65536, true));
}

#[test]
fn an_address_without_a_route_is_a_distinct_error() {
    let target = uplink();
    let errno = |to| match ask(&target, to) {
        Err(KernelError::NoRoute { errno, .. }) => errno,
        other => panic!("{other:?}"),
    };
    assert_eq!(errno([10, 2, 0, 1]), Errno::EHOSTUNREACH);
    assert_eq!(errno([10, 3, 0, 1]), Errno::EACCES);
    assert_eq!(errno([10, 4, 0, 1]), Errno::EINVAL);
    assert_eq!(errno([224, 0, 0, 1]), Errno::EHOSTUNREACH);
    sh(&target, "ip route del default");
    assert_eq!(errno([203, 0, 113, 1]), Errno::ENETUNREACH);
}

#[test]
fn a_learned_mtu_does_not_count_but_the_routes_own_does() {
    let target = uplink();
    let router = netns();
    join(&target, &router);
    let learn =
        "ping -c 1 -W 2 -M do -s 1200 198.51.100.9 >/dev/null 2>&1; ip route get 198.51.100.9 | grep 'mtu 1000'";
    sh(&target, learn);
    assert_eq!(ask(&target, [198, 51, 100, 9]).unwrap().mtu, 1500);
    sh(&target, "ip route replace 198.51.100.0/24 via 10.9.0.2 mtu 1400");
    sh(&target, learn);
    assert_eq!(ask(&target, [198, 51, 100, 9]).unwrap().mtu, 1400);
}

#[test]
fn ipv6_and_gateways_of_the_other_family_are_told() {
    let target = uplink();
    sh(
        &target,
        "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0; ip addr add fd00::11/64 dev eth0 nodad
         ip -6 route add 2001:db8:1::/48 via fd00::1 mtu 1400; ip -6 route add unreachable 2001:db8:2::/48
         ip route add 198.51.100.0/24 via inet6 fd00::1",
    );
    let ask = |to: &str| target.run(|| route_to(to.parse().unwrap())).unwrap();
    let fact = |gateway: Option<&str>, mtu| RouteFact {
        dev: "eth0".to_owned(),
        gateway: gateway.map(|g| g.parse().unwrap()),
        mtu,
        local: false,
    };
    assert_eq!(ask("fd00::5").unwrap(), fact(None, 1450));
    assert_eq!(ask("2001:db8:1::7").unwrap(), fact(Some("fd00::1"), 1400));
    assert_eq!(ask("198.51.100.7").unwrap(), fact(Some("fd00::1"), 1450));
    assert!(matches!(ask("2001:db8:2::7"), Err(KernelError::NoRoute { .. })));
    assert!(matches!(ask("2001:db8:3::7"), Err(KernelError::NoRoute { .. })));
    assert!(ask("fd00::11").unwrap().local);
}

/// A router whose far side takes 1,000 bytes only.
fn join(target: &Netns, router: &Netns) {
    let pid = std::process::id();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(router));
    sh(target, &format!("ip link add r0 type veth peer name r1 netns /proc/{pid}/fd/{fd}"));
    sh(target, "ip addr add 10.9.0.1/24 dev r0; ip link set r0 up; ip route add 198.51.100.0/24 via 10.9.0.2");
    sh(
        router,
        "ip addr add 10.9.0.2/24 dev r1; ip link set r1 up; echo 1 > /proc/sys/net/ipv4/ip_forward
         ip link add small mtu 1000 type veth peer name end; ip link set small up; ip link set end up
         ip addr add 198.51.100.1/24 dev small",
    );
    settle(target);
}

#[test]
fn a_thousand_addresses_are_answered_in_their_order() {
    let target = uplink();
    let addresses: Vec<Ipv4Addr> =
        (0..1000_u32).map(|n| Ipv4Addr::from(0x0a00_1000 + (n % 5) * 0x1_0000 + n)).collect();
    let asked: Vec<IpAddr> = addresses.iter().copied().map(IpAddr::V4).collect();
    let facts = target.run(|| routes_to(&asked)).unwrap().unwrap();
    assert_eq!(facts.len(), 1000);
    for (address, fact) in addresses.iter().zip(&facts) {
        match address.octets()[1] {
            0 => assert_eq!(fact.as_ref().unwrap().gateway, Some(IpAddr::from([10, 0, 0, 1])), "{address}"),
            1 => assert_eq!(fact.as_ref().unwrap().mtu, 1300, "{address}"),
            _ => assert!(matches!(fact, Err(KernelError::NoRoute { to, .. }) if to == address), "{address}"),
        }
    }
}

#[test]
fn a_mark_is_taken_into_account_and_the_table_and_nexthop_are_told() {
    let target = uplink();
    sh(
        &target,
        "ip nexthop add id 7 via 10.0.0.2 dev eth0; ip route add 192.0.2.10/32 nhid 7 table 10005
         ip route add unreachable 192.0.2.11/32 table 10005
         ip rule add priority 101 fwmark 0x85/0xff lookup 10005
         sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0; ip addr add fd00::11/64 dev eth0 nodad
         ip nexthop add id 8 via fd00::2 dev eth0; ip -6 route add 2001:db8::10/128 nhid 8 table 10005
         ip -6 rule add priority 101 fwmark 0x85/0xff lookup 10005",
    );
    let ask = |to: &str, mark| target.run(|| marked_route(to.parse().unwrap(), mark)).unwrap();
    assert_eq!(ask("192.0.2.10", 0x85).unwrap(), MarkedRoute { table: Some(10_005), nexthop: Some(7) });
    assert_eq!(ask("192.0.2.10", 0x86).unwrap(), MarkedRoute { table: Some(254), nexthop: None });
    assert_eq!(ask("2001:db8::10", 0x85).unwrap(), MarkedRoute { table: None, nexthop: Some(8) });
    let unreachable = ask("192.0.2.11", 0x85);
    assert!(matches!(unreachable, Err(KernelError::NoRoute { errno: Errno::EHOSTUNREACH, .. })), "{unreachable:?}");
    assert!(matches!(ask("2001:db8::10", 0), Err(KernelError::NoRoute { errno: Errno::ENETUNREACH, .. })));
}
