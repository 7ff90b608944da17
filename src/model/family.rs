//! The two address families, and addresses of one thing in both.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Length of a host prefix in bits: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// Bytes of an IP header without options or extensions (RFC 791, RFC 8200).
    pub fn header(self) -> u32 {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// Smallest MTU that a link or a route of the family may have, in bytes (RFC 791; RFC 8200 §5).
    pub fn min_mtu(self) -> u32 {
        match self {
            Family::V4 => 68,
            Family::V6 => 1280,
        }
    }

    /// The word for it in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// At most one address of each family that the same pod or node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addresses {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// The first of each family.
    pub fn first_of(all: &[IpAddr]) -> Addresses {
        all.iter().fold(Addresses::default(), |mut found, address| {
            match address {
                IpAddr::V4(v4) => found.v4 = found.v4.or(Some(*v4)),
                IpAddr::V6(v6) => found.v6 = found.v6.or(Some(*v6)),
            }
            found
        })
    }

    /// The address of a family.
    pub fn of(self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Both, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Both, that of `family` first.
    pub fn preferring(self, family: Family) -> impl Iterator<Item = IpAddr> {
        let other = Family::ALL.into_iter().find(|other| *other != family);
        self.of(family).into_iter().chain(other.and_then(|other| self.of(other)))
    }

    /// The family in which a packet travels between the two: IPv4 if both have it, because its header is the smaller one.
    pub fn common(self, other: Addresses) -> Option<Family> {
        Family::ALL.into_iter().find(|family| self.of(*family).is_some() && other.of(*family).is_some())
    }
}

impl From<IpAddr> for Addresses {
    fn from(address: IpAddr) -> Self {
        Addresses::first_of(&[address])
    }
}

impl From<Ipv4Addr> for Addresses {
    fn from(address: Ipv4Addr) -> Self {
        IpAddr::V4(address).into()
    }
}

/// As a list: `10.244.1.5, fd00::5`.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.iter().map(|a| a.to_string()).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Addresses {
        Addresses::first_of(&list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_address_of_each_family_is_taken() {
        let both = addresses(&["fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2"]);
        assert_eq!(both.to_string(), "10.0.0.1, fd00::1");
    }

    #[test]
    fn a_packet_travels_by_ipv4_where_both_ends_have_it() {
        let (v4, v6, both) = (addresses(&["10.0.0.1"]), addresses(&["fd00::1"]), addresses(&["10.0.0.1", "fd00::1"]));
        assert_eq!(both.common(both), Some(Family::V4));
        assert_eq!(both.common(v6), Some(Family::V6));
        assert_eq!(v4.common(v6), None);
        assert_eq!(both.preferring(Family::V6).map(Family::of).collect::<Vec<_>>(), [Family::V6, Family::V4]);
    }
}
