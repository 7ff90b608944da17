//! Making one network namespace what it must be, again and again.
//!
//! `once` does one round: observe, compute, diff, apply. `target` is the loop around it for one namespace: it runs a round when
//! its goal changes, when the kernel reports a change to something of ours, when a retry is due and at every resync (`pace`). The
//! contract is that of a level-triggered reconciler: a round may be repeated at any time, a round that finds everything in
//! place writes nothing, and what one target cannot do never holds up another.

pub mod backoff;
pub mod once;
mod order;
mod pace;
mod peers;
mod places;
mod ruleset;
pub mod target;
mod written;

pub use once::{Execution, Goal, Memory, Note, Outcome, ReconcileError, clear, follow, reconcile};
pub use order::{Order, Site};
pub use places::Places;
