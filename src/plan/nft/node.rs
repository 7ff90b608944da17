//! The table of a node.
//!
//! ```text
//! prerouting (raw)   tunnel devices: drop │ to a VIP: vip │ from a local endpoint: from_endpoint │ from a VIP: notrack
//!                    outer packets: outer
//! from_endpoint      outer packet that claims to be a node's: drop │ on other nodes, from a VIP: notrack
//! outer              of nodes and to local endpoints: from a pod that has another address: drop │ of nodes: notrack
//! output (raw)       to a VIP: vip        │ outer packets: notrack
//! vip                notrack, hash the flow, write the mark: it selects the bucket's routing table
//! icmp_error         the same for the flow that an ICMP error quotes
//! own_error          our own ICMP errors about a packet to a VIP come from the VIP
//! outer_source       GRE over IPv6 comes from the node's own address
//! forward            SYN of a bucket that nobody may own: reset │ to a VIP but not through our encapsulation: reject
//! refuse             the same SYN from this node itself: reset
//! postrouting        through a tunnel device: clear the mark, or the outer packet would walk the rules again │ outer packets:
//!                    counted
//! ```
//!
//! The chains and sets of IPv6 have the same names with a 6 behind them, and exist while there is an IPv6 VIP. `vips` is
//! what lets packets in, and counts them; `served` holds the same addresses for all other look-ups, which must not count.
//! `endpoints` counts the outer packets that this node makes, `pods` those of others for its own endpoints: `plan::losses`
//! compares them with what gets further.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::accounting::{ENDPOINTS, INTO_LABEL, INTO_TUNNEL, OUTER_LEAVES, PODS};
use super::family::{addresses, inline, ip, named, nfproto, of_family};
use super::form::Form;
use super::protocol::GRE;
use super::script::{REFUSING, VIPS};
use super::{BaseChain, Chain, Elements, ObservedTable, Rule, Set, SetType, Table};
use crate::model::handover::{FlowHash, HashKey};
use crate::model::{Family, MarkField};
use crate::plan::icmp::{error_match, quoted_element, source_from_vip};

/// What differs from node to node and from moment to moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTable {
    /// Name of the node: written into the table, so that a clean-up can tell whose it is.
    pub node: String,
    /// Addresses of all nodes.
    pub nodes: BTreeSet<IpAddr>,
    /// Addresses of this node.
    pub own: BTreeSet<IpAddr>,
    /// Every VIP that is served anywhere.
    pub vips: BTreeSet<IpAddr>,
    /// VIPs whose packets stay tracked.
    pub tracked_vips: BTreeSet<IpAddr>,
    /// Present on ingress nodes.
    pub ingress: Option<Ingress>,
    /// Addresses of local endpoints.
    pub pods: BTreeSet<IpAddr>,
    /// Devices that lead to local endpoints: replies come in here.
    pub endpoint_devices: BTreeSet<String>,
    /// Prefix of our links.
    pub link_prefix: String,
    /// UDP port of the VXLAN tunnels.
    pub vxlan_port: u16,
    /// Set where VIP traffic is not hashed but must carry some mark of ours all the same: the mark.
    pub unbucketed: Option<u32>,
}

/// What only an ingress node does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingress {
    /// Outer destinations: the pods' addresses.
    pub endpoints: BTreeSet<IpAddr>,
    /// What the routing of MPLS nexthops shows as the next hop, by family of the VIP.
    pub mpls_gateways: BTreeSet<IpAddr>,
    /// How flows become buckets, but for those below.
    pub flows: FlowHash,
    /// VIPs whose flows become buckets in another way.
    pub other_flows: BTreeMap<FlowHash, BTreeSet<IpAddr>>,
    /// Networks that VIPs lie in.
    pub ranges: BTreeSet<IpNet>,
    /// VIPs with the marks of their buckets that take no new connections.
    pub refusing: BTreeSet<(IpAddr, u32)>,
    /// Field of the fwmark.
    pub mark: MarkField,
    /// Source of GRE packets over IPv6, if there are any.
    pub gre6_source: Option<Ipv6Addr>,
}

/// Priorities are numbers because `nft -j` shows numbers. Raw (-300) comes after reassembly (-400) and before connection
/// tracking (-200).
const RAW: i32 = -300;
const MANGLE: i32 = -150;
/// Before the filters of others: what we reject must not have been accepted into a flowtable. Behind reverse path filtering
/// and what others drop in prerouting: a reset is sent only to a client whose packet would have been forwarded.
const GUARD: i32 = -5;

