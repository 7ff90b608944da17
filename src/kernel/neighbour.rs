//! Neighbours: the MAC addresses behind on-link addresses.

use std::collections::BTreeMap;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};

use crate::model::Family;
use crate::plan::observed::ObservedNeighbour;
use crate::plan::{Mac, Neighbour, PROTOCOL};

use super::error::KernelError;
use super::netlink::Netlink;
use super::wire::{Request, address_family, attribute, family_of, ip, rtm, u8_at, u16_at, u32_at};

/// `struct ndmsg`
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_PROTOCOL: u16 = 12;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_EXT_MANAGED: u32 = 1;
/// `NUD_REACHABLE`, `NUD_STALE`, `NUD_DELAY`, `NUD_PROBE` and `NUD_PERMANENT`: the MAC address is in use.
const NUD_IN_USE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;

/// `ip neighbour replace A dev #INDEX managed protocol 107` (Linux 5.16): the kernel asks for it now, and again whenever it
/// has become uncertain.
pub(super) fn add(neighbour: &Neighbour, index: u32) -> Request {
    let mut message = keyed(neighbour, index);
    message.header.state = NeighbourState::None;
    message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL.into()));
    message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    Request::new(&RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// `ip neighbour del A dev #INDEX`
pub(super) fn del(neighbour: &Neighbour, index: u32) -> Request {
    Request::new(&RouteNetlinkMessage::DelNeighbour(keyed(neighbour, index)), 0)
}

fn keyed(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(neighbour.address));
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(neighbour.address)));
    message
}

/// All neighbours of the namespace, of both families.
pub(super) fn dump(
    netlink: &mut Netlink,
    names: &BTreeMap<u32, String>,
) -> Result<BTreeMap<Neighbour, ObservedNeighbour>, KernelError> {
    let request = Request::new(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), 0);
    netlink.dump("neighbours", &request, |all: &mut BTreeMap<_, _>, kind, payload| {
        if kind == rtm::NEWNEIGH {
            all.extend(decode(payload, names));
        }
    })
}

pub(super) fn decode(payload: &[u8], names: &BTreeMap<u32, String>) -> Option<(Neighbour, ObservedNeighbour)> {
    family_of(payload)?;
    let value = |kind| attribute(payload, NDMSG, kind);
    let neighbour = Neighbour { dev: names.get(&u32_at(payload, 4)?)?.clone(), address: ip(value(NDA_DST)?)? };
    let in_use = u16_at(payload, 8)? & NUD_IN_USE != 0;
    let mac = value(NDA_LLADDR).filter(|_| in_use).and_then(|mac| mac.try_into().ok()).map(Mac);
    let managed = value(NDA_FLAGS_EXT).and_then(|flags| u32_at(flags, 0)).unwrap_or(0) & NTF_EXT_MANAGED != 0;
    let ours = managed && value(NDA_PROTOCOL).and_then(|v| u8_at(v, 0)) == Some(PROTOCOL);
    Some((neighbour, ObservedNeighbour { mac, ours }))
}
