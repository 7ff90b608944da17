//! Network namespaces: holding one, entering one, and finding the one that a pod lives in.
//!
//! Everything that concerns one target namespace is done on one throw-away thread that has entered it ([`Netns::run`]):
//! blocking netlink sockets, `/proc/sys/net` and child processes all follow the *thread* that opens, reads or spawns them.
//! The caller's own thread never changes its namespace, so a runtime worker cannot be left behind in a pod by a panic or an
//! early return. Only the network namespace is entered: mounts, users and processes stay the agent's own, because a pod's
//! image may lack `nft`, `/proc` or a libc.
//!
//! A namespace is its `(dev, inode)` pair ([`NetnsId`]), never a path or a process id: both are reused.
//!
//! An open [`Netns`] keeps the namespace alive, and with it the veth pair of a pod that is gone. Hold one only as long as
//! the pod is known to exist.

mod all;
mod cgroup;
mod finder;
mod handle;
mod query;
mod search;

pub use all::all_netns;
pub use cgroup::pod_uids;
pub use finder::{FindError, PodProcesses, ProcFinder, addresses_in};
pub use handle::{Netns, NetnsError, NetnsId};
pub use query::PodQuery;
pub use search::PodSearch;
