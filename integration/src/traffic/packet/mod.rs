//! Packets built by hand: what an attacker, a router or a tunnel would put on the wire.

mod ipv4;
mod ipv6;
mod tcp;
mod tunnel;

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use tcp::{ACK, RST, SYN, Segment, TCP};
pub use tunnel::{Ends, UdpEnds};

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// Next header of a fragment, in IPv6.
pub const FRAGMENT: u8 = 44;
/// IP protocol number of GRE.
pub const GRE: u8 = 47;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of MPLS.
pub const ETHERTYPE_MPLS: u16 = 0x8847;

/// An IP packet of either version, ready to be sent.
pub trait Packet {
    /// Where it goes.
    fn destination(&self) -> IpAddr;

    /// The packet on the wire, with length and checksum filled in.
    fn to_bytes(&self) -> Vec<u8>;
}

impl Packet for Ipv4 {
    fn destination(&self) -> IpAddr {
        self.destination.into()
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes()
    }
}

impl Packet for Ipv6 {
    fn destination(&self) -> IpAddr {
        self.destination.into()
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes()
    }
}

impl Ends for std::net::Ipv4Addr {
    type Packet = Ipv4;

    fn packet(self, destination: Self, protocol: u8, payload: Vec<u8>) -> Ipv4 {
        Ipv4::new(self, destination, protocol, payload)
    }
}

impl Ends for std::net::Ipv6Addr {
    type Packet = Ipv6;

    fn packet(self, destination: Self, protocol: u8, payload: Vec<u8>) -> Ipv6 {
        Ipv6::new(self, destination, protocol, payload)
    }
}

impl UdpEnds for SocketAddrV4 {
    type Packet = Ipv4;

    fn datagram(self, destination: Self, data: &[u8]) -> Ipv4 {
        Ipv4::udp(self, destination, data)
    }
}

impl UdpEnds for SocketAddrV6 {
    type Packet = Ipv6;

    fn datagram(self, destination: Self, data: &[u8]) -> Ipv6 {
        Ipv6::udp(self, destination, data)
    }
}

/// A UDP header with its checksum, and the data.
fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX).to_be_bytes();
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let ends = [octets(source.ip()), octets(destination.ip())].concat();
    // The pseudo headers of the two families differ in the width of length and protocol, which does not change the sum.
    let summed = [&ends[..], &[0, UDP], &length, &ports, &length, &[0, 0], data].concat();
    // Zero means "no checksum", so a sum of zero is sent as its other form.
    let sum = match checksum(&summed) {
        0 => 0xffff,
        sum => sum,
    };
    [&ports[..], &length, &sum.to_be_bytes(), data].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Source port, destination port and data of a UDP datagram.
fn udp_parts(payload: &[u8]) -> Option<(u16, u16, &[u8])> {
    let port = |at: usize| Some(u16::from_be_bytes(payload.get(at..at + 2)?.try_into().ok()?));
    Some((port(0)?, port(2)?, payload.get(8..)?))
}

/// The internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(u16::from_be_bytes([high, 0])),
        _ => 0,
    });
    let folded = words.fold(0, |sum: u32, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    // Folded after each word, so it fits.
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

/// What one fragment carries.
struct Piece<'a> {
    /// Where it begins, in bytes: a multiple of 8.
    offset: u16,
    /// Others follow.
    more: bool,
    data: &'a [u8],
}

/// A payload in pieces of at most `size` bytes, rounded down to a multiple of 8.
fn pieces(payload: &[u8], size: usize) -> impl Iterator<Item = Piece<'_>> {
    let size = (size / 8 * 8).max(8);
    let last = payload.chunks(size).len().saturating_sub(1);
    payload.chunks(size).enumerate().map(move |(n, data)| Piece {
        offset: u16::try_from(n * size).unwrap_or(u16::MAX),
        more: n < last,
        data,
    })
}
