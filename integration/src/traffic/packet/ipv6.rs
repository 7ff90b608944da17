//! IPv6 packets.

use std::net::{Ipv6Addr, SocketAddrV6};

use super::tunnel::{self, Ends, UdpEnds};
use super::{ETHERTYPE_IPV6, FRAGMENT, Piece, UDP, pieces, udp, udp_parts};

/// An IPv6 packet. Extension headers are part of the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv6 {
    /// Source address, forged or not.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// What the payload begins with.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Ipv6 {
    /// A packet with hop limit 64.
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: Vec<u8>) -> Self {
        Self { source, destination, next_header, hop_limit: 64, traffic_class: 0, flow_label: 0, payload }
    }

    /// A UDP datagram.
    pub fn udp(source: SocketAddrV6, destination: SocketAddrV6, data: &[u8]) -> Self {
        Self::new(*source.ip(), *destination.ip(), UDP, udp(source.into(), destination.into(), data))
    }

    /// This packet in fragments whose payloads have at most `size` bytes, a multiple of 8.
    pub fn fragments(&self, id: u32, size: usize) -> Vec<Ipv6> {
        let fragment = |Piece { offset, more, data }: Piece<'_>| {
            // The offset counts units of 8 bytes, above three bits of flags.
            let offset = offset | u16::from(more);
            let header = [&[self.next_header, 0][..], &offset.to_be_bytes(), &id.to_be_bytes()].concat();
            Self { next_header: FRAGMENT, payload: [&header, data].concat(), ..self.clone() }
        };
        pieces(&self.payload, size).map(fragment).collect()
    }

    /// This packet inside a GRE packet between the given ends.
    pub fn in_gre<A: Ends>(&self, source: A, destination: A) -> A::Packet {
        tunnel::in_gre((ETHERTYPE_IPV6, self.to_bytes()), source, destination)
    }

    /// This packet inside a VXLAN-GPE datagram between the given ends.
    pub fn in_vxlan_gpe<S: UdpEnds>(&self, source: S, destination: S, vni: u32) -> S::Packet {
        tunnel::in_vxlan_gpe((ETHERTYPE_IPV6, self.to_bytes()), (source, destination), vni)
    }

    /// This packet behind one MPLS label (bottom of stack): the payload of a frame with
    /// [`ETHERTYPE_MPLS`](super::ETHERTYPE_MPLS).
    pub fn behind_label(&self, label: u32, ttl: u8) -> Vec<u8> {
        tunnel::behind_label(&self.to_bytes(), label, ttl)
    }

    /// The packet on the wire, with the length filled in.
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u16::try_from(self.payload.len()).unwrap_or(u16::MAX);
        let first = 0x6000_0000 | u32::from(self.traffic_class) << 20 | (self.flow_label & 0xf_ffff);
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend([self.next_header, self.hop_limit]);
        bytes.extend([self.source.octets(), self.destination.octets()].concat());
        bytes.extend(&self.payload);
        bytes
    }

    /// Reads a packet; `None` if it is none or not complete.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let first = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
        let length = u16::from_be_bytes(bytes.get(4..6)?.try_into().ok()?);
        let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
        let [.., high, low] = (first >> 20).to_be_bytes();
        if high != 6 {
            return None;
        }
        Some(Self {
            source: address(8)?,
            destination: address(24)?,
            next_header: *bytes.get(6)?,
            hop_limit: *bytes.get(7)?,
            traffic_class: low,
            flow_label: first & 0xf_ffff,
            payload: bytes.get(40..40 + usize::from(length))?.to_vec(),
        })
    }

    /// Source port, destination port and data, if this is a UDP datagram without extension headers.
    pub fn as_udp(&self) -> Option<(u16, u16, &[u8])> {
        (self.next_header == UDP).then(|| udp_parts(&self.payload))?
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::super::{Ipv4, checksum};
    use super::*;

    const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 2);
    const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10);

    fn datagram(data: &[u8]) -> Ipv6 {
        Ipv6::udp(SocketAddrV6::new(CLIENT, 40000, 0, 0), SocketAddrV6::new(VIP, 12345, 0, 0), data)
    }

    #[test]
    fn a_packet_survives_being_written_and_read() {
        let packet = Ipv6 { traffic_class: 0xb8, flow_label: 0x12345, ..datagram(b"hello") };
        assert_eq!(Ipv6::parse(&packet.to_bytes()), Some(packet.clone()));
        assert_eq!(packet.as_udp(), Some((40000, 12345, &b"hello"[..])));
    }

    #[test]
    fn a_datagram_and_its_pseudo_header_sum_up_to_nothing() {
        let packet = datagram(b"odd");
        let length = u32::try_from(packet.payload.len()).unwrap().to_be_bytes();
        let pseudo = [&CLIENT.octets()[..], &VIP.octets(), &length, &[0, 0, 0, UDP]].concat();
        assert_eq!(checksum(&[pseudo, packet.payload].concat()), 0);
    }

    #[test]
    fn fragments_carry_all_of_the_packet_in_order() {
        let packet = datagram(&[7; 100]);
        let fragments = packet.fragments(9, 48);
        let heads: Vec<&[u8]> = fragments.iter().map(|fragment| &fragment.payload[..8]).collect();
        assert_eq!(heads, [[17, 0, 0, 1, 0, 0, 0, 9], [17, 0, 0, 49, 0, 0, 0, 9], [17, 0, 0, 96, 0, 0, 0, 9]]);
        let joined: Vec<u8> = fragments.iter().flat_map(|fragment| fragment.payload[8..].to_vec()).collect();
        assert_eq!(joined, packet.payload);
    }

    #[test]
    fn encapsulations_carry_the_packet_at_the_documented_overhead() {
        let (inner, node, pod) = (datagram(b"hello"), Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 244, 1, 2));
        let plain = inner.to_bytes().len();
        let gre: Ipv4 = inner.in_gre(node, pod);
        assert_eq!((gre.to_bytes().len() - plain, &gre.payload[..4]), (24, &[0, 0, 0x86, 0xdd][..]));
        let vxlan = inner.in_vxlan_gpe(SocketAddrV4::new(node, 1), SocketAddrV4::new(pod, 4790), 0);
        assert_eq!((vxlan.to_bytes().len() - plain, &vxlan.payload[8..12]), (36, &[0x0c, 0, 0, 2][..]));
        let gre6: Ipv6 = inner.in_gre(CLIENT, VIP);
        assert_eq!(gre6.to_bytes().len() - plain, 44);
    }

    #[test]
    fn rubbish_is_not_a_packet() {
        assert_eq!(Ipv6::parse(b""), None);
        assert_eq!(Ipv6::parse(&[0x45; 60]), None);
        assert_eq!(Ipv6::parse(&datagram(b"hello").to_bytes()[..45]), None);
    }
}
