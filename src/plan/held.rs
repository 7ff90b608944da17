//! What stays in the kernel of a Service whose map this agent has never seen.
//!
//! An agent that starts may find no map: somebody has deleted it, and the controller has not written it anew. An agent before
//! this one has followed it, and its routes still lead to the right pods. They stay as they are until there is a map.
//! Nothing is held of a VIP whose map is known: then the map says everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::observed::ObservedRoute;
use super::{Nexthop, Observed, RouteKey, RouteTarget};

/// Encapsulating routes of ours, as they were read back, by VIP and table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held(BTreeMap<IpAddr, BTreeMap<u32, RouteTarget>>);

impl Held {
    /// The routes of these VIPs that are there, as far as they can be written again.
    pub fn of(vips: &BTreeSet<IpAddr>, observed: &Observed) -> Held {
        let nexthop = |id: &u32| observed.nexthops.get(id).filter(|nexthop| nexthop.ours)?.spec.clone().map(Arc::new);
        let target = |route: &ObservedRoute| match route {
            ObservedRoute::Nhid { id, mtu: Some(mtu) } => Some(RouteTarget::Via { nexthop: nexthop(id)?, mtu: *mtu }),
            _ => None,
        };
        let mut held = Held::default();
        for (key, route) in observed.routes.iter().filter(|(key, _)| vips.contains(&key.vip)) {
            if let Some(target) = target(route) {
                held.0.entry(key.vip).or_default().insert(key.table, target);
            }
        }
        held
    }

    /// Where a bucket's table leads.
    pub(super) fn route(&self, key: &RouteKey) -> Option<&RouteTarget> {
        self.0.get(&key.vip)?.get(&key.table)
    }

    /// The next hops of a VIP.
    pub(super) fn nexthops(&self, vip: IpAddr) -> impl Iterator<Item = &Nexthop> {
        self.0.get(&vip).into_iter().flat_map(BTreeMap::values).filter_map(|target| match target {
            RouteTarget::Via { nexthop, .. } => Some(nexthop.as_ref()),
            RouteTarget::Unreachable | RouteTarget::Devices(_) => None,
        })
    }
}
