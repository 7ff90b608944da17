//! Packets made by hand, and packets read back from the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ESP: u8 = 50;
const GRE: u8 = 47;
const FRAGMENT: u8 = 44;
const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const FIN_ACK: u8 = FIN | ACK;
/// `IANA_VXLAN_GPE_UDP_PORT`
const VXLAN: u16 = 4790;
/// Where the pods' servers listen.
pub const PORT: u16 = 7777;

fn icmp(v6: bool) -> u8 {
    if v6 { 58 } else { 1 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    words.sum()
}

fn checksum(sum: u32) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!u16::try_from(folded).unwrap()).to_be_bytes()
}

/// The checksum of TCP, UDP and ICMPv6 covers the addresses, too.
fn fill_checksum(from: IpAddr, to: IpAddr, protocol: u8, at: usize, segment: &mut [u8]) {
    let length = u32::try_from(segment.len()).unwrap();
    let pseudo = if protocol == 1 { 0 } else { sum(&octets(from)) + sum(&octets(to)) + u32::from(protocol) + length };
    let value = checksum(pseudo + sum(segment));
    segment[at..at + 2].copy_from_slice(&value);
}

/// The IP header of one fragment: offset in bytes, and whether more follow.
#[derive(Clone, Copy)]
struct Part {
    id: u16,
    offset: u16,
    more: bool,
}

fn ip(from: IpAddr, to: IpAddr, protocol: u8, part: Option<Part>, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    if from.is_ipv4() {
        let total = u16::try_from(20 + payload.len()).unwrap();
        packet.extend([0x45, 0]);
        packet.extend(total.to_be_bytes());
        packet.extend(part.map_or(1, |p| p.id).to_be_bytes());
        packet.extend(part.map_or(0, |p| (p.offset / 8) | (u16::from(p.more) << 13)).to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend([octets(from), octets(to)].concat());
        let value = checksum(sum(&packet));
        packet[10..12].copy_from_slice(&value);
    } else {
        let header = part.map_or(Vec::new(), |p| {
            let offset = (p.offset | u16::from(p.more)).to_be_bytes();
            let id = u32::from(p.id).to_be_bytes();
            [&[protocol, 0][..], &offset, &id].concat()
        });
        let next = if part.is_some() { FRAGMENT } else { protocol };
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(u16::try_from(header.len() + payload.len()).unwrap().to_be_bytes());
        packet.extend([next, 64]);
        packet.extend([octets(from), octets(to), header].concat());
    }
    packet.extend(payload);
    packet
}

/// One end of a flow: the client's address and port, and the VIP.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    pub client: IpAddr,
    pub port: u16,
    pub vip: IpAddr,
    /// [`PORT`], where the servers are, or another.
    pub vip_port: u16,
}

impl Flow {
    fn header(self, to_vip: bool) -> Vec<u8> {
        let ports = if to_vip { [self.port, self.vip_port] } else { [self.vip_port, self.port] };
        ports.iter().flat_map(|port| port.to_be_bytes()).collect()
    }

    fn segment(self, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
        let mut segment = self.header(true);
        segment.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
        segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(data);
        fill_checksum(self.client, self.vip, TCP, 16, &mut segment);
        segment
    }

    /// A TCP segment from the client.
    pub fn tcp(self, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
        ip(self.client, self.vip, TCP, None, &self.segment(flags, seq, ack, data))
    }

    /// A datagram from the client.
    pub fn udp(self, data: &[u8]) -> Vec<u8> {
        ip(self.client, self.vip, UDP, None, &self.datagram(data))
    }

    /// The same in two fragments.
    pub fn udp_in_fragments(self, id: u16, data: &[u8]) -> [Vec<u8>; 2] {
        self.in_fragments(UDP, id, &self.datagram(data))
    }

    /// An acknowledgement in two fragments.
    pub fn ack_in_fragments(self, id: u16, data: &[u8]) -> [Vec<u8>; 2] {
        self.in_fragments(TCP, id, &self.segment(ACK, 5000, 6000, data))
    }

    /// The header of TCP is in the first fragment.
    fn in_fragments(self, protocol: u8, id: u16, payload: &[u8]) -> [Vec<u8>; 2] {
        let (first, later) = payload.split_at(24);
        [(first, 0, true), (later, 24, false)]
            .map(|(part, offset, more)| ip(self.client, self.vip, protocol, Some(Part { id, offset, more }), part))
    }

