//! What a node's network namespace must hold: on ingress nodes the way from a VIP to its endpoints, on serving nodes what
//! their endpoints' replies and labels need.
//!
//! This is the only place where a bucket becomes a routing table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::nft::TableFamily;
use super::nft::frames::{BridgeTable, FrameTable};
use super::nft::node::{Draining, Ingress, NodeTable};
use super::reach::{Reach, reach};
use super::tree::{previous_leaf, previous_table, rule_tree, sources_rule, sources_table, table};
use super::{
    Desired, LabelRoute, LinkKind, Mac, Neighbour, Nexthop, RouteKey, RouteTarget, Settings, Sysctl, SysctlWant,
};
use crate::model::{
    Bucket, BucketCount, BucketMap, Cluster, Drain, Endpoint, EndpointId, Family, Flows, Mode, Problem, Reason,
    SharedMap, Vip, assign,
};

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

/// The addresses whose route a node has to know: all endpoints, and for MPLS the nodes.
pub fn addresses_of_interest(cluster: &Cluster) -> BTreeSet<IpAddr> {
    let endpoints = cluster.vips.values().flat_map(|v| &v.endpoints).flat_map(|e| e.addresses.iter());
    let mpls = cluster.vips.values().any(|v| v.mode == Mode::Mpls);
    let nodes = cluster.nodes.values().filter(|_| mpls).flat_map(|n| n.tunnel_addresses().iter());
    endpoints.chain(nodes).collect()
}

/// The desired state of this node's namespace and what could not be done.
pub fn desired_node(cluster: &Cluster, routes: &Routes, settings: &Settings) -> (Desired, Vec<Problem>) {
    let me = cluster.nodes.get(&settings.node_name);
    let ingress = me.is_some_and(|n| n.ingress) && !cluster.vips.is_empty();
    let local = local_endpoints(cluster, settings);
    let tree = settings.tree(cluster);
    let mut build = Build::default();
    if !ingress && local.is_empty() {
        return (build.desired, build.problems);
    }
    if ingress {
        let families: BTreeSet<Family> = cluster.vips.values().map(Vip::family).collect();
        for family in families {
            let Settings { mark, rule_priority, table_base, .. } = *settings;
            build.desired.rules.extend(rule_tree(family, mark, tree, rule_priority, table_base));
        }
        for vip in cluster.vips.values() {
            build.vip(vip, &Context { cluster, routes, settings });
        }
    }
    let facts: Vec<&RouteFact> = local
        .iter()
        .flat_map(|(e, _)| e.addresses.iter())
        .filter_map(|address| routes.get(&address))
        .filter(|fact| fact.gateway.is_none())
        .collect();
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
        build.label_swaps(&local, &Context { cluster, routes, settings });
    }
    let gre6 = settings.link(Mode::Gre, Family::V6).is_some_and(|name| build.desired.links.contains_key(&name));
    let mut table = node_table(cluster, ingress.then_some(&build), devices, settings);
    if let Some(ingress) = &mut table.ingress {
        let used = gre6 && ingress.endpoints.iter().any(IpAddr::is_ipv6);
        ingress.gre6_source = me.and_then(|node| node.tunnel_addresses().v6).filter(|_| used);
    }
    table.unbucketed = (!ingress && !bare.is_empty()).then(|| settings.mark.previous());
    build.desired.nft = Some(table.table());
    (build.desired, build.problems)
}

/// The devices by which replies of endpoints come in: the local ones in `bare`, and whatever leads to the others.
fn ways_back(bare: &BTreeSet<String>, cluster: &Cluster, routes: &Routes) -> BTreeSet<String> {
    let endpoints = cluster.vips.values().flat_map(|v| &v.endpoints).flat_map(|e| e.addresses.iter());
    let remote = endpoints.filter_map(|address| routes.get(&address)).filter(|fact| fact.gateway.is_some());
    bare.iter().cloned().chain(remote.map(|fact| fact.dev.clone())).collect()
}

/// Endpoints on this node, each once per mode.
fn local_endpoints<'a>(cluster: &'a Cluster, settings: &Settings) -> BTreeSet<(&'a Endpoint, Mode)> {
    let all = cluster.vips.values().flat_map(|v| v.endpoints.iter().map(|e| (e, v.mode)));
    all.filter(|(e, mode)| e.node == settings.node_name && !settings.unavailable.contains_key(mode)).collect()
}

/// What every step of the computation reads.
pub(super) struct Context<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) routes: &'a Routes,
    pub(super) settings: &'a Settings,
}

#[derive(Default)]
struct Build {
    desired: Desired,
    problems: Vec<Problem>,
    gateways: BTreeSet<IpAddr>,
    draining: Vec<Draining>,
}

