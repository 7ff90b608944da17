//! The validated configuration: whoever holds one need not check anything again.
//!
//! `cli` makes it from flags and environment and reports everything that is wrong at once. The checks that involve more
//! than one number (blocks of tables, priorities and labels that must not run into somebody else's) are here, with the
//! reason for each limit.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::names::{AnnotationKey, LinkPrefix};
use super::{Addresses, BucketCount, MarkField, Mode, TracedFlow};

/// Seed of the flow hash of new maps when none is given.
pub const DEFAULT_HASH_SEED: u32 = 0x6b73_7431;

/// A network that VIPs may lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipRange {
    /// The network.
    pub net: IpNet,
    /// Namespaces whose Services may take addresses of it; empty: all.
    pub namespaces: BTreeSet<String>,
}

impl VipRange {
    /// Whether Services of a namespace may take addresses of it.
    pub fn is_for(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }

    /// Whether a Service of this namespace may take this address.
    pub fn admits(&self, address: IpAddr, namespace: &str) -> bool {
        self.net.contains(&address) && self.is_for(namespace)
    }
}

/// What the agent runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of the Node object of this node.
    pub node_name: String,
    /// Where to find the API server; `None`: the Pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the objects that are ours: bucket maps.
    pub namespace: String,
    /// Annotation that gives a Service its VIP.
    pub annotation: AnnotationKey,
    /// Label selector of the ingress nodes, as given; `None`: every node.
    pub ingress_nodes: Option<String>,
    /// Networks that VIPs must lie in; empty: anywhere.
    pub vip_ranges: Vec<VipRange>,
    /// Interval of the unconditional comparison with the kernel, 1 s to 24 h.
    pub resync: Duration,
    /// Encapsulation of Services that name none.
    pub mode: Mode,
    /// Labels of `mpls`.
    pub mpls: MplsLabels,
    /// UDP port of `vxlan`.
    pub vxlan_port: u16,
    /// What belongs to the agent in the kernel.
    pub kernel: KernelObjects,
    /// Print the commands instead of changing the kernel.
    pub dry_run: bool,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; `None`: nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// How to log.
    pub log: LogConfig,
}

/// What the controller runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Where to find the API server; `None`: the Pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the bucket maps and the Lease.
    pub namespace: String,
    /// Annotation that gives a Service its VIP.
    pub annotation: AnnotationKey,
    /// Networks that VIPs must lie in; empty: anywhere.
    pub vip_ranges: Vec<VipRange>,
    /// Who it is among several controllers.
    pub identity: String,
    /// Number of buckets of new maps.
    pub buckets: BucketCount,
    /// Seed of the hash of new maps.
    pub hash_seed: u32,
    /// For how long packets that are not TCP stay with the former owner of their bucket, up to 24 h.
    pub drain_non_tcp: Duration,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; `None`: nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// How to log.
    pub log: LogConfig,
}

/// A DaemonSet of agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSetName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What `cleanup` runs with: what to recognise, and of the cluster only what would make everything anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupConfig {
    /// Only what the agent of this node made is removed; `None`: whoever made it.
    pub node_name: Option<String>,
    /// Nothing is removed while this exists.
    pub unless: Option<DaemonSetName>,
    /// What belongs to the agent in the kernel.
    pub kernel: KernelObjects,
    /// Print the commands instead of changing the kernel.
    pub dry_run: bool,
    /// How to log.
    pub log: LogConfig,
}

/// The parts of a node's kernel that belong to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelObjects {
    /// Prefix of the names of its links.
    pub link_prefix: LinkPrefix,
    /// Number of buckets.
    pub buckets: BucketCount,
    /// Its field of the fwmark.
    pub mark: MarkField,
    /// First of its block of [`BucketCount::tables`] routing tables.
    pub table_base: u32,
    /// First of two priorities of ip rules before those of others; `plan::tree` stands behind those.
    pub rule_priority: u32,
    /// Table in which a routing daemon finds the VIPs that this node serves; `None`: none is written.
    pub announce_table: Option<u32>,
    /// Where the host's procfs is mounted.
    pub proc_root: PathBuf,
}

/// What `drain-node` runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainNodeConfig {
    /// Announce again.
    pub undo: bool,
    /// How to log.
    pub log: LogConfig,
}

/// What `status` runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusConfig {
    /// The form of the answer.
    pub output: Output,
    /// Prefix of the names of the agent's links.
    pub link_prefix: LinkPrefix,
    /// Where the host's procfs is mounted.
    pub proc_root: PathBuf,
    /// How to log.
    pub log: LogConfig,
}

/// What `trace` runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceConfig {
    /// The flow.
    pub flow: TracedFlow,
    /// The form of the answer.
    pub output: Output,
    /// Prefix of the names of the agent's links.
    pub link_prefix: LinkPrefix,
    /// How to log.
    pub log: LogConfig,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The form of the lines.
    pub format: LogFormat,
    /// Filter directives as in `RUST_LOG`, checked.
    pub level: String,
}

