//! What was read back from one network namespace: everything of ours, and as much of the rest as decisions need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::filter::ObservedFilter;
use super::nft::{ObservedTable, TableFamily};
use super::rule::tables_of;
use super::{Address, LabelRoute, LinkKind, Mac, Neighbour, Nexthop, RouteKey, RuleSpec, Source, Sysctl};

/// A link of the namespace, ours or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLink {
    /// Interface index.
    pub index: u32,
    /// Set if it is of a kind that we make, with the attributes that we set.
    pub kind: Option<LinkKind>,
    /// The kernel's name for the kind (`gre`, `vxlan`, `veth`, …), if it has one.
    pub kind_name: Option<String>,
    /// Administratively up.
    pub up: bool,
    /// Up, with somebody at the other end.
    pub carrier: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// A loopback device.
    pub loopback: bool,
}

/// Where an observed route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedRoute {
    /// `unreachable`
    Unreachable,
    /// `nhid N`, with the MTU metric if there is one.
    Nhid {
        /// Nexthop object id.
        id: u32,
        /// MTU metric in bytes; `None` also if an IPv6 route does not lock it.
        mtu: Option<u32>,
    },
    /// Any other shape: not what we write today; it is replaced.
    Other,
}

/// A rule and whether it is ours (by its protocol number).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRule {
    /// The rule; `None` if it has selectors or actions that we never write.
    pub spec: Option<RuleSpec>,
    /// Priority, also when `spec` is `None`.
    pub priority: u32,
    /// Value and mask of its fwmark selector, if it has one, also when `spec` is `None`.
    pub mark: Option<(u32, u32)>,
    /// Carries our protocol number.
    pub ours: bool,
}

/// A nexthop object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedNexthop {
    /// Content, if it encapsulates as ours do.
    pub spec: Option<Nexthop>,
    /// Content, if it says where VIPs may be a source.
    pub source: Option<Source>,
    /// Carries our protocol number.
    pub ours: bool,
}

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObservedNeighbour {
    /// Its MAC address, if it is known and was not found to be out of date.
    pub mac: Option<Mac>,
    /// Carries our protocol number, and the kernel keeps it known.
    pub ours: bool,
}

/// The state of one netns, as read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// All links, by name.
    pub links: BTreeMap<String, ObservedLink>,
    /// Programs that judge what comes in by our links, by link.
    pub filters: BTreeMap<String, ObservedFilter>,
    /// All addresses of the namespace with their prefix lengths and whether they carry our protocol number.
    pub addresses: Vec<(Address, u8, bool)>,
    /// All nexthop objects, by id.
    pub nexthops: BTreeMap<u32, ObservedNexthop>,
    /// Routes with our protocol number, by table and destination.
    pub routes: BTreeMap<RouteKey, ObservedRoute>,
    /// Number of routes of either family that are not ours, by table, for the tables that hold any: a clash with our block is refused.
    pub foreign_routes: BTreeMap<u32, usize>,
    /// Next hops of routes that are not ours, and the devices that they are behind.
    pub next_hops: BTreeMap<IpAddr, String>,
    /// MPLS routes with our protocol number, by label; `None` for a shape that we never write.
    pub labels: BTreeMap<u32, Option<LabelRoute>>,
    /// Labels of MPLS routes that are not ours.
    pub foreign_labels: BTreeSet<u32>,
    /// All rules of both families.
    pub rules: Vec<ObservedRule>,
    /// Current values of the sysctls that were asked for; those that do not exist are left out.
    pub sysctls: BTreeMap<Sysctl, u32>,
    /// Neighbours, where MPLS makes them of interest.
    pub neighbours: BTreeMap<Neighbour, ObservedNeighbour>,
    /// Nothing is to be announced, as `drain-node` has said.
    pub withdrawn: bool,
    /// Packets to VIPs are dropped, because somebody died while it changed the tree of rules.
    pub paused: bool,
    /// How many nft transactions there have been, by whomever; `None` if one came while our tables were read.
    pub nft_generation: Option<u32>,
    /// Our nft table.
    pub nft: Option<ObservedTable>,
    /// Our tables below IP.
    pub frames: BTreeMap<TableFamily, ObservedTable>,
}

impl Observed {
    /// Routes of ours that no rule of ours leads to: announcements.
    pub fn announcements(&self) -> BTreeSet<RouteKey> {
        let looked_into = tables_of(self.rules.iter().filter(|rule| rule.ours).filter_map(|rule| rule.spec));
        self.routes.keys().copied().filter(|key| !looked_into.contains(&key.table)).collect()
    }

    /// Whether the namespace has this address, on whatever device.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(a, _, _)| a.address == address)
    }
}
