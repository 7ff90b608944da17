//! MPLS routes: what happens to a packet that arrives with a label. The kernel's table exists only while `mpls_router` is
//! loaded, and holds labels below `net.mpls.platform_labels`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{MplsLabel, RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::plan::{LabelRoute, PROTOCOL};

use super::error::KernelError;
use super::netlink::Netlink;
use super::route::{RTA_DST, RTA_MULTIPATH, RTA_NEWDST, RTA_OIF, RTA_VIA, RTMSG, protocol};
use super::sysctl;
use super::wire::{Request, attribute, be32, ip, rtm, u8_at, u32_at};

/// Bits of a label in the wire format of RFC 3032.
const LABEL_BITS: u8 = 20;
const RT_TABLE_MAIN: u8 = 254;

/// A stack of one label.
pub(super) fn stack(label: u32) -> Vec<MplsLabel> {
    vec![MplsLabel { label, traffic_class: 0, bottom_of_stack: true, ttl: 0 }]
}

/// The label of a stack of exactly one.
pub(super) fn label_of(stack: &[u8]) -> Option<u32> {
    (stack.len() == 4).then(|| be32(stack)).flatten().map(|entry| entry >> 12)
}

/// The device that a route needs.
pub(super) fn device(route: &LabelRoute) -> &str {
    match route {
        LabelRoute::Pop { dev } | LabelRoute::Swap { dev, .. } => dev,
    }
}

/// `ip -f mpls route replace LABEL ROUTE protocol 107`; `index` is that of the route's device.
pub(super) fn replace(label: u32, route: &LabelRoute, index: u32) -> Request {
    let mut message = keyed(label);
    message.header.kind = RouteType::Unicast;
    message.header.protocol = protocol();
    message.attributes.push(RouteAttribute::Oif(index));
    if let LabelRoute::Swap { out, via, .. } = route {
        message.attributes.push(RouteAttribute::NewDestination(stack(*out)));
        message.attributes.push(RouteAttribute::Via(match via {
            IpAddr::V4(v4) => RouteVia::Inet(*v4),
            IpAddr::V6(v6) => RouteVia::Inet6(*v6),
        }));
    }
    Request::new(&RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// `ip -f mpls route del LABEL`
pub(super) fn del(label: u32) -> Request {
    let mut message = keyed(label);
    message.header.kind = RouteType::Unicast;
    Request::new(&RouteNetlinkMessage::DelRoute(message), 0)
}

fn keyed(label: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Mpls;
    message.header.destination_prefix_length = LABEL_BITS;
    message.header.table = RT_TABLE_MAIN;
    let mut stack = stack(label);
    message.attributes.extend(stack.pop().map(|label| RouteAttribute::Destination(RouteAddress::Mpls(label))));
    message
}

/// Our MPLS routes by label, and the labels of all others.
pub(super) type Labels = (BTreeMap<u32, Option<LabelRoute>>, BTreeSet<u32>);

/// Whether the namespace can have MPLS routes at all.
pub(super) fn available() -> bool {
    sysctl::file("net/mpls").exists()
}

/// All MPLS routes of the namespace.
pub(super) fn dump(netlink: &mut Netlink, names: &BTreeMap<u32, String>) -> Result<Labels, KernelError> {
    // A family that is not registered falls back to AF_UNSPEC: the kernel would answer with the routes of all others.
    if !available() {
        return Ok(Labels::default());
    }
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Mpls;
    let request = Request::new(&RouteNetlinkMessage::GetRoute(message), 0);
    netlink.dump("MPLS routes", &request, |labels: &mut Labels, kind, payload| {
        if kind != rtm::NEWROUTE || u8_at(payload, 0) != Some(u8::from(AddressFamily::Mpls)) {
            return;
        }
        let Some(label) = attribute(payload, RTMSG, RTA_DST).and_then(label_of) else { return };
        if u8_at(payload, 5) == Some(PROTOCOL) {
            labels.0.insert(label, decode(payload, names));
        } else {
            labels.1.insert(label);
        }
    })
}

pub(super) fn decode(payload: &[u8], names: &BTreeMap<u32, String>) -> Option<LabelRoute> {
    let value = |kind| attribute(payload, RTMSG, kind);
    if value(RTA_MULTIPATH).is_some() {
        return None;
    }
    let dev = names.get(&u32_at(value(RTA_OIF)?, 0)?)?.clone();
    match (value(RTA_NEWDST), value(RTA_VIA)) {
        (None, None) => Some(LabelRoute::Pop { dev }),
        (Some(out), Some(via)) => {
            // struct rtvia: family (16 bits), address.
            let via = ip(via.get(2..)?)?;
            Some(LabelRoute::Swap { out: label_of(out)?, via, dev })
        }
        _ => None,
    }
}
