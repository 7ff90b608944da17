//! What a node's network namespace must hold: on ingress nodes the way from a VIP to its endpoints, on serving nodes what
//! their endpoints' replies and labels need.
//!
//! This is the only place where a bucket becomes a routing table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::held::Held;
use super::nft::TableFamily;
use super::nft::frames::{BridgeTable, FrameTable};
use super::nft::node::{Ingress, NodeTable};
use super::reach::{LabelOwners, Way, reach};
use super::surroundings::of_node;
use super::tree::{rule_tree, sources_rule, sources_table, table};
use super::{
    Desired, LabelRoute, LinkKind, Mac, Neighbour, Nexthop, RouteKey, RouteTarget, Settings, Sysctl, SysctlWant,
};
use crate::model::handover::{FlowHash, NextHop, TunnelId};
use crate::model::{Addresses, BucketCount, Cluster, Endpoint, EndpointId, Family, Mode, PodAt, Problem, Reason, Vip};

/// How the kernel of this node would send a packet to some address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFact {
    /// Outgoing device.
    pub dev: String,
    /// Next hop; `None` if the address is on-link.
    pub gateway: Option<IpAddr>,
    /// Path MTU in bytes: the route's MTU metric, else the device's MTU.
    pub mtu: u32,
    /// The device has no IPv4 address of its own, as Calico's have none.
    pub bare: bool,
    /// The device is a bridge.
    pub bridge: bool,
    /// The MAC address behind an on-link address, where it is known and MPLS makes it of interest.
    pub mac: Option<Mac>,
}

/// Facts about the addresses in [`addresses_of_interest`]; what has no route is missing.
pub type Routes = BTreeMap<IpAddr, RouteFact>;

/// The addresses whose route a node has to know: all pods with VIPs, and the nodes.
pub fn addresses_of_interest(cluster: &Cluster) -> BTreeSet<IpAddr> {
    let nodes = cluster.nodes.values().filter(|_| !cluster.vips.is_empty());
    pod_addresses(cluster).chain(nodes.flat_map(|n| n.tunnel_addresses().iter())).collect()
}

fn pod_addresses(cluster: &Cluster) -> impl Iterator<Item = IpAddr> {
    cluster.vips().flat_map(Vip::pods).flat_map(|pod| pod.addresses.iter())
}

/// The desired state of a node's namespace that holds nothing yet, and what could not be done.
pub fn desired_node(cluster: &Cluster, routes: &Routes, settings: &Settings) -> (Desired, Vec<Problem>) {
    desired_node_holding(&Held::default(), cluster, routes, settings)
}

/// The desired state of this node's namespace, and what could not be done. `held` is what is there of VIPs without a map.
pub fn desired_node_holding(
    held: &Held,
    cluster: &Cluster,
    routes: &Routes,
    settings: &Settings,
) -> (Desired, Vec<Problem>) {
    let ctx = Context { cluster, routes, held, settings, labels: LabelOwners::of(cluster, settings) };
    let me = cluster.nodes.get(&settings.node_name);
    let ingress = me.is_some_and(|n| n.ingress) && !cluster.vips.is_empty();
    let local = local_pods(cluster, settings);
    let tree = settings.tree(cluster);
    let mut build = Build::default();
    if !ingress && local.is_empty() {
        return (build.desired, Vec::new());
    }
    if ingress {
        let families: BTreeSet<Family> = cluster.vips().map(Vip::family).collect();
        for family in families {
            let Settings { mark, rule_priority, table_base, .. } = *settings;
            build.desired.rules.extend(rule_tree(family, mark, tree, rule_priority, table_base));
        }
        for vip in cluster.vips() {
            build.vip(vip, &ctx);
        }
    }
    let facts = routes_to_pods(&local, &ctx);
    for fact in facts.iter().filter(|fact| !fact.bare) {
        build.desired.sysctls.insert(Sysctl::RpFilter(fact.dev.clone()), SysctlWant::Exactly(2));
    }
    let filtered = cluster.vips.keys().any(IpAddr::is_ipv4);
    let bare: BTreeSet<String> =
        facts.iter().filter(|fact| fact.bare && filtered).map(|fact| fact.dev.clone()).collect();
    if !bare.is_empty() {
        build.sources(&ways_back(&bare, cluster, routes), cluster, (settings, tree));
    }
    let devices: BTreeSet<String> = facts.iter().map(|fact| fact.dev.clone()).collect();
    if local.iter().any(|(_, mode)| *mode == Mode::Mpls) {
        build.label_swaps(&local, &ctx);
    }
    let gre6 = settings.link(Mode::Gre, Family::V6).is_some_and(|name| build.desired.links.contains_key(&name));
    let mut table = node_table(cluster, ingress.then_some(&build), devices, settings);
    if let Some(ingress) = &mut table.ingress {
        let used = gre6 && ingress.endpoints.iter().any(IpAddr::is_ipv6);
        ingress.gre6_source = me.and_then(|node| node.tunnel_addresses().v6).filter(|_| used);
    }
    table.pods = local.iter().flat_map(|(pod, _)| pod.addresses.iter()).collect();
    table.unbucketed = (!ingress && !bare.is_empty()).then(|| settings.mark.transit());
    build.desired.nft = Some(table.table());
    (build.desired, build.problems.into_iter().collect())
}

