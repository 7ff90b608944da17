//! The table of a node.
//!
//! ```text
//! prerouting (raw)   tunnel devices: drop │ to a VIP: vip │ from a VIP, from a local endpoint: notrack
//! output (raw)       to a VIP: vip        │ outer packets: notrack
//! vip                notrack, hash the flow, write the mark: it selects the bucket's routing table
//! icmp_error         the same for the flow that an ICMP error quotes
//! forward            to a VIP but not through our encapsulation: reject
//! postrouting        through a tunnel device: clear the mark, or the outer packet would walk the rules again
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::script::VIPS;
use super::{BaseChain, Chain, Rule, Set, SetType, Table};
use crate::model::hash::{Family, hash_expr};
use crate::model::{BucketCount, MarkField};
use crate::plan::icmp::{error_hash_expr, error_match, quotes_ports};

/// What differs from node to node and from moment to moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTable {
    /// Name of the node: written into the table, so that a clean-up can tell whose it is.
    pub node: String,
    /// Every VIP that is served anywhere.
    pub vips: BTreeSet<Ipv4Addr>,
    /// Present on ingress nodes.
    pub ingress: Option<Ingress>,
    /// Devices that lead to local endpoints: replies come in here.
    pub endpoint_devices: BTreeSet<String>,
    /// Prefix of our links.
    pub link_prefix: String,
    /// Set where VIP traffic is not hashed but must carry some mark of ours all the same: the mark.
    pub unbucketed: Option<u32>,
}

/// What only an ingress node does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingress {
    /// VIPs whose flows are told apart by address only (`sessionAffinity: ClientIP`).
    pub affinity_vips: BTreeSet<Ipv4Addr>,
    /// Outer destinations: the pods' addresses.
    pub endpoints: BTreeSet<Ipv4Addr>,
    /// On-link gateways of MPLS nexthops.
    pub mpls_gateways: BTreeSet<Ipv4Addr>,
    /// Number of buckets.
    pub buckets: BucketCount,
    /// Field of the fwmark.
    pub mark: MarkField,
    /// Seed of the hash, the same on every node.
    pub seed: u32,
    /// UDP port of the VXLAN tunnels.
    pub vxlan_port: u16,
}

/// Priorities are numbers because `nft -j` shows numbers. Raw (-300) comes after reassembly (-400) and before connection
/// tracking (-200).
const RAW: i32 = -300;
const MANGLE: i32 = -150;
/// Before the filters of others: what we reject must not have been accepted into a flowtable.
const GUARD: i32 = -5;

impl NodeTable {
    /// The table as data.
    pub fn table(&self) -> Table {
        let mut table = Table { sets: self.sets(), chains: BTreeMap::new() };
        let mut chain = |name: &str, chain| table.chains.insert(name.to_owned(), chain);
        chain("about", about(&self.node));
        chain("prerouting", self.prerouting());
        if let Some(mark) = self.unbucketed {
            let rules = vec![unbucketed(mark)];
            chain("output", Chain { base: Some(BaseChain { kind: "route", hook: "output", priority: RAW }), rules });
        }
        if let Some(ingress) = &self.ingress {
            chain("vip", vip(ingress));
            chain("icmp_error", icmp_error(ingress));
            chain("output", output(ingress));
            chain("forward", self.forward());
            chain("postrouting", self.postrouting());
        }
        table
    }

    fn sets(&self) -> BTreeMap<String, Set> {
        let mut sets = BTreeMap::from([
            (VIPS.to_owned(), addresses(&self.vips)),
            ("endpoint_devices".to_owned(), Set { kind: SetType::Ifname, elements: self.endpoint_devices.clone() }),
        ]);
        if let Some(ingress) = &self.ingress {
            sets.insert("affinity_vips".to_owned(), addresses(&ingress.affinity_vips));
            sets.insert("endpoints".to_owned(), addresses(&ingress.endpoints));
            sets.insert("mpls_gateways".to_owned(), addresses(&ingress.mpls_gateways));
        }
        sets
    }

    fn prerouting(&self) -> Chain {
        let prefix = &self.link_prefix;
        let mut rules = Vec::new();
        if self.ingress.is_some() {
            rules.push(Rule::new("nothing enters the node through a tunnel", format!("iifname \"{prefix}*\" drop")));
            rules.push(Rule::new("VIP traffic", "ip daddr @vips goto vip"));
        }
        rules.extend(self.unbucketed.map(unbucketed));
        rules.push(Rule::new("replies of local endpoints", "iifname @endpoint_devices ip saddr @vips notrack"));
        Chain { base: Some(BaseChain { kind: "filter", hook: "prerouting", priority: RAW }), rules }
    }

