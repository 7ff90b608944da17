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
//! are always there. nft 1.0.6 takes such raw payload in a concatenation under `jhash`. It does not look it up in a set
//! of addresses ("datatype mismatch, expected integer, expression has type IPv4 address"): that takes a set of integers
//! of the same width, see [`quoted_set_type`].

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

/// The key type of a set in which [`quoted_destination`] can be looked up; its elements are written by
/// [`quoted_element`].
pub fn quoted_set_type(family: Family) -> String {
    format!("typeof {}", quoted_destination(family))
}

/// An address as an element of a set of [`quoted_set_type`], as nft lists it: JSON has numbers up to 63 bits.
pub fn quoted_element(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => u32::from(v4).to_string(),
        IpAddr::V6(v6) => {
            let number = u128::from(v6);
            i64::try_from(number).map_or_else(|_| format!("{number:#x}"), |small| small.to_string())
        }
    }
}

/// Makes a local error about a VIP come from it; `set` is the name of a set of [`quoted_set_type`] with the VIPs. For a
/// chain at the output hook.
pub fn source_from_vip(family: Family, set: &str) -> String {
    let quoted = quoted_destination(family);
    let (errors, source) = match family {
        Family::V4 => ("icmp type { destination-unreachable, time-exceeded }", "ip saddr"),
        Family::V6 => ("icmpv6 type { destination-unreachable, packet-too-big, time-exceeded }", "ip6 saddr"),
    };
    format!("{errors} {quoted} @{set} {source} set {quoted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_nft_lists_it() {
        assert_eq!(quoted_element("10.0.2.1".parse().unwrap()), "167772673");
        assert_eq!(quoted_element("2001:db8::1".parse().unwrap()), "0x20010db8000000000000000000000001");
        assert_eq!(quoted_element("64:ff9b::1".parse().unwrap()), "0x64ff9b000000000000000000000001");
        assert_eq!(quoted_element("::1000".parse().unwrap()), "4096");
    }

    #[test]
    fn a_local_error_takes_the_quoted_destination_as_its_source() {
        assert_eq!(
            source_from_vip(Family::V4, "quoted"),
            "icmp type { destination-unreachable, time-exceeded } @th,192,32 @quoted ip saddr set @th,192,32"
        );
    }
}
