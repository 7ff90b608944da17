//! The table of a pod.
//!
//! ```text
//! prerouting (raw)     outer packets: only from nodes │ out of a tunnel: only to a VIP
//!                      to a VIP: wildcard UDP servers stay tracked, everything else is untracked
//! wildcard_udp (nat)   a UDP server bound to 0.0.0.0 would answer from the pod's address: give it the pod's address to
//!                      begin with, and connection tracking turns the reply round
//! output (raw)         replies from a VIP are untracked
//! mss                  SYN and SYN-ACK from a VIP announce what fits through the tunnel
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::node::{about, addresses};
use super::script::VIPS;
use super::{BaseChain, Chain, Rule, Table};

/// What differs from pod to pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodTable {
    /// Name of the node that configured the pod.
    pub node: String,
    /// VIPs of this pod.
    pub vips: BTreeSet<Ipv4Addr>,
    /// Addresses of all nodes: only they may send outer packets.
    pub nodes: BTreeSet<Ipv4Addr>,
    /// The pod's own address.
    pub pod: Ipv4Addr,
    /// Which tunnels end here.
    pub tunnels: Tunnels,
    /// Largest TCP segment that fits through the narrowest of the pod's tunnels, in bytes.
    pub mss: u32,
    /// Prefix of our links.
    pub link_prefix: String,
}

/// The tunnels that end in a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// GRE.
    pub gre: bool,
    /// VXLAN-GPE, with its UDP port.
    pub vxlan: Option<u16>,
    /// MPLS: popped packets appear on `lo`.
    pub mpls: bool,
}

const RAW: i32 = -300;
const MANGLE: i32 = -150;
const DSTNAT: i32 = -100;

impl PodTable {
    /// The table as data.
    pub fn table(&self) -> Table {
        let sets =
            BTreeMap::from([(VIPS.to_owned(), addresses(&self.vips)), ("nodes".to_owned(), addresses(&self.nodes))]);
        let chains = BTreeMap::from([
            ("about".to_owned(), about(&self.node)),
            ("prerouting".to_owned(), self.prerouting()),
            ("wildcard_udp".to_owned(), self.wildcard_udp()),
            ("output".to_owned(), output()),
            ("mss".to_owned(), self.mss()),
        ]);
        Table { sets, chains }
    }

    /// Devices that VIP packets come out of.
    fn entrances(&self) -> String {
        let tunnel = format!("\"{}*\"", self.link_prefix);
        match (self.tunnels.mpls, self.tunnels.gre || self.tunnels.vxlan.is_some()) {
            (true, true) => format!("iifname {{ \"lo\", {tunnel} }} "),
            (true, false) => "iifname \"lo\" ".to_owned(),
            (false, _) => format!("iifname {tunnel} "),
        }
    }

    fn prerouting(&self) -> Chain {
        let (pod, prefix, from) = (self.pod, &self.link_prefix, self.entrances());
        let mut rules = Vec::new();
        if self.tunnels.gre {
            let text = format!("ip daddr {pod} ip protocol gre ip saddr != @nodes drop");
            rules.push(Rule::new("GRE only from nodes", text));
        }
        if let Some(port) = self.tunnels.vxlan {
            let text = format!("ip daddr {pod} udp dport {port} ip saddr != @nodes drop");
            rules.push(Rule::new("VXLAN only from nodes", text));
        }
        rules.push(Rule::new("only VIPs leave a tunnel", format!("iifname \"{prefix}*\" ip daddr != @vips drop")));
        rules.push(Rule::new("only IPv4 leaves a tunnel", format!("iifname \"{prefix}*\" meta nfproto != ipv4 drop")));
        if self.tunnels.mpls {
            // Packets with a local source came through lo the ordinary way.
            let text = "iifname \"lo\" fib saddr type != local ip daddr != @vips drop";
            rules.push(Rule::new("only VIPs leave MPLS", text));
        }
        let wildcard = format!("{from}ip daddr @vips meta l4proto udp socket wildcard 1 return");
        rules.push(Rule::new("tracked, so that the reply is turned round", wildcard));
        rules.push(Rule::new("VIP traffic", format!("{from}ip daddr @vips notrack")));
        Chain { base: Some(BaseChain { kind: "filter", hook: "prerouting", priority: RAW }), rules }
    }

    fn wildcard_udp(&self) -> Chain {
        let text =
            format!("{}ip daddr @vips meta l4proto udp socket wildcard 1 dnat ip to {}", self.entrances(), self.pod);
        Chain {
            base: Some(BaseChain { kind: "nat", hook: "prerouting", priority: DSTNAT }),
            rules: vec![Rule::new("servers bound to 0.0.0.0 answer from the VIP", text)],
        }
    }

    fn mss(&self) -> Chain {
        let text = format!("ip saddr @vips tcp flags & (syn | rst) == syn tcp option maxseg size set {}", self.mss);
        Chain {
            base: Some(BaseChain { kind: "filter", hook: "postrouting", priority: MANGLE }),
            rules: vec![Rule::new("clients send what fits", text)],
        }
    }
}

fn output() -> Chain {
    Chain {
        base: Some(BaseChain { kind: "filter", hook: "output", priority: RAW }),
        rules: vec![Rule::new("replies from a VIP", "ip saddr @vips notrack")],
    }
}
