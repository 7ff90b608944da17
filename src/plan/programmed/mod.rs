//! What is known to be programmed on a node, VIP by VIP, and what a change of some VIPs takes by it: without reading anything but the
//! routes to new addresses, without starting nft, without a look at any other VIP.
//!
//! That is enough where pods own other buckets, are named, have another path MTU, or come and go on other nodes. Whatever takes more (a
//! VIP that comes or goes, pods of this node, devices, rules, something to be told) is left to [`diff`](super::diff::diff), which sees
//! everything.

mod addresses;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use self::addresses::{Moved, PodAddresses};
use super::desired::IdsByReference;
use super::diff::nexthop_ids;
use super::held::Held;
use super::nft::{Elements, NftAction, SetType, TableFamily, TableName, endpoint_set};
use super::node::{Build, Context, RouteFact, Routes, flows};
use super::reach::LabelOwners;
use super::step::RouteWrite;
use super::{Desired, Nexthop, Observed, Plan, RouteKey, RouteTarget, Settings, Step};
use crate::model::cluster::differing;
use crate::model::{Cluster, Family, Mode, Node, PodAt, Problem, Vip};

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
    addresses: PodAddresses,
    /// The table of VIPs as sources is in use: it names the devices of all pods.
    has_sources: bool,
    /// Some VIP has no map, and what is there of it stays, with addresses that nobody else has.
    holds: bool,
}

/// A VIP as it was and as it is.
type Change = (Arc<Vip>, Arc<Vip>);

