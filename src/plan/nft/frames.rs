//! The tables below IP, on nodes with endpoints of mode `mpls`: a frame with a label carries no address that a rule of IP
//! could look at.
//!
//! ```text
//! netdev  from_<device>   on each device that takes labels in: ARP, neighbour discovery and MPLS: frames
//!         frames          a node that says where it is: remember its MAC address │ MPLS from any other address: drop
//! bridge  forward         from pod to pod, with the label that a pod pops: drop
//! ```
//!
//! The kernel itself remembers who the nodes are, as it hears it: a node asks for a neighbour before it sends the first
//! frame, and tells everybody when its address has moved (bond failover). So a new MAC address is never too late, and not
//! missed while no agent runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::family::{addresses, named};
use super::node::{about_frames, base};
use super::{BaseChain, Chain, Learning, Rule, Set, SetType, Table};
use crate::model::Family;
use crate::plan::Mac;

/// The table of family netdev.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameTable {
    /// Name of this node.
    pub node: String,
    /// Devices that take labels in.
    pub devices: BTreeSet<String>,
    /// Addresses of the other nodes on these devices' links.
    pub nodes: BTreeSet<IpAddr>,
    /// MAC addresses of these nodes.
    pub known: BTreeSet<Mac>,
    /// Whether that is all of them: then what is remembered beyond them is out of date.
    pub complete: bool,
}

/// `ETH_P_MPLS_UC` (include/uapi/linux/if_ether.h); nft has no name for it.
const MPLS: &str = "0x8847";
const NODE_MACS: &str = "node_macs";

impl FrameTable {
    /// The table as data.
    pub fn table(&self) -> Table {
        let mut chains = BTreeMap::from([
            ("about".to_owned(), about_frames(&self.node)),
            ("frames".to_owned(), Chain { base: None, rules: self.frames() }),
        ]);
        for device in &self.devices {
            chains.insert(chain_of(device), self.entrance(device));
        }
        Table { sets: self.sets(), chains, ..Table::default() }
    }

    fn families(&self) -> BTreeSet<Family> {
        self.nodes.iter().map(|address| Family::of(*address)).collect()
    }

    fn sets(&self) -> BTreeMap<String, Set> {
        let learning = if self.complete { Learning::Replace } else { Learning::Keep };
        let macs = Set::new(SetType::Ether, &self.known).learning(learning);
        let mut sets = BTreeMap::from([(NODE_MACS.to_owned(), macs)]);
        for family in self.families() {
            sets.insert(named("nodes", family), addresses(&self.nodes, family));
        }
        sets
    }

    /// All other packets pay for one look-up.
    fn entrance(&self, device: &str) -> Chain {
        let asks = self.families().into_iter().map(|family| match family {
            Family::V4 => "arp",
            Family::V6 => "ip6",
        });
        let protocols: Vec<&str> = asks.chain([MPLS]).collect();
        let text = format!("meta protocol {{ {} }} jump frames", protocols.join(", "));
        let base = BaseChain { kind: "filter", hook: "ingress", device: Some(device.to_owned()), priority: 0 };
        Chain { base: Some(base), rules: vec![Rule::new("frames that say who a node is, or need to be one's", text)] }
    }

    fn frames(&self) -> Vec<Rule> {
        let said = |family| match family {
            Family::V4 => "arp saddr ip @nodes",
            // A router would have lowered the hop limit (RFC 4861, section 7.1).
            Family::V6 => "ip6 hoplimit 255 ip6 saddr @nodes6 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }",
        };
        let learn = |family| {
            Rule::new("a node says where it is", format!("{} add @{NODE_MACS} {{ ether saddr }}", said(family)))
        };
        let mut rules: Vec<Rule> = self.families().into_iter().map(learn).collect();
        let text = format!("meta protocol {MPLS} ether saddr != @{NODE_MACS} counter drop");
        rules.push(Rule::new("MPLS only from nodes", text));
        rules
    }
}

/// A chain has one device, and its name says which; what nft takes in no name is written as a number.
fn chain_of(device: &str) -> String {
    let spelled = |c: char| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("_{:x}", u32::from(c)) };
    format!("from_{}", device.chars().map(spelled).collect::<String>())
}

/// The table of family bridge, where pods are ports of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeTable {
    /// Name of this node.
    pub node: String,
    /// Bridges with endpoints behind them.
    pub bridges: BTreeSet<String>,
    /// The label that a pod pops: only its node sends it, and what a node sends is not forwarded.
    pub label: u32,
}

impl BridgeTable {
    /// The table as data.
    pub fn table(&self) -> Table {
        let sets = BTreeMap::from([("bridges".to_owned(), Set::new(SetType::Ifname, &self.bridges))]);
        // Behind `meta protocol` nft 1.0.6 could not list its own rule (an assertion fails).
        let text = format!("meta ibrname @bridges ether type {MPLS} @nh,0,20 {} counter drop", self.label);
        let rule = Rule::new("no MPLS from pod to pod", text);
        let chains = BTreeMap::from([
            ("about".to_owned(), about_frames(&self.node)),
            ("forward".to_owned(), base("filter", "forward", -200, vec![rule])),
        ]);
        Table { sets, chains, ..Table::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_become_names_of_chains_and_stay_apart() {
        assert_eq!(chain_of("eth0"), "from_eth0");
        assert_eq!(chain_of("bond0.100"), "from_bond0_2e100");
        assert_ne!(chain_of("a_b"), chain_of("a.b"));
    }

    #[test]
    fn what_is_remembered_is_only_removed_when_all_nodes_are_known() {
        let guard = |complete| FrameTable {
            node: "n1".into(),
            devices: ["eth0".to_owned()].into(),
            nodes: ["10.0.0.2".parse().unwrap()].into(),
            known: [Mac([2, 0, 0, 0, 0, 0x2a])].into(),
            complete,
        };
        assert_eq!(guard(true).table().sets[NODE_MACS].learning, Learning::Replace);
        assert_eq!(guard(false).table().sets[NODE_MACS].learning, Learning::Keep);
        assert_eq!(guard(true).table().sets[NODE_MACS].elements, ["02:00:00:00:00:2a".to_owned()].into());
    }
}
