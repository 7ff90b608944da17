//! The numbers and names that the kernel objects of one installation are made of: the same on every node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::model::config::{MplsLabels, check_tables};
use crate::model::handover::{FlowHash, HashKey};
use crate::model::names::LinkPrefix;
use crate::model::{BucketCount, Cluster, Family, MarkField, Mode};

/// What `plan` needs of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of this node.
    pub node_name: String,
    /// Number of buckets of a Service without a stored map.
    pub buckets: BucketCount,
    /// First routing table of our block.
    pub table_base: u32,
    /// Table of the VIPs that are to be announced, if they are.
    pub announce_table: Option<u32>,
    /// Prefix of our links.
    pub link_prefix: LinkPrefix,
    /// Seed of the flow hash of a Service without a stored map.
    pub hash_seed: u32,
    /// Our field of the fwmark.
    pub mark: MarkField,
    /// Priority of our first ip rule.
    pub rule_priority: u32,
    /// MPLS labels.
    pub labels: MplsLabels,
    /// UDP port of VXLAN-GPE.
    pub vxlan_port: u16,
    /// Where the host's procfs is mounted: the node's files are read there.
    pub proc_root: PathBuf,
    /// Networks that VIPs lie in, if they are limited to any.
    pub vip_ranges: BTreeSet<IpNet>,
    /// Whether this node's kernel lets a rule limit how long connection tracking remembers (`CONFIG_NF_CONNTRACK_TIMEOUT`).
    pub limits_udp: bool,
    /// Modes that this node's kernel cannot do, and why: their VIPs are refused here, the others are served.
    pub unavailable: BTreeMap<Mode, String>,
}

impl Settings {
    /// How flows become buckets where no stored map says it.
    pub fn flows(&self) -> FlowHash {
        FlowHash { buckets: self.buckets, seed: self.hash_seed, key: HashKey::Ports }
    }

    /// Whether mark field and tables have room for so many buckets.
    pub fn can_hold(&self, buckets: BucketCount) -> bool {
        MarkField::new(self.mark.mask(), buckets).is_ok() && check_tables(self.table_base, buckets).is_ok()
    }

    /// The number of buckets that the rules have to tell apart: that of the stored map with the most, if it is more than our
    /// own.
    pub fn tree(&self, cluster: &Cluster) -> BucketCount {
        let counts = cluster.vips().map(|vip| vip.flows(self.flows()).buckets);
        counts.filter(|count| self.can_hold(*count)).fold(self.buckets, BucketCount::max)
    }

    /// The most buckets that there is room for, which stored maps may come to need.
    pub fn most_buckets(&self) -> BucketCount {
        let counts = [16, 32, 64, 128].into_iter().filter_map(|count| BucketCount::new(count).ok());
        counts.filter(|count| self.can_hold(*count)).fold(self.buckets, BucketCount::max)
    }

    /// The encapsulation of packets with names in their tunnel id, for endpoints of a mode: labels have no room for any.
    /// `None`: nobody gets a second chance.
    pub fn carrier(&self, mode: Mode) -> Option<Mode> {
        let tunnels: &[Mode] = if mode == Mode::Mpls { &[Mode::Vxlan, Mode::Gre] } else { &[mode] };
        tunnels.iter().copied().find(|mode| !self.unavailable.contains_key(mode))
    }

    /// The modes in which packets of a mode's VIPs may come: itself, and what carries names for it.
    pub fn needs(&self, mode: Mode) -> impl Iterator<Item = Mode> + use<> {
        [Some(mode), self.carrier(mode)].into_iter().flatten()
    }

    /// Name of a node's tunnel device of a mode over a family; `None` for MPLS, which needs none.
    pub fn link(&self, mode: Mode, outer: Family) -> Option<String> {
        match (mode, outer) {
            (Mode::Gre, Family::V4) => Some(self.link_prefix.gre()),
            (Mode::Gre, Family::V6) => Some(self.link_prefix.gre6()),
            (Mode::Vxlan, _) => Some(self.link_prefix.vxlan()),
            (Mode::Mpls, _) => None,
        }
    }

    /// The same in a pod.
    pub fn pod_link(&self, mode: Mode, outer: Family) -> Option<String> {
        match (mode, outer) {
            (Mode::Gre, Family::V4) => Some(self.link_prefix.pod_gre()),
            (Mode::Gre, Family::V6) => Some(self.link_prefix.pod_gre6()),
            (Mode::Vxlan, _) => Some(self.link_prefix.vxlan()),
            (Mode::Mpls, _) => None,
        }
    }
}