    fn datagram(self, data: &[u8]) -> Vec<u8> {
        let mut datagram = self.header(true);
        datagram.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(data);
        fill_checksum(self.client, self.vip, UDP, 6, &mut datagram);
        datagram
    }

    /// A packet with another one in it.
    pub fn carrying(self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        ip(self.client, self.vip, protocol, None, payload)
    }

    /// A packet of a protocol without ports.
    pub fn bare(self, protocol: u8) -> Vec<u8> {
        ip(self.client, self.vip, protocol, None, &[0; 16])
    }

    /// "Packet too big" about a TCP segment that the VIP sent to the client.
    pub fn too_big(self, seq: u32) -> Vec<u8> {
        let v6 = self.client.is_ipv6();
        let mut quoted = self.header(false);
        quoted.extend(seq.to_be_bytes());
        let quoted = ip(self.vip, self.client, TCP, None, &quoted);
        let mut error = if v6 { vec![2, 0, 0, 0, 0, 0, 0x05, 0x14] } else { vec![3, 4, 0, 0, 0, 0, 0x05, 0x14] };
        error.extend(quoted);
        fill_checksum(self.client, self.vip, icmp(v6), 2, &mut error);
        ip(self.client, self.vip, icmp(v6), None, &error)
    }
}

/// What an IP packet says; of a later fragment there are no ports.
#[derive(Debug, Clone)]
pub struct Seen {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    /// IPv4: don't fragment.
    pub df: bool,
    pub later_fragment: bool,
    pub payload: Vec<u8>,
}

impl Seen {
    pub fn read(packet: &[u8]) -> Option<Seen> {
        let v4 = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?)));
        let v6 = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?)));
        match packet.first()? >> 4 {
            4 => {
                let flags = u16_at(packet, 6)?;
                let payload = packet.get(usize::from(packet[0] & 15) * 4..usize::from(u16_at(packet, 2)?))?;
                let (df, later_fragment) = (flags & 0x4000 != 0, flags & 0x1fff != 0);
                Some(Seen {
                    from: v4(12)?,
                    to: v4(16)?,
                    protocol: packet[9],
                    df,
                    later_fragment,
                    payload: payload.into(),
                })
            }
            6 => {
                let (mut protocol, mut at, mut later_fragment) = (packet[6], 40, false);
                if protocol == FRAGMENT {
                    later_fragment = u16_at(packet, 42)? & 0xfff8 != 0;
                    (protocol, at) = (packet[40], 48);
                }
                let payload = packet.get(at..)?.to_vec();
                Some(Seen { from: v6(8)?, to: v6(24)?, protocol, df: false, later_fragment, payload })
            }
            _ => None,
        }
    }

    /// Tunnel id and inner packet, if this is a tunnel's.
    pub fn inner(&self) -> Option<(u32, Seen)> {
        let id = |at: usize| Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?));
        match self.protocol {
            UDP if u16_at(&self.payload, 2) == Some(VXLAN) => {
                Some((id(12)? >> 8, Seen::read(self.payload.get(16..)?)?))
            }
            GRE if u16_at(&self.payload, 0)? & 0x2000 != 0 => Some((id(4)?, Seen::read(self.payload.get(8..)?)?)),
            GRE => Some((0, Seen::read(self.payload.get(4..)?)?)),
            _ => None,
        }
    }

    /// Sequence number of a TCP segment.
    pub fn seq(&self) -> u32 {
        u32::from_be_bytes(self.payload[4..8].try_into().unwrap())
    }

    /// `SA`, `R`, `UDP`, `ICMP`, `part`
    pub fn kind(&self) -> String {
        match self.protocol {
            _ if self.later_fragment => "part".to_owned(),
            TCP => {
                let flags = self.payload[13];
                let names = [('S', SYN), ('F', FIN), ('R', RST), ('A', ACK)];
                names.into_iter().filter(|(_, bit)| flags & bit != 0).map(|(name, _)| name).collect()
            }
            UDP => "UDP".to_owned(),
            1 | 58 => "ICMP".to_owned(),
            other => other.to_string(),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
