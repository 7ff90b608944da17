//! What stays in the kernel of a Service whose map this agent has never seen.
//!
//! An agent that starts may find no map: somebody has deleted it, and the controller has not written it anew. An agent before
//! this one has followed it, and its routes still lead to the right pods. They stay as they are until there is a map.
//! Nothing is held of a VIP whose map is known: then the map says everything.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::observed::ObservedRoute;
use super::{Nexthop, Observed, RouteKey, RouteTarget};

/// Encapsulating routes of ours, as they were read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held(BTreeMap<RouteKey, RouteTarget>);

impl Held {
    /// The routes that are there, as far as they can be written again.
    pub fn of(observed: &Observed) -> Held {
        let nexthop = |id: &u32| observed.nexthops.get(id).filter(|nexthop| nexthop.ours)?.spec.clone();
        let target = |route: &ObservedRoute| match route {
            ObservedRoute::Nhid { id, mtu: Some(mtu) } => Some(RouteTarget::Via { nexthop: nexthop(id)?, mtu: *mtu }),
            _ => None,
        };
        Held(observed.routes.iter().filter_map(|(key, route)| Some((*key, target(route)?))).collect())
    }

    /// Where a bucket's table leads.
    pub(super) fn route(&self, key: &RouteKey) -> Option<&RouteTarget> {
        self.0.get(key)
    }

    /// The next hops of a VIP.
    pub(super) fn nexthops(&self, vip: IpAddr) -> impl Iterator<Item = &Nexthop> {
        self.0.iter().filter(move |(key, _)| key.vip == vip).filter_map(|(_, target)| match target {
            RouteTarget::Via { nexthop, .. } => Some(nexthop),
            RouteTarget::Unreachable | RouteTarget::Devices(_) => None,
        })
    }
}
