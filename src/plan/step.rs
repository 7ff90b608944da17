//! A plan: the steps that turn what is into what must be, in an order that never leaves a packet without a way.

use std::collections::BTreeSet;
use std::fmt;

use super::filter::{print_attach, print_detach, print_object};
use super::net::{Address, LabelRoute, LinkKind, Neighbour, Nexthop, RouteKey, Source, Sysctl, host};
use super::nft::NftOp;
use super::nft::op::script;
use super::rule::RuleSpec;
use crate::model::Family;

/// Where a route that is written leads, by nexthop id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteWrite {
    /// `unreachable`
    Unreachable,
    /// `nhid N mtu M`, for IPv6 `mtu lock M`
    Nhid {
        /// Nexthop object id.
        id: u32,
        /// MTU metric in bytes.
        mtu: u32,
    },
    /// `nhid N`, a group
    Group(u32),
}

/// One change to the kernel. Every step may be applied twice: adding replaces, deleting what is gone is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write a sysctl below `/proc/sys/net`.
    SetSysctl(Sysctl, u32),
    /// Create a link; it is still down.
    AddLink(String, LinkKind),
    /// Set a link up.
    LinkUp(String),
    /// Delete a link.
    DelLink(String),
    /// Have the program with this id of the kernel judge what comes in by a link of ours; another one that does is replaced
    /// atomically.
    AttachFilter {
        /// The link.
        dev: String,
        /// The kernel's id of the program.
        program: u32,
    },
    /// Have no program judge what comes in by a link of ours.
    DetachFilter(String),
    /// Add a VIP to a device.
    AddAddress(Address),
    /// Remove a VIP from a device.
    DelAddress(Address),
    /// Have the kernel find a neighbour's MAC address and keep it known.
    AddNeighbour(Neighbour),
    /// Forget a neighbour; who needs it finds it again.
    DelNeighbour(Neighbour),
    /// Create or replace a nexthop object.
    ReplaceNexthop(u32, Nexthop),
    /// Create or replace a nexthop object that leads nowhere, but says where VIPs may be a source.
    ReplaceSource(u32, Source),
    /// Delete a nexthop object.
    DelNexthop(u32),
    /// Create or replace a route.
    ReplaceRoute(RouteKey, RouteWrite),
    /// Delete a route.
    DelRoute(RouteKey),
    /// Create or replace an MPLS route.
    ReplaceLabel(u32, LabelRoute),
    /// Delete an MPLS route.
    DelLabel(u32),
    /// Add a policy rule.
    AddRule(RuleSpec),
    /// Delete a policy rule.
    DelRule(RuleSpec),
    /// Run one nft transaction.
    Nft(Vec<NftOp>),
    /// Run one nft transaction from text, for `nft -f -`: to try out what nft and the kernel know.
    NftText(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proto = super::PROTOCOL;
        match self {
            Step::SetSysctl(key, value) => write!(f, "sysctl -w {key}={value}"),
            Step::AddLink(name, kind) => write!(f, "ip link add {name} {kind}"),
            Step::LinkUp(name) => write!(f, "ip link set {name} up"),
            Step::DelLink(name) => write!(f, "ip link del {name}"),
            Step::AttachFilter { dev, .. } => print_attach(f, dev),
            Step::DetachFilter(dev) => print_detach(f, dev),
            Step::AddAddress(a) => write!(f, "ip address add {a}"),
            Step::DelAddress(a) => write!(f, "ip address del {} dev {}", host(a.address), a.dev),
            Step::AddNeighbour(n) => write!(f, "ip neighbour replace {n} managed protocol {proto}"),
            Step::DelNeighbour(n) => write!(f, "ip neighbour del {n}"),
            Step::ReplaceNexthop(id, nh) => {
                write!(f, "ip {}nexthop replace id {id} {nh} protocol {proto}", option(nh.family()))
            }
            Step::ReplaceSource(id, source) => write!(f, "ip nexthop replace id {id} {source} protocol {proto}"),
            Step::DelNexthop(id) => write!(f, "ip nexthop del id {id}"),
            Step::ReplaceRoute(key, RouteWrite::Unreachable) => {
                write!(f, "ip route replace unreachable {key} protocol {proto}")
            }
            Step::ReplaceRoute(key, RouteWrite::Nhid { id, mtu }) => {
                let lock = if key.vip.is_ipv6() { "lock " } else { "" };
                write!(f, "ip route replace {key} nhid {id} mtu {lock}{mtu} protocol {proto}")
            }
            Step::ReplaceRoute(key, RouteWrite::Group(id)) => {
                write!(f, "ip route replace {key} nhid {id} protocol {proto}")
            }
            Step::DelRoute(key) => write!(f, "ip route del {key} protocol {proto}"),
            Step::ReplaceLabel(label, route) => {
                write!(f, "ip -f mpls route replace {label} {route} protocol {proto}")
            }
            Step::DelLabel(label) => write!(f, "ip -f mpls route del {label}"),
            Step::AddRule(rule) => write!(f, "ip {}rule add {rule}", option(rule.family)),
            Step::DelRule(rule) => write!(f, "ip {}rule del {rule}", option(rule.family)),
            Step::Nft(ops) => write!(f, "nft -f - <<'EOF'\n{}EOF", script(ops)),
            Step::NftText(text) => write!(f, "nft -f - <<'EOF'\n{}\nEOF", text.trim_end()),
        }
    }
}

/// The option of `ip` where the rest of the line does not show the family.
fn option(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => "-6 ",
    }
}

/// Steps in the order in which they must be applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many transactions of nft it has.
    pub fn transactions(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Nft(_) | Step::NftText(_))).count()
    }

    /// Changes elements of a set of our table of family inet as the plan does, which changes nothing else of it.
    pub fn change_elements(&self, name: &str, elements: &mut BTreeSet<String>) {
        let ops = self.steps.iter().filter_map(|step| match step {
            Step::Nft(ops) => Some(ops),
            _ => None,
        });
        for (is_added, change) in ops.flatten().filter_map(NftOp::elements).filter(|(_, change)| change.set == name) {
            match is_added {
                true => elements.extend(change.elements.iter().cloned()),
                false => change.elements.iter().for_each(|key| remove(elements, key)),
            }
        }
    }
}

/// Removes an element, which in a map has something behind the key.
fn remove(elements: &mut BTreeSet<String>, key: &str) {
    if !elements.remove(key) {
        let with_value = format!("{key} : ");
        let found = elements.range(with_value.clone()..).next().filter(|found| found.starts_with(&with_value)).cloned();
        found.iter().for_each(|found| {
            elements.remove(found);
        });
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.iter().any(|step| matches!(step, Step::AttachFilter { .. })) {
            print_object(f)?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}