/// A block of tables, priorities or labels that runs into somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Tables of the kernel: 0 means none, 253–255 are `default`, `main` and `local`.
    #[error("tables {first} to {last} contain {reserved}: must avoid 0 and 253 to 255 (default, main, local)")]
    ReservedTable {
        /// First table of the block.
        first: u32,
        /// Last table of the block.
        last: u64,
        /// The first reserved one in it.
        reserved: u32,
    },
    /// Beyond 32 bits.
    #[error("{count} tables from {first} on do not fit below 4294967296")]
    TooHighTable {
        /// First table of the block.
        first: u32,
        /// How many there are.
        count: u32,
    },
    /// The table for announcements is one that packets look into.
    #[error(
        "must be a table that nothing looks into: not 0, 253 to 255 (default, main, local) or {first} to {last} (--table-base)"
    )]
    AnnounceTable {
        /// First table of the block.
        first: u32,
        /// Last table of the block.
        last: u64,
    },
    /// The rules do not fit between `local` (0) and `main` (32766).
    #[error(
        "priority {first} and the next must lie in 1 to 32765, between the rules for local and main; 101 to 510 is best, \
         behind Cilium's (9, 10, 100) and before AWS VPC CNI's (512 and up) and Tailscale's (5210 and up)"
    )]
    Priority {
        /// The first of the two.
        first: u32,
    },
    /// The label is reserved (RFC 3032: 0–15) or has more than 20 bits.
    #[error("must be a label from {min} to {max}", min = MplsLabels::MIN, max = MplsLabels::MAX)]
    Label,
    /// The block of 65536 labels does not fit.
    #[error(
        "must be from {min} to {max}, so that the block of 65536 labels ends by {}", MplsLabels::MAX,
        min = MplsLabels::MIN, max = MplsLabels::MAX - MplsLabels::SPAN + 1
    )]
    LabelBase,
    /// The label that pods pop lies among the labels of remote pods.
    #[error("labels {base} to {last} of remote pods contain {pop}, the label that pods pop (--mpls-label)", last = base + MplsLabels::SPAN - 1)]
    LabelsOverlap {
        /// First label of remote pods.
        base: u32,
        /// Label that pods pop.
        pop: u32,
    },
}

/// None, and `default`, `main` and `local`.
const KERNEL_TABLES: [u32; 4] = [0, 253, 254, 255];

/// The tables of the buckets, and the table of the sources of VIPs.
fn table_block(first: u32, buckets: BucketCount) -> RangeInclusive<u64> {
    u64::from(first)..=u64::from(first) + u64::from(buckets.tables())
}

/// Checks the block of routing tables from `first` on.
///
/// # Errors
/// When the block leaves 32 bits or contains a table of the kernel.
pub fn check_tables(first: u32, buckets: BucketCount) -> Result<(), BlockError> {
    // One more: the table of the sources of VIPs.
    let count = buckets.tables() + 1;
    let block = table_block(first, buckets);
    if *block.end() > u64::from(u32::MAX) {
        return Err(BlockError::TooHighTable { first, count });
    }
    match KERNEL_TABLES.into_iter().find(|table| block.contains(&u64::from(*table))) {
        Some(reserved) => Err(BlockError::ReservedTable { first, last: *block.end(), reserved }),
        None => Ok(()),
    }
}

/// Checks the table for announcements against the block of tables from `first` on.
///
/// # Errors
/// When it is a table of the kernel, or of the block.
pub fn check_announce_table(table: u32, first: u32, buckets: BucketCount) -> Result<u32, BlockError> {
    let block = table_block(first, buckets);
    let taken = KERNEL_TABLES.contains(&table) || block.contains(&u64::from(table));
    if taken { Err(BlockError::AnnounceTable { first, last: *block.end() }) } else { Ok(table) }
}

/// Checks the priorities of the two rules that stand before those of others: the tree's entry, and the one for the sources of
/// VIPs.
///
/// # Errors
/// When they do not lie between the rules for `local` and `main`.
pub fn check_priority(first: u32) -> Result<u32, BlockError> {
    const MAIN: u32 = 32766;
    if (1..MAIN - 1).contains(&first) { Ok(first) } else { Err(BlockError::Priority { first }) }
}

/// The labels of `mpls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MplsLabels {
    pop: u32,
    base: u32,
}

impl MplsLabels {
    /// Labels 0 to 15 are reserved (RFC 3032, section 2.1).
    pub const MIN: u32 = 16;
    /// Labels have 20 bits.
    pub const MAX: u32 = (1 << 20) - 1;
    /// Labels of remote pods: one per value of the low 16 bits of an address.
    pub const SPAN: u32 = 1 << 16;

