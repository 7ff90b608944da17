//! Nexthop objects (`ip nexthop`), which `netlink-packet-route` does not have: `struct nhmsg` and `NHA_*` of
//! include/uapi/linux/nexthop.h. The kernel has them since 5.3.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_REPLACE, Nla};
use netlink_packet_route::route::RouteMplsIpTunnel;

use crate::model::Family;
use crate::model::second_chance::TunnelId;
use crate::plan::net::OUTER_TTL;
use crate::plan::observed::ObservedNexthop;
use crate::plan::{Nexthop, PROTOCOL, Source};

use super::error::KernelError;
use super::label::{label_of, stack};
use super::netlink::Netlink;
use super::wire::{Request, address_family, attribute, attributes, family_of, ip, octets, rtm, u8_at, u16_at, u32_at};

/// `struct nhmsg`: family, scope, protocol, reserved, flags.
const NHMSG: usize = 8;
/// Size of `struct nexthop_grp`.
const NEXTHOP_GRP: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP_TYPE: u16 = 7;
const NHA_ENCAP: u16 = 8;
/// `LWTUNNEL_ENCAP_*` (include/uapi/linux/lwtunnel.h).
const ENCAP_MPLS: u16 = 1;
const ENCAP_IP: u16 = 2;
const ENCAP_IP6: u16 = 4;
/// `LWTUNNEL_IP_*`, and the same numbers as `LWTUNNEL_IP6_*`; the TTL is the hop limit there.
const TUNNEL_ID: u16 = 1;
const TUNNEL_DST: u16 = 2;
const TUNNEL_SRC: u16 = 3;
const TUNNEL_TTL: u16 = 4;
const TUNNEL_FLAGS: u16 = 6;
/// `TUNNEL_KEY` (include/uapi/linux/if_tunnel.h), in network byte order: without it GRE sends no key. VXLAN ignores it.
const KEY: [u8; 2] = [0, 4];
/// In `nh_flags`.
const RTNH_F_ONLINK: u32 = 4;

/// `ip nexthop replace id ID SPEC protocol 107`; `index` is that of the spec's device.
pub(super) fn replace(id: u32, spec: &Nexthop, index: u32) -> Request {
    let mut attributes = vec![number(NHA_ID, id), number(NHA_OIF, index)];
    let (encap_type, encap) = match spec {
        Nexthop::EncapIp { src, dst, id, .. } => encap_ip(*src, *dst, *id),
        Nexthop::Mpls { label, .. } => (ENCAP_MPLS, emit(&[RouteMplsIpTunnel::Destination(stack(*label))])),
    };
    let gateway = gateway(spec);
    attributes.extend(gateway.map(|via| DefaultNla::new(NHA_GATEWAY, octets(via))));
    attributes.push(DefaultNla::new(NHA_ENCAP_TYPE, encap_type.to_ne_bytes().to_vec()));
    attributes.push(DefaultNla::new(NHA_ENCAP | NLA_F_NESTED, encap));
    // No route leads to ::ffff:A, so it has to be said that it is on the link.
    let flags = if is_mapped(gateway) { RTNH_F_ONLINK } else { 0 };
    let family = u8::from(address_family(spec.family()));
    let header = Header { family, protocol: PROTOCOL, flags };
    request(rtm::NEWNEXTHOP, NLM_F_CREATE | NLM_F_REPLACE, header, &attributes)
}

/// `ip nexthop replace id ID dev DEVICE protocol 107`, for IPv4
pub(super) fn replace_device(id: u32, index: u32) -> Request {
    let header = Header { family: u8::from(address_family(Family::V4)), protocol: PROTOCOL, flags: 0 };
    let attributes = [number(NHA_ID, id), number(NHA_OIF, index)];
    request(rtm::NEWNEXTHOP, NLM_F_CREATE | NLM_F_REPLACE, header, &attributes)
}

/// `ip nexthop replace id ID group ID/ID/… protocol 107`
pub(super) fn replace_group(id: u32, members: &BTreeSet<u32>) -> Request {
    // struct nexthop_grp: id (32 bits), weight less one, reserved (8 and 16 bits).
    let member = |id: &u32| [id.to_ne_bytes(), [0; 4]].concat();
    let attributes = [number(NHA_ID, id), DefaultNla::new(NHA_GROUP, members.iter().flat_map(member).collect())];
    let header = Header { family: 0, protocol: PROTOCOL, flags: 0 };
    request(rtm::NEWNEXTHOP, NLM_F_CREATE | NLM_F_REPLACE, header, &attributes)
}

/// `encap ip` or `encap ip6`, by the family of the outer addresses: type and content.
fn encap_ip(src: IpAddr, dst: IpAddr, id: TunnelId) -> (u16, Vec<u8>) {
    let mut attributes = vec![
        DefaultNla::new(TUNNEL_ID, u64::from(id.bits()).to_be_bytes().to_vec()),
        DefaultNla::new(TUNNEL_SRC, octets(src)),
        DefaultNla::new(TUNNEL_DST, octets(dst)),
        DefaultNla::new(TUNNEL_TTL, vec![OUTER_TTL]),
    ];
    if id != TunnelId::OWNER_ALONE {
        attributes.push(DefaultNla::new(TUNNEL_FLAGS, KEY.to_vec()));
    }
    let kind = if dst.is_ipv4() { ENCAP_IP } else { ENCAP_IP6 };
    (kind, emit(&attributes))
}

/// The gateway in the notation of the object's family.
fn gateway(spec: &Nexthop) -> Option<IpAddr> {
    match spec {
        Nexthop::Mpls { family: Family::V6, via: IpAddr::V4(v4), .. } => Some(IpAddr::V6(v4.to_ipv6_mapped())),
        Nexthop::Mpls { via, .. } => Some(*via),
        Nexthop::EncapIp { .. } => None,
    }
}

