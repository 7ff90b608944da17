//! What is known to be programmed on a node, VIP by VIP, and what a change of some VIPs takes by it: without reading the kernel, without
//! nft, without a look at any other VIP.
//!
//! That is enough where other pods own buckets, are named, or have another path MTU. Whatever takes more (a VIP that comes or goes, other
//! addresses, devices, rules, nft, something to be told) is left to [`diff`](super::diff::diff), which sees everything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::diff::{NEXTHOP_BASE, nexthop_ids};
use super::held::Held;
use super::node::{Build, Context, Routes, flows};
use super::step::RouteWrite;
use super::{Desired, Nexthop, Observed, Plan, RouteKey, RouteTarget, Settings, Step};
use crate::model::{Addresses, Cluster, Mode, PodAt, Problem, Vip};

/// Where a bucket's route leads: id of the nexthop object and MTU; `None`: unreachable.
type Hop = Option<(u32, u32)>;

/// A nexthop object and the number of routes that use it.
#[derive(Debug, Clone)]
struct Used {
    nexthop: Arc<Nexthop>,
    routes: usize,
}

/// A node's namespace after a round that has left it as it must be.
#[derive(Debug, Clone)]
pub struct Programmed {
    cluster: Arc<Cluster>,
    routes: Routes,
    problems: Vec<Problem>,
    ids: BTreeMap<Arc<Nexthop>, u32>,
    used: BTreeMap<u32, Used>,
    /// The next id that nobody has.
    free: u32,
    /// By VIP and routing table.
    hops: BTreeMap<IpAddr, Vec<(u32, Hop)>>,
}

impl Programmed {
    /// After `desired`, made of this cluster by these `routes`, was carried out where `observed` was; `None` if not all of it can be
    /// carried out. `problems` are what was told of it.
    pub fn new(
        (cluster, routes): (Arc<Cluster>, Routes),
        (desired, observed): (&Desired, &Observed),
        problems: Vec<Problem>,
        settings: &Settings,
    ) -> Option<Programmed> {
        let ids = nexthop_ids(desired, observed, settings.link_prefix.as_str());
        let highest = observed.nexthops.keys().chain(ids.values()).max();
        let free = highest.map_or(NEXTHOP_BASE, |id| id.saturating_add(1).max(NEXTHOP_BASE));
        let ids: BTreeMap<Arc<Nexthop>, u32> = ids.into_iter().map(|(nexthop, id)| (Arc::new(nexthop), id)).collect();
        let used = ids.iter().map(|(nexthop, id)| (*id, Used { nexthop: nexthop.clone(), routes: 0 })).collect();
        let mut programmed = Programmed { cluster, routes, problems, ids, used, free, hops: BTreeMap::new() };
        for (key, target) in desired.routes.iter().filter(|(key, _)| settings.announce_table != Some(key.table)) {
            let hop = match target {
                RouteTarget::Unreachable => None,
                RouteTarget::Devices(_) => continue,
                RouteTarget::Via { nexthop, mtu } => Some((*programmed.ids.get(nexthop)?, *mtu)),
            };
            programmed.count(hop, 1);
            programmed.hops.entry(key.vip).or_default().push((key.table, hop));
        }
        Some(programmed)
    }

