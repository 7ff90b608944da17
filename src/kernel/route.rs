//! Routes: VIP routes in our tables; of everybody else's a count, and their next hops.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};

use crate::model::Family;
use crate::plan::observed::ObservedRoute;
use crate::plan::step::RouteWrite;
use crate::plan::{PROTOCOL, RouteKey};

use super::error::KernelError;
use super::netlink::Netlink;
use super::wire::{Request, address_family, attribute, family_of, ip, rtm, u8_at, u16_at, u32_at};

/// `struct rtnexthop`.
const RTNEXTHOP: usize = 8;
/// `struct rtmsg`: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
pub(super) const RTMSG: usize = 12;
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
pub(super) const RTA_METRICS: u16 = 8;
pub(super) const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
pub(super) const RTA_VIA: u16 = 18;
pub(super) const RTA_NEWDST: u16 = 19;
pub(super) const RTA_NH_ID: u16 = 30;
/// In `RTA_METRICS`.
pub(super) const RTAX_LOCK: u16 = 1;
/// In `RTA_METRICS`.
pub(super) const RTAX_MTU: u16 = 2;
/// `rtm_flags`: a cache entry, not a route.
const RTM_F_CLONED: u32 = 0x200;
/// The metric of an IPv6 route that is made without one (include/uapi/linux/ipv6_route.h).
const IP6_RT_PRIO_USER: u32 = 1024;
const RTN_UNREACHABLE: u8 = 7;

/// Our protocol number.
pub(super) fn protocol() -> RouteProtocol {
    RouteProtocol::from(PROTOCOL)
}

