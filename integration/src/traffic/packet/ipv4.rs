//! IPv4 packets.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::tunnel::{self, Ends, UdpEnds};
use super::{ETHERTYPE_IPV4, Piece, UDP, checksum, pieces, udp, udp_parts};

/// An IPv4 packet without options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv4 {
    /// Source address, forged or not.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Identification: fragments of one packet share it.
    pub id: u16,
    /// Flags (upper three bits: 0x4000 don't fragment, 0x2000 more fragments) and offset in units of 8 bytes.
    pub fragment: u16,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Ipv4 {
    /// A packet with TTL 64 that may be fragmented.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self { source, destination, protocol, ttl: 64, tos: 0, id: 1, fragment: 0, payload }
    }

    /// A UDP datagram.
    pub fn udp(source: SocketAddrV4, destination: SocketAddrV4, data: &[u8]) -> Self {
        Self::new(*source.ip(), *destination.ip(), UDP, udp(source.into(), destination.into(), data))
    }

    /// This packet in fragments whose payloads have at most `size` bytes, a multiple of 8.
    pub fn fragments(&self, id: u16, size: usize) -> Vec<Ipv4> {
        let fragment = |Piece { offset, more, data }: Piece<'_>| {
            let fragment = (offset / 8) | if more { 0x2000 } else { 0 };
            Self { id, fragment, payload: data.to_vec(), ..self.clone() }
        };
        pieces(&self.payload, size).map(fragment).collect()
    }

    /// This packet inside a GRE packet between the given ends.
    pub fn in_gre<A: Ends>(&self, source: A, destination: A) -> A::Packet {
        tunnel::in_gre((ETHERTYPE_IPV4, self.to_bytes()), source, destination)
    }

    /// This packet inside a VXLAN-GPE datagram between the given ends.
    pub fn in_vxlan_gpe<S: UdpEnds>(&self, source: S, destination: S, vni: u32) -> S::Packet {
        tunnel::in_vxlan_gpe((ETHERTYPE_IPV4, self.to_bytes()), (source, destination), vni)
    }

    /// This packet behind one MPLS label (bottom of stack): the payload of a frame with
    /// [`ETHERTYPE_MPLS`](super::ETHERTYPE_MPLS).
    pub fn behind_label(&self, label: u32, ttl: u8) -> Vec<u8> {
        tunnel::behind_label(&self.to_bytes(), label, ttl)
    }

    /// The packet on the wire, with length and checksum filled in.
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u16::try_from(20 + self.payload.len()).unwrap_or(u16::MAX);
        let mut header = vec![0x45, self.tos];
        header.extend([length.to_be_bytes(), self.id.to_be_bytes(), self.fragment.to_be_bytes()].concat());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend([self.source.octets(), self.destination.octets()].concat());
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        [header, self.payload.clone()].concat()
    }

    /// Reads a packet; `None` if it is none or not complete.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
        let first = *bytes.first()?;
        let header = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || header < 20 {
            return None;
        }
        Some(Self {
            source: address(12)?,
            destination: address(16)?,
            protocol: *bytes.get(9)?,
            ttl: *bytes.get(8)?,
            tos: *bytes.get(1)?,
            id: short(4)?,
            fragment: short(6)?,
            payload: bytes.get(header..usize::from(short(2)?))?.to_vec(),
        })
    }

    /// Source port, destination port and data, if this is an unfragmented UDP datagram.
    pub fn as_udp(&self) -> Option<(u16, u16, &[u8])> {
        let whole = self.protocol == UDP && self.fragment & 0x3fff == 0;
        whole.then(|| udp_parts(&self.payload))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram() -> Ipv4 {
        let source = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 2), 40000);
        Ipv4::udp(source, SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 12345), b"hello")
    }

    #[test]
    fn a_packet_survives_being_written_and_read() {
        let packet = datagram();
        let bytes = packet.to_bytes();
        assert_eq!(checksum(&bytes[..20]), 0);
        assert_eq!(Ipv4::parse(&bytes), Some(packet.clone()));
        assert_eq!(packet.as_udp(), Some((40000, 12345, &b"hello"[..])));
    }

    #[test]
    fn a_known_header_has_its_known_checksum() {
        // A worked example that is found in many places, computed by others.
        let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(checksum(&header), 0xb861);
    }

    #[test]
    fn encapsulations_carry_the_packet_at_the_documented_overhead() {
        let (inner, node, pod) = (datagram(), Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 244, 1, 2));
        let plain = inner.to_bytes().len();
        let gre = inner.in_gre(node, pod);
        assert_eq!((gre.to_bytes().len() - plain, &gre.payload[..4]), (24, &[0, 0, 8, 0][..]));
        let vxlan = inner.in_vxlan_gpe(SocketAddrV4::new(node, 1), SocketAddrV4::new(pod, 4790), 7);
        assert_eq!((vxlan.to_bytes().len() - plain, &vxlan.payload[8..16]), (36, &[0x0c, 0, 0, 1, 0, 0, 7, 0][..]));
        assert_eq!(inner.behind_label(100, 64)[..4], [0, 0x06, 0x41, 0x40]);
    }

    #[test]
    fn rubbish_is_not_a_packet() {
        assert_eq!(Ipv4::parse(b""), None);
        assert_eq!(Ipv4::parse(&[0x60; 40]), None);
        assert_eq!(Ipv4::parse(&datagram().to_bytes()[..25]), None);
    }
}
