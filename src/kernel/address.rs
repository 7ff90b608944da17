//! IPv4 addresses on devices: the VIPs of a pod.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::plan::{Address, PROTOCOL};

use super::error::KernelError;
use super::netlink::Netlink;
use super::wire::{Request, attribute, ipv4, rtm, u8_at, u32_at};

/// `struct ifaddrmsg`
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_PROTO: u16 = 11;

/// `ip address replace A/32 dev #INDEX proto 107`; kernels before 5.18 ignore the protocol.
pub(super) fn add(address: Ipv4Addr, index: u32) -> Request {
    let mut message = host_address(address, index);
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)));
    Request::new(&RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// `ip address del A/32 dev #INDEX`
pub(super) fn del(address: Ipv4Addr, index: u32) -> Request {
    Request::new(&RouteNetlinkMessage::DelAddress(host_address(address, index)), 0)
}

fn host_address(address: Ipv4Addr, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    let address = IpAddr::V4(address);
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// One observed address: which, on which device, its prefix length, and whether it carries our protocol number.
pub(super) struct Found {
    pub address: Ipv4Addr,
    pub index: u32,
    pub prefix_len: u8,
    pub ours: bool,
}

/// Reads a `RTM_NEWADDR` or `RTM_DELADDR`; `None` if it is not IPv4.
pub(super) fn decode(payload: &[u8]) -> Option<Found> {
    if u8_at(payload, 0)? != u8::from(AddressFamily::Inet) {
        return None;
    }
    // IFA_ADDRESS is the peer's on a point-to-point link.
    let local = attribute(payload, IFADDRMSG, IFA_LOCAL).or_else(|| attribute(payload, IFADDRMSG, IFA_ADDRESS));
    Some(Found {
        address: local.and_then(ipv4)?,
        index: u32_at(payload, 4)?,
        prefix_len: u8_at(payload, 1)?,
        ours: attribute(payload, IFADDRMSG, IFA_PROTO).and_then(|v| u8_at(v, 0)) == Some(PROTOCOL),
    })
}

/// All IPv4 addresses of the namespace. One on a link of ours is ours even without the protocol number.
pub(super) fn dump(
    netlink: &mut Netlink,
    names: &BTreeMap<u32, String>,
    link_prefix: &str,
) -> Result<Vec<(Address, u8, bool)>, KernelError> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    let request = Request::new(&RouteNetlinkMessage::GetAddress(message), 0);
    netlink.dump("addresses", &request, |list: &mut Vec<_>, kind, payload| {
        let Some(found) = (kind == rtm::NEWADDR).then(|| decode(payload)).flatten() else { return };
        let Some(dev) = names.get(&found.index) else { return };
        let ours = found.ours || dev.starts_with(link_prefix);
        list.push((Address { dev: dev.clone(), address: found.address }, found.prefix_len, ours));
    })
}