/// The map, one for each family, from what an ICMP error of ours quotes to the VIP that it then comes from.
const ERROR_SOURCE: &str = "error_source";

/// What a node's table has of these VIPs and counts nothing.
pub fn elements_of_vips(vips: &BTreeSet<IpAddr>, ingress: bool) -> Vec<Elements> {
    let served = by_family("served", vips, SetType::Address, |vip| vip.to_string());
    let quoted = by_family(ERROR_SOURCE, vips, SetType::QuotedToAddress, quoted_element);
    served.into_iter().chain(quoted.into_iter().filter(|_| ingress)).collect()
}

/// What lets packets to these VIPs into an ingress node.
pub fn switches_of_vips(vips: &BTreeSet<IpAddr>) -> Vec<Elements> {
    by_family(VIPS, vips, SetType::Address, |vip| vip.to_string())
}

/// What a node's table has of these addresses of its own pods.
pub fn elements_of_pods(addresses: &BTreeSet<IpAddr>) -> Vec<Elements> {
    by_family(PODS, addresses, SetType::Address, |address| address.to_string())
}

/// What the table of an ingress node has of these addresses of pods anywhere.
pub fn elements_of_endpoints(addresses: &BTreeSet<IpAddr>) -> Vec<Elements> {
    by_family(ENDPOINTS, addresses, SetType::Address, |address| address.to_string())
}

/// Elements of the sets of a name, of each family one.
fn by_family(
    name: &str,
    addresses: &BTreeSet<IpAddr>,
    kind: impl Fn(Family) -> SetType,
    element: impl Fn(IpAddr) -> String,
) -> Vec<Elements> {
    let of = |family| Elements {
        set: named(name, family),
        kind: kind(family),
        elements: of_family(addresses, family).map(|address| element(*address)).collect(),
    };
    families(addresses).into_iter().map(of).collect()
}

impl NodeTable {
    /// The table as data.
    pub fn table(&self) -> Table {
        let mut table = Table { sets: self.sets(), ..Table::default() };
        let mut chain = |name: String, chain| table.chains.insert(name, chain);
        chain("about".to_owned(), about(&self.node));
        chain("prerouting".to_owned(), self.prerouting());
        chain("from_endpoint".to_owned(), self.endpoint_packets());
        chain("outer".to_owned(), self.outer());
        if let Some(mark) = self.unbucketed {
            chain("output".to_owned(), base("route", "output", RAW, vec![unbucketed(mark)]));
        }
        if let Some(ingress) = &self.ingress {
            for family in self.families() {
                chain(named("vip", family), self.vip(ingress, family));
                chain(named("icmp_error", family), icmp_error(ingress, family));
                for flows in ingress.others(family) {
                    let hashed = Hashed { ingress, family, flows };
                    chain(
                        named(&hashed_by("vip", flows), family),
                        Chain { base: None, rules: hashed.rules(Form::Packet) },
                    );
                    chain(
                        named(&hashed_by("icmp_error", flows), family),
                        Chain { base: None, rules: hashed.rules(Form::Error) },
                    );
                }
            }
            chain("output".to_owned(), self.output(ingress));
            chain("own_error".to_owned(), self.own_error());
            if let Some(source) = ingress.gre6_source {
                chain("outer_source".to_owned(), outer_source(source));
            }
            chain("forward".to_owned(), self.forward(ingress));
            if !ingress.refusing.is_empty() {
                chain("refuse".to_owned(), base("filter", "output", GUARD, ingress.refuse()));
            }
            chain("postrouting".to_owned(), self.postrouting(ingress));
        }
        table
    }

    /// The families of the VIPs.
    fn families(&self) -> BTreeSet<Family> {
        families(&self.vips)
    }

