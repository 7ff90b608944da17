//! Addresses on devices: the VIPs of a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo};

use crate::model::Family;
use crate::plan::{Address, PROTOCOL};

use super::error::KernelError;
use super::netlink::Netlink;
use super::wire::{Request, address_family, attribute, family_of, ip, rtm, u8_at, u32_at};

/// `struct ifaddrmsg`
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_PROTO: u16 = 11;

/// `ip address replace A/32 dev #INDEX proto 107`, or `A/128 … nodad preferred_lft 0`; kernels before 5.18 ignore the
/// protocol.
pub(super) fn add(address: IpAddr, index: u32) -> Request {
    let mut message = host_address(address, index);
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)));
    if address.is_ipv6() {
        // Never preferred as a source (RFC 6724 rule 3); valid for ever.
        let mut lifetimes = CacheInfo::default();
        (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Request::new(&RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// `ip address del A/32 dev #INDEX`
pub(super) fn del(address: IpAddr, index: u32) -> Request {
    Request::new(&RouteNetlinkMessage::DelAddress(host_address(address, index)), 0)
}

fn host_address(address: IpAddr, index: u32) -> AddressMessage {
    let family = Family::of(address);
    let mut message = AddressMessage::default();
    message.header.family = address_family(family);
    message.header.prefix_len = family.bits();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// One observed address: which, on which device, its prefix length, and whether it carries our protocol number.
pub(super) struct Found {
    pub address: IpAddr,
    pub index: u32,
    pub prefix_len: u8,
    pub ours: bool,
}

impl Found {
    /// Whether we made it: by its protocol number, or because it is on a link of ours (kernels before 5.18 forget the
    /// number). The kernel gives every link a link-local IPv6 address of its own.
    pub fn is_ours(&self, dev: &str, link_prefix: &str) -> bool {
        let link_local = matches!(self.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        self.ours || (dev.starts_with(link_prefix) && !link_local)
    }
}

/// Reads a `RTM_NEWADDR` or `RTM_DELADDR`; `None` if it is not IP.
pub(super) fn decode(payload: &[u8]) -> Option<Found> {
    family_of(payload)?;
    // IFA_ADDRESS is the peer's on a point-to-point link.
    let local = attribute(payload, IFADDRMSG, IFA_LOCAL).or_else(|| attribute(payload, IFADDRMSG, IFA_ADDRESS));
    Some(Found {
        address: local.and_then(ip)?,
        index: u32_at(payload, 4)?,
        prefix_len: u8_at(payload, 1)?,
        ours: attribute(payload, IFADDRMSG, IFA_PROTO).and_then(|v| u8_at(v, 0)) == Some(PROTOCOL),
    })
}

/// All addresses of the namespace. One on a link of ours is ours even without the protocol number.
pub(super) fn dump(
    netlink: &mut Netlink,
    names: &BTreeMap<u32, String>,
    link_prefix: &str,
) -> Result<Vec<(Address, u8, bool)>, KernelError> {
    // Unspecified: both families.
    let request = Request::new(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), 0);
    netlink.dump("addresses", &request, |list: &mut Vec<_>, kind, payload| {
        let Some(found) = (kind == rtm::NEWADDR).then(|| decode(payload)).flatten() else { return };
        let Some(dev) = names.get(&found.index) else { return };
        let ours = found.is_ours(dev, link_prefix);
        list.push((Address { dev: dev.clone(), address: found.address }, found.prefix_len, ours));
    })
}