/// `ip route replace KEY TARGET protocol 107`
pub(super) fn replace(key: RouteKey, target: &RouteWrite) -> Request {
    let mut message = keyed(key);
    match target {
        RouteWrite::Unreachable => message.header.kind = RouteType::Unreachable,
        &RouteWrite::Nhid { id, mtu } => {
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::NhId(id));
            message.attributes.push(RouteAttribute::Metrics(mtu_metrics(Family::of(key.vip), mtu)));
        }
        &RouteWrite::Group(id) => {
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::NhId(id));
        }
    }
    Request::new(&RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Of an IPv6 route the kernel looks at the MTU of what it forwards only if it is locked, else at that of the device
/// (`ip6_dst_mtu_maybe_forward`, include/net/ip6_route.h), which says nothing about a tunnel. A locked one on an IPv4 route
/// would make the node itself send without DF.
fn mtu_metrics(family: Family, mtu: u32) -> Vec<RouteMetric> {
    match family {
        Family::V4 => vec![RouteMetric::Mtu(mtu)],
        Family::V6 => vec![RouteMetric::Lock(1 << RTAX_MTU), RouteMetric::Mtu(mtu)],
    }
}

/// The MTU of a route of ours, unless it is not locked although it has to be.
fn our_mtu(payload: &[u8]) -> Option<u32> {
    let locked = attribute(payload, RTMSG, RTA_METRICS)
        .and_then(|metrics| attribute(metrics, 0, RTAX_LOCK))
        .and_then(|value| u32_at(value, 0))
        .is_some_and(|locks| locks & (1 << RTAX_MTU) != 0);
    mtu(payload).filter(|_| locked == (family_of(payload) == Some(Family::V6)))
}

/// `ip route del KEY protocol 107`: from the key alone, whatever it leads to.
pub(super) fn del(key: RouteKey) -> Request {
    let mut message = keyed(key);
    // "Nowhere" matches any scope, the type 0 any type (fib_table_delete in net/ipv4/fib_trie.c).
    message.header.scope = RouteScope::NoWhere;
    Request::new(&RouteNetlinkMessage::DelRoute(message), 0)
}

fn keyed(key: RouteKey) -> RouteMessage {
    let mut message = RouteMessage::default();
    let family = Family::of(key.vip);
    message.header.address_family = address_family(family);
    message.header.destination_prefix_length = family.bits();
    message.header.protocol = protocol();
    message.attributes = vec![
        RouteAttribute::Destination(destination(key.vip)),
        // The header's field has 8 bits only.
        RouteAttribute::Table(key.table),
    ];
    message
}

/// An address as a destination.
pub(super) fn destination(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

/// What a namespace has of routes.
#[derive(Default)]
pub(super) struct Routes {
    /// Ours, by key.
    pub(super) ours: BTreeMap<RouteKey, ObservedRoute>,
    /// The number of all others, by table.
    pub(super) foreign: BTreeMap<u32, usize>,
    /// The next hops of all others, and the indices of the devices that they are behind.
    pub(super) next_hops: BTreeMap<IpAddr, u32>,
}

/// All IPv4 and IPv6 routes of the namespace.
pub(super) fn dump(netlink: &mut Netlink) -> Result<Routes, KernelError> {
    let mut all = Routes::default();
    // One family at a time: a dump of all families has the MPLS routes as well.
    for family in Family::ALL {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(family);
        let request = Request::new(&RouteNetlinkMessage::GetRoute(message), 0);
        let routes = netlink.dump("routes", &request, |routes: &mut Routes, kind, payload| {
            let cloned = u32_at(payload, 8).is_none_or(|flags| flags & RTM_F_CLONED != 0);
            if kind == rtm::NEWROUTE && family_of(payload) == Some(family) && !cloned {
                sort_in(routes, payload);
            }
        })?;
        all.ours.extend(routes.ours);
        all.next_hops.extend(routes.next_hops);
        routes.foreign.into_iter().for_each(|(table, count)| *all.foreign.entry(table).or_default() += count);
    }
    Ok(all)
}

pub(super) fn sort_in(routes: &mut Routes, payload: &[u8]) {
    match decode_key(payload) {
        Some(key) if is_ours(payload) => {
            routes.ours.insert(key, decode_target(payload));
        }
        _ => {
            *routes.foreign.entry(table(payload)).or_default() += 1;
            routes.next_hops.extend(next_hops(payload));
        }
    }
}

/// The gateways of a route with the indices of their devices: its own, or those of its paths. Those of a nexthop object are
/// repeated in the route (`net.ipv4.nexthop_compat_mode`).
fn next_hops(payload: &[u8]) -> Vec<(IpAddr, u32)> {
    let own = attribute(payload, RTMSG, RTA_OIF).and_then(|index| u32_at(index, 0));
    let own = gateway(payload, RTMSG).zip(own);
    let mut paths = attribute(payload, RTMSG, RTA_MULTIPATH).unwrap_or_default();
    let mut found: Vec<(IpAddr, u32)> = own.into_iter().collect();
    while let Some((path, index)) = path(paths) {
        found.extend(gateway(path, RTNEXTHOP).map(|address| (address, index)));
        paths = paths.get(path.len().next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The first path of several, with the index of its device: `struct rtnexthop` (length, flags, hops, index), then attributes.
fn path(paths: &[u8]) -> Option<(&[u8], u32)> {
    let length = usize::from(u16_at(paths, 0)?);
    let path = paths.get(..length).filter(|path| path.len() >= RTNEXTHOP)?;
    Some((path, u32_at(path, 4)?))
}

/// The gateway among the attributes behind `skip` bytes. An IPv4 route through an IPv6 gateway has it in `struct rtvia`: family
/// (16 bits), address.
pub(super) fn gateway(payload: &[u8], skip: usize) -> Option<IpAddr> {
    let via = || attribute(payload, skip, RTA_VIA).and_then(|via| via.get(2..));
    attribute(payload, skip, RTA_GATEWAY).or_else(via).and_then(ip)
}

/// Whether a route message, of any family, carries our protocol number.
pub(super) fn is_ours(payload: &[u8]) -> bool {
    u8_at(payload, 5) == Some(PROTOCOL)
}

/// The table of a route message.
pub(super) fn table(payload: &[u8]) -> u32 {
    let long = attribute(payload, RTMSG, RTA_TABLE).and_then(|v| u32_at(v, 0));
    long.unwrap_or_else(|| u8_at(payload, 4).map_or(0, u32::from))
}

fn decode_key(payload: &[u8]) -> Option<RouteKey> {
    let vip = attribute(payload, RTMSG, RTA_DST).and_then(ip)?;
    (u8_at(payload, 1)? == Family::of(vip).bits()).then(|| RouteKey { table: table(payload), vip })
}

fn decode_target(payload: &[u8]) -> ObservedRoute {
    let value = |kind| attribute(payload, RTMSG, kind);
    let tos = u8_at(payload, 3) != Some(0);
    let usual = if family_of(payload) == Some(Family::V6) { IP6_RT_PRIO_USER } else { 0 };
    if tos || value(RTA_PRIORITY).and_then(|v| u32_at(v, 0)).is_some_and(|priority| priority != usual) {
        return ObservedRoute::Other;
    }
    let id = value(RTA_NH_ID).and_then(|v| u32_at(v, 0));
    match (u8_at(payload, 7), id) {
        (Some(RTN_UNREACHABLE), _) => ObservedRoute::Unreachable,
        (_, Some(id)) => ObservedRoute::Nhid { id, mtu: our_mtu(payload) },
        _ => ObservedRoute::Other,
    }
}

/// The MTU metric of a route message, in bytes.
pub(super) fn mtu(payload: &[u8]) -> Option<u32> {
    let metrics = attribute(payload, RTMSG, RTA_METRICS)?;
    attribute(metrics, 0, RTAX_MTU).and_then(|v| u32_at(v, 0)).filter(|mtu| *mtu != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway_of(address: [u8; 4]) -> Vec<u8> {
        [&8u16.to_ne_bytes()[..], &RTA_GATEWAY.to_ne_bytes(), &address].concat()
    }

    fn number(kind: u16, number: u32) -> Vec<u8> {
        [&8u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &number.to_ne_bytes()].concat()
    }

    #[test]
    fn the_next_hops_of_a_route_are_its_gateway_or_those_of_its_paths() {
        let header = vec![0; RTMSG];
        let single = [header.clone(), gateway_of([10, 0, 0, 1]), number(RTA_OIF, 2)].concat();
        assert_eq!(next_hops(&single), [("10.0.0.1".parse().unwrap(), 2)]);
        let path = |index: u32, attributes: Vec<u8>| {
            let length = u16::try_from(RTNEXTHOP + attributes.len()).unwrap();
            [&length.to_ne_bytes()[..], &[0, 0], &index.to_ne_bytes(), &attributes].concat()
        };
        let paths =
            [path(2, gateway_of([10, 0, 0, 1])), path(3, Vec::new()), path(4, gateway_of([10, 0, 0, 2]))].concat();
        let length = u16::try_from(4 + paths.len()).unwrap();
        let multipath = [&header[..], &length.to_ne_bytes(), &RTA_MULTIPATH.to_ne_bytes(), &paths].concat();
        assert_eq!(next_hops(&multipath), [("10.0.0.1".parse().unwrap(), 2), ("10.0.0.2".parse().unwrap(), 4)]);
        assert_eq!(next_hops(&[header, number(RTA_OIF, 2)].concat()), []);
    }
}
