//! How a bucket changes hands, without an agreement among nodes: the controller's rules, and what every node makes of them.
//!
//! ```text
//!                     balance, or P goes                P's pod ended, or 15 s without a connection,
//!                                                       or the Service's limit, or given up
//!   ┌─────────────┐ ───────────────────► ┌────────────────────┐ ─────────────► ┌─────────────┐
//!   │ owner P     │                      │ owner C, former P  │                │ owner C     │
//!   └─────────────┘ ◄─────────────────── └────────────────────┘                └─────────────┘
//!                     C goes: P again       │            ▲
//!                                   C goes  ▼            │ P or C leaves
//!                                        ┌────────────────────┐
//!                                        │ owner D,           │   a third former owner: the one that held
//!                                        │ former C, P        │   the bucket for the shortest time is given up
//!                                        └────────────────────┘
//! ```
//!
//! New connections go to the owner. Every other packet carries the names of the former owners ([`TunnelId`]), and each pod that
//! does not know the packet forwards it to the next one ([`decide`]). So nodes may hear of a change at any time:
//!
//! | | who | what |
//! |---|---|---|
//! | [`Assignment`] | the controller writes it, everybody reads it | one decision about a Service |
//! | [`Assignment::next`] | the controller | the next decision, from endpoints and reports |
//! | [`NodeReport`], [`Witness`] | nodes write, the controller reads | what is set up, what is over, who has ended |
//! | [`Follow`] | every node | next hops for ingress, names for pods |
//! | [`decide`] | the pod's program, `trace` | what becomes of one packet |
//!
//! Everything here is a function of its arguments. Nothing that is absent takes anything away: not a report, not a map, not a
//! slice.

mod absence;
mod assignment;
mod decide;
mod endpoint;
mod follow;
mod ids;
mod intent;
#[cfg(test)]
mod proof;
mod report;
mod rules;
mod share;

pub use super::second_chance::{Name, TunnelId};
pub use absence::{Absences, ENDING, NOT_READY, UNSEEN};
pub use assignment::{Assignment, Former, Holding, MOST_FORMER, Member, Next, Why};
pub use decide::{Finds, Known, Packet, Taken, Verdict, decide};
pub use endpoint::{Endpoint, EndpointState, Moment};
pub use follow::{Follow, NAMED, NextHop, Offered, POINTED, Served};
pub use ids::{FlowHash, Generation, HashKey, NodeName, ServiceUid};
pub use intent::Intent;
pub use report::{FALLEN, NodeReport, Over, Said, SetUp, Witness};
pub use rules::{DrainLimits, Inputs, Waiting};
pub use share::Short;