/// The devices by which replies of endpoints come in: the local ones in `bare`, and whatever leads to the others.
fn ways_back(bare: &BTreeSet<String>, cluster: &Cluster, routes: &Routes) -> BTreeSet<String> {
    let remote =
        pod_addresses(cluster).filter_map(|address| routes.get(&address)).filter(|fact| fact.gateway.is_some());
    bare.iter().cloned().chain(remote.map(|fact| fact.dev.clone())).collect()
}

/// Pods on this node, each once per mode.
fn local_pods<'a>(cluster: &'a Cluster, settings: &Settings) -> BTreeSet<(PodAt<'a>, Mode)> {
    let all = cluster.vips().flat_map(|vip| vip.pods().into_iter().map(|pod| (pod, vip.mode)));
    all.filter(|(pod, mode)| pod.node == settings.node_name && !settings.unavailable.contains_key(mode)).collect()
}

/// How the pods of this node are reached on their own devices.
///
/// A map may name a pod that has ended. Where pods have addresses of the nodes' network, the route to it leads to other nodes by
/// then, and what is meant for devices of pods would befall the uplink.
fn routes_to_pods<'a>(local: &BTreeSet<(PodAt<'_>, Mode)>, ctx: &Context<'a>) -> Vec<&'a RouteFact> {
    let uplinks = uplinks(ctx.cluster, ctx.routes, ctx.settings);
    let to_pods = ctx.routed(local.iter().flat_map(|(pod, _)| pod.addresses.iter())).map(|(_, fact)| fact);
    to_pods.filter(|fact| own_device(fact, &uplinks).is_some()).collect()
}

/// The devices that lead to other nodes.
pub(super) fn uplinks(cluster: &Cluster, routes: &Routes, settings: &Settings) -> BTreeSet<String> {
    let others = cluster.nodes.values().filter(|node| node.name != settings.node_name);
    let to_nodes = others.flat_map(|node| node.tunnel_addresses().iter()).filter_map(|address| routes.get(&address));
    to_nodes.map(|fact| fact.dev.clone()).collect()
}

/// The device of a pod on this node, if it is its own or its bridge's.
pub(super) fn own_device<'a>(fact: &'a RouteFact, uplinks: &BTreeSet<String>) -> Option<&'a str> {
    (fact.gateway.is_none() && !uplinks.contains(&fact.dev)).then_some(fact.dev.as_str())
}

/// What every step of the computation reads.
pub(super) struct Context<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) routes: &'a Routes,
    pub(super) held: &'a Held,
    pub(super) settings: &'a Settings,
    pub(super) labels: LabelOwners<'a>,
}

