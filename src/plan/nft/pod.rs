//! The table of a pod.
//!
//! ```text
//! prerouting (raw)     out of a tunnel: to a VIP: vip, else drop │ outer packets: only from nodes and peers, and untracked
//! vip                  no tunnel inside a tunnel; wildcard UDP servers stay tracked, everything else is untracked
//! wildcard_udp (nat)   a UDP server bound to 0.0.0.0 would answer from the pod's address: give it the pod's address to
//!                      begin with, and connection tracking turns the reply round
//! output (raw)         replies from a VIP and what is passed on are untracked
//! mss                  SYN and SYN-ACK from a VIP announce what fits through the tunnel
//! account (last)       what is answered is counted, when every packet has the source that the client sees
//! ```
//!
//! The sets of IPv6 have the same names with a 6 behind them. `vips` counts what is received, `sent` what is answered;
//! `served` holds the same addresses for look-ups that must not count.
//!
//! Outer packets are judged on the device that they come in by, before the program for second chances sees what is inside.
//! What is addressed to a VIP and looks like an outer packet itself is a client's: an application may use GRE. Our own
//! devices would take it, too, with whatever source the client has written inside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::accounting::{OUTER_ARRIVES, SENT};
use super::family::{addresses, ip, named};
use super::node::{about, base};
use super::protocol::{GRE, UDP};
use super::script::VIPS;
use super::{Chain, Rule, Set, Table, UdpTimeout};
use crate::model::{Addresses, Family};

/// What differs from pod to pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodTable {
    /// Name of the node that configured the pod.
    pub node: String,
    /// VIPs of this pod.
    pub vips: BTreeSet<IpAddr>,
    /// Addresses of all nodes: they may send outer packets.
    pub nodes: BTreeSet<IpAddr>,
    /// Addresses of pods that may forward packets to this one.
    pub peers: BTreeSet<IpAddr>,
    /// The pod's own addresses, as far as it has them.
    pub pod: Addresses,
    /// Which tunnels end here.
    pub tunnels: Tunnels,
    /// Largest TCP segment that fits through the narrowest of the pod's tunnels, in bytes, by family of the VIP.
    pub mss: BTreeMap<Family, u32>,
    /// How long the repair of a wildcard UDP server remembers a client's port that asked once, in seconds; `None`: as long as the
    /// node's own setting says, 30 s by default.
    pub udp_timeout: Option<u32>,
    /// Prefix of our links.
    pub link_prefix: String,
}

/// The tunnels that end in a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// GRE over these families, to any address of the pod.
    pub gre: BTreeSet<Family>,
    /// VXLAN-GPE, with its UDP port: the device listens on all addresses.
    pub vxlan: Option<u16>,
    /// MPLS: popped packets appear on `lo`.
    pub mpls: bool,
}

const RAW: i32 = -300;
const MANGLE: i32 = -150;
const DSTNAT: i32 = -100;
/// Behind the translation of sources.
const LAST: i32 = 300;
/// Mark of GRE that is addressed to a VIP. It survives when the packet is unpacked in the same namespace
/// (`skb_scrub_packet`, net/core/skbuff.c).
const NESTED: u32 = 0x6b73_7401;

impl PodTable {
    /// The table as data.
    pub fn table(&self) -> Table {
        let chains = BTreeMap::from([
            ("about".to_owned(), about(&self.node)),
            ("prerouting".to_owned(), self.prerouting()),
            ("vip".to_owned(), self.vip()),
            ("wildcard_udp".to_owned(), self.wildcard_udp()),
            ("output".to_owned(), self.output()),
            ("mss".to_owned(), self.mss()),
            ("account".to_owned(), self.account()),
        ]);
        Table { timeouts: self.timeouts(), sets: self.sets(), chains }
    }

    fn timeouts(&self) -> BTreeSet<UdpTimeout> {
        let repaired = self.families().into_iter().filter(|family| self.pod.of(*family).is_some());
        let limit = |seconds| repaired.map(move |family| UdpTimeout { family, seconds }).collect();
        self.udp_timeout.map(limit).unwrap_or_default()
    }

    fn families(&self) -> BTreeSet<Family> {
        self.vips.iter().map(|vip| Family::of(*vip)).collect()
    }

    fn sets(&self) -> BTreeMap<String, Set> {
        let mut sets = BTreeMap::new();
        for family in self.families() {
            let vips = addresses(&self.vips, family);
            sets.insert(named(VIPS, family), vips.clone().counted());
            sets.insert(named(SENT, family), vips.clone().counted());
            sets.insert(named("served", family), vips);
        }
        for family in self.outer_families() {
            sets.insert(named("nodes", family), addresses(&self.nodes, family));
            sets.insert(named("peers", family), addresses(&self.peers, family));
        }
        sets
    }

    /// The families in which outer packets can come in.
    fn outer_families(&self) -> BTreeSet<Family> {
        let vxlan = self.tunnels.vxlan.map(|_| Family::ALL).into_iter().flatten();
        self.tunnels.gre.iter().copied().chain(vxlan).collect()
    }

    /// The devices that VIP packets come out of, as nft matches them.
    fn entrances(&self) -> Vec<String> {
        let links = !self.tunnels.gre.is_empty() || self.tunnels.vxlan.is_some();
        let tunnel = links.then(|| format!("iifname \"{}*\"", self.link_prefix));
        tunnel.into_iter().chain(self.tunnels.mpls.then(|| "iifname \"lo\"".to_owned())).collect()
    }

