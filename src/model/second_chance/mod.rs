//! The second chance: the names of endpoints, the tunnel id that lists them, and the tables of the program that reads it.
//!
//! ```text
//!  ingress node                     pod of C, the owner                pod of P, the first former owner
//!  bucket went from P to C  ──id──► no socket knows the packet  ──id──► takes it
//!       [`TunnelId`]                [`VipNames`]: where is P?
//!
//!  ingress node that is late        pod of P                           pod of C
//!  bucket is still P's      ──id──► no socket knows the packet  ──id──► takes it
//!                                   [`Present`]: C owns the bucket
//! ```
//!
//! The program is `kernel/bpf/second_chance.bpf.c`; what its tables hold byte for byte is said here, and once there.
//! Numbers in keys and values are in the byte order of the machine, addresses in network byte order.

mod count;
mod name;
mod pairs;
mod present;
mod tables;
mod tunnel_id;
mod version;

pub use count::{Count, Counts};
pub use name::{Name, NameError};
pub use pairs::{Forwarding, PAIR_KEY, Pair, Pairs, TOLD};
pub use present::{OWNERS, PRESENT_VALUE, Present};
pub use tables::{
    ENDPOINT, ENDPOINT_KEY, LAST, TableWrite, Tables, VIP_KEY, VipNames, changes, endpoint, endpoint_key, last,
    of_endpoint, of_endpoint_key, of_last, of_vip_key, vip_key,
};
pub use tunnel_id::TunnelId;
pub use version::Version;
