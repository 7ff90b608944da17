//! The Kubernetes API: a client, the watches that feed [`state::Index`](crate::state::Index), the Events that tell
//! users what was refused.
//!
//! Nothing here decides anything about VIPs, and nothing here may hold up the data path: while the API is away the last
//! state stays, and Events wait. Agents write Events and one report each; the controller writes Events, bucket maps and its Lease.
//!
//! The RBAC that it needs: `list` and `watch` on `services`, `nodes`, `endpointslices.discovery.k8s.io` and
//! `servicecidrs.networking.k8s.io`, for agents also on `pods`; `get` on `nodes`; `create`, `get` and `patch` on
//! `events.events.k8s.io`; and in its own namespace on `configmaps` for agents `list`, `watch`, `create` and `update`, for the
//! controller `get` and `delete` as well, and `create`, `get` and `update` on `leases.coordination.k8s.io`. For `cleanup --unless-daemonset`:
//! `get` on that `daemonsets.apps`. Agents ask by a `SelfSubjectReview` who they are, as everybody may.

mod agents;
mod backoff;
mod client;
mod identity;
mod lease;
mod maps;
mod outage;
mod own;
mod report;
mod reports;
mod watch;

#[cfg(test)]
mod tests;

pub use agents::daemon_set_exists;
pub use client::{ClientError, client};
pub use identity::tell_unbound;
pub use lease::Election;
pub use maps::MapWriter;
pub use own::RequestError;
pub use report::Reporter;
pub use reports::keep_report;
pub use watch::{Scope, watch};
