//! TCP segments without options and data.

use std::net::{IpAddr, SocketAddr};

use super::{checksum, octets};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// Opens a connection.
pub const SYN: u8 = 2;
/// Ends one that the receiver does not know.
pub const RST: u8 = 4;
/// Acknowledges.
pub const ACK: u8 = 16;

/// A segment, between two addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Whose it is.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledged sequence number.
    pub ack: u32,
    /// [`SYN`], [`RST`], [`ACK`] and the like.
    pub flags: u8,
}

impl Segment {
    /// The segment on the wire, with its checksum.
    pub fn to_bytes(&self) -> Vec<u8> {
        let ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()].concat();
        let numbers = [self.seq.to_be_bytes(), self.ack.to_be_bytes()].concat();
        // Five words of header; a window of 64 KiB.
        let rest = [5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0];
        let mut segment = [&ports[..], &numbers, &rest].concat();
        let ends = [octets(self.source.ip()), octets(self.destination.ip())].concat();
        let sum = checksum(&[&ends[..], &[0, TCP, 0, 20], &segment].concat()).to_be_bytes();
        segment[16..18].copy_from_slice(&sum);
        segment
    }

    /// Reads the header of a segment between two addresses; `None` if it is cut off.
    pub fn parse((source, destination): (IpAddr, IpAddr), bytes: &[u8]) -> Option<Segment> {
        let short = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        Some(Segment {
            source: SocketAddr::new(source, short(0)?),
            destination: SocketAddr::new(destination, short(2)?),
            seq: long(4)?,
            ack: long(8)?,
            flags: *bytes.get(13)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_survives_being_written_and_read() {
        for (source, destination) in [("192.0.2.1:9", "198.51.100.2:80"), ("[2001:db8::1]:9", "[2001:db8::2]:80")] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let segment = Segment { source, destination, seq: 0x0102_0304, ack: 5, flags: SYN | ACK };
            let bytes = segment.to_bytes();
            assert_eq!(bytes[..14], [0, 9, 0, 80, 1, 2, 3, 4, 0, 0, 0, 5, 0x50, 0x12]);
            let ends = (source.ip(), destination.ip());
            assert_eq!(Segment::parse(ends, &bytes), Some(segment));
            assert_eq!(Segment::parse(ends, &bytes[..13]), None);
        }
    }

    #[test]
    fn the_checksum_covers_the_addresses() {
        let (source, destination) = ("192.0.2.1:9".parse().unwrap(), "198.51.100.2:80".parse().unwrap());
        let bytes = Segment { source, destination, seq: 1, ack: 2, flags: ACK }.to_bytes();
        // RFC 9293 §3.1: with the pseudo header the sum of all is zero.
        let pseudo = [192, 0, 2, 1, 198, 51, 100, 2, 0, 6, 0, 20];
        assert_eq!(checksum(&[&pseudo[..], &bytes].concat()), 0);
    }
}
