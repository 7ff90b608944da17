//! The vocabulary: what a VIP, an endpoint, a node, a mode and a bucket are, whoever talks about them.
//!
//! Nothing here does I/O or knows how a packet is forwarded; `plan` decides that.

pub mod cluster;
pub mod mode;

pub use cluster::{Cluster, Endpoint, Node, Problem, Reason, ServiceRef, Vip};
pub use mode::Mode;
