//! The kernel objects that we own, as values: links, addresses, nexthops, routes, labels and sysctls.
//!
//! Each prints as the arguments that `ip` takes for it, so that a plan can be read, and pasted, by a network engineer.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::Family;
use crate::model::second_chance::TunnelId;

/// What kind of link a device of ours is, with the attributes that matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// `type gre external`, or `ip6gre` over IPv6: one device encapsulates towards every endpoint, the nexthop says where
    /// to.
    GreExternal(Family),
    /// `type gre local A`, or `ip6gre` for an IPv6 address: what 0.1 made in pods. It takes no packets with a key.
    GreLocal(IpAddr),
    /// `type vxlan external gpe dstport P udp6zerocsumrx`: both ends, over either family; GPE carries IP without an
    /// Ethernet header. An external device sends no UDP checksum, and takes none over IPv6 only if told so (RFC 6935).
    VxlanGpe {
        /// UDP destination port, 1–65535.
        port: u16,
    },
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkKind::GreExternal(outer) => write!(f, "type {} external", gre(*outer)),
            LinkKind::GreLocal(local) => write!(f, "type {} local {local}", gre(Family::of(*local))),
            LinkKind::VxlanGpe { port } => write!(f, "type vxlan external gpe dstport {port} udp6zerocsumrx"),
        }
    }
}

/// The kernel's name for GRE over a family.
fn gre(outer: Family) -> &'static str {
    match outer {
        Family::V4 => "gre",
        Family::V6 => "ip6gre",
    }
}

/// The address of an Ethernet device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    /// As nft and `ip` write it: `02:42:0a:00:00:0b`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An on-link address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// Device that leads to it.
    pub dev: String,
    /// The address.
    pub address: IpAddr,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.address, self.dev)
    }
}

/// A VIP on a device, always a host address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Device that carries it: our tunnel device, or `lo` for MPLS.
    pub dev: String,
    /// The address; the prefix is all of it.
    pub address: IpAddr,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", host(self.address), self.dev)?;
        if self.address.is_ipv6() {
            // Others have it too, and the pod's own connections should not come from it.
            write!(f, " nodad preferred_lft 0")?;
        }
        write!(f, " proto {}", super::PROTOCOL)
    }
}

/// `A/32` or `A/128`.
pub(super) fn host(address: IpAddr) -> String {
    format!("{address}/{}", Family::of(address).bits())
}

/// The content of a nexthop object: how packets reach one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nexthop {
    /// `encap ip` over a collect-metadata device (GRE or VXLAN-GPE).
    EncapIp {
        /// Family of the routes that may use it: that of the VIPs.
        family: Family,
        /// The external tunnel device.
        dev: String,
        /// Outer source: this node's address, else it would follow the `src` of some route.
        src: IpAddr,
        /// Outer destination: the pod's address, of the same family as `src`.
        dst: IpAddr,
        /// The tunnel id: GRE key or VXLAN VNI. Without names there is none, and GRE packets carry no key.
        id: TunnelId,
    },
    /// `encap mpls`: push one label towards an on-link gateway (the pod itself, or the node that swaps the label).
    Mpls {
        /// Family of the nexthop object. Routes of IPv4 may use one of either family, those of IPv6 only their own.
        family: Family,
        /// Label to push, 16–1048575.
        label: u32,
        /// On-link gateway of either family. The object of family IPv6 names an IPv4 gateway as `::ffff:A`, which is what
        /// the kernel resolves by ARP (RFC 4798, `mpls_xmit` in net/mpls/mpls_iptunnel.c).
        via: IpAddr,
        /// Device that leads to the gateway.
        dev: String,
    },
}

/// TTL of the outer header; `inherit` would let a traceroute through the tunnel see the underlay.
pub const OUTER_TTL: u8 = 64;

impl Nexthop {
    /// Whom packets name that travel this way: labels name nobody.
    pub fn tunnel_id(&self) -> TunnelId {
        match self {
            Nexthop::EncapIp { id, .. } => *id,
            Nexthop::Mpls { .. } => TunnelId::OWNER_ALONE,
        }
    }

