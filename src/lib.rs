//! `tunnel-router`: bare IP traffic into Kubernetes pods.
//!
//! The modules form layers, and each may use only those to its left (`hack/check-layers` enforces it):
//!
//! ```text
//! model ← state ← plan ← {kernel, netns, kube} ← reconcile ← {metrics, inspect} ← {agent, controller} ← main
//! ```
//!
//! `model`, `state` and `plan` are pure: they do no I/O and know neither the runtime nor netlink.

pub mod agent;
pub mod cli;
pub mod controller;
pub mod inspect;
pub mod kernel;
pub mod kube;
pub mod metrics;
pub mod model;
pub mod netns;
pub mod plan;
pub mod reconcile;
pub mod state;
#[cfg(test)]
mod testing;
