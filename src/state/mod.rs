//! From Kubernetes objects to [`Cluster`](crate::model::Cluster): which VIPs exist, who owns them, which pods serve
//! them.
//!
//! Two steps, both synchronous and without I/O:
//!
//! 1. [`Index`] is fed with every [`Change`] that a watch brings and keeps a small record of each object. It has no
//!    [`Snapshot`] until every kind was listed once: a half-known cluster looks like one whose endpoints are gone.
//! 2. [`resolve`] turns a snapshot into a cluster, and names everything that it refuses in a
//!    [`Problem`](crate::model::Problem).
//!
//! Every node runs this for itself and must come to the same VIPs, so nothing here may depend on the order in which
//! events arrived, on the time, or on anything random. What only the own node can see (its pods) may take an endpoint
//! or an address away, never add one.
//!
//! One bad object, list member or endpoint is refused by itself; nothing here fails as a whole.

mod annotation;
pub mod assignment;
mod endpoints;
mod foreign;
mod index;
pub mod node_report;
mod problems;
mod records;
mod reserved;
mod resolve;
pub mod selector;
mod settings;
mod snapshot;
mod store;
mod vips;

#[cfg(test)]
mod tests;

pub use index::{Change, Index, StoredMap, StoredReport, Watched};
pub use problems::{MAX_NOTE, problem};
pub use resolve::{LocalPod, Resolved, resolve};
pub use selector::{Selector, SelectorError};
pub use settings::Settings;
pub use snapshot::{ObjectKey, Snapshot};
