//! What is known to be programmed on a node, VIP by VIP, and what a change of some VIPs takes by it: without reading anything but the
//! routes to new addresses, without starting nft, without a look at any other VIP.
//!
//! That is enough where VIPs and pods come and go, and where pods own other buckets, are named or have another path MTU. Whatever takes
//! more (the first VIP of a kind or the last one, devices, rules, something to be told) is left to [`diff`](super::diff::diff), which
//! sees everything. The order of steps is the same as there.

mod addresses;
mod counts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use self::addresses::PodAddresses;
use self::counts::{Counts, Moved};
use super::desired::IdsByReference;
use super::diff::nexthop_ids;
use super::held::Held;
use super::nft::node::{elements_of_endpoints, elements_of_pods, elements_of_vips, switches_of_vips};
use super::nft::{Elements, NftAction, TableFamily, TableName};
use super::node::{Build, Context, RouteFact, Routes, carrier_link, flows, own_device, uplinks};
use super::reach::LabelOwners;
use super::step::RouteWrite;
use super::{Desired, Nexthop, Observed, Plan, RouteKey, RouteTarget, Settings, Step};
use crate::model::cluster::differing;
use crate::model::{Cluster, Family, Mode, Node, Problem, Reason, Vip};

/// Where a bucket's route leads: id of the nexthop object and MTU; `None`: unreachable.
type Hop = Option<(u32, u32)>;

/// A nexthop object and the number of routes that use it.
#[derive(Debug, Clone)]
struct Used {
    nexthop: Arc<Nexthop>,
    routes: usize,
}

/// What VIPs take together: it stays as it is for as long as one of them takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// Rules, chains and sets for VIPs of a family.
    Family(Family),
    /// What is told of firewalls and forwarding, where packets of a family, tracked or not, concern this node.
    Told(Family, bool),
    /// A tunnel device, as VIPs of a family take it.
    Link(String, Family),
}

/// What a whole round has seen of others, as far as it matters to VIPs that come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// Families whose VIPs this node may announce.
    pub announces: BTreeSet<Family>,
    /// Addresses that this node itself has, or that its routes lead through.
    pub taken: BTreeSet<IpAddr>,
}

/// What may have changed of others although nothing of ours has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doubts {
    /// These veths have come or gone, or are in another state.
    pub veths: BTreeSet<String>,
    /// There may be routes to pods by now that had none.
    pub routes: bool,
}

/// Answers of the node.
pub trait Ask {
    /// The routes to some addresses; it need not know what kind of devices they take. `None` if it cannot tell.
    fn routes(&mut self, to: &BTreeSet<IpAddr>) -> Option<Routes>;

    /// Whether one of these is this node's own, or it resolves names or speaks BGP with it.
    fn depends_on(&mut self, vips: &BTreeSet<IpAddr>) -> bool;
}

/// A node's namespace after a round that has left it as it must be.
#[derive(Debug, Clone)]
pub struct Programmed {
    cluster: Arc<Cluster>,
    routes: Routes,
    around: Around,
    problems: Vec<Problem>,
    ids: BTreeMap<Arc<Nexthop>, u32>,
    used: BTreeMap<u32, Used>,
    /// The next id that nobody has.
    free: u32,
    /// By VIP and routing table.
    hops: BTreeMap<IpAddr, Vec<(u32, Hop)>>,
    announced: BTreeSet<IpAddr>,
    needs: Counts<Need>,
    /// Of all pods, with the devices by which gateways are reached.
    pods: PodAddresses,
    /// Of pods on this node, with their own devices.
    local: PodAddresses,
    /// Our table is there.
    has_table: bool,
    /// Tables are there that tell who may send frames with labels: they name the bridges of all pods here.
    has_frames: bool,
    /// The table of VIPs as sources is in use: it names the devices of all pods.
    has_sources: bool,
    /// Some VIP has no map, and what is there of it stays, with addresses that nobody else has.
    holds: bool,
}