    /// A label pushed towards a gateway, for VIPs of a family: an object of IPv6 serves both where the gateway is IPv6.
    pub fn mpls(vip: Family, label: u32, via: IpAddr, dev: String) -> Nexthop {
        let family = if via.is_ipv6() { Family::V6 } else { vip };
        Nexthop::Mpls { family, label, via, dev }
    }

    /// The family of the nexthop object.
    pub fn family(&self) -> Family {
        match self {
            Nexthop::EncapIp { family, .. } | Nexthop::Mpls { family, .. } => *family,
        }
    }

    /// The device the packet leaves through.
    pub fn dev(&self) -> &str {
        match self {
            Nexthop::EncapIp { dev, .. } | Nexthop::Mpls { dev, .. } => dev,
        }
    }
}

impl fmt::Display for Nexthop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Nexthop::EncapIp { dev, src, dst, id, .. } => {
                let (encap, ttl) = match Family::of(*dst) {
                    Family::V4 => ("ip", "ttl"),
                    Family::V6 => ("ip6", "hoplimit"),
                };
                let (bits, key) = (id.bits(), if *id == TunnelId::OWNER_ALONE { "" } else { " key" });
                write!(f, "encap {encap} id {bits} src {src} dst {dst} {ttl} {OUTER_TTL}{key} dev {dev}")
            }
            Nexthop::Mpls { family: Family::V6, label, via: IpAddr::V4(via), dev } => {
                write!(f, "encap mpls {label} via ::ffff:{via} dev {dev} onlink")
            }
            Nexthop::Mpls { label, via, dev, .. } => write!(f, "encap mpls {label} via {via} dev {dev}"),
        }
    }
}

/// Which route: one VIP in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Routing table number.
    pub table: u32,
    /// The VIP; the prefix is all of it.
    pub vip: IpAddr,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} table {}", host(self.vip), self.table)
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteTarget {
    /// The VIP has no endpoint: tell the client, do not let the packet fall through to `main`.
    Unreachable,
    /// Through a nexthop object.
    Via {
        /// Content of the nexthop object; its id is found or chosen by the diff.
        nexthop: Arc<Nexthop>,
        /// Path MTU for the packet inside, in bytes, so that clients are told before the outer packet fragments.
        mtu: u32,
    },
    /// On-link through any of these devices, by a group of nexthop objects. Never forwards a packet: it tells reverse path
    /// filtering where the VIP may be a source.
    Devices(BTreeSet<String>),
}

/// The content of a nexthop object that tells reverse path filtering where VIPs may be a source.
///
/// Objects, because a route with several next hops of its own goes as a whole when one of its devices is unregistered
/// (`fib_sync_down_dev`, net/ipv4/fib_semantics.c); of a group only the device's object does. That goes when the device loses
/// its carrier, too, and comes back with the next round (`nexthop_flush_dev`, net/ipv4/nexthop.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `dev D`
    Device(String),
    /// `group ID/ID/…`
    Group(BTreeSet<u32>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Device(dev) => write!(f, "dev {dev}"),
            Source::Group(ids) => {
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                write!(f, "group {}", ids.join("/"))
            }
        }
    }
}

/// What happens to a packet that arrives with a label of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelRoute {
    /// Pop and deliver locally: `ip -f mpls route add L dev lo`.
    Pop {
        /// Device that the popped packet appears on.
        dev: String,
    },
    /// Swap and send on to the pod: `ip -f mpls route add L as N via inet G dev D`, or `inet6`.
    Swap {
        /// Outgoing label.
        out: u32,
        /// The pod's address.
        via: IpAddr,
        /// Device that leads to the pod.
        dev: String,
    },
}

impl fmt::Display for LabelRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelRoute::Pop { dev } => write!(f, "dev {dev}"),
            LabelRoute::Swap { out, via, dev } => {
                let family = if via.is_ipv4() { "inet" } else { "inet6" };
                write!(f, "as {out} via {family} {via} dev {dev}")
            }
        }
    }
}

