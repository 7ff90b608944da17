//! Our nft tables, in the node (`node`, `frames`) and in a pod (`pod`), and for moments (`pause`): every
//! rule that the product writes stands in these four files. Rules have numbers where nft would ask a file for a name.
//!
//! A [`Table`] is data. It is compared with what `nft -j list table` shows by the tag in each rule's comment (a hash of the
//! rule's text), because nft prints a rule differently from version to version but never touches its comment. Tables are
//! changed incrementally, never deleted and made anew: that would lose counters and let packets through in between.

mod accounting;
mod family;
mod form;
pub mod frames;
mod listed;
pub mod node;
pub mod op;
pub mod pause;
pub mod pod;
mod protocol;
pub mod script;
pub mod seen;
mod table;

pub use accounting::{NodeCounts, PodCounts, node_counts, pod_counts, received, sent};
pub use op::{Elements, NftAction, NftOp, TableName};
pub use table::{
    BaseChain, Chain, Counter, Learning, ObservedChain, ObservedHash, ObservedSet, ObservedTable, Rule, Set, SetType,
    Table, TableFamily, UdpTimeout,
};
