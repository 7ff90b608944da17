//! What one network namespace must hold of ours. Everything of ours that is not in here is removed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::nft::{Table, TableFamily};
use super::{Address, LabelRoute, LinkKind, Neighbour, Nexthop, RouteKey, RouteTarget, RuleSpec, Sysctl, SysctlWant};

/// The complete desired state of one netns; `Desired::default()` means "nothing of ours".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Our links, by name; all are up.
    pub links: BTreeMap<String, LinkKind>,
    /// For our links that have one, the kernel's id of the program that judges what comes in.
    pub filters: BTreeMap<String, u32>,
    /// VIPs on devices.
    pub addresses: BTreeSet<Address>,
    /// Routes in our tables.
    pub routes: BTreeMap<RouteKey, RouteTarget>,
    /// MPLS routes by incoming label.
    pub labels: BTreeMap<u32, LabelRoute>,
    /// Policy rules.
    pub rules: BTreeSet<RuleSpec>,
    /// Sysctls that must have a value while we are here, and get their old value back afterwards.
    pub sysctls: BTreeMap<Sysctl, SysctlWant>,
    /// Neighbours whose MAC addresses the kernel is to keep known.
    pub neighbours: BTreeSet<Neighbour>,
    /// Our nft table.
    pub nft: Option<Table>,
    /// Our tables of other families.
    pub frames: BTreeMap<TableFamily, Table>,
}

impl Desired {
    /// The nexthop objects that the routes need.
    pub fn nexthops(&self) -> BTreeSet<&Nexthop> {
        let of_routes = self.routes.values().filter_map(|t| match t {
            RouteTarget::Via { nexthop, .. } => Some(nexthop),
            RouteTarget::Unreachable | RouteTarget::Devices(_) => None,
        });
        // Many routes share an object.
        let mut seen = HashSet::new();
        of_routes.filter(|nexthop| seen.insert(Arc::as_ptr(nexthop))).map(Arc::as_ref).collect()
    }

    /// The sets of devices that VIPs may be a source behind.
    pub fn sources(&self) -> BTreeSet<&BTreeSet<String>> {
        self.routes
            .values()
            .filter_map(|t| match t {
                RouteTarget::Devices(devices) => Some(devices),
                RouteTarget::Unreachable | RouteTarget::Via { .. } => None,
            })
            .collect()
    }
}

/// Ids of nexthop objects by what refers to them: contents are dear to compare, and many routes share one.
#[derive(Default)]
pub(super) struct IdsByReference(HashMap<*const Nexthop, Option<u32>>);

impl IdsByReference {
    /// The id of an object, which is looked for once.
    pub fn of(&mut self, nexthop: &Arc<Nexthop>, find: impl FnOnce(&Nexthop) -> Option<u32>) -> Option<u32> {
        *self.0.entry(Arc::as_ptr(nexthop)).or_insert_with(|| find(nexthop))
    }
}
