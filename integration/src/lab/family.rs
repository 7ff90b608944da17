//! IPv4, IPv6, and which of them a cluster is made of.

use std::net::IpAddr;

/// One version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// How Kubernetes calls it.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// What a cluster is made of: the families that Kubernetes knows of (addresses of nodes and pods, and so EndpointSlices;
/// cluster addresses of Services).
///
/// Clients, router and API server always have both families, and so has what a VIP needs to travel: whatever the cluster
/// is made of, packets of either family reach a node that the router sends them to, and leave a pod towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Families {
    /// Kubernetes knows of IPv4 only. Nodes and pods have IPv6 all the same: as in clusters that were built for IPv4 on
    /// hosts that have both.
    V4,
    /// Nodes and pods have no IPv4 address. IPv4 packets find their way by routes `via inet6`.
    V6,
    /// Both; IPv4 is the primary family.
    #[default]
    Dual,
}

impl Families {
    /// The families that Kubernetes knows of, the primary one first.
    pub fn published(self) -> &'static [Family] {
        match self {
            Families::V4 => &[Family::V4],
            Families::V6 => &[Family::V6],
            Families::Dual => &Family::ALL,
        }
    }

    /// The family of a Service that does not ask for any.
    pub fn primary(self) -> Family {
        if self == Families::V6 { Family::V6 } else { Family::V4 }
    }

    /// Whether nodes and pods have IPv4 addresses.
    pub fn has_ipv4(self) -> bool {
        self != Families::V6
    }
}
