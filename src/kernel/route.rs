//! Routes: VIP routes in our tables, and a count of everybody else's.

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
use super::wire::{Request, address_family, attribute, family_of, ip, rtm, u8_at, u32_at};

/// `struct rtmsg`: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
pub(super) const RTMSG: usize = 12;
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
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

/// Our routes by key, and the number of all others by table.
pub(super) type Routes = (BTreeMap<RouteKey, ObservedRoute>, BTreeMap<u32, usize>);

/// All IPv4 and IPv6 routes of the namespace.
pub(super) fn dump(netlink: &mut Netlink) -> Result<Routes, KernelError> {
    let mut all = Routes::default();
    // One family at a time: a dump of all families has the MPLS routes as well.
    for family in Family::ALL {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(family);
        let request = Request::new(&RouteNetlinkMessage::GetRoute(message), 0);
        let (ours, others) = netlink.dump("routes", &request, |routes: &mut Routes, kind, payload| {
            let cloned = u32_at(payload, 8).is_none_or(|flags| flags & RTM_F_CLONED != 0);
            if kind == rtm::NEWROUTE && family_of(payload) == Some(family) && !cloned {
                sort_in(routes, payload);
            }
        })?;
        all.0.extend(ours);
        others.into_iter().for_each(|(table, count)| *all.1.entry(table).or_default() += count);
    }
    Ok(all)
}

fn sort_in(routes: &mut Routes, payload: &[u8]) {
    match decode_key(payload) {
        Some(key) if is_ours(payload) => {
            routes.0.insert(key, decode_target(payload));
        }
        _ => *routes.1.entry(table(payload)).or_default() += 1,
    }
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