    /// A lost rule would otherwise bounce a packet between the router and us until its TTL is used up.
    fn forward(&self) -> Chain {
        let guard = format!(
            "ip daddr @vips oifname != \"{}*\" rt ip nexthop != @mpls_gateways counter reject with icmp type host-unreachable",
            self.link_prefix
        );
        Chain {
            base: Some(BaseChain { kind: "filter", hook: "forward", priority: GUARD }),
            rules: vec![Rule::new("VIP traffic leaves encapsulated or not at all", guard)],
        }
    }

    fn postrouting(&self) -> Chain {
        let clear = format!("oifname \"{}*\" meta mark set 0", self.link_prefix);
        Chain {
            base: Some(BaseChain { kind: "filter", hook: "postrouting", priority: MANGLE }),
            rules: vec![Rule::new("the outer packet walks no rules", clear)],
        }
    }
}

/// Keeps VIP traffic that is only passing through out of the table that reverse path filtering looks into.
fn unbucketed(mark: u32) -> Rule {
    Rule::new("VIP traffic on its way to an ingress node", format!("ip daddr @vips meta mark set {mark:#x}"))
}

/// Never jumped to: its rule exists for what loading it does, and for its comment.
pub(super) fn about(node: &str) -> Chain {
    // Any ct expression makes the kernel reassemble fragments at priority -400 (nf_ct_netns_get), before we hash.
    Chain { base: None, rules: vec![Rule::new(owner_tag(node), "ct state untracked return")] }
}

/// How the owner of a table is written into it, so that a clean-up knows whose it is. Long names are cut: a comment holds
/// 127 bytes.
pub fn owner_tag(node: &str) -> String {
    let name: String = node.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).take(90).collect();
    format!("owner node={name}")
}

/// One rule that hashes `what` into the bucket and writes the mark.
fn mark_rule(ingress: &Ingress, why: &str, matches: &str, what: &str) -> Rule {
    let set = ingress.mark.nft_statements(what, ingress.buckets, ingress.seed).join(" ");
    Rule::new(why, format!("{matches}{set} return"))
}

fn vip(ingress: &Ingress) -> Chain {
    let (with, without) = (hash_expr(Family::V4, true), hash_expr(Family::V4, false));
    let rules = vec![
        Rule::new("a flow may come back through another node", "notrack"),
        Rule::new("errors about a flow", format!("{} goto icmp_error", error_match(Family::V4))),
        mark_rule(ingress, "ClientIP affinity", "ip daddr @affinity_vips ", without),
        mark_rule(ingress, "protocols with ports", "meta l4proto { tcp, udp, sctp } ", with),
        mark_rule(ingress, "any other protocol", "", without),
    ];
    Chain { base: None, rules }
}

/// An ICMP error goes where the flow goes that it quotes, or path-MTU discovery never reaches the pod.
fn icmp_error(ingress: &Ingress) -> Chain {
    let (with, without) = (error_hash_expr(Family::V4, true), error_hash_expr(Family::V4, false));
    let has_ports = format!("{} ", quotes_ports(Family::V4));
    let rules = vec![
        mark_rule(ingress, "ClientIP affinity", "ip daddr @affinity_vips ", without),
        mark_rule(ingress, "about protocols with ports", &has_ports, with),
        mark_rule(ingress, "about any other protocol", "", without),
    ];
    Chain { base: None, rules }
}

fn output(ingress: &Ingress) -> Chain {
    let port = ingress.vxlan_port;
    let rules = vec![
        Rule::new("VIP traffic of this node", "ip daddr @vips goto vip"),
        Rule::new("outer GRE packets need no entry", "ip protocol gre ip daddr @endpoints notrack"),
        Rule::new("outer VXLAN packets need no entry", format!("udp dport {port} ip daddr @endpoints notrack")),
    ];
    // Only a chain of type route makes the kernel route again when the mark has changed.
    Chain { base: Some(BaseChain { kind: "route", hook: "output", priority: RAW }), rules }
}

pub(super) fn addresses(list: &BTreeSet<Ipv4Addr>) -> Set {
    Set { kind: SetType::Ipv4Addr, elements: list.iter().map(ToString::to_string).collect() }
}