    fn prerouting(&self) -> Chain {
        let nested = format!("iifname \"{}*\" meta mark {NESTED:#x} drop", self.link_prefix);
        let nested = (!self.tunnels.gre.is_empty()).then(|| Rule::new("no tunnel inside a tunnel", nested));
        let mut rules: Vec<Rule> = nested.into_iter().collect();
        for from in self.entrances() {
            for family in self.families() {
                let text = format!("{from} {} daddr @{} goto vip", ip(family), named(VIPS, family));
                rules.push(Rule::new("VIP traffic", text));
            }
        }
        if self.tunnels.mpls {
            // Packets with a local source came through lo the ordinary way.
            rules.push(Rule::new("only VIPs leave MPLS", "iifname \"lo\" fib saddr type != local drop"));
        }
        rules.push(Rule::new("only VIPs leave a tunnel", format!("iifname \"{}*\" drop", self.link_prefix)));
        for family in &self.tunnels.gre {
            let text = format!("meta l4proto {GRE} {} drop", self.strangers(*family));
            rules.push(Rule::new("GRE only from nodes and endpoints", text));
        }
        for family in self.tunnels.vxlan.map(|_| Family::ALL).into_iter().flatten() {
            let text = format!("udp dport {} {} drop", self.tunnels.vxlan.unwrap_or_default(), self.strangers(family));
            rules.push(Rule::new("VXLAN only from nodes and endpoints", text));
        }
        // Each client's port has an outer source port of its own: every connection would have an entry.
        rules.extend(
            self.carriers().into_iter().map(|outer| Rule::new(OUTER_ARRIVES, format!("{outer} counter notrack"))),
        );
        base("filter", "prerouting", RAW, rules)
    }

    /// Matches what tunnels to this pod look like from outside.
    fn carriers(&self) -> Vec<String> {
        let gre = (!self.tunnels.gre.is_empty()).then(|| format!("meta l4proto {GRE}"));
        gre.into_iter().chain(self.tunnels.vxlan.map(|port| format!("udp dport {port}"))).collect()
    }

    /// Matches who may not send outer packets.
    fn strangers(&self, family: Family) -> String {
        let (ip, nodes, peers) = (ip(family), named("nodes", family), named("peers", family));
        format!("{ip} saddr != @{nodes} {ip} saddr != @{peers}")
    }

    /// An application can use GRE beside our device, but no port that a device of the kernel has.
    fn vip(&self) -> Chain {
        let vxlan =
            self.tunnels.vxlan.map(|port| Rule::new("no tunnel inside a tunnel", format!("udp dport {port} drop")));
        let gre = (!self.tunnels.gre.is_empty())
            .then(|| Rule::new("GRE of clients", format!("meta l4proto {GRE} meta mark set {NESTED:#x}")));
        let wildcard = format!("meta l4proto {UDP} socket wildcard 1 return");
        let rules =
            [Rule::new("tracked, so that the reply is turned round", wildcard), Rule::new("VIP traffic", "notrack")];
        Chain { base: None, rules: vxlan.into_iter().chain(gre).chain(rules).collect() }
    }

    /// A pod without an address of the VIP's family has no other address to answer from: nothing to repair there.
    fn wildcard_udp(&self) -> Chain {
        let mut rules = Vec::new();
        for family in self.families() {
            let (ip, Some(pod)) = (ip(family), self.pod.of(family)) else { continue };
            for from in self.entrances() {
                let served = named("served", family);
                let what = format!("{from} {ip} daddr @{served} meta l4proto {UDP} socket wildcard 1");
                let limit = |seconds| format!("ct timeout set \"{}\" ", UdpTimeout { family, seconds }.name());
                let limit = self.udp_timeout.map(limit).unwrap_or_default();
                let text = format!("{what} {limit}dnat {ip} to {pod}");
                rules.push(Rule::new("servers bound to any address answer from the VIP", text));
            }
        }
        base("nat", "prerouting", DSTNAT, rules)
    }

    fn output(&self) -> Chain {
        let reply = |family| {
            Rule::new("replies from a VIP", format!("{} saddr @{} notrack", ip(family), named("served", family)))
        };
        let mut rules: Vec<Rule> = self.families().into_iter().map(reply).collect();
        for (outer, family) in
            self.carriers().iter().flat_map(|outer| self.outer_families().into_iter().map(move |f| (outer, f)))
        {
            let text = format!("{outer} {} daddr @{} notrack", ip(family), named("peers", family));
            rules.push(Rule::new("what is passed on needs no entry", text));
        }
        base("filter", "output", RAW, rules)
    }

    fn account(&self) -> Chain {
        let count = |family| Rule::new("answers", format!("{} saddr @{}", ip(family), named(SENT, family)));
        base("filter", "postrouting", LAST, self.families().into_iter().map(count).collect())
    }

    fn mss(&self) -> Chain {
        let clamp = |(family, mss): (&Family, &u32)| {
            let syn = "tcp flags & (syn | rst) == syn";
            let from = format!("{} saddr @{}", ip(*family), named("served", *family));
            Rule::new("clients send what fits", format!("{syn} {from} tcp option maxseg size set {mss}"))
        };
        base("filter", "postrouting", MANGLE, self.mss.iter().map(clamp).collect())
    }
}