impl Build {
    /// Routes of one VIP: one in each bucket's table.
    fn vip(&mut self, vip: &Vip, ctx: &Context<'_>) {
        if let Some(why) = ctx.settings.unavailable.get(&vip.mode) {
            self.refuse(vip, why, ctx.settings);
            return;
        }
        let flows = vip.flows(ctx.settings.flows());
        if !ctx.settings.can_hold(flows.buckets) {
            let field = ctx.settings.mark;
            let why = format!(
                "its bucket map has {} buckets, and there is no room for them: give --mark-field {field} more bits, or \
                 --table-base and --rule-priority lower numbers",
                flows.buckets
            );
            self.refuse(vip, &why, ctx.settings);
            return;
        }
        // Also without endpoints: the device need not come and go with them.
        if let Some(own) = ctx.me().and_then(|node| node.tunnel_addresses().iter().next()) {
            self.link(vip, Family::of(own), ctx.settings);
        }
        let map = vip.map_in_use(ctx.settings.flows());
        let drains = map.previous.values().flatten().map(|drain| &drain.endpoint);
        let used: BTreeSet<&str> = map.owners.owners().iter().flatten().chain(drains).map(EndpointId::as_str).collect();
        let mut ways: Ways<'_> = BTreeMap::new();
        for endpoint in vip.endpoints.iter().filter(|e| e.eligible || used.contains(e.pod_uid.as_str())) {
            match reach(vip, endpoint, ctx) {
                Reach::Via { nexthop, mtu } => {
                    self.way(vip, &nexthop, ctx.settings);
                    ways.insert(&endpoint.pod_uid, RouteTarget::Via { nexthop, mtu });
                }
                Reach::No { reason, note } => {
                    self.problems.push(Problem { service: vip.service.clone(), reason, note });
                }
            }
        }
        let owners = reachable(&map, vip, &ways);
        for bucket in flows.buckets.iter() {
            let key = RouteKey { table: table(ctx.settings.table_base, bucket), vip: vip.address };
            let way = owners.owner(bucket).and_then(|owner| ways.get(owner.as_str()));
            self.desired.routes.insert(key, way.cloned().unwrap_or(RouteTarget::Unreachable));
        }
        for (bucket, drains) in &map.previous {
            self.drain(vip, *bucket, drains, &ways, ctx);
        }
        self.announce(vip, &ways, ctx);
    }

    /// The VIP in the table of a routing daemon, if this node is to take its packets in and has somewhere to send them.
    fn announce(&mut self, vip: &Vip, ways: &Ways<'_>, ctx: &Context<'_>) {
        let Some(table) = ctx.settings.announce_table else { return };
        let own = |e: &Endpoint| !vip.local_only || e.node == ctx.settings.node_name;
        let served = vip.endpoints.iter().any(|e| e.eligible && own(e) && ways.contains_key(e.pod_uid.as_str()));
        if served && ctx.me().is_some_and(|node| node.ingress && !node.cordoned) {
            self.desired.routes.insert(RouteKey { table, vip: vip.address }, RouteTarget::Unreachable);
        }
    }

    /// The way to one of those who had a bucket: for datagrams, and for packets that open no connection where the owner cannot be
    /// asked first.
    fn drain(&mut self, vip: &Vip, bucket: Bucket, drains: &[Drain], ways: &Ways<'_>, ctx: &Context<'_>) {
        let first = vip.asked_first(bucket, drains);
        let is_first = |drain: &Drain| Some(&drain.endpoint) == first;
        let reachable = || drains.iter().filter_map(|drain| Some((drain, ways.get(drain.endpoint.as_str())?)));
        let asked = reachable().find(|(drain, _)| is_first(drain));
        let Some((drain, way)) = asked.or_else(|| reachable().find(|(drain, _)| drain.datagrams)) else { return };
        let Settings { mark, rule_priority, table_base, .. } = *ctx.settings;
        let tree = ctx.settings.tree(ctx.cluster);
        let key = RouteKey { table: previous_table(tree, table_base, bucket), vip: vip.address };
        self.desired.routes.insert(key, way.clone());
        self.desired.rules.insert(previous_leaf(mark, tree, rule_priority, table_base, (vip.family(), bucket)));
        self.draining.push(Draining {
            vip: vip.address,
            mark: mark.mark(bucket),
            connections: is_first(drain),
            datagrams: drain.datagrams,
        });
    }

    /// A VIP whose mode this kernel cannot do: the client is told, the user too, and the other VIPs go on.
    fn refuse(&mut self, vip: &Vip, why: &str, settings: &Settings) {
        for bucket in settings.buckets.iter() {
            let key = RouteKey { table: table(settings.table_base, bucket), vip: vip.address };
            self.desired.routes.insert(key, RouteTarget::Unreachable);
        }
        let note = format!("node {} cannot serve {} in mode {}: {why}", settings.node_name, vip.address, vip.mode);
        self.problems.push(Problem { service: vip.service.clone(), reason: Reason::NodeFailed, note });
    }

    /// What a next hop needs: its tunnel device, or to be known as a gateway.
    fn way(&mut self, vip: &Vip, nexthop: &Nexthop, settings: &Settings) {
        match nexthop {
            Nexthop::Mpls { via, .. } => {
                self.gateways.insert(shown_gateway(vip.address, *via));
            }
            Nexthop::EncapIp { dst, .. } => self.link(vip, Family::of(*dst), settings),
        }
    }

