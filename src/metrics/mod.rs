//! What can be asked of a running agent over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for the kubelet.
//!
//! Packets and bytes are counted by the kernel, in the sets of our nft tables, where they survive reconciles and the agent
//! itself; they are read when somebody asks. Everything else is what the agent has seen since it started.
//!
//! Series must not grow with VIPs × nodes: an agent shows its own pods one by one, and of the cluster totals.
//!
//! - [`Metrics`]: what is known, and its text
//! - [`Services`]: what the controller that leads shows of single Services
//! - `totals`: what an agent shows of the whole cluster
//! - `accounting`: what the kernel has counted
//! - [`Server`]: the three pages

mod accounting;
mod labels;
mod registry;
mod server;
mod services;
mod totals;

pub use accounting::Reader;
pub use registry::Metrics;
pub use server::{Ping, Server};
pub use services::Services;