/// A VIP as it was and as it is.
struct Change {
    address: IpAddr,
    old: Option<Arc<Vip>>,
    new: Option<Arc<Vip>>,
}

/// What it took and what it takes.
struct Built {
    address: IpAddr,
    old: Option<Build>,
    new: Option<Build>,
}

/// Steps by the time at which they are carried out.
#[derive(Default)]
struct Steps {
    withdrawn: Vec<Step>,
    nexthops: Vec<Step>,
    new: Vec<Step>,
    changed: Vec<Step>,
    announced: Vec<Step>,
    gone: Vec<Step>,
    /// Nexthop objects that routes have left.
    left: Vec<u32>,
}

impl Programmed {
    /// After `desired`, made of this cluster by these `routes`, was carried out where `observed` was; `None` if not all of it can be
    /// carried out. `problems` are what was told of it.
    pub fn new(
        (cluster, routes, around): (Arc<Cluster>, Routes, Around),
        (desired, observed): (&Desired, &Observed),
        problems: Vec<Problem>,
        settings: &Settings,
    ) -> Option<Programmed> {
        let (ids, free) = nexthop_ids(desired, observed, settings.link_prefix.as_str());
        let ids: BTreeMap<Arc<Nexthop>, u32> = ids.into_iter().map(|(nexthop, id)| (Arc::new(nexthop), id)).collect();
        let used = ids.iter().map(|(nexthop, id)| (*id, Used { nexthop: nexthop.clone(), routes: 0 })).collect();
        let uplinks = uplinks(&cluster, &routes, settings);
        let mut programmed = Programmed {
            pods: PodAddresses::of(cluster.vips().map(addresses), &routes, device_to_gateway),
            local: PodAddresses::of(cluster.vips().map(|vip| here(vip, settings)), &routes, |fact| {
                own_device(fact, &uplinks)
            }),
            problems,
            ids,
            used,
            free,
            hops: BTreeMap::new(),
            announced: BTreeSet::new(),
            needs: Counts::default(),
            has_table: desired.nft.is_some(),
            has_frames: !desired.frames.is_empty(),
            has_sources: desired.routes.values().any(|target| matches!(target, RouteTarget::Devices(_))),
            holds: cluster.vips().any(|vip| vip.holds),
            cluster: cluster.clone(),
            routes,
            around,
        };
        let mut by_reference = IdsByReference::default();
        let mut links: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
        for (key, target) in &desired.routes {
            let hop = match target {
                _ if settings.announce_table == Some(key.table) => {
                    programmed.announced.insert(key.vip);
                    continue;
                }
                RouteTarget::Unreachable => None,
                RouteTarget::Devices(_) => continue,
                RouteTarget::Via { nexthop, mtu } => {
                    if matches!(**nexthop, Nexthop::EncapIp { .. }) {
                        links.entry(key.vip).or_default().insert(nexthop.dev());
                    }
                    let id = by_reference.of(nexthop, |nexthop| programmed.ids.get(nexthop).copied());
                    Some((id?, *mtu))
                }
            };
            programmed.count(hop, 1);
            programmed.hops.entry(key.vip).or_default().push((key.table, hop));
        }
        let ingress = is_ingress(&cluster, settings);
        for vip in cluster.vips() {
            let taken = links.get(&vip.address).into_iter().flatten().map(|link| (*link).to_owned());
            let carrier = carrier_link(vip, &cluster, settings).filter(|_| ingress);
            let links = taken.chain(carrier).collect();
            programmed.needs.add(needs(vip, links, ingress, settings));
        }
        Some(programmed)
    }

    /// Takes note of others as they have been seen lately.
    pub fn see(&mut self, around: Around) {
        self.around = around;
    }

