//! The agent of one node: Kubernetes in, goals for namespaces out.
//!
//! `machine` takes events and says what is to be done: watch events go into the index, each change is resolved into what the cluster
//! asks for, and every namespace of this node gets its goal. What the namespaces report comes back to `status`, which tells the user.
//! `run` is the loop around it, and carries out. Kernel state outlives the agent: stopping it changes nothing.

pub mod cleanup;
pub mod drain_node;
mod drains;
pub mod dry_run;
mod event;
pub mod follows;
pub mod goals;
mod here;
mod leaving;
mod losses;
mod machine;
pub mod prepare;
pub mod refuse;
mod report;
pub mod run;
mod second_chance;
pub mod start;
pub mod status;
mod targets;
mod waiting;

pub use run::run;