/// What VIPs take of an ingress node.
#[derive(Default)]
pub(super) struct Build {
    pub(super) desired: Desired,
    problems: BTreeSet<Problem>,
    gateways: BTreeSet<IpAddr>,
    /// Outer destinations that no slice and no map names.
    held_endpoints: BTreeSet<IpAddr>,
    /// VIPs with the marks of buckets that take no new connections.
    refusing: BTreeSet<(IpAddr, u32)>,
}

impl Build {
    /// What one VIP takes.
    pub(super) fn of(vip: &Vip, ctx: &Context<'_>) -> Build {
        let mut build = Build::default();
        build.vip(vip, ctx);
        build
    }

    /// Whether two states of a VIP differ at most in its routes and in the tunnel devices that these take.
    pub(super) fn differs_in_ways_alone(&self, other: &Build) -> bool {
        self.problems == other.problems
            && self.gateways == other.gateways
            && self.held_endpoints == other.held_endpoints
            && self.refusing == other.refusing
    }

    /// Routes of one VIP: one in each bucket's table.
    fn vip(&mut self, vip: &Vip, ctx: &Context<'_>) {
        let settings = ctx.settings;
        // The user is told, and the other VIPs go on.
        let refusal = refusal(vip, ctx);
        let is_served = refusal.is_none();
        self.problems.extend(refusal);
        if is_served {
            self.carriers(vip, ctx);
        }
        if vip.holds && is_served {
            return self.hold(vip, ctx);
        }
        let next_hops = vip.intent.as_ref().filter(|_| is_served).map(|intent| &*intent.next_hops);
        let ways = self.ways(vip, next_hops.into_iter().flat_map(BTreeMap::values), ctx);
        for bucket in flows(vip, settings).buckets.iter() {
            let key = RouteKey { table: table(settings.table_base, bucket), vip: vip.address };
            let hop = next_hops.and_then(|hops| hops.get(&bucket));
            let way = hop.and_then(|hop| ways.get(&content(hop)));
            self.desired.routes.insert(key, way.cloned().unwrap_or(RouteTarget::Unreachable));
            if hop.is_some_and(|hop| hop.refuses_syn) {
                self.refusing.insert((vip.address, settings.mark.mark(bucket)));
            }
        }
        if !ways.is_empty() {
            self.announce(vip, ctx);
        }
    }

    /// Routes of a VIP whose map nobody has: those that are there.
    fn hold(&mut self, vip: &Vip, ctx: &Context<'_>) {
        let settings = ctx.settings;
        for nexthop in ctx.held.nexthops(vip.address) {
            self.way(vip, held_mode(nexthop, settings), nexthop, settings);
            if let Nexthop::EncapIp { dst, .. } = nexthop {
                self.held_endpoints.insert(*dst);
            }
        }
        for bucket in flows(vip, settings).buckets.iter() {
            let key = RouteKey { table: table(settings.table_base, bucket), vip: vip.address };
            self.desired.routes.insert(key, ctx.held.route(&key).cloned().unwrap_or(RouteTarget::Unreachable));
        }
        if ctx.held.nexthops(vip.address).next().is_some() {
            self.announce(vip, ctx);
        }
    }

    /// The tunnel devices of a VIP, also without endpoints and while there is nobody to name: they need not come and go.
    fn carriers(&mut self, vip: &Vip, ctx: &Context<'_>) {
        if let Some((mode, outer)) = carrier(vip, ctx.cluster, ctx.settings) {
            self.link(vip, mode, outer, ctx.settings);
        }
    }