    fn sets(&self) -> BTreeMap<String, Set> {
        let devices = Set::new(SetType::Ifname, &self.endpoint_devices);
        let mut sets = BTreeMap::from([("endpoint_devices".to_owned(), devices)]);
        for family in self.families() {
            sets.insert(named("served", family), addresses(&self.vips, family));
            if has(&self.tracked_vips, family) {
                sets.insert(named("tracked_vips", family), addresses(&self.tracked_vips, family));
            }
            let Some(ingress) = &self.ingress else { continue };
            sets.insert(named(VIPS, family), addresses(&self.vips, family).counted());
            let quoted = of_family(&self.vips, family).map(|vip| quoted_element(*vip));
            sets.insert(named(ERROR_SOURCE, family), Set::new(SetType::QuotedToAddress(family), quoted));
            sets.insert(named("mpls_gateways", family), addresses(&ingress.mpls_gateways, family));
            if ingress.refuses(family) {
                let of_family = ingress.refusing.iter().filter(|(vip, _)| Family::of(*vip) == family);
                let elements = of_family.map(|(vip, mark)| refused(*vip, *mark));
                sets.insert(named(REFUSING, family), Set::new(SetType::AddressMark(family), elements));
            }
            for flows in ingress.others(family) {
                let vips = addresses(&ingress.other_flows[&flows], family);
                sets.insert(named(&hashed_by("vips", flows), family), vips);
            }
        }
        for family in families(&self.nodes) {
            sets.insert(named("nodes", family), addresses(&self.nodes, family));
        }
        for family in families(&self.pods) {
            sets.insert(named(PODS, family), addresses(&self.pods, family).counted());
        }
        for family in families(&self.own).into_iter().filter(|_| self.ingress.is_none()) {
            sets.insert(named("own", family), addresses(&self.own, family));
        }
        for family in self.ingress.iter().flat_map(Ingress::outer_families) {
            let endpoints = self.ingress.iter().flat_map(|i| of_family(&i.endpoints, family));
            sets.insert(named(ENDPOINTS, family), Set::new(SetType::Address(family), endpoints).counted());
        }
        sets
    }

    fn prerouting(&self) -> Chain {
        let prefix = &self.link_prefix;
        let mut rules = Vec::new();
        if self.ingress.is_some() {
            rules.push(Rule::new("nothing enters the node through a tunnel", format!("iifname \"{prefix}*\" drop")));
            rules.extend(self.families().into_iter().map(|family| enter("VIP traffic", family)));
        }
        rules.extend(self.unbucketed.map(unbucketed));
        rules.push(Rule::new("what local endpoints send", "iifname @endpoint_devices jump from_endpoint"));
        if self.ingress.is_some() {
            // Nothing that an ingress node sent or passed on to a VIP was tracked, so no reply may be.
            rules.extend(self.families().into_iter().map(|family| self.reply(family, "")));
        }
        rules.extend(self.carriers().map(|carrier| Rule::new("outer packets", format!("{carrier} jump outer"))));
        base("filter", "prerouting", RAW, rules)
    }

    /// Matches what outer packets look like.
    fn carriers(&self) -> [String; 2] {
        [format!("meta l4proto {GRE}"), format!("udp dport {}", self.vxlan_port)]
    }

    /// A pod with NET_RAW can write the address of a node or of another endpoint into its packets. So this is a reverse path filter for
    /// outer packets that come from pods, whatever `rp_filter` says.
    ///
    /// Each client's port has an outer source port of its own, so that with tracking every connection would have an entry.
    fn outer(&self) -> Chain {
        let others = |family| {
            let (ip, mut rule) = (ip(family), String::new());
            for (list, field, set) in [(&self.nodes, "saddr", "nodes"), (&self.pods, "daddr", PODS)] {
                let differs = || format!("{ip} {field} != @{} ", named(set, family));
                rule.push_str(&has(list, family).then(differs).unwrap_or_default());
            }
            let any = if rule.is_empty() { format!("meta nfproto {} ", nfproto(family)) } else { rule };
            Rule::new("tunnels of others", format!("{any}return"))
        };
        let astray = format!("meta iifkind {{ {OF_PODS} }} fib saddr . iif oif missing counter drop");
        let from_nodes = |family| format!("{} saddr @{}", ip(family), named("nodes", family));
        let counted = |family| {
            let text = format!("{} {} daddr @{}", from_nodes(family), ip(family), named(PODS, family));
            Rule::new("they reach the node", text)
        };
        let untracked =
            |family| Rule::new("outer packets of nodes need no entry", format!("{} notrack", from_nodes(family)));
        let nodes = families(&self.nodes);
        let mut rules: Vec<Rule> = Family::ALL.into_iter().map(others).collect();
        // Before the next rule, so that its own losses are found.
        rules.extend(families(&self.pods).intersection(&nodes).copied().map(counted));
        rules.push(Rule::new("outer packets of pods come from where their source is", astray));
        rules.extend(nodes.into_iter().map(untracked));
        Chain { base: None, rules }
    }

