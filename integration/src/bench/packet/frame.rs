//! An Ethernet frame as it arrives at the sink: what is in it, and what it is wrapped in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tunnel_router::model::Mode;

use super::site::VXLAN_PORT;
use crate::traffic::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_MPLS, GRE, TCP, UDP};

const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
/// UDP and VXLAN.
const VXLAN_HEADERS: usize = 8 + 8;
/// Without checksum, key or sequence number.
const GRE_HEADER: usize = 4;
/// In the first two bytes of the GRE header: four bytes of key follow (RFC 2890).
const GRE_KEY: u16 = 0x2000;

/// What a datagram is wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// Nothing.
    Bare,
    /// Another IP header.
    Ipip,
    /// As tunnel-router does it in that mode.
    Tunnel(Mode),
}

/// The parts of a frame that say which way it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Ethernet address of the receiver.
    pub mac: [u8; 6],
    /// How the datagram travels.
    pub wrapping: Wrapping,
    /// The tunnel id: the key of GRE, the VNI of VXLAN; 0 if there is none.
    pub id: u32,
    /// Source and destination of the outer IP header, if there is one.
    pub outer: Option<(IpAddr, IpAddr)>,
    /// Source and destination of the packet inside.
    pub inner: (IpAddr, IpAddr),
    /// Its protocol, one that has ports.
    pub protocol: u8,
    /// Its source and destination port.
    pub ports: (u16, u16),
    /// What follows its IP header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Reads a frame; `None` if it is nothing that this bench knows.
    pub fn parse(bytes: &[u8]) -> Option<Frame> {
        let mac = bytes.get(..6)?.try_into().ok()?;
        let (ethertype, rest) = (short(bytes, 12)?, bytes.get(14..)?);
        let frame = |wrapping, id, outer, packet: Ip<'_>| {
            let ports = (short(packet.payload, 0)?, short(packet.payload, 2)?);
            let (inner, payload) = ((packet.source, packet.destination), packet.payload.to_vec());
            let has_ports = [TCP, UDP].contains(&packet.protocol);
            has_ports.then_some(Frame { mac, wrapping, id, outer, inner, protocol: packet.protocol, ports, payload })
        };
        match ethertype {
            ETHERTYPE_MPLS => frame(Wrapping::Tunnel(Mode::Mpls), 0, None, ip(behind_labels(rest)?)?),
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => {
                let packet = ip(rest)?;
                let (wrapping, id, inside) = unwrap(&packet, rest)?;
                let outer = (wrapping != Wrapping::Bare).then_some((packet.source, packet.destination));
                frame(wrapping, id, outer, ip(inside)?)
            }
            _ => None,
        }
    }
}

struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

fn ip(bytes: &[u8]) -> Option<Ip<'_>> {
    let v4 = |at: usize| Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?)));
    let v6 = |at: usize| Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?)));
    match *bytes.first()? {
        0x45 => Some(Ip { source: v4(12)?, destination: v4(16)?, protocol: *bytes.get(9)?, payload: bytes.get(20..)? }),
        first if first >> 4 == 6 => {
            Some(Ip { source: v6(8)?, destination: v6(24)?, protocol: *bytes.get(6)?, payload: bytes.get(40..)? })
        }
        _ => None,
    }
}

/// How a packet of these bytes travels, its tunnel id, and what is inside; `None` if it is cut off.
fn unwrap<'a>(packet: &Ip<'a>, bytes: &'a [u8]) -> Option<(Wrapping, u32, &'a [u8])> {
    let payload = packet.payload;
    Some(match packet.protocol {
        IPV4_IN_IP | IPV6_IN_IP => (Wrapping::Ipip, 0, payload),
        GRE if short(payload, 0)? & GRE_KEY == 0 => (Wrapping::Tunnel(Mode::Gre), 0, payload.get(GRE_HEADER..)?),
        GRE => (Wrapping::Tunnel(Mode::Gre), long(payload, GRE_HEADER)?, payload.get(GRE_HEADER + 4..)?),
        UDP if short(payload, 2) == Some(VXLAN_PORT) => {
            (Wrapping::Tunnel(Mode::Vxlan), long(payload, VXLAN_HEADERS - 4)? >> 8, payload.get(VXLAN_HEADERS..)?)
        }
        _ => (Wrapping::Bare, 0, bytes),
    })
}