    /// The ways to the owners of buckets, by owner and names; without those that this node cannot reach.
    fn ways<'a>(
        &mut self,
        vip: &Vip,
        next_hops: impl Iterator<Item = &'a NextHop>,
        ctx: &Context<'_>,
    ) -> BTreeMap<Content<'a>, RouteTarget> {
        let different: BTreeMap<Content<'_>, &NextHop> = next_hops.map(|hop| (content(hop), hop)).collect();
        let mut ways = BTreeMap::new();
        for (content, hop) in different {
            match reach(vip, hop, ctx) {
                Ok(Way { mode, nexthop, mtu }) => {
                    self.way(vip, mode, &nexthop, ctx.settings);
                    ways.insert(content, RouteTarget::Via { nexthop: nexthop.into(), mtu });
                }
                Err(_) if vip.mode != Mode::Mpls && ctx.own_addresses().is_empty() => {
                    self.problems.insert(no_address(ctx));
                }
                Err(note) => {
                    let (subject, reason) = ((&vip.service).into(), Reason::EndpointFailed);
                    self.problems.insert(Problem { subject, reason, note });
                }
            }
        }
        ways
    }

    /// The VIP in the table of a routing daemon, if this node is to take its packets in. Called for VIPs with somewhere to send
    /// them; an owner that takes no new connections counts.
    fn announce(&mut self, vip: &Vip, ctx: &Context<'_>) {
        let Some(table) = ctx.settings.announce_table else { return };
        let serves = |e: &Endpoint| e.node == ctx.settings.node_name && e.state.serves();
        let is_wanted = !vip.local_only || vip.endpoints.iter().any(serves);
        if is_wanted && ctx.me().is_some_and(|node| node.ingress && !node.cordoned) {
            self.desired.routes.insert(RouteKey { table, vip: vip.address }, RouteTarget::Unreachable);
        }
    }

    /// What a next hop needs: its tunnel device, or to be known as a gateway.
    fn way(&mut self, vip: &Vip, mode: Mode, nexthop: &Nexthop, settings: &Settings) {
        match nexthop {
            Nexthop::Mpls { via, .. } => {
                self.gateways.insert(shown_gateway(vip.address, *via));
            }
            Nexthop::EncapIp { dst, .. } => self.link(vip, mode, Family::of(*dst), settings),
        }
    }

    fn link(&mut self, vip: &Vip, mode: Mode, outer: Family, settings: &Settings) {
        let kind = match mode {
            Mode::Gre => LinkKind::GreExternal(outer),
            Mode::Vxlan => LinkKind::VxlanGpe { port: settings.vxlan_port },
            Mode::Mpls => return,
        };
        let Some(name) = settings.link(mode, outer) else { return };
        self.desired.sysctls.insert(Sysctl::RpFilter(name.clone()), SysctlWant::Exactly(2));
        if vip.family() == Family::V6 {
            self.desired.sysctls.insert(Sysctl::DisableIpv6(name.clone()), SysctlWant::Exactly(0));
        }
        self.desired.links.insert(name, kind);
    }

    /// Where a device has no address at all, loose reverse path filtering is as strict as strict, whatever its value
    /// (`__fib_validate_source`, net/ipv4/fib_frontend.c: `no_addr` leads to `last_resort`), and an address of ours there
    /// would take the device's routes along when it is removed. So the filter is told the truth instead: a table in which
    /// each VIP lies behind the devices of its endpoints, those of other nodes included: they answer this node's own
    /// connections. Only what carries none of our marks looks there, that is the
    /// filter's own look-up; VIP traffic is always marked.
    fn sources(&mut self, devices: &BTreeSet<String>, cluster: &Cluster, (settings, tree): (&Settings, BucketCount)) {
        let table = sources_table(tree, settings.table_base);
        for vip in cluster.vips.keys().filter(|vip| vip.is_ipv4()) {
            let key = RouteKey { table, vip: *vip };
            self.desired.routes.insert(key, RouteTarget::Devices(devices.clone()));
        }
        self.desired.rules.insert(sources_rule(settings.mark, settings.rule_priority, table));
    }

    /// Labels by which other nodes reach this node's pods.
    fn label_swaps(&mut self, local: &BTreeSet<(PodAt<'_>, Mode)>, ctx: &Context<'_>) {
        let Settings { labels, node_name, .. } = ctx.settings;
        self.desired.sysctls.insert(Sysctl::PlatformLabels, SysctlWant::AtLeast(labels.block().end));
        for (pod, _) in local.iter().filter(|(_, mode)| *mode == Mode::Mpls) {
            let Some((via, fact)) = ctx.on_link(pod.addresses.iter()) else { continue };
            let label = labels.of_pod(pod.addresses);
            let swap = LabelRoute::Swap { out: labels.pop(), via, dev: fact.dev.clone() };
            // Of two pods with one label the ingress nodes refuse the later one; here the earlier one keeps it.
            self.desired.labels.entry(label).or_insert(swap);
        }
        let others = ctx.cluster.nodes.values().filter(|n| n.name != *node_name);
        let addresses = others.flat_map(|n| n.tunnel_addresses().iter());
        let known = addresses.filter_map(|a| Some((a, ctx.routes.get(&a)?)));
        let neighbours: Vec<(IpAddr, &RouteFact)> = known.filter(|(_, fact)| fact.gateway.is_none()).collect();
        for (address, fact) in &neighbours {
            self.desired.sysctls.insert(Sysctl::MplsInput(fact.dev.clone()), SysctlWant::Exactly(1));
            self.desired.neighbours.insert(Neighbour { dev: fact.dev.clone(), address: *address });
        }
        self.frames(&neighbours, local, ctx);
    }

    /// Who may send frames with a label, to this node and from pod to pod.
    fn frames(&mut self, nodes: &[(IpAddr, &RouteFact)], local: &BTreeSet<(PodAt<'_>, Mode)>, ctx: &Context<'_>) {
        let guard = FrameTable {
            node: ctx.settings.node_name.clone(),
            devices: nodes.iter().map(|(_, fact)| fact.dev.clone()).collect(),
            nodes: nodes.iter().map(|(address, _)| *address).collect(),
            known: nodes.iter().filter_map(|(_, fact)| fact.mac).collect(),
            complete: nodes.iter().all(|(_, fact)| fact.mac.is_some()),
        };
        self.desired.frames.insert(TableFamily::Netdev, guard.table());
        let addresses = local.iter().flat_map(|(pod, _)| pod.addresses.iter());
        let facts = addresses.filter_map(|address| ctx.routes.get(&address));
        let bridges: BTreeSet<String> = facts.filter(|f| f.bridge).map(|f| f.dev.clone()).collect();
        if !bridges.is_empty() {
            let (node, label) = (ctx.settings.node_name.clone(), ctx.settings.labels.pop());
            self.desired.frames.insert(TableFamily::Bridge, BridgeTable { node, bridges, label }.table());
        }
    }
}

/// The tunnel that a VIP has in any case, by mode and family of its outer packets.
fn carrier(vip: &Vip, cluster: &Cluster, settings: &Settings) -> Option<(Mode, Family)> {
    let own = cluster.nodes.get(&settings.node_name)?.tunnel_addresses().iter().next()?;
    Some((settings.carrier(vip.mode)?, Family::of(own)))
}

/// The device of the tunnel that a VIP has in any case.
pub(super) fn carrier_link(vip: &Vip, cluster: &Cluster, settings: &Settings) -> Option<String> {
    let is_served =
        !settings.unavailable.contains_key(&vip.mode) && settings.can_hold(vip.flows(settings.flows()).buckets);
    let (mode, outer) = carrier(vip, cluster, settings).filter(|_| is_served)?;
    settings.link(mode, outer)
}

/// Takes back the announcements of VIPs of which `serves` says that this node does not carry them.
pub fn withdraw(desired: &mut Desired, settings: &Settings, serves: impl Fn(IpAddr) -> bool) {
    let announced = |key: &RouteKey| settings.announce_table == Some(key.table);
    desired.routes.retain(|key, _| !announced(key) || serves(key.vip));
}

/// What the way to an owner depends on.
type Content<'a> = (&'a EndpointId, Addresses, TunnelId);

