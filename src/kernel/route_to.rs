//! Where the kernel would send a packet, and how large it may be: the underlay below a tunnel.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};
use nix::errno::Errno;

use crate::model::Family;
use crate::plan::observed::ObservedLink;

use super::error::KernelError;
use super::link;
use super::netlink::Netlink;
use super::route::{RTA_NH_ID, RTA_OIF, RTMSG, destination, gateway, mtu, table};
use super::wire::{Request, address_family, attribute, u8_at, u32_at};

const RTA_CACHEINFO: u16 = 12;
/// Offset of `rta_expires` in `struct rta_cacheinfo`.
const EXPIRES: usize = 8;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
/// `rtm_flags`, Linux 4.13: the route itself, not what was learned for this destination.
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// `rtm_flags`: say which table it is in. IPv4 says `main` without it, IPv6 refuses it.
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;

/// How an address is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFact {
    /// The device the packet leaves through; `lo` for a local address.
    pub dev: String,
    /// The gateway, of either family; `None` if the address is on-link.
    pub gateway: Option<IpAddr>,
    /// Largest packet in bytes: the route's MTU metric if it has one, else the device's MTU.
    pub mtu: u32,
    /// The address belongs to this namespace itself.
    pub local: bool,
}

/// How the namespace of the calling thread reaches an address (unmarked, no source given).
///
/// # Errors
/// [`KernelError::NoRoute`] if no route leads there or the route rejects it.
pub fn route_to(address: IpAddr) -> Result<RouteFact, KernelError> {
    routes_to(&[address])?.pop().unwrap_or(Err(KernelError::NoRoute { to: address, errno: Errno::ENETUNREACH }))
}

/// [`route_to`] for many addresses over one socket; the answers are in the order of the addresses.
///
/// A path MTU that the kernel has *learned* does not count: it expires, belongs to one destination as seen by one flow, and
/// a stranger may have sent it (RFC 5927). The route's own metric does.
///
/// # Errors
/// Outer: the socket failed, or the links could not be read. Inner: see [`route_to`].
pub fn routes_to(addresses: &[IpAddr]) -> Result<Vec<Result<RouteFact, KernelError>>, KernelError> {
    let mut netlink = Netlink::route()?;
    let links = link::dump(&mut netlink)?;
    let devices: BTreeMap<u32, (&String, &ObservedLink)> =
        links.iter().map(|(name, link)| (link.index, (name, link))).collect();
    let mut facts: Vec<Result<RouteFact, KernelError>> = Vec::with_capacity(addresses.len());
    facts.extend(addresses.iter().map(|to| Err(KernelError::NoRoute { to: *to, errno: Errno::ENETUNREACH })));
    let mut learned = Vec::new();
    let requests: Vec<Request> = addresses.iter().map(|to| get(*to, 0, None)).collect();
    netlink.ask(&requests, |index, answer| {
        let (Some(slot), Some(to)) = (facts.get_mut(index), addresses.get(index)) else { return };
        if answer.as_ref().is_ok_and(|payload| is_learned(payload)) {
            learned.push((index, *to));
        }
        *slot = answer.map_err(|e| no_route(*to, e)).and_then(|payload| decode(*to, payload, &devices));
    })?;
    correct_learned(&mut netlink, &learned, &mut facts)?;
    Ok(facts)
}

/// A route that a marked packet takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkedRoute {
    /// The table that it is in; `None` for IPv6: a nexthop object keeps its last look-up for all routes that use it, and the
    /// kernel tells the table of that one (`rt6_get_pcpu_route`, net/ipv6/route.c, Linux 6.18).
    pub table: Option<u32>,
    /// Its nexthop object, if it has one.
    pub nexthop: Option<u32>,
}

/// `ip route get ADDRESS mark MARK fibmatch`, in the namespace of the calling thread: the kernel's own walk over its rules.
///
/// # Errors
/// [`KernelError::NoRoute`] if no route leads there or the route rejects it.
pub fn marked_route(address: IpAddr, mark: u32) -> Result<MarkedRoute, KernelError> {
    let mut answered = Err(KernelError::NoRoute { to: address, errno: Errno::ENETUNREACH });
    let say_table = if address.is_ipv4() { RTM_F_LOOKUP_TABLE } else { 0 };
    let request = get(address, RTM_F_FIB_MATCH | say_table, Some(mark));
    Netlink::route()?.ask(&[request], |_, answer| {
        answered = answer.map_err(|e| no_route(address, e)).map(|payload| {
            let nexthop = attribute(payload, RTMSG, RTA_NH_ID).and_then(|v| u32_at(v, 0));
            MarkedRoute { table: address.is_ipv4().then(|| table(payload)), nexthop }
        });
    })?;
    answered
}

/// Asks for the routes below learned exceptions and takes their own metric, if they have one.
fn correct_learned(
    netlink: &mut Netlink,
    learned: &[(usize, IpAddr)],
    facts: &mut [Result<RouteFact, KernelError>],
) -> Result<(), KernelError> {
    let requests: Vec<Request> = learned.iter().map(|(_, to)| get(*to, RTM_F_FIB_MATCH, None)).collect();
    netlink.ask(&requests, |index, answer| {
        let slot = learned.get(index).and_then(|(original, _)| facts.get_mut(*original));
        if let (Some(Ok(fact)), Some(own)) = (slot, answer.ok().and_then(mtu)) {
            fact.mtu = own;
        }
    })
}

fn get(to: IpAddr, flags: u32, mark: Option<u32>) -> Request {
    let mut message = RouteMessage::default();
    let family = Family::of(to);
    message.header.address_family = address_family(family);
    message.header.destination_prefix_length = family.bits();
    message.header.flags = RouteFlags::from_bits_retain(flags);
    message.attributes.push(RouteAttribute::Destination(destination(to)));
    message.attributes.extend(mark.map(RouteAttribute::Mark));
    Request::new(&RouteNetlinkMessage::GetRoute(message), 0)
}

fn no_route(to: IpAddr, error: KernelError) -> KernelError {
    match error {
        KernelError::Refused {
            errno: errno @ (Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL),
            ..
        } => KernelError::NoRoute { to, errno },
        other => other,
    }
}

fn is_learned(payload: &[u8]) -> bool {
    let expires = attribute(payload, RTMSG, RTA_CACHEINFO).and_then(|info| u32_at(info, EXPIRES));
    expires.is_some_and(|ticks| ticks != 0)
}

pub(super) fn decode(
    to: IpAddr,
    payload: &[u8],
    devices: &BTreeMap<u32, (&String, &ObservedLink)>,
) -> Result<RouteFact, KernelError> {
    let kind = u8_at(payload, 7);
    if !matches!(kind, Some(RTN_UNICAST | RTN_LOCAL)) {
        // Broadcast and multicast lead nowhere that a tunnel could end.
        return Err(KernelError::NoRoute { to, errno: Errno::EHOSTUNREACH });
    }
    let index = attribute(payload, RTMSG, RTA_OIF).and_then(|v| u32_at(v, 0)).unwrap_or(0);
    let (dev, link) = devices.get(&index).ok_or_else(|| KernelError::NoDevice(format!("#{index}")))?;
    let metric = mtu(payload).filter(|_| !is_learned(payload));
    Ok(RouteFact {
        dev: (*dev).clone(),
        gateway: gateway(payload, RTMSG),
        mtu: metric.unwrap_or(link.mtu),
        local: kind == Some(RTN_LOCAL),
    })
}