/// The stack is as deep as its first entry with the bottom bit.
fn behind_labels(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (entry, rest) = bytes.split_at_checked(4)?;
        if entry.get(2)? & 1 == 1 {
            return Some(rest);
        }
        bytes = rest;
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::packet::Ipv4;
    use std::net::SocketAddrV4;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
    const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);

    fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype.to_be_bytes(), payload].concat()
    }

    fn datagram() -> Ipv4 {
        Ipv4::udp(SocketAddrV4::new(CLIENT, 2000), SocketAddrV4::new(VIP, 53), b"hello")
    }

    #[test]
    fn a_datagram_is_found_in_whatever_it_is_wrapped() {
        let (inner, ends) = (datagram(), Some((NODE.into(), POD.into())));
        let ipip = Ipv4::new(NODE, POD, IPV4_IN_IP, inner.to_bytes());
        let vxlan = inner.in_vxlan_gpe(SocketAddrV4::new(NODE, 1), SocketAddrV4::new(POD, VXLAN_PORT), 5);
        let cases = [
            (ethernet(ETHERTYPE_IPV4, &inner.to_bytes()), Wrapping::Bare, 0, None),
            (ethernet(ETHERTYPE_IPV4, &ipip.to_bytes()), Wrapping::Ipip, 0, ends),
            (ethernet(ETHERTYPE_IPV4, &inner.in_gre(NODE, POD).to_bytes()), Wrapping::Tunnel(Mode::Gre), 0, ends),
            (ethernet(ETHERTYPE_IPV4, &vxlan.to_bytes()), Wrapping::Tunnel(Mode::Vxlan), 5, ends),
            (ethernet(ETHERTYPE_MPLS, &inner.behind_label(100, 64)), Wrapping::Tunnel(Mode::Mpls), 0, None),
        ];
        for (bytes, wrapping, id, outer) in cases {
            let (mac, inner, payload) = ([2, 0, 0, 0, 0, 1], (CLIENT.into(), VIP.into()), datagram().payload);
            let frame = Frame { mac, wrapping, id, outer, inner, protocol: UDP, ports: (2000, 53), payload };
            assert_eq!(Frame::parse(&bytes), Some(frame));
        }
    }

    #[test]
    fn a_datagram_is_found_behind_the_key_of_gre() {
        let gre = [&[0x20, 0, 8, 0, 0, 0x40, 0, 7][..], &datagram().to_bytes()].concat();
        let frame = Frame::parse(&ethernet(ETHERTYPE_IPV4, &Ipv4::new(NODE, POD, GRE, gre).to_bytes())).unwrap();
        assert_eq!((frame.wrapping, frame.id, frame.ports), (Wrapping::Tunnel(Mode::Gre), 0x40_0007, (2000, 53)));
    }

    #[test]
    fn ipv6_is_read_too() {
        let udp = [7, 208, 0, 53, 0, 8, 0, 0];
        let (from, to) = (Ipv6Addr::LOCALHOST, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 10));
        let header = [&[0x60, 0, 0, 0, 0, 8, UDP, 64][..], &from.octets(), &to.octets(), &udp].concat();
        let frame = Frame::parse(&ethernet(ETHERTYPE_IPV6, &header));
        assert_eq!(frame.map(|f| (f.wrapping, f.inner)), Some((Wrapping::Bare, (from.into(), to.into()))));
    }

    #[test]
    fn anything_else_is_none() {
        let arp = ethernet(0x0806, &[0; 28]);
        let short = ethernet(ETHERTYPE_IPV4, &datagram().to_bytes()[..12]);
        let sctp = ethernet(ETHERTYPE_IPV4, &Ipv4::new(NODE, POD, 132, vec![0; 20]).to_bytes());
        let endless = ethernet(ETHERTYPE_MPLS, &[0; 8]);
        for bytes in [arp, short, sctp, endless, Vec::new()] {
            assert_eq!(Frame::parse(&bytes), None);
        }
    }
}
