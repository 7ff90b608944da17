//! Netlink on the wire: messages as bytes, and a reader for attributes that never fails on what it does not know.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NetlinkSerializable, NlasIterator};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::model::Family;

/// `struct nlmsghdr` (include/uapi/linux/netlink.h).
pub(super) const HEADER: usize = 16;

/// `NFNL_SUBSYS_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h).
pub(super) const NFTABLES: u16 = 10;

/// Message types that a dump or a notification of ours can carry (include/uapi/linux/rtnetlink.h).
pub(super) mod rtm {
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const NEWNEIGH: u16 = 28;
    pub const NEWRULE: u16 = 32;
    pub const DELRULE: u16 = 33;
    pub const NEWQDISC: u16 = 36;
    pub const DELQDISC: u16 = 37;
    pub const NEWTFILTER: u16 = 44;
    pub const DELTFILTER: u16 = 45;
    pub const GETTFILTER: u16 = 46;
    pub const NEWNEXTHOP: u16 = 104;
    pub const DELNEXTHOP: u16 = 105;
    pub const GETNEXTHOP: u16 = 106;
}

/// A request: type, flags beyond `NLM_F_REQUEST`, and the bytes after the netlink header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// `RTM_*`
    pub kind: u16,
    /// `NLM_F_CREATE`, `NLM_F_REPLACE`, …
    pub flags: u16,
    /// Family header and attributes.
    pub payload: Vec<u8>,
}

impl Request {
    /// From a message of `netlink-packet-route`.
    pub fn new(message: &RouteNetlinkMessage, flags: u16) -> Self {
        let mut payload = vec![0; NetlinkSerializable::buffer_len(message)];
        message.serialize(&mut payload);
        Request { kind: message.message_type(), flags, payload }
    }

    /// Appends the message with its header to `buffer`.
    pub fn emit(&self, flags: u16, sequence: u32, buffer: &mut Vec<u8>) {
        let length = u32::try_from(HEADER + self.payload.len()).unwrap_or(u32::MAX);
        buffer.extend_from_slice(&length.to_ne_bytes());
        buffer.extend_from_slice(&self.kind.to_ne_bytes());
        buffer.extend_from_slice(&(self.flags | flags).to_ne_bytes());
        buffer.extend_from_slice(&sequence.to_ne_bytes());
        buffer.extend_from_slice(&0_u32.to_ne_bytes());
        buffer.extend_from_slice(&self.payload);
        buffer.resize(buffer.len().next_multiple_of(4), 0);
    }
}

/// A message as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    /// `RTM_*` or `NLMSG_*`
    pub kind: u16,
    /// `NLM_F_*`
    pub flags: u16,
    /// Sequence number of the request that it answers.
    pub sequence: u32,
    /// Of an answer: the socket that it goes to. Of a notification: the socket that asked for the change, 0 for the kernel itself.
    pub port: u32,
    /// Everything after the netlink header.
    pub payload: &'a [u8],
}

/// The messages of one datagram; stops at the first that is cut off.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
        let payload = datagram.get(HEADER..length)?;
        let (kind, flags) = (u16_at(datagram, 4)?, u16_at(datagram, 6)?);
        let reply = Reply { kind, flags, sequence: u32_at(datagram, 8)?, port: u32_at(datagram, 12)?, payload };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(reply)
    })
}

/// The attributes behind a fixed header of `skip` bytes: type (without its flag bits) and value.
pub(super) fn attributes(payload: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload.get(skip..).unwrap_or_default();
    std::iter::from_fn(move || {
        // NlaBuffer::value borrows from the buffer, not from what it points to, so the slice is cut here.
        let nla = NlasIterator::new(rest).next()?.ok()?;
        let (kind, length) = (nla.kind(), usize::from(nla.length()));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a type.
pub(super) fn attribute(payload: &[u8], skip: usize, kind: u16) -> Option<&[u8]> {
    attributes(payload, skip).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// Appends an attribute, padded.
pub(super) fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A byte at an offset.
pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// A number in host byte order at an offset.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A number in host byte order at an offset.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A number in network byte order at the start.
pub(super) fn be16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// A number in network byte order at the start.
pub(super) fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// An IPv4 address: exactly four bytes.
pub(super) fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.try_into().ok()?;
    Some(octets.into())
}

/// An address of the family that its length says: four bytes or sixteen.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    ipv4(bytes).map(IpAddr::V4).or_else(v6)
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// The family that a message's header begins with; `None` for any other than IP.
pub(super) fn family_of(payload: &[u8]) -> Option<Family> {
    let number = u8_at(payload, 0)?;
    Family::ALL.into_iter().find(|family| u8::from(address_family(*family)) == number)
}

/// A string, with or without its terminating zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_split_into_messages_and_a_torn_one_is_dropped() {
        let mut bytes = Vec::new();
        Request { kind: 7, flags: 1, payload: vec![1, 2, 3] }.emit(2, 9, &mut bytes);
        Request { kind: 8, flags: 0, payload: vec![] }.emit(0, 10, &mut bytes);
        bytes.extend_from_slice(&[40, 0, 0, 0, 1]);
        let seen: Vec<_> = messages(&bytes).map(|m| (m.kind, m.flags, m.sequence, m.payload.to_vec())).collect();
        assert_eq!(seen, [(7, 3, 9, vec![1, 2, 3]), (8, 0, 10, vec![])]);
    }

    #[test]
    fn attributes_are_read_up_to_the_first_that_is_torn() {
        let bytes = [0xff, 0xff, 0, 0, 5, 0, 1, 0x80, 42, 0, 0, 0, 8, 0, 2, 0, 1, 0, 0, 0, 9, 0, 3, 0, 1];
        let seen: Vec<_> = attributes(&bytes, 4).collect();
        assert_eq!(seen, [(1, &[42_u8][..]), (2, &[1, 0, 0, 0][..])]);
        assert_eq!(attribute(&bytes, 4, 2).and_then(|v| u32_at(v, 0)), Some(1));
        assert_eq!(attributes(&bytes, 400).count(), 0);
    }
}
