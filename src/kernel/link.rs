//! Links: making, deleting and recognising the devices that we own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoGre, InfoGre6, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use crate::model::Family;
use crate::plan::LinkKind;
use crate::plan::observed::ObservedLink;

use super::error::KernelError;
use super::netlink::Netlink;
use super::wire::{Request, attribute, attributes, be16, ip, rtm, text, u8_at, u16_at, u32_at};

/// `struct ifinfomsg`
pub(super) const IFINFOMSG: usize = 16;
pub(super) const IFF_UP: u32 = 1;
/// `IFF_LOWER_UP`
const IFF_LOWER_UP: u32 = 1 << 16;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
const IFF_LOOPBACK: u32 = 1 << 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;

/// `ip link add NAME KIND`
pub(super) fn add(name: &str, kind: &LinkKind) -> Request {
    let (info_kind, data) = match kind {
        LinkKind::GreExternal(Family::V4) => (InfoKind::GreTun, InfoData::GreTun(vec![InfoGre::CollectMetadata])),
        LinkKind::GreExternal(Family::V6) => (InfoKind::GreTun6, InfoData::GreTun6(vec![InfoGre6::CollectMetadata])),
        // No remote: any. Path MTU discovery is on, as with `ip`.
        LinkKind::GreLocal(IpAddr::V4(v4)) => (InfoKind::GreTun, InfoData::GreTun(vec![InfoGre::Local(*v4)])),
        LinkKind::GreLocal(IpAddr::V6(v6)) => (InfoKind::GreTun6, InfoData::GreTun6(vec![InfoGre6::Local(*v6)])),
        // The kernel refuses GPE together with learning, which is its default; addresses are the nexthops' business.
        LinkKind::VxlanGpe { port } => (
            InfoKind::Vxlan,
            InfoData::Vxlan(vec![
                InfoVxlan::CollectMetadata(true),
                InfoVxlan::Gpe,
                InfoVxlan::Learning(false),
                InfoVxlan::UDPZeroCsumRX(true),
                InfoVxlan::Port(*port),
            ]),
        ),
    };
    let mut message = named(name);
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(info_kind), LinkInfo::Data(data)]));
    Request::new(&RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// `ip link set NAME up`
pub(super) fn up(name: &str) -> Request {
    let mut message = named(name);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Request::new(&RouteNetlinkMessage::NewLink(message), 0)
}

/// `ip link del NAME`
pub(super) fn del(name: &str) -> Request {
    Request::new(&RouteNetlinkMessage::DelLink(named(name)), 0)
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

/// The request for all links.
pub(super) fn list() -> Request {
    let mut message = LinkMessage::default();
    // The counters are most of a link's message.
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    Request::new(&RouteNetlinkMessage::GetLink(message), 0)
}

/// All links of the namespace.
pub(super) fn dump(netlink: &mut Netlink) -> Result<BTreeMap<String, ObservedLink>, KernelError> {
    netlink.dump("links", &list(), |links: &mut BTreeMap<_, _>, kind, payload| {
        if kind == rtm::NEWLINK {
            links.extend(decode(payload));
        }
    })
}

/// Names by index.
pub(super) fn names(links: &BTreeMap<String, ObservedLink>) -> BTreeMap<u32, String> {
    links.iter().map(|(name, link)| (link.index, name.clone())).collect()
}

pub(super) fn decode(payload: &[u8]) -> Option<(String, ObservedLink)> {
    let flags = u32_at(payload, 8)?;
    let info = attribute(payload, IFINFOMSG, IFLA_LINKINFO).unwrap_or_default();
    let kind_name = kind(payload);
    let data = attribute(info, 0, IFLA_INFO_DATA).unwrap_or_default();
    let link = ObservedLink {
        index: u32_at(payload, 4)?,
        kind: kind_name.as_deref().and_then(|name| decode_kind(name, data)),
        kind_name,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        mtu: attribute(payload, IFINFOMSG, IFLA_MTU).and_then(|v| u32_at(v, 0)).unwrap_or(0),
        loopback: flags & IFF_LOOPBACK != 0,
    };
    Some((attribute(payload, IFINFOMSG, IFLA_IFNAME).map(text)?, link))
}

/// What kind of link it is, as `ip link add` calls it; hardware has none.
pub(super) fn kind(payload: &[u8]) -> Option<String> {
    let info = attribute(payload, IFINFOMSG, IFLA_LINKINFO)?;
    attribute(info, 0, IFLA_INFO_KIND).map(text)
}

fn decode_kind(name: &str, data: &[u8]) -> Option<LinkKind> {
    match name {
        "gre" => decode_gre(Family::V4, data),
        "ip6gre" => decode_gre(Family::V6, data),
        "vxlan" => decode_vxlan(data),
        _ => None,
    }
}

/// `IFLA_GRE_*` (include/uapi/linux/if_tunnel.h).
fn decode_gre(outer: Family, data: &[u8]) -> Option<LinkKind> {
    const IFLAGS: u16 = 2;
    const OFLAGS: u16 = 3;
    const LOCAL: u16 = 6;
    const REMOTE: u16 = 7;
    const COLLECT_METADATA: u16 = 18;
    let (mut local, mut plain) = (None, true);
    for (kind, value) in attributes(data, 0) {
        match kind {
            COLLECT_METADATA => return Some(LinkKind::GreExternal(outer)),
            LOCAL => local = ip(value).filter(|a| !a.is_unspecified()),
            // Keys, checksums, sequence numbers, a fixed remote: somebody else's tunnel.
            IFLAGS | OFLAGS => plain &= u16_at(value, 0) == Some(0),
            REMOTE => plain &= value.iter().all(|b| *b == 0),
            _ => {}
        }
    }
    local.filter(|_| plain).map(LinkKind::GreLocal)
}

/// `IFLA_VXLAN_*` (include/uapi/linux/if_link.h).
fn decode_vxlan(data: &[u8]) -> Option<LinkKind> {
    const PORT: u16 = 15;
    const COLLECT_METADATA: u16 = 25;
    const GPE: u16 = 27;
    let external = attribute(data, 0, COLLECT_METADATA).and_then(|v| u8_at(v, 0)) == Some(1);
    let gpe = attribute(data, 0, GPE).is_some();
    let port = attribute(data, 0, PORT).and_then(be16)?;
    (external && gpe).then_some(LinkKind::VxlanGpe { port })
}

/// What is in the way of a link that the kernel says exists already: nothing if it is the wanted one, else an error that
/// names the other.
pub(super) fn explain_exists(netlink: &mut Netlink, name: &str, kind: &LinkKind) -> Result<(), KernelError> {
    let links = dump(netlink)?;
    if let Some(link) = links.get(name) {
        return match &link.kind {
            Some(found) if found == kind => Ok(()),
            Some(found) => Err(KernelError::Occupied(format!("{name} exists with other parameters: {found}"))),
            None => {
                let what = link.kind_name.as_deref().unwrap_or("hardware");
                Err(KernelError::Occupied(format!("{name} exists and is of another kind: {what}")))
            }
        };
    }
    Err(taken(&links, name, kind))
}

/// The same for a device that cannot be set up because another has its port.
pub(super) fn explain_in_use(netlink: &mut Netlink, name: &str, error: KernelError) -> Result<(), KernelError> {
    let links = dump(netlink)?;
    match links.get(name).and_then(|link| link.kind.as_ref()) {
        Some(kind) => Err(taken(&links, name, kind)),
        None => Err(error),
    }
}

/// One namespace has one collect-metadata GRE device, one GRE device for an address, one VXLAN device for a port.
fn taken(links: &BTreeMap<String, ObservedLink>, name: &str, kind: &LinkKind) -> KernelError {
    let other = links.iter().find(|(other, link)| *other != name && link.kind.as_ref() == Some(kind));
    let other = other.map_or("another program or device", |(other, _)| other.as_str());
    KernelError::Occupied(format!("{other} is a `{kind}` already, and there can be only one"))
}