fn content(hop: &NextHop) -> Content<'_> {
    (&hop.owner, hop.addresses, hop.id)
}

/// The mode of a next hop, by the device that it takes.
fn held_mode(nexthop: &Nexthop, settings: &Settings) -> Mode {
    match nexthop {
        Nexthop::Mpls { .. } => Mode::Mpls,
        Nexthop::EncapIp { dev, .. } if *dev == settings.link_prefix.vxlan() => Mode::Vxlan,
        Nexthop::EncapIp { .. } => Mode::Gre,
    }
}

/// Why this node cannot serve a VIP at all: a mode that it lacks for all Services, or what this Service alone asks for.
fn refusal(vip: &Vip, ctx: &Context<'_>) -> Option<Problem> {
    let settings = ctx.settings;
    if let Some(why) = settings.unavailable.get(&vip.mode) {
        let note = format!("node {} cannot serve VIPs in mode {}: {why}", settings.node_name, vip.mode);
        return Some(of_node(ctx.cluster, settings, Reason::NodeFailed, note));
    }
    let (field, buckets) = (settings.mark, vip.flows(settings.flows()).buckets);
    let note = || {
        format!(
            "node {} cannot serve {}: its bucket map has {buckets} buckets, and there is no room for them: give --mark-field \
             {field} more bits, or --table-base and --rule-priority lower numbers",
            settings.node_name, vip.address
        )
    };
    let is_too_large = !settings.can_hold(buckets);
    is_too_large.then(|| Problem { subject: (&vip.service).into(), reason: Reason::NodeFailed, note: note() })
}