fn is_mapped(gateway: Option<IpAddr>) -> bool {
    matches!(gateway, Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some())
}

/// `ip nexthop del id ID`
pub(super) fn del(id: u32) -> Request {
    request(rtm::DELNEXTHOP, 0, Header::default(), &[number(NHA_ID, id)])
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

/// `struct nhmsg`, without scope and padding.
#[derive(Default)]
struct Header {
    family: u8,
    protocol: u8,
    flags: u32,
}

fn request(kind: u16, flags: u16, header: Header, attributes: &[DefaultNla]) -> Request {
    let mut payload = vec![header.family, 0, header.protocol, 0];
    payload.extend_from_slice(&header.flags.to_ne_bytes());
    payload.extend(emit(attributes));
    Request { kind, flags, payload }
}

fn emit<T: Nla>(attributes: &[T]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// All nexthop objects, by id; none on a kernel that has no such objects.
pub(super) fn dump(
    netlink: &mut Netlink,
    names: &BTreeMap<u32, String>,
) -> Result<BTreeMap<u32, ObservedNexthop>, KernelError> {
    // A dump with a protocol in its header is refused.
    let request = request(rtm::GETNEXTHOP, 0, Header::default(), &[]);
    let dumped = netlink.dump("nexthops", &request, |found: &mut BTreeMap<_, _>, kind, payload| {
        let id = attribute(payload, NHMSG, NHA_ID).and_then(|v| u32_at(v, 0));
        if let (rtm::NEWNEXTHOP, Some(id)) = (kind, id) {
            let (spec, source) = (decode(payload, names), decode_source(payload, names));
            found.insert(id, ObservedNexthop { spec, source, ours: is_ours(payload) });
        }
    });
    match dumped {
        Err(error) if error.is_unsupported() => Ok(BTreeMap::new()),
        other => other,
    }
}

/// Whether a nexthop message carries our protocol number.
pub(super) fn is_ours(payload: &[u8]) -> bool {
    u8_at(payload, 2) == Some(PROTOCOL)
}

pub(super) fn decode(payload: &[u8], names: &BTreeMap<u32, String>) -> Option<Nexthop> {
    let value = |kind| attribute(payload, NHMSG, kind);
    let dev = names.get(&u32_at(value(NHA_OIF)?, 0)?)?.clone();
    let family = family_of(payload)?;
    let gateway = value(NHA_GATEWAY);
    let encap = value(NHA_ENCAP)?;
    match (u16_at(value(NHA_ENCAP_TYPE)?, 0)?, gateway) {
        (ENCAP_IP | ENCAP_IP6, None) => decode_encap_ip(family, encap, dev),
        (ENCAP_MPLS, Some(via)) => {
            const MPLS_IPTUNNEL_DST: u16 = 1;
            let label = label_of(attribute(encap, 0, MPLS_IPTUNNEL_DST)?)?;
            Some(Nexthop::Mpls { family, label, via: unmapped(ip(via)?), dev })
        }
        _ => None,
    }
}

pub(super) fn decode_source(payload: &[u8], names: &BTreeMap<u32, String>) -> Option<Source> {
    let value = |kind| attribute(payload, NHMSG, kind);
    if let Some(members) = value(NHA_GROUP) {
        let plain = value(NHA_GROUP_TYPE).is_none_or(|kind| u16_at(kind, 0) == Some(0));
        let member = |entry: &[u8]| u32_at(entry, 0).filter(|_| entry.get(4) == Some(&0));
        return members.chunks(NEXTHOP_GRP).map(member).collect::<Option<_>>().map(Source::Group).filter(|_| plain);
    }
    let bare = value(NHA_GATEWAY).is_none() && value(NHA_ENCAP).is_none();
    let dev = names.get(&u32_at(value(NHA_OIF)?, 0)?)?.clone();
    (bare && family_of(payload)? == Family::V4).then_some(Source::Device(dev))
}

fn unmapped(gateway: IpAddr) -> IpAddr {
    match gateway {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(gateway, IpAddr::V4),
        IpAddr::V4(_) => gateway,
    }
}

fn decode_encap_ip(family: Family, encap: &[u8], dev: String) -> Option<Nexthop> {
    let (mut src, mut dst, mut id, mut key) = (None, None, TunnelId::OWNER_ALONE, false);
    for (kind, value) in attributes(encap, 0) {
        match kind {
            TUNNEL_DST => dst = Some(ip(value)?),
            TUNNEL_SRC => src = Some(ip(value)?),
            TUNNEL_TTL if value != [OUTER_TTL] => return None,
            TUNNEL_TTL => {}
            TUNNEL_ID => id = tunnel_id(value)?,
            TUNNEL_FLAGS if value == KEY => key = true,
            // TOS, other flags and whatever is to come: zero, or not ours.
            TUNNEL_ID.. if value.iter().any(|b| *b != 0) => return None,
            _ => {}
        }
    }
    // What carries names carries a key, and nothing else does.
    (key == (id != TunnelId::OWNER_ALONE)).then_some(Nexthop::EncapIp { family, dev, src: src?, dst: dst?, id })
}

/// A tunnel id that travels as it is; `None` for one that would lose bits.
fn tunnel_id(value: &[u8]) -> Option<TunnelId> {
    let number = u32::try_from(u64::from_be_bytes(value.try_into().ok()?)).ok()?;
    Some(TunnelId::from_bits(number)).filter(|id| id.bits() == number)
}
