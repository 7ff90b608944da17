//! The Kubernetes API: a client, the watches that feed [`state::Index`](crate::state::Index), the Events that tell
//! users what was refused.
//!
//! Nothing here decides anything about VIPs, and nothing here may hold up the data path: while the API is away the last
//! state stays, and Events wait. Agents write Events and nothing else; the controller writes bucket maps and its Lease.
//!
//! The RBAC that it needs: `list` and `watch` on `services`, `nodes`, `pods` and `endpointslices.discovery.k8s.io`, and on
//! `configmaps` in its own namespace;
//! `create`, `get` and `patch` on `events.events.k8s.io`. The controller also needs `create`, `get`, `update` and `delete` on
//! `configmaps`, and `create`, `get` and `update` on `leases.coordination.k8s.io`, both in its own namespace.

mod backoff;
mod client;
mod lease;
mod maps;
mod outage;
mod report;
mod watch;

#[cfg(test)]
mod tests;

pub use client::{ClientError, client};
pub use lease::Election;
pub use maps::{MapWriter, WriteError};
pub use report::Reporter;
pub use watch::{Scope, watch};
