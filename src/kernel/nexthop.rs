//! Nexthop objects (`ip nexthop`), which `netlink-packet-route` does not have: `struct nhmsg` and `NHA_*` of
//! include/uapi/linux/nexthop.h. The kernel has them since 5.3.

use std::collections::BTreeMap;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_REPLACE, Nla};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteIpTunnel, RouteMplsIpTunnel};

use crate::plan::net::OUTER_TTL;
use crate::plan::observed::ObservedNexthop;
use crate::plan::{Nexthop, PROTOCOL};

use super::error::KernelError;
use super::label::{label_of, stack};
use super::netlink::Netlink;
use super::wire::{Request, attribute, attributes, ipv4, rtm, u8_at, u16_at, u32_at};

/// `struct nhmsg`: family, scope, protocol, reserved, flags.
const NHMSG: usize = 8;
const NHA_ID: u16 = 1;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP_TYPE: u16 = 7;
const NHA_ENCAP: u16 = 8;
/// `LWTUNNEL_ENCAP_*` (include/uapi/linux/lwtunnel.h).
const ENCAP_MPLS: u16 = 1;
const ENCAP_IP: u16 = 2;

/// `ip nexthop replace id ID SPEC protocol 107`; `index` is that of the spec's device.
pub(super) fn replace(id: u32, spec: &Nexthop, index: u32) -> Request {
    let number = |kind, value: u32| DefaultNla::new(kind, value.to_ne_bytes().to_vec());
    let mut attributes = vec![number(NHA_ID, id), number(NHA_OIF, index)];
    let (encap_type, encap) = match spec {
        Nexthop::EncapIp { src, dst, .. } => {
            let tunnel = [
                RouteIpTunnel::Id(0),
                RouteIpTunnel::Source(*src),
                RouteIpTunnel::Destination(*dst),
                RouteIpTunnel::Ttl(OUTER_TTL),
            ];
            (ENCAP_IP, emit(&tunnel))
        }
        Nexthop::Mpls { label, via, .. } => {
            attributes.push(DefaultNla::new(NHA_GATEWAY, via.octets().to_vec()));
            (ENCAP_MPLS, emit(&[RouteMplsIpTunnel::Destination(stack(*label))]))
        }
    };
    attributes.push(DefaultNla::new(NHA_ENCAP_TYPE, encap_type.to_ne_bytes().to_vec()));
    attributes.push(DefaultNla::new(NHA_ENCAP | NLA_F_NESTED, encap));
    // IPv4 routes accept nexthops of family IPv4 only, also where there is no gateway.
    let family = u8::from(AddressFamily::Inet);
    request(rtm::NEWNEXTHOP, NLM_F_CREATE | NLM_F_REPLACE, [family, 0, PROTOCOL, 0], &attributes)
}

/// `ip nexthop del id ID`
pub(super) fn del(id: u32) -> Request {
    request(rtm::DELNEXTHOP, 0, [0; 4], &[DefaultNla::new(NHA_ID, id.to_ne_bytes().to_vec())])
}

fn request(kind: u16, flags: u16, header: [u8; 4], attributes: &[DefaultNla]) -> Request {
    let mut payload = header.to_vec();
    payload.extend_from_slice(&[0; 4]);
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
    let request = request(rtm::GETNEXTHOP, 0, [0; 4], &[]);
    let dumped = netlink.dump("nexthops", &request, |found: &mut BTreeMap<_, _>, kind, payload| {
        let id = attribute(payload, NHMSG, NHA_ID).and_then(|v| u32_at(v, 0));
        if let (rtm::NEWNEXTHOP, Some(id)) = (kind, id) {
            found.insert(id, ObservedNexthop { spec: decode(payload, names), ours: is_ours(payload) });
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

fn decode(payload: &[u8], names: &BTreeMap<u32, String>) -> Option<Nexthop> {
    let value = |kind| attribute(payload, NHMSG, kind);
    let dev = names.get(&u32_at(value(NHA_OIF)?, 0)?)?.clone();
    let gateway = value(NHA_GATEWAY);
    let encap = value(NHA_ENCAP)?;
    match (u16_at(value(NHA_ENCAP_TYPE)?, 0)?, gateway) {
        (ENCAP_IP, None) => decode_encap_ip(encap, dev),
        (ENCAP_MPLS, Some(via)) => {
            const MPLS_IPTUNNEL_DST: u16 = 1;
            let label = label_of(attribute(encap, 0, MPLS_IPTUNNEL_DST)?)?;
            Some(Nexthop::Mpls { label, via: ipv4(via)?, dev })
        }
        _ => None,
    }
}

/// `LWTUNNEL_IP_*`
fn decode_encap_ip(encap: &[u8], dev: String) -> Option<Nexthop> {
    const ID: u16 = 1;
    const DST: u16 = 2;
    const SRC: u16 = 3;
    const TTL: u16 = 4;
    let (mut src, mut dst) = (None, None);
    for (kind, value) in attributes(encap, 0) {
        match kind {
            DST => dst = Some(ipv4(value)?),
            SRC => src = Some(ipv4(value)?),
            TTL if value != [OUTER_TTL] => return None,
            TTL => {}
            // ID, TOS, FLAGS and whatever is to come: zero, or not ours.
            ID.. if value.iter().any(|b| *b != 0) => return None,
            _ => {}
        }
    }
    Some(Nexthop::EncapIp { dev, src: src?, dst: dst? })
}
