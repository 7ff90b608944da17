//! The VIP annotation: a list of addresses, separated by commas.
//!
//! Only the text is judged here. Whether an address is free is a question to the cluster, see `vips`.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::problems::shown;

/// A member that is no address that could ever be a VIP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} {why}")]
pub(super) struct BadMember {
    /// The member, fit to be shown.
    text: String,
    /// What is wrong with it.
    why: Why,
}

/// What is wrong with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("is empty")]
    Empty,
    #[error("is not an IP address")]
    NotAnAddress,
    #[error("is a prefix, not an address")]
    Prefix,
    #[error("has a port")]
    Port,
    #[error("is an IPv6 address, and IPv6 VIPs are not supported yet")]
    Ipv6,
    #[error("is in 0.0.0.0/8, which means \"this host\"")]
    ThisHost,
    #[error("is a loopback address")]
    Loopback,
    #[error("is a link-local address")]
    LinkLocal,
    #[error("is a multicast address")]
    Multicast,
    #[error("is the broadcast address")]
    Broadcast,
    #[error("is in the reserved range 240.0.0.0/4")]
    Reserved,
}

impl BadMember {
    /// What its author can do.
    pub(super) fn remedy(&self) -> &'static str {
        match self.why {
            Why::Empty => "remove the stray comma, or write an IPv4 address",
            Why::NotAnAddress => "write IPv4 addresses separated by commas, such as 192.0.2.10,192.0.2.11",
            Why::Prefix => "write each address by itself, without a prefix length",
            Why::Port => "write the address alone: every port of it is delivered",
            Why::Ipv6 => "remove it, the IPv4 addresses of the list are served",
            Why::ThisHost | Why::Loopback | Why::LinkLocal | Why::Multicast | Why::Broadcast | Why::Reserved => {
                "use a unicast address that is routed to the ingress nodes"
            }
        }
    }
}

/// The members of the annotation in the order in which they are written, each judged by itself. An empty annotation is
/// one empty member.
pub(super) fn parse(text: &str) -> impl Iterator<Item = Result<Ipv4Addr, BadMember>> {
    text.split(',').map(|member| {
        let member = member.trim();
        address(member).map_err(|why| BadMember { text: shown(member), why })
    })
}

fn address(member: &str) -> Result<Ipv4Addr, Why> {
    match member.parse() {
        Ok(IpAddr::V4(address)) => unicast(address),
        Ok(IpAddr::V6(_)) => Err(Why::Ipv6),
        Err(_) if member.is_empty() => Err(Why::Empty),
        Err(_) if member.parse::<IpNet>().is_ok() => Err(Why::Prefix),
        Err(_) if member.parse::<std::net::SocketAddr>().is_ok() => Err(Why::Port),
        Err(_) => Err(Why::NotAnAddress),
    }
}

fn unicast(address: Ipv4Addr) -> Result<Ipv4Addr, Why> {
    match address.octets() {
        [0, ..] => Err(Why::ThisHost),
        [127, ..] => Err(Why::Loopback),
        [169, 254, ..] => Err(Why::LinkLocal),
        [224..=239, ..] => Err(Why::Multicast),
        [255, 255, 255, 255] => Err(Why::Broadcast),
        [240..=255, ..] => Err(Why::Reserved),
        _ => Ok(address),
    }
}

/// Whether a pod can have this address: the same ranges are no host's.
pub(super) fn is_unicast(address: Ipv4Addr) -> bool {
    unicast(address).is_ok()
}