/// A sysctl of a network namespace that we change and put back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sysctl {
    /// `net.ipv4.conf.<dev>.rp_filter`
    RpFilter(String),
    /// `net.ipv4.conf.<dev>.arp_ignore`
    ArpIgnore(String),
    /// `net.ipv4.conf.<dev>.arp_announce`
    ArpAnnounce(String),
    /// `net.mpls.conf.<dev>.input`
    MplsInput(String),
    /// `net.mpls.platform_labels`
    PlatformLabels,
    /// `net.ipv6.conf.<dev>.disable_ipv6`
    DisableIpv6(String),
}

impl Sysctl {
    /// Short names of all kinds, in the order of the variants: they name the maps that remember what was there before.
    pub const NAMES: [&'static str; 6] =
        ["rp_filter", "arp_ignore", "arp_announce", "mpls_input", "platform_labels", "disable_ipv6"];

    /// The short name of this kind.
    pub fn name(&self) -> &'static str {
        match self {
            Sysctl::RpFilter(_) => Self::NAMES[0],
            Sysctl::ArpIgnore(_) => Self::NAMES[1],
            Sysctl::ArpAnnounce(_) => Self::NAMES[2],
            Sysctl::MplsInput(_) => Self::NAMES[3],
            Sysctl::PlatformLabels => Self::NAMES[4],
            Sysctl::DisableIpv6(_) => Self::NAMES[5],
        }
    }

    /// The device it belongs to; `None` for the whole namespace.
    pub fn dev(&self) -> Option<&str> {
        match self {
            Sysctl::RpFilter(d)
            | Sysctl::ArpIgnore(d)
            | Sysctl::ArpAnnounce(d)
            | Sysctl::MplsInput(d)
            | Sysctl::DisableIpv6(d) => Some(d),
            Sysctl::PlatformLabels => None,
        }
    }

    /// The inverse of [`Sysctl::name`] and [`Sysctl::dev`]; `dev` is ignored where the kind has none.
    pub fn from_name(name: &str, dev: &str) -> Option<Self> {
        Some(match name {
            "rp_filter" => Sysctl::RpFilter(dev.to_owned()),
            "arp_ignore" => Sysctl::ArpIgnore(dev.to_owned()),
            "arp_announce" => Sysctl::ArpAnnounce(dev.to_owned()),
            "mpls_input" => Sysctl::MplsInput(dev.to_owned()),
            "platform_labels" => Sysctl::PlatformLabels,
            "disable_ipv6" => Sysctl::DisableIpv6(dev.to_owned()),
            _ => return None,
        })
    }

    /// Path below `/proc/sys/net`. Slashes, not dots: a VLAN device has a dot in its name.
    pub fn path(&self) -> String {
        match self {
            Sysctl::RpFilter(d) => format!("ipv4/conf/{d}/rp_filter"),
            Sysctl::ArpIgnore(d) => format!("ipv4/conf/{d}/arp_ignore"),
            Sysctl::ArpAnnounce(d) => format!("ipv4/conf/{d}/arp_announce"),
            Sysctl::MplsInput(d) => format!("mpls/conf/{d}/input"),
            Sysctl::PlatformLabels => "mpls/platform_labels".to_owned(),
            Sysctl::DisableIpv6(d) => format!("ipv6/conf/{d}/disable_ipv6"),
        }
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net/{}", self.path())
    }
}

/// What a sysctl must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SysctlWant {
    /// Exactly this value.
    Exactly(u32),
    /// This value or more: it is raised, never lowered.
    AtLeast(u32),
}

impl SysctlWant {
    /// Whether a value satisfies it.
    pub fn accepts(self, value: u32) -> bool {
        match self {
            SysctlWant::Exactly(want) => value == want,
            SysctlWant::AtLeast(want) => value >= want,
        }
    }

    /// The value to write when it is not satisfied.
    pub fn value(self) -> u32 {
        match self {
            SysctlWant::Exactly(v) | SysctlWant::AtLeast(v) => v,
        }
    }
}
