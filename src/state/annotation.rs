//! The VIP annotation: a list of addresses, separated by commas.
//!
//! Only the text is judged here. Whether an address is free is a question to the cluster, see `vips`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    #[error("has a zone, which means something on one host only")]
    Zone,
    #[error("is an IPv4 address in IPv6 notation")]
    Mapped,
    #[error("is in 0.0.0.0/8, which means \"this host\"")]
    ThisHost,
    #[error("is the unspecified address")]
    Unspecified,
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
    #[error("is a site-local address, which RFC 3879 withdrew")]
    SiteLocal,
}

impl BadMember {
    /// What its author can do.
    pub(super) fn remedy(&self) -> &'static str {
        match self.why {
            Why::Empty => "remove the stray comma, or write an IP address",
            Why::NotAnAddress => "write IP addresses separated by commas, such as 192.0.2.10,2001:db8::10",
            Why::Prefix => "write each address by itself, without a prefix length",
            Why::Port => "write the address alone: every port of it is delivered",
            Why::Mapped => "write the IPv4 address itself, such as 192.0.2.10",
            Why::Zone
            | Why::ThisHost
            | Why::Unspecified
            | Why::Loopback
            | Why::LinkLocal
            | Why::Multicast
            | Why::Broadcast
            | Why::Reserved
            | Why::SiteLocal => "use a unicast address that is routed to the ingress nodes",
        }
    }
}

/// The members of the annotation in the order in which they are written, each judged by itself. An empty annotation is
/// one empty member.
pub(super) fn parse(text: &str) -> impl Iterator<Item = Result<IpAddr, BadMember>> {
    text.split(',').map(|member| {
        let member = member.trim();
        address(member).map_err(|why| BadMember { text: shown(member), why })
    })
}

fn address(member: &str) -> Result<IpAddr, Why> {
    match member.parse::<IpAddr>() {
        Ok(address) => unicast(address).map(|()| address),
        Err(_) if member.is_empty() => Err(Why::Empty),
        Err(_) if has_zone(member) => Err(Why::Zone),
        Err(_) if member.parse::<IpNet>().is_ok() => Err(Why::Prefix),
        Err(_) if member.parse::<std::net::SocketAddr>().is_ok() => Err(Why::Port),
        Err(_) => Err(Why::NotAnAddress),
    }
}

/// `fe80::1%eth0` (RFC 4007 §11).
fn has_zone(member: &str) -> bool {
    member.split_once('%').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok())
}

fn unicast(address: IpAddr) -> Result<(), Why> {
    match address {
        IpAddr::V4(v4) => unicast_v4(v4),
        IpAddr::V6(v6) => unicast_v6(v6),
    }
}

fn unicast_v4(address: Ipv4Addr) -> Result<(), Why> {
    match address.octets() {
        [0, ..] => Err(Why::ThisHost),
        [127, ..] => Err(Why::Loopback),
        [169, 254, ..] => Err(Why::LinkLocal),
        [224..=239, ..] => Err(Why::Multicast),
        [255, 255, 255, 255] => Err(Why::Broadcast),
        [240..=255, ..] => Err(Why::Reserved),
        _ => Ok(()),
    }
}

/// The ranges of RFC 4291 §2 that are no host's, or no routed one.
fn unicast_v6(address: Ipv6Addr) -> Result<(), Why> {
    match address.segments() {
        _ if address.is_unspecified() => Err(Why::Unspecified),
        _ if address.is_loopback() => Err(Why::Loopback),
        // ::ffff:0:0/96, and the compatible addresses of old, ::/96.
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] => Err(Why::Mapped),
        [0xfe80..=0xfebf, ..] => Err(Why::LinkLocal),
        [0xfec0..=0xfeff, ..] => Err(Why::SiteLocal),
        [0xff00..=0xffff, ..] => Err(Why::Multicast),
        _ => Ok(()),
    }
}

/// Whether a pod can have this address: the same ranges are no host's.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    unicast(address).is_ok()
}
