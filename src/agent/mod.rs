//! The agent of one node: Kubernetes in, goals for namespaces out.
//!
//! It owns the wiring and no decision: watch events go into the index, each change is resolved into what the cluster
//! asks for, and `dispatch` hands every namespace of this node its goal. What the namespaces report comes back to `status`,
//! which tells the user. Kernel state outlives the agent: stopping it changes nothing.

pub mod cleanup;
pub mod dispatch;
pub mod drain_node;
mod drains;
pub mod dry_run;
pub mod follows;
mod here;
mod leaving;
mod losses;
pub mod refuse;
mod report;
pub mod run;
mod second_chance;
pub mod start;
pub mod status;
mod waiting;

pub use run::run;
