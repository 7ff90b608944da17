//! The table of a pod.
//!
//! ```text
//! prerouting (raw)     out of a tunnel: to a VIP: vip, else drop │ outer packets: only from nodes
//! vip                  wildcard UDP servers stay tracked, everything else is untracked
//! wildcard_udp (nat)   a UDP server bound to 0.0.0.0 would answer from the pod's address: give it the pod's address to
//!                      begin with, and connection tracking turns the reply round
//! output (raw)         replies from a VIP are untracked
//! mss                  SYN and SYN-ACK from a VIP announce what fits through the tunnel
//! account (last)       what is answered is counted, when every packet has the source that the client sees
//! ```
//!
//! The sets of IPv6 have the same names with a 6 behind them. `vips` counts what is received, `sent` what is answered;
//! `served` holds the same addresses for look-ups that must not count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::accounting::SENT;
use super::family::{addresses, ip, named, of_family};
use super::node::{about, base};
use super::protocol::{GRE, UDP};
use super::script::VIPS;
use super::{Chain, Rule, Set, Table};
use crate::model::{Addresses, Family};

/// What differs from pod to pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodTable {
    /// Name of the node that configured the pod.
    pub node: String,
    /// VIPs of this pod.
    pub vips: BTreeSet<IpAddr>,
    /// Addresses of all nodes: only they may send outer packets.
    pub nodes: BTreeSet<IpAddr>,
    /// The pod's own addresses, as far as it has them.
    pub pod: Addresses,
    /// Which tunnels end here.
    pub tunnels: Tunnels,
    /// Largest TCP segment that fits through the narrowest of the pod's tunnels, in bytes, by family of the VIP.
    pub mss: BTreeMap<Family, u32>,
    /// Prefix of our links.
    pub link_prefix: String,
    /// Addresses of pods that pass packets on to this one.
    pub peers: BTreeSet<IpAddr>,
}

/// The tunnels that end in a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// GRE, to these addresses of the pod.
    pub gre: BTreeSet<IpAddr>,
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

impl PodTable {
    /// The table as data.
    pub fn table(&self) -> Table {
        let chains = BTreeMap::from([
            ("about".to_owned(), about(&self.node)),
            ("prerouting".to_owned(), self.prerouting()),
            ("vip".to_owned(), vip()),
            ("wildcard_udp".to_owned(), self.wildcard_udp()),
            ("output".to_owned(), self.output()),
            ("mss".to_owned(), self.mss()),
            ("account".to_owned(), self.account()),
        ]);
        Table { sets: self.sets(), chains }
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
            if self.has_peers(family) {
                sets.insert(named("peers", family), addresses(&self.peers, family));
            }
        }
        sets
    }

    /// The families in which outer packets can come in.
    fn outer_families(&self) -> BTreeSet<Family> {
        let gre = self.tunnels.gre.iter().map(|address| Family::of(*address));
        let vxlan = self.tunnels.vxlan.map(|_| Family::ALL).into_iter().flatten();
        gre.chain(vxlan).collect()
    }

    fn has_peers(&self, family: Family) -> bool {
        of_family(&self.peers, family).next().is_some()
    }

    /// The devices that VIP packets come out of, as nft matches them.
    pub fn entrances(&self) -> Vec<String> {
        let links = !self.tunnels.gre.is_empty() || self.tunnels.vxlan.is_some();
        let tunnel = links.then(|| format!("iifname \"{}*\"", self.link_prefix));
        tunnel.into_iter().chain(self.tunnels.mpls.then(|| "iifname \"lo\"".to_owned())).collect()
    }

    fn prerouting(&self) -> Chain {
        let mut rules = Vec::new();
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
        for address in &self.tunnels.gre {
            let family = Family::of(*address);
            let (ip, nodes) = (ip(family), named("nodes", family));
            let text = format!("{ip} daddr {address} meta l4proto {GRE} {ip} saddr != @{nodes} drop");
            rules.push(Rule::new("GRE only from nodes", text));
        }
        for family in self.tunnels.vxlan.map(|_| Family::ALL).into_iter().flatten() {
            let (port, ip) = (self.tunnels.vxlan.unwrap_or_default(), ip(family));
            let nodes = format!("{ip} saddr != @{}", named("nodes", family));
            let peers = match self.has_peers(family) {
                true => format!(" {ip} saddr != @{}", named("peers", family)),
                false => String::new(),
            };
            let text = format!("udp dport {port} {nodes}{peers} drop");
            rules.push(Rule::new("VXLAN only from nodes", text));
        }
        base("filter", "prerouting", RAW, rules)
    }

    /// A pod without an address of the VIP's family has no other address to answer from: nothing to repair there.
    fn wildcard_udp(&self) -> Chain {
        let mut rules = Vec::new();
        for family in self.families() {
            let (ip, Some(pod)) = (ip(family), self.pod.of(family)) else { continue };
            for from in self.entrances() {
                let served = named("served", family);
                let what = format!("{from} {ip} daddr @{served} meta l4proto {UDP} socket wildcard 1");
                let text = format!("{what} dnat {ip} to {pod}");
                rules.push(Rule::new("servers bound to any address answer from the VIP", text));
            }
        }
        base("nat", "prerouting", DSTNAT, rules)
    }

    fn output(&self) -> Chain {
        let reply = |family| {
            Rule::new("replies from a VIP", format!("{} saddr @{} notrack", ip(family), named("served", family)))
        };
        base("filter", "output", RAW, self.families().into_iter().map(reply).collect())
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

fn vip() -> Chain {
    let wildcard = format!("meta l4proto {UDP} socket wildcard 1 return");
    let rules =
        vec![Rule::new("tracked, so that the reply is turned round", wildcard), Rule::new("VIP traffic", "notrack")];
    Chain { base: None, rules }
}
