//! Tests of the plan as a whole, on a kernel in memory.

mod conflicts;
mod fake;
mod golden;
mod history;
mod node;
pub(in crate::plan) mod support;
