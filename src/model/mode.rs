//! The encapsulations that can carry a packet from an ingress node into a pod.

use std::fmt;
use std::str::FromStr;

use super::Family;

/// How a packet for a VIP travels from the ingress node to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// GRE (RFC 2784, RFC 7676) with a key (RFC 2890): 28 bytes over IPv4, 48 over IPv6; any node.
    Gre,
    /// MPLS labels (RFC 3031): 4 bytes, nodes on the same link.
    Mpls,
    /// VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe) over UDP: 36 bytes over IPv4, 56 over IPv6; any node, also where IP protocol 47 is dropped.
    Vxlan,
}

impl Mode {
    /// Every mode, in the order in which they are documented.
    pub const ALL: [Mode; 3] = [Mode::Gre, Mode::Mpls, Mode::Vxlan];

    /// The name used in flags and annotations.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Gre => "gre",
            Mode::Mpls => "mpls",
            Mode::Vxlan => "vxlan",
        }
    }

    /// Bytes that the encapsulation adds to a packet, the outer IP header of family `outer` included. The key of GRE counts
    /// always: packets carry one only while their bucket drains, and a path's MTU should not change with that.
    pub fn overhead(self, outer: Family) -> u32 {
        match self {
            Mode::Gre => outer.header() + 4 + 4,
            Mode::Mpls => 4,
            Mode::Vxlan => outer.header() + 8 + 8,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A mode that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown mode {0:?}: use gre, mpls or vxlan")]
pub struct UnknownMode(pub String);

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Mode::ALL.into_iter().find(|m| m.as_str() == s).ok_or_else(|| UnknownMode(s.to_owned()))
    }
}