    /// Only nodes may send outer packets to pods, so nobody else may look like one. Nothing else is touched: an address that a pod
    /// and a node share (clouds list addresses of pods among those of their node) is the pod's own in all other packets.
    fn endpoint_packets(&self) -> Chain {
        let mut rules = Vec::new();
        for family in families(&self.nodes) {
            let from = format!("{} saddr @{}", ip(family), named("nodes", family));
            rules.extend(
                self.carriers().map(|carrier| Rule::new("a pod is not a node", format!("{carrier} {from} drop"))),
            );
        }
        if self.ingress.is_none() {
            // Here what goes to a VIP is tracked, and perhaps masqueraded: then so must be the reply.
            let elsewhere = |family| format!("{} daddr != @{} ", ip(family), named("own", family));
            let but = |family| if has(&self.own, family) { elsewhere(family) } else { String::new() };
            rules.extend(self.families().into_iter().map(|family| self.reply(family, &but(family))));
        }
        Chain { base: None, rules }
    }

    fn reply(&self, family: Family, but: &str) -> Rule {
        let source = format!("{} saddr", ip(family));
        let (served, tracked) = (named("served", family), self.unless_tracked(&source, family));
        Rule::new("replies from a VIP", format!("{source} @{served} {but}{tracked}notrack"))
    }

    /// Spares the VIPs that are to stay tracked.
    fn unless_tracked(&self, field: &str, family: Family) -> String {
        let tracked = has(&self.tracked_vips, family);
        if tracked { format!("{field} != @{} ", named("tracked_vips", family)) } else { String::new() }
    }

    fn vip(&self, ingress: &Ingress, family: Family) -> Chain {
        let untracked = self.unless_tracked(&format!("{} daddr", ip(family)), family);
        let error = format!("{} goto {}", error_match(family), named("icmp_error", family));
        let mut rules = vec![
            Rule::new("a flow may come back through another node", format!("{untracked}notrack")),
            Rule::new("errors about a flow", error),
        ];
        rules.extend(ingress.elsewhere("vip", family));
        rules.extend(Hashed { ingress, family, flows: ingress.flows }.rules(Form::Packet));
        Chain { base: None, rules }
    }

    fn output(&self, ingress: &Ingress) -> Chain {
        let port = self.vxlan_port;
        let mut rules: Vec<Rule> =
            self.families().into_iter().map(|family| enter("VIP traffic of this node", family)).collect();
        for outer in ingress.outer_families() {
            let to = format!("{} daddr @{}", ip(outer), named(ENDPOINTS, outer));
            rules.push(Rule::new("outer GRE packets need no entry", format!("meta l4proto {GRE} {to} notrack")));
            rules.push(Rule::new("outer VXLAN packets need no entry", format!("udp dport {port} {to} notrack")));
        }
        // Only a chain of type route makes the kernel route again when the mark has changed.
        base("route", "output", RAW, rules)
    }

    /// Clients and firewalls only believe an error about a VIP that comes from the VIP.
    fn own_error(&self) -> Chain {
        let rewrite = |family| source_from_vip(family, &named(ERROR_SOURCE, family));
        let rules = self.families().into_iter().map(|f| Rule::new("errors about a VIP come from it", rewrite(f)));
        base("filter", "output", RAW, rules.collect())
    }

    /// A lost rule would otherwise bounce a packet between the router and us until its TTL is used up.
    fn forward(&self, ingress: &Ingress) -> Chain {
        let guard = |family| {
            let (ip, served, gateways) = (ip(family), named("served", family), named("mpls_gateways", family));
            let reject = unreachable(family);
            let elsewhere = format!("oifname != \"{}*\" rt {ip} nexthop != @{gateways}", self.link_prefix);
            let text = format!("{ip} daddr @{served} {elsewhere} counter reject with {reject}");
            Rule::new("VIP traffic leaves encapsulated or not at all", text)
        };
        let guards = self.families().into_iter().map(guard);
        let nobody = self.families().into_iter().filter_map(|family| ingress.nobodys(family));
        let rules = ingress.refuse().into_iter().chain(guards).chain(nobody);
        base("filter", "forward", GUARD, rules.collect())
    }