    /// Checks the label that pods pop, for itself.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn check_pop(pop: u32) -> Result<u32, BlockError> {
        if (Self::MIN..=Self::MAX).contains(&pop) { Ok(pop) } else { Err(BlockError::Label) }
    }

    /// Checks the first label of remote pods, for itself.
    ///
    /// # Errors
    /// When the block does not fit.
    pub fn check_base(base: u32) -> Result<u32, BlockError> {
        if (Self::MIN..=Self::MAX - Self::SPAN + 1).contains(&base) { Ok(base) } else { Err(BlockError::LabelBase) }
    }

    /// Checks the label that pods pop and the first label of remote pods.
    ///
    /// # Errors
    /// When one of them is out of range, or the label that pods pop lies among those of remote pods.
    pub fn new(pop: u32, base: u32) -> Result<MplsLabels, BlockError> {
        let labels = MplsLabels { pop: Self::check_pop(pop)?, base: Self::check_base(base)? };
        if labels.block().contains(&pop) { Err(BlockError::LabelsOverlap { base, pop }) } else { Ok(labels) }
    }

    /// The label that a pod pops.
    pub fn pop(self) -> u32 {
        self.pop
    }

    /// The first label of remote pods.
    pub fn base(self) -> u32 {
        self.base
    }

    /// The label by which other nodes send to this pod, from the last 16 bits of its IPv4 address, or of its IPv6 address if
    /// it has no other: known to all of them without coordination. Two pods of one node whose addresses end alike collide;
    /// who uses the labels has to notice.
    pub fn of_pod(self, addresses: Addresses) -> u32 {
        let [high, low] = match (addresses.v4, addresses.v6) {
            (Some(v4), _) => [v4.octets()[2], v4.octets()[3]],
            (None, Some(v6)) => [v6.octets()[14], v6.octets()[15]],
            (None, None) => [0, 0],
        };
        self.base + u32::from(u16::from_be_bytes([high, low]))
    }

    /// Every label of remote pods.
    pub fn block(self) -> std::ops::Range<u32> {
        self.base..self.base + Self::SPAN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(count: u32) -> BucketCount {
        BucketCount::new(count).unwrap()
    }

    #[test]
    fn tables_keep_off_those_of_the_kernel() {
        assert_eq!(check_tables(10_000, buckets(64)), Ok(()));
        assert_eq!(check_tables(256, buckets(64)), Ok(()));
        assert_eq!(check_tables(1, buckets(64)), Ok(()));
        assert_eq!(check_tables(124, buckets(64)), Ok(()), "124 to 252");
        assert_eq!(
            check_tables(125, buckets(64)).unwrap_err().to_string(),
            "tables 125 to 253 contain 253: must avoid 0 and 253 to 255 (default, main, local)"
        );
        assert!(check_tables(0, buckets(16)).is_err());
        assert!(check_tables(255, buckets(16)).is_err());
    }

    #[test]
    fn announcements_have_a_table_of_their_own() {
        assert_eq!(check_announce_table(10_900, 10_000, buckets(64)), Ok(10_900));
        assert_eq!(check_announce_table(10_129, 10_000, buckets(64)), Ok(10_129));
        for bad in [0, 253, 254, 255, 10_000, 10_128] {
            assert!(check_announce_table(bad, 10_000, buckets(64)).is_err(), "{bad}");
        }
    }

    #[test]
    fn tables_end_where_32_bits_end() {
        assert_eq!(check_tables(u32::MAX - 128, buckets(64)), Ok(()));
        assert_eq!(
            check_tables(u32::MAX - 127, buckets(64)).unwrap_err().to_string(),
            "129 tables from 4294967168 on do not fit below 4294967296"
        );
    }

    #[test]
    fn priorities_lie_between_local_and_main() {
        for good in [1, 101, 32764] {
            assert_eq!(check_priority(good), Ok(good));
        }
        for bad in [0, 32765, 32766, u32::MAX] {
            assert!(check_priority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_label_of_a_pod_is_the_end_of_its_address() {
        let labels = MplsLabels::new(100, 65536).unwrap();
        let of_pod = |list: &[&str]| {
            labels.of_pod(Addresses::first_of(&list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>()))
        };
        assert_eq!(of_pod(&["10.244.1.2", "fd00::9:9"]), 65536 + 258);
        assert_eq!(of_pod(&["10.244.255.255"]), 131_071);
        assert_eq!(of_pod(&["fd00::1:102"]), 65536 + 258);
        assert_eq!(labels.block(), 65536..131_072);
        assert_eq!((labels.pop(), labels.base()), (100, 65536));
    }

    #[test]
    fn labels_are_neither_reserved_nor_too_long_nor_each_others() {
        assert!(MplsLabels::new(16, 983_040).is_ok());
        assert_eq!(MplsLabels::new(15, 65536), Err(BlockError::Label));
        assert_eq!(MplsLabels::new(1 << 20, 65536), Err(BlockError::Label));
        assert_eq!(MplsLabels::new(100, 15), Err(BlockError::LabelBase));
        assert_eq!(MplsLabels::new(100, 983_041), Err(BlockError::LabelBase));
        assert_eq!(
            MplsLabels::new(100_000, 65536).unwrap_err().to_string(),
            "labels 65536 to 131071 of remote pods contain 100000, the label that pods pop (--mpls-label)"
        );
    }
}
