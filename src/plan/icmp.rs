//! What nft can do with the packet that an ICMP error quotes.
//!
//! Two kinds of errors concern a VIP:
//!
//! - **Inbound**: a router on the way to a client could not forward what a pod sent from the VIP (path-MTU discovery). The
//!   error is addressed to the VIP and must reach the pod that owns the flow, or the connection stalls. The quoted packet
//!   travelled from the VIP to the client, so its addresses and ports are hashed in the order destination, source: that
//!   of the flow as it comes in, and the bucket is the same.
//! - **Local**: this node could not deliver a packet to the VIP, for instance because it does not fit the tunnel. Clients
//!   and firewalls only believe such an error from the VIP itself, so it takes the quoted destination as its source.
//!
//! The quoted IP header starts 8 bytes into the ICMP header (RFC 792, RFC 4443), and at least 8 bytes follow it, so ports
//! are always there. nft takes such raw payload in a concatenation under `jhash`. To nft it is an integer, not an address:
//! no version looks it up in a set of addresses, and from 1.0.9 on none writes it into an address field either ("datatype
//! mismatch: expected IPv4 address, expression has type integer"). A map from integers to addresses serves them all, see
//! [`quoted_map_type`]. Writing to the raw bytes of the IP header (`@nh,96,32 set …`) loads everywhere, too, and would leave
//! wrong checksums behind: nft mends those only if it knows the field.

use std::net::IpAddr;

use crate::model::Family;

/// Matches the errors whose quoted packet can be hashed. To be preceded by a match of the destination against the VIPs,
/// which is where an inbound error goes.
///
/// For IPv4 the quoted header must have no options (0x45), because what follows it would be elsewhere.
pub fn error_match(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp type { destination-unreachable, time-exceeded, parameter-problem } @th,64,8 0x45",
        Family::V6 => "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
    }
}

/// Matches, behind [`error_match`], errors that quote TCP, UDP or SCTP; for IPv6 without extension headers in between.
pub fn quotes_ports(family: Family) -> &'static str {
    match family {
        Family::V4 => "@th,136,8 { 6, 17, 132 }",
        Family::V6 => "@th,112,8 { 6, 17, 132 }",
    }
}

/// Matches, behind [`error_match`], errors that quote TCP; for IPv6 without extension headers in between.
pub fn quotes_tcp(family: Family) -> &'static str {
    match family {
        Family::V4 => "@th,136,8 6",
        Family::V6 => "@th,112,8 6",
    }
}

/// What nft hashes, as [`crate::model::hash::hash_expr`] does for the flow's own packets: the inputs of `jhash`. With
/// `ports` the rule must match [`quotes_ports`].
pub fn error_hash_expr(family: Family, ports: bool) -> &'static str {
    match (family, ports) {
        (Family::V4, true) => "@th,192,32 . @th,160,32 . @th,240,16 . @th,224,16",
        (Family::V4, false) => "@th,192,32 . @th,160,32",
        (Family::V6, true) => "@th,256,128 . @th,128,128 . @th,400,16 . @th,384,16",
        (Family::V6, false) => "@th,256,128 . @th,128,128",
    }
}

/// The destination of the quoted packet: the VIP in a local error, the client in an inbound one.
pub fn quoted_destination(family: Family) -> &'static str {
    match family {
        Family::V4 => "@th,192,32",
        Family::V6 => "@th,256,128",
    }
}

/// The type of a map from [`quoted_destination`] to the same as an address; its elements are written by
/// [`quoted_element`].
pub fn quoted_map_type(family: Family) -> String {
    format!("typeof {} : {}", quoted_destination(family), source(family))
}

/// The source address of a packet of ours.
fn source(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip saddr",
        Family::V6 => "ip6 saddr",
    }
}

/// An address as an element of a map of [`quoted_map_type`], as nft lists it: JSON has numbers up to 63 bits.
pub fn quoted_element(address: IpAddr) -> String {
    let key = match address {
        IpAddr::V4(v4) => u32::from(v4).to_string(),
        IpAddr::V6(v6) => {
            let number = u128::from(v6);
            i64::try_from(number).map_or_else(|_| format!("{number:#x}"), |small| small.to_string())
        }
    };
    format!("{key} : {address}")
}

/// Makes a local error about a VIP come from it; `map` is the name of a map of [`quoted_map_type`] with the VIPs. What the
/// map does not have ends the rule. For a chain at the output hook.
pub fn source_from_vip(family: Family, map: &str) -> String {
    let errors = match family {
        Family::V4 => "icmp type { destination-unreachable, time-exceeded }",
        Family::V6 => "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded }",
    };
    format!("{errors} {} set {} map @{map}", source(family), quoted_destination(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_nft_lists_it() {
        assert_eq!(quoted_element("10.0.2.1".parse().unwrap()), "167772673 : 10.0.2.1");
        assert_eq!(quoted_element("2001:db8::1".parse().unwrap()), "0x20010db8000000000000000000000001 : 2001:db8::1");
        assert_eq!(quoted_element("64:ff9b::1".parse().unwrap()), "0x64ff9b000000000000000000000001 : 64:ff9b::1");
        assert_eq!(quoted_element("::1000".parse().unwrap()), "4096 : ::1000");
    }

    #[test]
    fn a_local_error_takes_the_quoted_destination_as_its_source() {
        assert_eq!(
            source_from_vip(Family::V4, "quoted"),
            "icmp type { destination-unreachable, time-exceeded } ip saddr set @th,192,32 map @quoted"
        );
    }
}
