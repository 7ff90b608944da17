//! The numbers and names that the kernel objects of one installation are made of: the same on every node.

use std::collections::BTreeMap;

use crate::model::config::MplsLabels;
use crate::model::names::LinkPrefix;
use crate::model::{BucketCount, Family, MarkField, Mode};

/// What `plan` needs of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of this node.
    pub node_name: String,
    /// Number of buckets.
    pub buckets: BucketCount,
    /// First routing table of our block.
    pub table_base: u32,
    /// Prefix of our links.
    pub link_prefix: LinkPrefix,
    /// Seed of the flow hash.
    pub hash_seed: u32,
    /// Our field of the fwmark.
    pub mark: MarkField,
    /// Priority of our first policy rule.
    pub rule_priority: u32,
    /// MPLS labels.
    pub labels: MplsLabels,
    /// UDP port of VXLAN-GPE.
    pub vxlan_port: u16,
    /// Modes that this node's kernel cannot do, and why: their VIPs are refused here, the others are served.
    pub unavailable: BTreeMap<Mode, String>,
}

impl Settings {
    /// Name of the tunnel device of a mode over a family; `None` for MPLS, which needs none.
    pub fn link(&self, mode: Mode, outer: Family) -> Option<String> {
        match (mode, outer) {
            (Mode::Gre, Family::V4) => Some(self.link_prefix.gre()),
            (Mode::Gre, Family::V6) => Some(self.link_prefix.gre6()),
            (Mode::Vxlan, _) => Some(self.link_prefix.vxlan()),
            (Mode::Mpls, _) => None,
        }
    }
}
