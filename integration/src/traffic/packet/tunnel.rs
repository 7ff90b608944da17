//! Packets in packets: GRE, VXLAN-GPE and MPLS, with either version of IP inside and outside.

use super::{ETHERTYPE_IPV4, GRE};

/// Two addresses of one family that a packet can have.
pub trait Ends: Copy {
    /// The packet between them.
    type Packet;

    /// A packet from here to `destination`.
    fn packet(self, destination: Self, protocol: u8, payload: Vec<u8>) -> Self::Packet;
}

/// Two addresses with ports of one family that a datagram can have.
pub trait UdpEnds: Copy {
    /// The packet between them.
    type Packet;

    /// A UDP datagram from here to `destination`.
    fn datagram(self, destination: Self, data: &[u8]) -> Self::Packet;
}

/// `inner`, of that EtherType, inside a GRE packet.
pub(super) fn in_gre<A: Ends>((ethertype, inner): (u16, Vec<u8>), source: A, destination: A) -> A::Packet {
    let header = [[0, 0], ethertype.to_be_bytes()].concat();
    source.packet(destination, GRE, [header, inner].concat())
}

/// `inner`, of that EtherType, inside a VXLAN-GPE datagram.
pub(super) fn in_vxlan_gpe<S: UdpEnds>((ethertype, inner): (u16, Vec<u8>), ends: (S, S), vni: u32) -> S::Packet {
    // Flags: instance and next protocol are valid; next protocol 1 is IPv4, 2 is IPv6.
    let next = if ethertype == ETHERTYPE_IPV4 { 1 } else { 2 };
    let header = [[0x0c, 0, 0, next], (vni << 8).to_be_bytes()].concat();
    ends.0.datagram(ends.1, &[header, inner].concat())
}

/// `inner` behind one MPLS label, which is the bottom of the stack.
pub(super) fn behind_label(inner: &[u8], label: u32, ttl: u8) -> Vec<u8> {
    let entry = (label << 12) | 0x100 | u32::from(ttl);
    [&entry.to_be_bytes()[..], inner].concat()
}