    /// What has been told of the node.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The steps that lead from here to another cluster, which is then what is programmed; `None` if it takes more than is known here.
    /// If so, and if a step fails, nothing is known any more.
    pub fn step(&mut self, cluster: &Arc<Cluster>, settings: &Settings, ask: &mut impl Ask) -> Option<Plan> {
        let changes = self.changes(cluster, settings)?;
        let coming = addresses_of(&changes, |change| change.old.is_none());
        let going = addresses_of(&changes, |change| change.new.is_none());
        let nobody_moves = coming.is_empty() && going.is_empty();
        if !(nobody_moves || self.may_come_and_go(&coming, &going, ask)) {
            return None;
        }
        let families = (self.pods.families(), self.local.families());
        let sides = |of: &dyn Fn(&Vip) -> BTreeSet<IpAddr>| -> Vec<_> {
            changes
                .iter()
                .map(|change| [&change.old, &change.new].map(|vip| vip.as_deref().map(of).unwrap_or_default()).into())
                .collect()
        };
        let moved = self.pods.note(sides(&addresses).into_iter());
        let moved_here = self.local.note(sides(&|vip| here(vip, settings)).into_iter());
        if families != (self.pods.families(), self.local.families()) || self.holds && !moved.is_nothing() {
            return None;
        }
        if self.has_frames && !moved_here.is_nothing() {
            return None;
        }
        let known_elsewhere = &new_owners(&changes) | &moved_here.new;
        self.learn(&moved.new, &known_elsewhere, ask)?;
        let ingress = is_ingress(cluster, settings);
        let builds = self.builds(&changes, cluster, ingress, settings)?;
        self.keep_needs(&changes, &builds, ingress, settings)?;
        self.keep_own_devices(&moved_here, cluster, settings)?;
        self.forget_routes(&moved.gone, cluster)?;

        let steps = self.lead(builds, settings)?;
        let (endpoints, nobodys) = if ingress { (moved.new, moved.gone) } else { Default::default() };
        let has_table = self.has_table;
        let transaction = |actions: Vec<NftAction>| {
            let ops = TableName::ours(TableFamily::Inet).ops(actions);
            (has_table && !ops.is_empty()).then_some(Step::Nft(ops))
        };
        let mut prepare = deletions(if ingress { switches_of_vips(&going) } else { Vec::new() });
        prepare.extend(additions([elements_of_vips(&coming, ingress), elements_of_pods(&moved_here.new)].concat()));
        // A packet is never made for an address that is not in the set.
        prepare.extend(additions(elements_of_endpoints(&endpoints)));
        let enable = additions(if ingress { switches_of_vips(&coming) } else { Vec::new() });
        let finish =
            [elements_of_vips(&going, ingress), elements_of_pods(&moved_here.gone), elements_of_endpoints(&nobodys)];
        let mut plan = Plan { steps: steps.withdrawn };
        plan.steps.extend(transaction(prepare));
        plan.steps.extend(steps.nexthops);
        plan.steps.extend(steps.new);
        plan.steps.extend(steps.changed);
        plan.steps.extend(transaction(enable));
        plan.steps.extend(steps.announced);
        plan.steps.extend(steps.gone);
        plan.steps.extend(steps.left.into_iter().filter(|id| self.forget(*id)).map(Step::DelNexthop));
        plan.steps.extend(transaction(deletions(finish.concat())));
        self.cluster = cluster.clone();
        Some(plan)
    }

    /// Whether everything leads where it led before: no route that matters leads through one of the veths, and routes to pods of this
    /// node, whose veth may be among them, are the same.
    pub fn is_as_before(&self, doubts: &Doubts, ask: &mut impl Ask) -> bool {
        let Doubts { veths, routes } = doubts;
        // With labels it matters whether a node is on the same link, and that of a pod.
        let has_labels = || self.cluster.vips().any(|vip| vip.mode == Mode::Mpls);
        if *routes && self.problems.iter().any(|problem| problem.reason == Reason::EndpointFailed) && has_labels() {
            return false;
        }
        let is_used = !veths.is_empty() && self.routes.values().any(|fact| veths.contains(&fact.dev));
        let mut asked = BTreeSet::new();
        if !veths.is_empty() {
            asked.extend(self.local.all());
        }
        if *routes {
            asked.extend(self.pods.all().filter(|address| !self.routes.contains_key(address)));
        }
        let is_same = |found: Routes| asked.iter().all(|to| way(self.routes.get(to)) == way(found.get(to)));
        !is_used && (asked.is_empty() || ask.routes(&asked).is_some_and(is_same))
    }

