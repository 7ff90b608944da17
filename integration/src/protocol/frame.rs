//! What stands behind the IP header: a header of the protocol, and text.

use super::{Protocol, sctp};
use crate::lab::Family;
use crate::traffic::packet::checksum;

/// What every question begins with. A raw server hears everything of its protocol, tunnels included, and answers nothing
/// else; above all no answers, which begin with the name of a pod.
pub const QUESTION: &[u8] = b"ask ";

/// GRE without options, with the EtherType for local experiments (IEEE 802): what a tunnel would unpack is dropped.
const GRE_HEADER: [u8; 4] = [0, 0, 0x88, 0xb5];
/// A security parameters index and a sequence number.
const ESP_HEADER: [u8; 8] = [0, 0, 0x4b, 0x53, 0, 0, 0, 1];

/// One packet of a protocol, without its IP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Source and destination port; of an echo request the identifier and the sequence number; else nothing.
    pub ports: (u16, u16),
    /// The text.
    pub text: Vec<u8>,
}

impl Frame {
    /// A question from one port to the other: of ICMP an echo request.
    pub fn question(ports: (u16, u16), text: &str) -> Self {
        Self { ports, text: text.as_bytes().to_vec() }
    }

    /// The bytes behind the IP header.
    pub fn to_bytes(&self, protocol: Protocol, family: Family) -> Vec<u8> {
        match protocol {
            Protocol::Sctp => sctp::packet(self.ports, self.text.starts_with(QUESTION), &self.text),
            Protocol::Icmp => self.echo_request(family),
            Protocol::Gre => [&GRE_HEADER, &self.text[..]].concat(),
            Protocol::Esp => [&ESP_HEADER, &self.text[..]].concat(),
            Protocol::Tcp | Protocol::Udp | Protocol::Other253 => self.text.clone(),
        }
    }

    fn echo_request(&self, family: Family) -> Vec<u8> {
        let kind = if family == Family::V4 { 8 } else { 128 };
        let mut message = vec![kind, 0, 0, 0];
        message.extend([self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat());
        message.extend(&self.text);
        // The checksum of ICMPv6 covers the addresses: the kernel fills it in.
        if family == Family::V4 {
            let sum = checksum(&message).to_be_bytes();
            message.splice(2..4, sum);
        }
        message
    }

    /// Reads what stands behind the IP header: of ICMP only echo replies. `None` if it is nothing of ours.
    pub fn parse(protocol: Protocol, family: Family, bytes: &[u8]) -> Option<Self> {
        let plain = |text: &[u8]| Self { ports: (0, 0), text: text.to_vec() };
        match protocol {
            Protocol::Sctp => sctp::parse(bytes).map(|(ports, text)| Self { ports, text: text.to_vec() }),
            Protocol::Icmp => Self::echo_reply(family, bytes),
            Protocol::Gre => bytes.strip_prefix(&GRE_HEADER).map(plain),
            Protocol::Esp => bytes.strip_prefix(&ESP_HEADER).map(plain),
            Protocol::Tcp | Protocol::Udp | Protocol::Other253 => Some(plain(bytes)),
        }
    }

    fn echo_reply(family: Family, bytes: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let kind = if family == Family::V4 { 0 } else { 129 };
        let is_reply = bytes.get(..2)? == [kind, 0];
        is_reply.then(|| Some(Self { ports: (short(4)?, short(6)?), text: bytes.get(8..)?.to_vec() }))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for protocol in Protocol::RAW {
            let ports = if protocol.has_ports() { (4444, 12345) } else { (0, 0) };
            let frame = Frame::question(ports, "ask 1");
            let bytes = frame.to_bytes(protocol, Family::V4);
            assert_eq!(Frame::parse(protocol, Family::V4, &bytes), Some(frame), "{protocol}");
        }
    }

    #[test]
    fn an_echo_request_is_not_taken_for_its_reply() {
        let mut bytes = Frame::question((7, 1), "ask 1").to_bytes(Protocol::Icmp, Family::V4);
        assert_eq!(checksum(&bytes), 0);
        assert_eq!(Frame::parse(Protocol::Icmp, Family::V4, &bytes), None);
        bytes[0] = 0;
        let reply = Frame::parse(Protocol::Icmp, Family::V4, &bytes);
        assert_eq!(reply, Some(Frame { ports: (7, 1), text: b"ask 1".to_vec() }));
    }

    #[test]
    fn packets_of_a_tunnel_are_nothing_of_ours() {
        assert_eq!(Frame::parse(Protocol::Gre, Family::V4, &[0, 0, 8, 0, 0x45]), None);
    }
}
