//! What can be asked of a running agent over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for the kubelet.
//!
//! Packets and bytes are counted by the kernel, in the sets of our nft tables, where they survive reconciles and the agent
//! itself; they are read when somebody asks. Everything else is what the agent has seen since it started.
//!
//! - [`Metrics`]: what is known, and its text
//! - `accounting`: what the kernel has counted
//! - [`Server`]: the three pages

mod accounting;
mod labels;
mod registry;
mod server;

pub use accounting::Reader;
pub use registry::Metrics;
pub use server::{Ping, Server};
