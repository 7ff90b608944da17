//! The IP protocols that the lab speaks, and how those without sockets of their own look on the wire.
//!
//! What no program of the lab speaks (an SCTP association, an IPsec tunnel) is not imitated: a packet of such a protocol is
//! a well-formed header with a line of text behind it. What matters here is that any protocol gets to a pod and back.

mod frame;
mod sctp;
mod socket;

use std::fmt;

use crate::lab::Family;

pub use frame::{Frame, QUESTION};
pub(crate) use socket::receive;
pub use socket::{RawSocket, Received};

/// One IP protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, with ports and checksum.
    Sctp,
    /// Echo requests of ICMP or ICMPv6, which the pod's kernel answers.
    Icmp,
    /// IPsec's ESP.
    Esp,
    /// GRE, carrying nothing that a tunnel would take.
    Gre,
    /// 253: for experiments (RFC 3692).
    Other253,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 7] = [
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Sctp,
        Protocol::Icmp,
        Protocol::Esp,
        Protocol::Gre,
        Protocol::Other253,
    ];

    /// Those that the pods' own raw servers answer.
    pub const RAW: [Protocol; 4] = [Protocol::Sctp, Protocol::Esp, Protocol::Gre, Protocol::Other253];

    /// Its number in the IP header.
    pub fn number(self, family: Family) -> u8 {
        match self {
            Protocol::Icmp if family == Family::V6 => 58,
            Protocol::Icmp => 1,
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Gre => 47,
            Protocol::Esp => 50,
            Protocol::Sctp => 132,
            Protocol::Other253 => 253,
        }
    }

    /// Whether flows between the same two addresses are told apart.
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::Tcp | Protocol::Udp | Protocol::Sctp)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
            Protocol::Icmp => "icmp",
            Protocol::Esp => "esp",
            Protocol::Gre => "gre",
            Protocol::Other253 => "253",
        })
    }
}