    /// What has been told of the node.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The steps that lead from here to another cluster, which is then what is programmed; `None` if it takes more than is known here.
    /// If a step fails, nothing is known any more.
    pub fn step(&mut self, cluster: &Arc<Cluster>, settings: &Settings) -> Option<Plan> {
        let builds = self.builds(cluster, settings)?;
        let (mut make, mut change, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for (vip, build) in builds {
            for (key, target) in build.desired.routes {
                if settings.announce_table == Some(key.table) {
                    continue;
                }
                let hop = match target {
                    RouteTarget::Via { nexthop, mtu } => Some((self.id(nexthop, &mut make)?, mtu)),
                    RouteTarget::Unreachable | RouteTarget::Devices(_) => None,
                };
                let hops = self.hops.get_mut(&vip)?;
                let at = hops.binary_search_by_key(&key.table, |(table, _)| *table).ok()?;
                let before = std::mem::replace(&mut hops[at].1, hop);
                if before != hop {
                    change.push(write(key, hop));
                    self.count(hop, 1);
                    left.extend(before.map(|(id, _)| id));
                    self.count(before, -1);
                }
            }
        }
        let mut plan = Plan { steps: make };
        plan.steps.append(&mut change);
        left.sort_unstable();
        left.dedup();
        plan.steps.extend(left.into_iter().filter(|id| self.forget(*id)).map(Step::DelNexthop));
        self.cluster = cluster.clone();
        Some(plan)
    }

    /// The VIPs that have changed, as they are to be; `None` if more than their next hops have.
    fn builds(&self, cluster: &Cluster, settings: &Settings) -> Option<Vec<(IpAddr, Build)>> {
        let (before, after) = (&self.cluster, cluster);
        if before.nodes != after.nodes || before.vips.len() != after.vips.len() {
            return None;
        }
        let ingress = after.nodes.get(&settings.node_name).is_some_and(|node| node.ingress);
        let mut builds = Vec::new();
        for ((address, old), (same, new)) in before.vips.iter().zip(&after.vips) {
            if address != same {
                return None;
            }
            if Arc::ptr_eq(old, new) {
                continue;
            }
            if !has_same_pods(old, new, settings) {
                return None;
            }
            if ingress {
                let build = |cluster, vip| {
                    let held = &Held::default();
                    Build::of(vip, &Context { cluster, routes: &self.routes, held, settings })
                };
                let (old, new) = (build(before, old), build(after, new));
                if !old.differs_in_next_hops_alone(&new, settings) {
                    return None;
                }
                builds.push((*address, new));
            }
        }
        Some(builds)
    }

    fn id(&mut self, nexthop: Nexthop, make: &mut Vec<Step>) -> Option<u32> {
        if let Some(id) = self.ids.get(&nexthop) {
            return Some(*id);
        }
        let (id, nexthop) = (self.free, Arc::new(nexthop));
        self.free = self.free.checked_add(1)?;
        make.push(Step::ReplaceNexthop(id, nexthop.as_ref().clone()));
        self.used.insert(id, Used { nexthop: nexthop.clone(), routes: 0 });
        self.ids.insert(nexthop, id);
        Some(id)
    }

    fn count(&mut self, hop: Hop, routes: isize) {
        if let Some(used) = hop.and_then(|(id, _)| self.used.get_mut(&id)) {
            used.routes = used.routes.saturating_add_signed(routes);
        }
    }

    /// Says whether no route uses a nexthop object, and forgets it then.
    fn forget(&mut self, id: u32) -> bool {
        let Some(used) = self.used.get(&id).filter(|used| used.routes == 0) else { return false };
        self.ids.remove(&used.nexthop);
        self.used.remove(&id).is_some()
    }
}

fn write(key: RouteKey, hop: Hop) -> Step {
    Step::ReplaceRoute(key, hop.map_or(RouteWrite::Unreachable, |(id, mtu)| RouteWrite::Nhid { id, mtu }))
}

/// Whether two states of a VIP lead to the same pods, in the same way. Labels of MPLS depend on other VIPs, too.
fn has_same_pods(old: &Vip, new: &Vip, settings: &Settings) -> bool {
    let asks = |vip: &Vip| (vip.mode, vip.tracked, vip.holds, flows(vip, settings));
    let is_simple = old.mode != Mode::Mpls && !old.holds;
    is_simple && asks(old) == asks(new) && pods(old, settings) == pods(new, settings)
}

/// The addresses of all pods, and the pods of this node.
fn pods<'a>(vip: &'a Vip, settings: &Settings) -> (Vec<Addresses>, Vec<PodAt<'a>>) {
    let pods = vip.pods();
    let mut addresses: Vec<Addresses> = pods.iter().map(|pod| pod.addresses).collect();
    addresses.sort_unstable();
    addresses.dedup();
    (addresses, pods.into_iter().filter(|pod| pod.node == settings.node_name).collect())
}