    fn link(&mut self, vip: &Vip, outer: Family, settings: &Settings) {
        let kind = match vip.mode {
            Mode::Gre => LinkKind::GreExternal(outer),
            Mode::Vxlan => LinkKind::VxlanGpe { port: settings.vxlan_port },
            Mode::Mpls => return,
        };
        let Some(name) = settings.link(vip.mode, outer) else { return };
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
        self.desired.rules.insert(sources_rule(settings.mark, tree, settings.rule_priority, table));
    }

    /// Labels by which other nodes reach this node's pods.
    fn label_swaps(&mut self, local: &BTreeSet<(&Endpoint, Mode)>, ctx: &Context<'_>) {
        let Settings { labels, node_name, .. } = ctx.settings;
        self.desired.sysctls.insert(Sysctl::PlatformLabels, SysctlWant::AtLeast(labels.block().end));
        for (endpoint, _) in local.iter().filter(|(_, mode)| *mode == Mode::Mpls) {
            let Some((via, fact)) = ctx.on_link(endpoint.addresses.iter()) else { continue };
            let label = labels.of_pod(endpoint.addresses);
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
    fn frames(&mut self, nodes: &[(IpAddr, &RouteFact)], local: &BTreeSet<(&Endpoint, Mode)>, ctx: &Context<'_>) {
        let guard = FrameTable {
            node: ctx.settings.node_name.clone(),
            devices: nodes.iter().map(|(_, fact)| fact.dev.clone()).collect(),
            nodes: nodes.iter().map(|(address, _)| *address).collect(),
            known: nodes.iter().filter_map(|(_, fact)| fact.mac).collect(),
            complete: nodes.iter().all(|(_, fact)| fact.mac.is_some()),
        };
        self.desired.frames.insert(TableFamily::Netdev, guard.table());
        let addresses = local.iter().flat_map(|(endpoint, _)| endpoint.addresses.iter());
        let facts = addresses.filter_map(|address| ctx.routes.get(&address));
        let bridges: BTreeSet<String> = facts.filter(|f| f.bridge).map(|f| f.dev.clone()).collect();
        if !bridges.is_empty() {
            let (node, label) = (ctx.settings.node_name.clone(), ctx.settings.labels.pop());
            self.desired.frames.insert(TableFamily::Bridge, BridgeTable { node, bridges, label }.table());
        }
    }
}

/// Takes back the announcements of VIPs of which `serves` says that this node does not carry them.
pub fn withdraw(desired: &mut Desired, settings: &Settings, serves: impl Fn(Family) -> bool) {
    let announced = |key: &RouteKey| settings.announce_table == Some(key.table);
    desired.routes.retain(|key, _| !announced(key) || serves(Family::of(key.vip)));
}

/// How endpoints are reached, by pod UID.
type Ways<'a> = BTreeMap<&'a str, RouteTarget>;

/// The owners as the map has them, the same on every node; then what this node cannot reach is spread over the rest.
fn reachable(map: &SharedMap, vip: &Vip, ways: &Ways<'_>) -> BucketMap {
    if map.owners.owners().iter().flatten().all(|owner| ways.contains_key(owner.as_str())) {
        return map.owners.clone();
    }
    let eligible = vip.endpoints.iter().filter(|e| e.eligible && ways.contains_key(e.pod_uid.as_str()));
    let rest: BTreeSet<EndpointId> = eligible.map(|e| e.pod_uid.as_str().into()).collect();
    assign(&map.owners, &rest, map.flows.buckets)
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

fn vips_that(cluster: &Cluster, what: impl Fn(&Vip) -> bool) -> BTreeSet<IpAddr> {
    cluster.vips.values().filter(|v| what(v)).map(|v| v.address).collect()
}

/// VIPs whose stored map was made for another hash than our own flags say, by that hash.
fn other_flows(cluster: &Cluster, settings: &Settings) -> BTreeMap<Flows, BTreeSet<IpAddr>> {
    let mut others: BTreeMap<Flows, BTreeSet<IpAddr>> = BTreeMap::new();
    for vip in cluster.vips.values() {
        let flows = vip.flows(settings.flows());
        if flows != settings.flows() && settings.can_hold(flows.buckets) {
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
        affinity_vips: vips_that(cluster, |v| v.client_ip_affinity),
        endpoints: cluster.vips.values().flat_map(|v| &v.endpoints).flat_map(|e| e.addresses.iter()).collect(),
        mpls_gateways: build.gateways.clone(),
        draining: build.draining.clone(),
        flows: settings.flows(),
        other_flows: other_flows(cluster, settings),
        mark: settings.mark,
        vxlan_port: settings.vxlan_port,
        gre6_source: None,
    });
    NodeTable {
        node: settings.node_name.clone(),
        nodes: cluster.nodes.values().flat_map(|n| n.addresses.iter().copied()).collect(),
        own: cluster.nodes.get(&settings.node_name).iter().flat_map(|n| n.addresses.iter().copied()).collect(),
        vips: cluster.vips.keys().copied().collect(),
        tracked_vips: vips_that(cluster, |v| v.tracked),
        ingress,
        endpoint_devices,
        link_prefix: settings.link_prefix.to_string(),
        unbucketed: None,
    }
}
