//! The vocabulary: what a VIP, an endpoint, a node, a mode and a bucket are, whoever talks about them.
//!
//! Nothing here does I/O or knows how a packet is forwarded; `plan` decides that.

pub mod assign;
pub mod bucket;
pub mod cluster;
pub mod config;
pub mod duration;
pub mod family;
pub mod handover;
pub mod hash;
pub mod mark;
pub mod mode;
pub mod names;
pub mod protocol;
pub mod second_chance;
pub mod subject;

pub use assign::EndpointId;
pub use bucket::{Bucket, BucketCount};
pub use cluster::{Cluster, Endpoint, MAX_NOTE, Node, PodAt, Problem, Reason, ServiceRef, Vip, Vips};
pub use config::Config;
pub use duration::parse_duration;
pub use family::{Addresses, Family};
pub use hash::Flow;
pub use mark::MarkField;
pub use mode::Mode;
pub use protocol::{Protocol, TracedFlow};
pub use subject::{NodeRef, Subject};
