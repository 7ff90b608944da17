//! Tests of the plan as a whole, on a kernel in memory.

mod conflicts;
pub(crate) mod fake;
mod golden;
mod held;
mod history;
mod next_hop;
mod node;
mod packets;
mod pod;
pub(crate) mod support;
mod tracer;
