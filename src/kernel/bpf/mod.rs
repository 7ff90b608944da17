//! The program that gives packets their second chance: loaded once per node, attached to the device of every endpoint pod.
//!
//! ```text
//!  [`SecondChance::load`] ──► program + tables, one set per node
//!            │                      ▲ [`SecondChance::open`]: after a restart, by the id that a filter tells
//!            ▼                      │
//!  [`Programs`] ──► [`attach`] in each pod's netns ──► [`observe_filter`]     [`detach`]
//! ```
//!
//! The program lives as long as a filter holds it, so nothing needs a bpffs: what the agent made stays when it exits, and a
//! restarted agent finds the program's id in the filter, and the tables' ids in the program (`CAP_SYS_ADMIN`).
//!
//! The version of a program is a hash of its object, and stands in the name of the filter. An agent with another version
//! loads its own, fills its tables, and replaces filter by filter; the kernel swaps a filter's program atomically. Tables
//! that became too small are replaced the same way.
//!
//! Here nothing is decided: [`model::second_chance`](crate::model::second_chance) says what the tables mean, and the
//! program (`second_chance.bpf.c`) what becomes of a packet.

mod error;
mod filter;
mod load;
mod program;

use crate::model::second_chance::Version;

pub use error::BpfError;
#[cfg(test)]
pub(super) use filter::decode as decode_filter;
pub use filter::{attach, detach, observe_filter};
pub use load::{SecondChance, Sizes, Types, names_of};
pub use program::{Program, Programs};

pub(super) use filter::{announced_index, dump, put, take};

/// The compiled program, as `tc` and any loader of BPF objects take it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/second_chance.o"));

/// The version of [`OBJECT`].
pub fn own_version() -> Version {
    Version::of(OBJECT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_says_nothing_about_where_it_was_built() {
        let text = String::from_utf8_lossy(OBJECT);
        assert!(text.contains("src/kernel/bpf/second_chance.bpf.c"));
        assert!(!text.contains(env!("CARGO_MANIFEST_DIR")));
    }
}
