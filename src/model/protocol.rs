//! One flow as somebody asks for it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A protocol whose flows can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
    /// Echo requests; errors go where the flow goes that they quote.
    Icmp,
}

impl Protocol {
    /// Every one.
    pub const ALL: [Protocol; 4] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];

    /// Its name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
            Protocol::Icmp => "icmp",
        }
    }

    /// Whether its ports are hashed.
    pub fn has_ports(self) -> bool {
        self != Protocol::Icmp
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A protocol that nobody hashes in a way of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be tcp, udp, sctp or icmp")]
pub struct UnknownProtocol;

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == text).ok_or(UnknownProtocol)
    }
}

/// A flow towards a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedFlow {
    /// The client.
    pub src: IpAddr,
    /// The VIP, of the same family.
    pub dst: IpAddr,
    /// Source and destination port, if both were given.
    pub ports: Option<(u16, u16)>,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for TracedFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports.filter(|_| self.protocol.has_ports()) {
            Some((src, dst)) => {
                let (src, dst) = (SocketAddr::new(self.src, src), SocketAddr::new(self.dst, dst));
                write!(f, "{} {src} -> {dst}", self.protocol)
            }
            None => write!(f, "{} {} -> {}", self.protocol, self.src, self.dst),
        }
    }
}

/// An address with or without a port: `192.0.2.10:80`, `[2001:db8::10]:80`, `192.0.2.10`, `2001:db8::10`.
pub fn parse_end(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let plain = || Some((bare.parse::<IpAddr>().ok()?, None));
    text.parse::<SocketAddr>().map(|end| (end.ip(), Some(end.port()))).ok().or_else(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_written_with_and_without_ports() {
        let end = |address: &str, port| Some((address.parse().unwrap(), port));
        assert_eq!(parse_end("192.0.2.10:80"), end("192.0.2.10", Some(80)));
        assert_eq!(parse_end("192.0.2.10"), end("192.0.2.10", None));
        assert_eq!(parse_end("[2001:db8::10]:80"), end("2001:db8::10", Some(80)));
        assert_eq!(parse_end("[2001:db8::10]"), end("2001:db8::10", None));
        assert_eq!(parse_end("2001:db8::10"), end("2001:db8::10", None));
        for bad in ["", "192.0.2.10:", "192.0.2.10:65536", "example.org:80", "192.0.2.0/24"] {
            assert_eq!(parse_end(bad), None, "{bad}");
        }
    }
}