    /// The VIPs that have changed; `None` if one has in a way that takes a whole round.
    fn changes(&self, cluster: &Cluster, settings: &Settings) -> Option<Vec<Change>> {
        if self.cluster.nodes != cluster.nodes {
            return None;
        }
        let all = differing(&self.cluster.vips, &cluster.vips).map(|(old, new)| {
            let address = old.or(new)?.address;
            let change = Change { address, old: old.cloned(), new: new.cloned() };
            change.is_simple(settings).then_some(change)
        });
        all.collect()
    }

    /// Whether nothing but routes and elements hangs on these VIPs.
    fn may_come_and_go(&self, coming: &BTreeSet<IpAddr>, going: &BTreeSet<IpAddr>, ask: &mut impl Ask) -> bool {
        let is_source = |vip: &IpAddr| self.has_sources && vip.is_ipv4();
        !self.holds
            && !coming.iter().chain(going).any(|vip| self.around.taken.contains(vip) || is_source(vip))
            && (coming.is_empty() || !ask.depends_on(coming))
    }

    /// Has the routes to new addresses looked for, and once more those to addresses that get their first buckets of a VIP (a routing daemon
    /// may have been later than the pod) or are of pods here by now. `None` if one takes a device that is not known, or is another by now.
    fn learn(&mut self, new: &BTreeSet<IpAddr>, again: &BTreeSet<IpAddr>, ask: &mut impl Ask) -> Option<()> {
        let asked: BTreeSet<IpAddr> = new.union(again).copied().collect();
        if asked.is_empty() {
            return Some(());
        }
        let found = ask.routes(&asked)?;
        for address in asked {
            let (known, fact) = (self.routes.get(&address), found.get(&address));
            let is_new = new.contains(&address);
            // That of a node may be known before a pod has its address.
            if (!is_new || known.is_some()) && way(known) != way(fact) {
                return None;
            }
            let Some(fact) = fact.filter(|_| is_new) else { continue };
            let like = known.or_else(|| self.routes.values().find(|known| known.dev == fact.dev))?;
            let mac = known.and_then(|known| known.mac);
            let fact = RouteFact { bare: like.bare, bridge: like.bridge, mac, ..fact.clone() };
            let is_first = device_to_gateway(&fact).is_some_and(|device| self.pods.led_by(device, true));
            if is_first && self.has_sources {
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
            let was_last = device_to_gateway(fact).is_some_and(|device| self.pods.led_by(device, false));
            if was_last && self.has_sources {
                return None;
            }
            if !nodes().any(|of| of.iter().any(|node| node == *address)) {
                self.routes.remove(address);
            }
        }
        Some(())
    }

    /// Takes note of pods of this node; `None` if a device leads to the first one or led to the last one, or no route leads to a new one.
    fn keep_own_devices(&mut self, moved: &Moved<IpAddr>, cluster: &Cluster, settings: &Settings) -> Option<()> {
        if moved.is_nothing() {
            return Some(());
        }
        let uplinks = uplinks(cluster, &self.routes, settings);
        for (address, is_new) in
            moved.new.iter().map(|new| (new, true)).chain(moved.gone.iter().map(|old| (old, false)))
        {
            let Some(fact) = self.routes.get(address) else {
                if is_new {
                    return None;
                }
                continue;
            };
            if own_device(fact, &uplinks).is_some_and(|device| self.local.led_by(device, is_new)) {
                return None;
            }
        }
        Some(())
    }

    /// Takes note of what VIPs take together; `None` if one is the first that takes something, or was the last.
    fn keep_needs(&mut self, changes: &[Change], builds: &[Built], ingress: bool, settings: &Settings) -> Option<()> {
        let of = |vip: &Option<Arc<Vip>>, build: &Option<Build>| {
            let links = build.iter().flat_map(|build| build.desired.links.keys().cloned()).collect();
            vip.as_ref().map(|vip| needs(vip, links, ingress, settings)).unwrap_or_default()
        };
        let both = changes.iter().zip(builds);
        let moved = self.needs.note(both.map(|(vip, build)| (of(&vip.old, &build.old), of(&vip.new, &build.new))));
        moved.is_nothing().then_some(())
    }

    /// What these VIPs take of this node; `None` if more than routes and tunnel devices is another.
    fn builds(&self, changes: &[Change], cluster: &Cluster, ingress: bool, settings: &Settings) -> Option<Vec<Built>> {
        let build = |cluster, vip: &Option<Arc<Vip>>| {
            // None has a label.
            let (held, labels) = (&Held::default(), LabelOwners::default());
            let ctx = Context { cluster, routes: &self.routes, held, settings, labels };
            vip.as_ref().map(|vip| if ingress { Build::of(vip, &ctx) } else { Build::default() })
        };
        let builds = changes.iter().map(|change| {
            let (old, new) = (build(&self.cluster, &change.old), build(cluster, &change.new));
            let nothing = Build::default();
            let is_simple = old.as_ref().unwrap_or(&nothing).differs_in_ways_alone(new.as_ref().unwrap_or(&nothing));
            is_simple.then_some(Built { address: change.address, old, new })
        });
        builds.collect()
    }

    /// The steps that make routes lead where these VIPs ask for.
    fn lead(&mut self, builds: Vec<Built>, settings: &Settings) -> Option<Steps> {
        let mut steps = Steps::default();
        for Built { address, new, .. } in builds {
            let Some(build) = new else {
                self.leave(address, settings, &mut steps);
                continue;
            };
            let mut hops = self.hops.remove(&address).unwrap_or_default();
            let mut is_announced = false;
            for (key, target) in build.desired.routes {
                if settings.announce_table == Some(key.table) {
                    is_announced = true;
                    continue;
                }
                let hop = match target {
                    RouteTarget::Via { nexthop, mtu } => Some((self.id(nexthop, &mut steps.nexthops)?, mtu)),
                    RouteTarget::Unreachable | RouteTarget::Devices(_) => None,
                };
                match hops.binary_search_by_key(&key.table, |(table, _)| *table) {
                    Ok(at) => {
                        let before = std::mem::replace(&mut hops[at].1, hop);
                        if before != hop {
                            steps.changed.push(write(key, hop));
                            self.count(hop, 1);
                            self.leave_hop(before, &mut steps);
                        }
                    }
                    Err(at) => {
                        steps.new.push(write(key, hop));
                        self.count(hop, 1);
                        hops.insert(at, (key.table, hop));
                    }
                }
            }
            self.hops.insert(address, hops);
            self.announce(address, is_announced, settings, &mut steps);
        }
        steps.left.sort_unstable();
        steps.left.dedup();
        Some(steps)
    }

    /// The routes of a VIP that is gone.
    fn leave(&mut self, vip: IpAddr, settings: &Settings, steps: &mut Steps) {
        self.announce(vip, false, settings, steps);
        for (table, hop) in self.hops.remove(&vip).unwrap_or_default() {
            steps.gone.push(Step::DelRoute(RouteKey { table, vip }));
            self.leave_hop(hop, steps);
        }
    }

    fn leave_hop(&mut self, hop: Hop, steps: &mut Steps) {
        steps.left.extend(hop.map(|(id, _)| id));
        self.count(hop, -1);
    }

    /// The VIP in the table of a routing daemon, where this node carries it.
    fn announce(&mut self, vip: IpAddr, is_wanted: bool, settings: &Settings, steps: &mut Steps) {
        let Some(table) = settings.announce_table else { return };
        let may = self.around.announces.contains(&Family::of(vip)) && !self.around.taken.contains(&vip);
        let key = RouteKey { table, vip };
        if is_wanted && may {
            if self.announced.insert(vip) {
                steps.announced.push(write(key, None));
            }
        } else if self.announced.remove(&vip) {
            steps.withdrawn.push(Step::DelRoute(key));
        }
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

impl Change {
    /// Whether it takes nothing but routes, elements and what VIPs take together. Labels of MPLS depend on other VIPs, too.
    fn is_simple(&self, settings: &Settings) -> bool {
        let both = || [&self.old, &self.new].into_iter().flatten();
        let is_plain = |vip: &Arc<Vip>| !vip.tracked && flows(vip, settings) == settings.flows();
        let asks = |vip: &Arc<Vip>| (vip.mode, vip.tracked, vip.holds, flows(vip, settings), vip.service.clone());
        both().all(|vip| vip.mode != Mode::Mpls && !vip.holds)
            && match (&self.old, &self.new) {
                (Some(old), Some(new)) => asks(old) == asks(new),
                _ => both().all(is_plain),
            }
    }
}

/// What a VIP takes with others. `links` are the tunnel devices that its packets take.
fn needs(vip: &Vip, links: BTreeSet<String>, ingress: bool, settings: &Settings) -> BTreeSet<Need> {
    let family = vip.family();
    let told = ingress || !vip.pods_of(&settings.node_name).is_empty();
    let told = told.then_some(Need::Told(family, vip.tracked));
    let links = links.into_iter().map(|link| Need::Link(link, family));
    links.chain(told).chain([Need::Family(family)]).collect()
}

fn addresses_of(changes: &[Change], which: impl Fn(&Change) -> bool) -> BTreeSet<IpAddr> {
    changes.iter().filter(|change| which(change)).map(|change| change.address).collect()
}

/// The addresses of all pods of a VIP.
fn addresses(vip: &Vip) -> BTreeSet<IpAddr> {
    vip.pods().into_iter().flat_map(|pod| pod.addresses.iter()).collect()
}

/// Those of pods on this node, in a mode that it has.
fn here(vip: &Vip, settings: &Settings) -> BTreeSet<IpAddr> {
    let local = vip.pods().into_iter().filter(|pod| pod.node == settings.node_name);
    let local = local.filter(|_| !settings.unavailable.contains_key(&vip.mode));
    local.flat_map(|pod| pod.addresses.iter()).collect()
}

/// The device of an address that is not on-link.
fn device_to_gateway(fact: &RouteFact) -> Option<&str> {
    fact.gateway.is_some().then_some(fact.dev.as_str())
}

/// Addresses of pods that own buckets of a VIP and owned none of it before.
fn new_owners(changes: &[Change]) -> BTreeSet<IpAddr> {
    let owners = |vip: &Option<Arc<Vip>>| -> BTreeSet<IpAddr> {
        let hops = vip.iter().flat_map(|vip| &vip.intent).flat_map(|intent| intent.next_hops.values());
        hops.flat_map(|hop| hop.addresses.iter()).collect()
    };
    changes.iter().flat_map(|change| &owners(&change.new) - &owners(&change.old)).collect()
}

/// Where a route leads.
fn way(fact: Option<&RouteFact>) -> Option<(&str, Option<IpAddr>, u32)> {
    fact.map(|fact| (fact.dev.as_str(), fact.gateway, fact.mtu))
}

fn additions(elements: Vec<Elements>) -> Vec<NftAction> {
    elements.into_iter().map(NftAction::AddElements).collect()
}

fn deletions(elements: Vec<Elements>) -> Vec<NftAction> {
    elements.into_iter().map(|elements| NftAction::DeleteElements(elements.keys())).collect()
}

fn write(key: RouteKey, hop: Hop) -> Step {
    Step::ReplaceRoute(key, hop.map_or(RouteWrite::Unreachable, |(id, mtu)| RouteWrite::Nhid { id, mtu }))
}

/// Whether this node takes packets to VIPs in.
fn is_ingress(cluster: &Cluster, settings: &Settings) -> bool {
    cluster.nodes.get(&settings.node_name).is_some_and(|node| node.ingress)
}
