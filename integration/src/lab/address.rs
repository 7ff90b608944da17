//! Who has which address. Every place has an IPv4 network and an IPv6 network, and the same host number in both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::family::Family;

/// The network that joins router, nodes and API server.
pub const FABRIC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
/// The same in IPv6.
pub const FABRIC6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0);
/// The network of the clients.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
/// The same in IPv6.
pub const CLIENTS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0);
/// The network from which a stranger sends what he should not.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);
/// The same in IPv6.
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0);
/// The cluster's pod network; node N has the Nth /24 of it.
pub const PODS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 0);
/// The same in IPv6, a /32; node N has the Nth /64 of the first 256 (fd00:244:N::).
pub const PODS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0);
/// Where the API server listens, on the fabric.
pub const API: Ipv4Addr = host(FABRIC, 5);
/// The same in IPv6.
pub const API6: Ipv6Addr = host6(FABRIC6, 5);
/// The stranger's foothold on the fabric.
pub const INTRUDER: Ipv4Addr = host(FABRIC, 66);
/// The same in IPv6.
pub const INTRUDER6: Ipv6Addr = host6(FABRIC6, 66);
/// The stranger's address outside.
pub const STRANGER: Ipv4Addr = host(OUTSIDE, 66);
/// The same in IPv6.
pub const STRANGER6: Ipv6Addr = host6(OUTSIDE6, 66);
/// The cluster IP of the API server, which the nodes' rules translate to [`API`]:6443.
pub const API_CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The same in IPv6.
pub const API_CLUSTER_IP6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1);

/// The `n`th address of one of the /24 networks above.
pub const fn host(network: Ipv4Addr, n: u8) -> Ipv4Addr {
    let [a, b, c, _] = network.octets();
    Ipv4Addr::new(a, b, c, n)
}

/// The `n`th address of one of the /64 networks above. It is written with the digits of the IPv4 one: host 11 is `…::11`.
pub const fn host6(network: Ipv6Addr, n: u8) -> Ipv6Addr {
    let [a, b, c, d, ..] = network.segments();
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, digits(n))
}

/// 11 as 0x11.
const fn digits(n: u8) -> u16 {
    let n = n as u16;
    n / 100 * 0x100 + n / 10 % 10 * 0x10 + n % 10
}

/// The pod network of the node with this number, in IPv4.
pub(super) const fn pod_network(node: u8) -> Ipv4Addr {
    let [a, b, _, _] = PODS.octets();
    Ipv4Addr::new(a, b, node, 0)
}

/// The pod network of the node with this number, in IPv6.
pub(super) const fn pod_network6(node: u8) -> Ipv6Addr {
    let [a, b, ..] = PODS6.segments();
    Ipv6Addr::new(a, b, digits(node), 0, 0, 0, 0, 0)
}

/// A network in both families.
#[derive(Debug, Clone, Copy)]
pub(super) struct Network(pub Ipv4Addr, pub Ipv6Addr);

/// One host in both families, with the length of its networks' prefixes.
pub(super) type Place = [(IpAddr, u8); 2];

impl Network {
    pub const FABRIC: Network = Network(FABRIC, FABRIC6);
    pub const CLIENTS: Network = Network(CLIENTS, CLIENTS6);
    pub const OUTSIDE: Network = Network(OUTSIDE, OUTSIDE6);

    /// The networks of the pods of one node.
    pub fn pods(node: u8) -> Network {
        Network(pod_network(node), pod_network6(node))
    }

    /// The network itself, to route to.
    pub fn prefixes(self) -> Place {
        [(self.0.into(), 24), (self.1.into(), 64)]
    }

    /// The `n`th host.
    pub fn host(self, n: u8) -> Place {
        [(host(self.0, n).into(), 24), (host6(self.1, n).into(), 64)]
    }
}

/// The address of the family.
pub(super) fn of_family(place: Place, family: Family) -> (IpAddr, u8) {
    let [v4, v6] = place;
    if family == Family::V4 { v4 } else { v6 }
}

/// The address as a host route.
pub(super) fn host_prefix(address: IpAddr) -> (IpAddr, u8) {
    (address, if address.is_ipv4() { 32 } else { 128 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_same_digits_in_both_families() {
        assert_eq!(host6(FABRIC6, 11).to_string(), "fd00:10::11");
        assert_eq!(host6(CLIENTS6, 251).to_string(), "2001:db8:51::251");
        assert_eq!(pod_network6(12).to_string(), "fd00:244:12::");
    }
}
