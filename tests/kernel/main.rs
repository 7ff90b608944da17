//! What the product asks of a real kernel: steps are applied and read back in throw-away network namespaces, with `ip` and `nft` as
//! witnesses. Runs as root. A test that needs GRE or MPLS says so in its path (`gre_mpls::`, `second_chance::gre`, `pod::gre`).
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

mod apply;
mod earlier_version;
mod features;
mod gre_mpls;
mod handover;
mod hash_twin;
mod impostor;
mod ipv6;
mod monitor;
mod named;
mod netns_finder;
mod netns_handle;
mod nft_versions;
mod pod;
mod route_to;
mod rule_tree;
mod second_chance;
mod support;
mod surroundings;