impl Programmed {
    /// After `desired`, made of this cluster by these `routes`, was carried out where `observed` was; `None` if not all of it can be
    /// carried out. `problems` are what was told of it.
    pub fn new(
        (cluster, routes): (Arc<Cluster>, Routes),
        (desired, observed): (&Desired, &Observed),
        problems: Vec<Problem>,
        settings: &Settings,
    ) -> Option<Programmed> {
        let (ids, free) = nexthop_ids(desired, observed, settings.link_prefix.as_str());
        let ids: BTreeMap<Arc<Nexthop>, u32> = ids.into_iter().map(|(nexthop, id)| (Arc::new(nexthop), id)).collect();
        let used = ids.iter().map(|(nexthop, id)| (*id, Used { nexthop: nexthop.clone(), routes: 0 })).collect();
        let addresses = PodAddresses::of(cluster.vips(), &routes);
        let has_sources = desired.routes.values().any(|target| matches!(target, RouteTarget::Devices(_)));
        let holds = cluster.vips().any(|vip| vip.holds);
        let hops = BTreeMap::new();
        let mut programmed =
            Programmed { cluster, routes, problems, ids, used, free, hops, addresses, has_sources, holds };
        let mut by_reference = IdsByReference::default();
        for (key, target) in desired.routes.iter().filter(|(key, _)| settings.announce_table != Some(key.table)) {
            let hop = match target {
                RouteTarget::Unreachable => None,
                RouteTarget::Devices(_) => continue,
                RouteTarget::Via { nexthop, mtu } => {
                    let id = by_reference.of(nexthop, |nexthop| programmed.ids.get(nexthop).copied());
                    Some((id?, *mtu))
                }
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
    /// If so, and if a step fails, nothing is known any more. `look` finds the routes to some addresses; it need not know what kind of
    /// devices they take. If it fails, it gives nothing.
    pub fn step(
        &mut self,
        cluster: &Arc<Cluster>,
        settings: &Settings,
        look: impl FnOnce(&BTreeSet<IpAddr>) -> Option<Routes>,
    ) -> Option<Plan> {
        let changed = self.changed(cluster, settings)?;
        let families = self.addresses.families();
        let moved = self.addresses.note(&changed);
        if moved != Moved::default() && (self.holds || self.addresses.families() != families) {
            return None;
        }
        self.learn(&moved.new, &new_owners(&changed), look)?;
        let ingress = is_ingress(cluster, settings);
        let builds = if ingress { self.builds(&changed, cluster, settings)? } else { Vec::new() };
        self.forget_routes(&moved.gone, cluster)?;
        let mut plan = self.next_hops(builds, settings)?;
        if ingress {
            // A packet is never made for an address that is not in the set.
            plan.steps.splice(0..0, transaction(&moved.new, NftAction::AddElements));
            plan.steps.extend(transaction(&moved.gone, NftAction::DeleteElements));
        }
        self.cluster = cluster.clone();
        Some(plan)
    }

    /// The VIPs that have changed; `None` if more than their next hops and pods elsewhere have.
    fn changed(&self, cluster: &Cluster, settings: &Settings) -> Option<Vec<Change>> {
        if self.cluster.nodes != cluster.nodes {
            return None;
        }
        let both = differing(&self.cluster.vips, &cluster.vips).map(|(old, new)| old.cloned().zip(new.cloned()));
        both.map(|change| change.filter(|(old, new)| is_simple(old, new, settings))).collect()
    }

    /// Has the routes to new addresses looked for, and once more those to addresses that get their first buckets of a VIP: a routing daemon
    /// may have been later than the pod. `None` if one takes a device that is not known, or is another by now.
    fn learn(
        &mut self,
        new: &BTreeSet<IpAddr>,
        owners: &BTreeSet<IpAddr>,
        look: impl FnOnce(&BTreeSet<IpAddr>) -> Option<Routes>,
    ) -> Option<()> {
        let asked: BTreeSet<IpAddr> = new.union(owners).copied().collect();
        if asked.is_empty() {
            return Some(());
        }
        let found = look(&asked)?;
        for address in asked {
            let (known, fact) = (self.routes.get(&address), found.get(&address));
            if !new.contains(&address) {
                let way = |fact: &RouteFact| (fact.dev.clone(), fact.gateway, fact.mtu);
                if known.map(way) != fact.map(way) {
                    return None;
                }
                continue;
            }
            let Some(fact) = fact else { continue };
            let like = self.routes.values().find(|known| known.dev == fact.dev)?;
            let fact = RouteFact { bare: like.bare, bridge: like.bridge, ..fact.clone() };
            if self.addresses.reached(&fact, true) && self.has_sources {
                return None;
            }
            self.routes.insert(address, fact);
        }
        Some(())
    }

    /// Forgets the routes to addresses that are gone; `None` if one was the last behind its device, and that matters.
    fn forget_routes(&mut self, gone: &BTreeSet<IpAddr>, cluster: &Cluster) -> Option<()> {
        let nodes = || cluster.nodes.values().map(Node::tunnel_addresses);
        for address in gone {
            let Some(fact) = self.routes.get(address) else { continue };
            if self.addresses.reached(fact, false) && self.has_sources {
                return None;
            }
            if !nodes().any(|of| of.iter().any(|node| node == *address)) {
                self.routes.remove(address);
            }
        }
        Some(())
    }

    /// The steps that make routes lead where these VIPs ask for.
    fn next_hops(&mut self, builds: Vec<(IpAddr, Build)>, settings: &Settings) -> Option<Plan> {
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
        Some(plan)
    }

    /// What these VIPs take of an ingress node; `None` if more than their next hops is another.
    fn builds(&self, changed: &[Change], cluster: &Cluster, settings: &Settings) -> Option<Vec<(IpAddr, Build)>> {
        let build = |cluster, vip| {
            // None has a label.
            let (held, labels) = (&Held::default(), LabelOwners::default());
            Build::of(vip, &Context { cluster, routes: &self.routes, held, settings, labels })
        };
        let builds = changed.iter().map(|(old, new)| {
            let (old, new) = (build(&self.cluster, old), (new.address, build(cluster, new)));
            old.differs_in_next_hops_alone(&new.1, settings).then_some(new)
        });
        builds.collect()
    }

    fn id(&mut self, nexthop: Arc<Nexthop>, make: &mut Vec<Step>) -> Option<u32> {
        if let Some(id) = self.ids.get(&nexthop) {
            return Some(*id);
        }
        let id = self.free;
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

/// Addresses of pods that own buckets of a VIP and owned none of it before.
fn new_owners(changed: &[Change]) -> BTreeSet<IpAddr> {
    let owners = |vip: &Vip| -> BTreeSet<IpAddr> {
        let hops = vip.intent.iter().flat_map(|intent| intent.next_hops.values());
        hops.flat_map(|hop| hop.addresses.iter()).collect()
    };
    changed.iter().flat_map(|(old, new)| &owners(new) - &owners(old)).collect()
}

/// What is done about addresses in the sets that count outer packets by endpoint.
fn transaction(addresses: &BTreeSet<IpAddr>, action: impl Fn(Elements) -> NftAction) -> Option<Step> {
    let of = |family| addresses.iter().filter(move |address| Family::of(**address) == family).map(ToString::to_string);
    let families = Family::ALL.into_iter().map(|family| (family, of(family).collect::<BTreeSet<_>>()));
    let actions = families.filter(|(_, elements)| !elements.is_empty()).map(|(family, elements)| {
        action(Elements { set: endpoint_set(family), kind: SetType::Address(family), elements })
    });
    let ops = TableName::ours(TableFamily::Inet).ops(actions);
    (!ops.is_empty()).then_some(Step::Nft(ops))
}

fn write(key: RouteKey, hop: Hop) -> Step {
    Step::ReplaceRoute(key, hop.map_or(RouteWrite::Unreachable, |(id, mtu)| RouteWrite::Nhid { id, mtu }))
}

/// Whether this node takes packets to VIPs in.
fn is_ingress(cluster: &Cluster, settings: &Settings) -> bool {
    cluster.nodes.get(&settings.node_name).is_some_and(|node| node.ingress)
}

/// Whether two states of a VIP take the same of this node but for next hops. Labels of MPLS depend on other VIPs, too.
fn is_simple(old: &Vip, new: &Vip, settings: &Settings) -> bool {
    let asks = |vip: &Vip| (vip.mode, vip.tracked, vip.holds, flows(vip, settings));
    let is_same = old.service == new.service && asks(old) == asks(new);
    is_same && old.mode != Mode::Mpls && !old.holds && here(old, settings) == here(new, settings)
}

/// The pods of this node.
fn here<'a>(vip: &'a Vip, settings: &Settings) -> Vec<PodAt<'a>> {
    vip.pods().into_iter().filter(|pod| pod.node == settings.node_name).collect()
}
