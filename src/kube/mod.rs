//! The Kubernetes API: a client, the watches that feed [`state::Index`](crate::state::Index), the Events that tell
//! users what was refused.
//!
//! Nothing here decides anything about VIPs, and nothing here may hold up the data path: while the API is away the last
//! state stays, and Events wait. This module writes Events and nothing else.
//!
//! The RBAC that it needs: `list` and `watch` on `services`, `nodes`, `pods` and `endpointslices.discovery.k8s.io`;
//! `create`, `get` and `patch` on `events.events.k8s.io`.

mod backoff;
mod client;
mod outage;
mod report;
mod watch;

#[cfg(test)]
mod tests;

pub use client::{ClientError, client};
pub use report::Reporter;
pub use watch::watch;