    fn postrouting(&self, ingress: &Ingress) -> Chain {
        let tunnel = format!("oifname \"{}*\" counter meta mark set 0", self.link_prefix);
        let mut rules = vec![Rule::new(INTO_TUNNEL, tunnel)];
        for family in families(&ingress.mpls_gateways) {
            let text = format!(
                "oifname != \"{}*\" {} daddr @{} counter",
                self.link_prefix,
                ip(family),
                named("served", family)
            );
            rules.push(Rule::new(INTO_LABEL, text));
        }
        for family in ingress.outer_families() {
            let from = format!("{} saddr {} counter", ip(family), inline(&self.own, family));
            let made = |carrier| Rule::new(OUTER_LEAVES, format!("{carrier} {from}"));
            rules.extend(self.carriers().into_iter().filter(|_| has(&self.own, family)).map(made));
        }
        base("filter", "postrouting", MANGLE, rules)
    }
}

/// What a client is told of an address behind which nobody is.
fn unreachable(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp type host-unreachable",
        Family::V6 => "icmpv6 type addr-unreachable",
    }
}

impl Ingress {
    /// The router sends us everything in these networks. What no Service has asked for would go back to it, and come again, until its
    /// TTL ends. Only what would leave by the way that it came is ours to refuse: others may use addresses in there.
    fn nobodys(&self, family: Family) -> Option<Rule> {
        let nets: Vec<String> =
            self.ranges.iter().filter(|net| Family::of(net.addr()) == family).map(ToString::to_string).collect();
        let (ip, served, nets) = (ip(family), named("served", family), nets.join(", "));
        let text = format!(
            "{ip} daddr {{ {nets} }} {ip} daddr != @{served} fib daddr . iif oif exists counter reject with {}",
            unreachable(family)
        );
        (!nets.is_empty()).then(|| Rule::new("an address that no Service has asked for", text))
    }

    /// The other ways of hashing that VIPs of a family have.
    fn others(&self, family: Family) -> impl Iterator<Item = FlowHash> {
        self.other_flows.iter().filter(move |(_, vips)| has(vips, family)).map(|(flows, _)| *flows)
    }

    /// The rules that send packets which are hashed in another way to the chain that does it.
    fn elsewhere(&self, chain: &str, family: Family) -> Vec<Rule> {
        let rule = |flows| {
            let (set, chain) = (named(&hashed_by("vips", flows), family), named(&hashed_by(chain, flows), family));
            Rule::new("as their bucket map says", format!("{} daddr @{set} goto {chain}", ip(family)))
        };
        self.others(family).map(rule).collect()
    }

    /// Whether a bucket of some VIP of a family takes no new connections.
    fn refuses(&self, family: Family) -> bool {
        self.refusing.iter().any(|(vip, _)| Family::of(*vip) == family)
    }

    /// The rules that answer for buckets that take no new connections: the client is told at once, and open connections go on.
    fn refuse(&self) -> Vec<Rule> {
        let rule = |family| {
            let of = format!("{} daddr . meta mark @{}", ip(family), named(REFUSING, family));
            Rule::new("nobody takes new connections", format!("{OPENS} {of} counter reject with tcp reset"))
        };
        Family::ALL.into_iter().filter(|family| self.refuses(*family)).map(rule).collect()
    }

    /// The families of the outer packets.
    fn outer_families(&self) -> BTreeSet<Family> {
        families(&self.endpoints)
    }
}

/// Kinds of devices that lead to pods. What comes by any other is not judged: the tunnel of a CNI plugin or a second uplink brings outer
/// packets with the address of a node, too, and the route to that address does not lead there.
const OF_PODS: &str = "\"veth\", \"bridge\"";

/// `ip6gre` ignores the source that a nexthop gives it (`__gre6_xmit`, net/ipv6/ip6_gre.c, Linux 6.12) and takes what
/// address selection prefers, which pods need not know as a node's. In the output hook, so that it is our own only.
fn outer_source(source: Ipv6Addr) -> Chain {
    let text = format!("ip6 daddr @endpoints6 meta l4proto {GRE} ip6 saddr set {source}");
    base("filter", "output", RAW, vec![Rule::new("outer packets come from the node", text)])
}

