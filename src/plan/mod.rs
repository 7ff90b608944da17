//! What the kernel must hold, and how to get there from what it holds: pure decisions, no I/O.
//!
//! One network namespace at a time: [`Desired`] is computed from the cluster (`node`, `pod`), [`Observed`] is what was read
//! back, `diff` turns the two into a [`Plan`], a list of [`Step`]s that prints as `ip`, `sysctl` and `nft` commands. Nothing
//! here touches the kernel: `kernel::apply` does, one step at a time.
//!
//! A bucket is *not* assumed to be a routing table anywhere but in `node`: the decision is bucket → encapsulated next hop.

pub mod conflict;
pub mod desired;
pub mod diff;
pub mod filter;
pub mod held;
pub mod icmp;
pub mod in_use;
pub mod losses;
pub mod net;
pub mod nft;
pub mod node;
pub mod observed;
pub mod pod;
pub mod programmed;
pub mod reach;
pub mod rule;
pub mod saved;
pub mod settings;
pub mod step;
pub mod surroundings;
pub mod tree;

use nft::{NftAction, TableFamily, TableName};

pub use desired::Desired;
pub use net::{
    Address, LabelRoute, LinkKind, Mac, Neighbour, Nexthop, RouteKey, RouteTarget, Source, Sysctl, SysctlWant,
};
pub use observed::Observed;
pub use rule::{RuleAction, RuleSpec};
pub use settings::Settings;
pub use step::{Plan, Step};
pub use tree::rule_tree;

pub use crate::model::names::ROUTE_PROTOCOL as PROTOCOL;

/// The nft table: of family `inet` in the node and in every pod we configure, of `netdev` and `bridge` where MPLS needs them.
pub const NFT_TABLE: &str = "kube_service_tunnel";

/// An empty nft table of family inet: while it is there, the node announces nothing (`drain-node`).
pub const WITHDRAWN_TABLE: &str = "kube_service_tunnel_withdrawn";

/// The nft table that drops packets to VIPs while the ip rules are changed into a tree of another shape.
pub const PAUSED_TABLE: &str = "kube_service_tunnel_paused";

/// Makes the node announce nothing from now on, or lets it announce again, whichever it did before.
pub fn set_withdrawn(withdrawn: bool) -> Step {
    let table = TableName { family: TableFamily::Inet, name: WITHDRAWN_TABLE };
    // Added first, so that one that is not there can be deleted.
    let undone = (!withdrawn).then_some(NftAction::DeleteTable);
    Step::Nft(table.ops([NftAction::AddTable].into_iter().chain(undone)))
}

#[cfg(test)]
pub(crate) mod tests;
