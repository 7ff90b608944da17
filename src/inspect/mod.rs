//! Showing what a node does with VIPs, and why: `tunnel-router status` and `tunnel-router trace`.
//!
//! Two witnesses, which are compared: what the running agent means to do ([`known`], asked ([`ask`]) over a local [`socket`]) and what
//! the kernel holds ([`seen`], read back by whoever asks). Each of them says it in the same form, a [`NodeStatus`]; where
//! there is no agent, the kernel's version is shown alone.

pub mod ask;
pub mod command;
pub mod connections;
pub mod known;
pub mod peer;
pub mod report;
pub mod seen;
pub mod socket;
pub mod text;
pub mod trace;

pub use known::Known;
pub use report::{EndpointStatus, NodeStatus, VipStatus};
pub use seen::Seen;

#[cfg(test)]
mod tests;