pub(super) fn base(kind: &'static str, hook: &'static str, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { base: Some(BaseChain { kind, hook, device: None, priority }), rules }
}

/// The families of the addresses.
fn families(list: &BTreeSet<IpAddr>) -> BTreeSet<Family> {
    list.iter().map(|address| Family::of(*address)).collect()
}

fn has(list: &BTreeSet<IpAddr>, family: Family) -> bool {
    of_family(list, family).next().is_some()
}

/// The rule that lets VIP packets in, and counts them.
fn enter(why: &str, family: Family) -> Rule {
    Rule::new(why, format!("{} daddr @{} goto {}", ip(family), named(VIPS, family), named("vip", family)))
}

/// Keeps VIP traffic that is only passing through out of the table that reverse path filtering looks into; there is no
/// such filter for IPv6.
fn unbucketed(mark: u32) -> Rule {
    Rule::new("VIP traffic on its way to an ingress node", format!("ip daddr @served meta mark set {mark:#x}"))
}

/// Never jumped to: its rule exists for what loading it does, and for its comment.
pub(super) fn about(node: &str) -> Chain {
    // Any ct expression makes the kernel reassemble fragments at priority -400 (nf_ct_netns_get), before we hash.
    Chain { base: None, rules: vec![Rule::new(owner_tag(node), "ct state untracked return")] }
}

/// The same for a table below IP, where there are no connections.
pub(super) fn about_frames(node: &str) -> Chain {
    Chain { base: None, rules: vec![Rule::new(owner_tag(node), "return")] }
}

/// How the owner of a table is written into it, so that a clean-up knows whose it is.
fn owner_tag(node: &str) -> String {
    format!("{OWNER}{}", owner_name(node))
}

const OWNER: &str = "owner node=";

/// The name of a node as it stands in its table. Long names are cut: a comment holds 127 bytes.
pub fn owner_name(node: &str) -> String {
    node.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).take(90).collect()
}

/// The node whose agent has made a table.
pub fn owner(table: &ObservedTable) -> Option<String> {
    let comments = &table.chains.get("about")?.comments;
    let name = comments.iter().find_map(|comment| comment.strip_prefix(OWNER))?;
    Some(name.split(" #").next()?.to_owned())
}

/// Name of the chain or set for VIPs that are hashed in a way of their own.
pub(super) fn hashed_by(what: &str, flows: FlowHash) -> String {
    let key = match flows.key {
        HashKey::Ports => "",
        HashKey::Addresses => "addresses_",
    };
    format!("{what}_{}_{:x}_{key}", flows.buckets, flows.seed)
}

/// An element of the set of buckets that take no new connections.
pub(super) fn refused(vip: IpAddr, mark: u32) -> String {
    format!("{vip} . {mark}")
}

/// The rules that hash packets of one family in one way, and write the mark.
struct Hashed<'a> {
    ingress: &'a Ingress,
    family: Family,
    flows: FlowHash,
}

impl Hashed<'_> {
    fn rules(&self, form: Form) -> Vec<Rule> {
        let (about, has_ports) = (form.about(), format!("{} ", form.has_ports(self.family)));
        let (with, without) = (form.hash_expr(self.family, true), form.hash_expr(self.family, false));
        match self.flows.key {
            HashKey::Addresses => vec![self.mark(&format!("{about}ClientIP affinity"), "", without)],
            HashKey::Ports => vec![
                self.mark(&format!("{about}protocols with ports"), &has_ports, with),
                self.mark(&format!("{about}any other protocol"), "", without),
            ],
        }
    }

    /// One rule that hashes `what` into the bucket and writes the mark.
    fn mark(&self, why: &str, matches: &str, what: &str) -> Rule {
        let FlowHash { buckets, seed, .. } = self.flows;
        let set = self.ingress.mark.nft_statements(what, buckets, seed).join(" ");
        Rule::new(why, format!("{matches}{set} return"))
    }
}

/// `tcp flags` of a packet that opens a connection.
pub(super) const OPENS: &str = "tcp flags & (syn | ack) == syn";

fn icmp_error(ingress: &Ingress, family: Family) -> Chain {
    let mut rules = ingress.elsewhere("icmp_error", family);
    rules.extend(Hashed { ingress, family, flows: ingress.flows }.rules(Form::Error));
    Chain { base: None, rules }
}
