//! From Kubernetes objects to [`Cluster`](crate::model::Cluster): which VIPs exist, who owns them, which pods serve
//! them.
//!
//! Two steps, both synchronous and without I/O:
//!
//! 1. [`Index::apply`] takes every [`Change`] that a watch brings, keeps a small record of each object, and marks the
//!    Services that the change concerns.
//! 2. [`Index::resolve`] resolves these Services, and names everything that is refused in a
//!    [`Problem`](crate::model::Problem). It says nothing until every kind was listed once: a half-known cluster looks like
//!    one whose endpoints are gone.
//!
//! ```text
//! Change ─► Store ─► Delta ─► Links ─► Dirty ─► Resolver ─► Resolved
//!            records           who is    Services   one by one
//!                              concerned
//! ```
//!
//! Every node runs this for itself and must come to the same VIPs, so nothing here may depend on the order in which
//! events arrived, on the time, or on anything random. What only the own node can see (its pods) may take an endpoint
//! or an address away, never add one.
//!
//! One bad object, list member or endpoint is refused by itself; nothing here fails as a whole.

mod annotation;
pub mod assignment;
mod dirty;
mod endpoints;
mod foreign;
mod index;
mod key;
mod known_maps;
mod links;
mod local_pods;
mod multimap;
pub mod node_report;
mod nodes;
mod problems;
mod records;
mod reserved;
mod resolve;
mod resolver;
pub mod selector;
mod settings;
mod store;
mod stored;
mod stores;
mod view;
mod vips;

#[cfg(test)]
mod tests;

pub use index::{Change, Index, Watched};
pub use key::ObjectKey;
pub use local_pods::LocalPod;
pub use multimap::Multimap;
pub use problems::problem;
pub use resolver::Resolved;
pub use selector::{Selector, SelectorError};
pub use settings::Settings;
pub use stored::{News, StoredMap, StoredReport};
