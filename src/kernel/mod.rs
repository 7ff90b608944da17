//! The kernel of one network namespace: reading back what is there ([`observe()`]) and carrying a plan out ([`apply()`]).
//!
//! Everything here is synchronous and concerns the network namespace of the *calling thread*; `netns::Netns::run` provides
//! a thread that has entered the right one. Netlink sockets, sysctls and the `nft` child process all follow it.
//! Only [`Monitor`] is asynchronous: it owns sockets that were opened inside the namespace.
//!
//! Nothing here decides anything. A [`Plan`](crate::plan::Plan) says what to do and in which order; this layer does
//! exactly that, makes each step repeatable (what exists is replaced, what is gone stays gone), and says in one sentence
//! what the kernel refused and what would remedy it.
//!
//! Requests are built with the types of `netlink-packet-route`. Answers are read attribute by attribute instead
//! (module `wire`): a foreign link or route with an attribute that the crate cannot parse must not blind the agent to its own.

mod address;
mod apply;
pub mod bpf;
mod error;
mod features;
#[cfg(test)]
mod fuzz;
mod label;
mod link;
mod monitor;
mod neighbour;
mod netlink;
mod nexthop;
mod nft;
mod nft_elements;
mod nft_listing;
mod nft_ruleset;
mod observe;
mod remedy;
mod resolvers;
mod route;
mod route_to;
mod rule;
mod sock_diag;
mod surroundings;
mod sysctl;
mod wire;

pub use apply::{ApplyError, Ports, Writer, apply, apply_with};
pub use error::KernelError;
pub use features::{Features, Missing, features, load_modules};
pub use monitor::{Change, Monitor};
pub use nft::{Tables, list as our_table};
pub use nft_ruleset::generation as nft_generation;
pub use observe::{filters, observe, observe_anew, read_sysctls};
pub use resolvers::resolvers;
pub use route_to::{MarkedRoute, RouteFact, marked_route, route_to, routes_to};
pub use sock_diag::{Connection, connections, peers_at};
pub use surroundings::{drops, hooked, unforwarded};
pub use sysctl::use_proc_root;