/// This node encapsulates nothing, whatever the pod.
fn no_address(ctx: &Context<'_>) -> Problem {
    let note = format!(
        "node {} has no InternalIP in its Node object, which would be the outer source of what it sends to pods: see why its \
         kubelet or the cloud provider names none",
        ctx.settings.node_name
    );
    of_node(ctx.cluster, ctx.settings, Reason::NodeFailed, note)
}

/// How this node hashes the flows of a VIP: as its map says, if there is room for its buckets.
pub(super) fn flows(vip: &Vip, settings: &Settings) -> FlowHash {
    Some(vip.flows(settings.flows())).filter(|flows| settings.can_hold(flows.buckets)).unwrap_or(settings.flows())
}

/// What the routing of a VIP shows as its next hop (nft's `rt nexthop`) where labels go to `via`: an IPv4 route through an
/// IPv6 gateway shows the destination, an IPv6 route to an IPv4 gateway shows `::ffff:A`.
fn shown_gateway(vip: IpAddr, via: IpAddr) -> IpAddr {
    match (vip, via) {
        (IpAddr::V6(_), IpAddr::V4(via)) => IpAddr::V6(via.to_ipv6_mapped()),
        (IpAddr::V4(_), IpAddr::V6(_)) => vip,
        _ => via,
    }
}

/// VIPs whose stored map was made for another hash than our own flags say, by that hash.
fn other_flows(cluster: &Cluster, settings: &Settings) -> BTreeMap<FlowHash, BTreeSet<IpAddr>> {
    let mut others: BTreeMap<FlowHash, BTreeSet<IpAddr>> = BTreeMap::new();
    for vip in cluster.vips() {
        let flows = flows(vip, settings);
        if flows != settings.flows() {
            others.entry(flows).or_default().insert(vip.address);
        }
    }
    others
}

fn node_table(
    cluster: &Cluster,
    build: Option<&Build>,
    endpoint_devices: BTreeSet<String>,
    settings: &Settings,
) -> NodeTable {
    let ingress = build.map(|build| Ingress {
        endpoints: pod_addresses(cluster).chain(build.held_endpoints.iter().copied()).collect(),
        mpls_gateways: build.gateways.clone(),
        flows: settings.flows(),
        other_flows: other_flows(cluster, settings),
        refusing: build.refusing.clone(),
        ranges: settings.vip_ranges.clone(),
        mark: settings.mark,
        gre6_source: None,
    });
    NodeTable {
        node: settings.node_name.clone(),
        nodes: cluster.nodes.values().flat_map(|n| n.addresses.iter().copied()).collect(),
        own: cluster.nodes.get(&settings.node_name).iter().flat_map(|n| n.addresses.iter().copied()).collect(),
        vips: cluster.vips.keys().copied().collect(),
        tracked_vips: cluster.vips().filter(|v| v.tracked).map(|v| v.address).collect(),
        ingress,
        pods: BTreeSet::new(),
        endpoint_devices,
        link_prefix: settings.link_prefix.to_string(),
        vxlan_port: settings.vxlan_port,
        unbucketed: None,
    }
}
