//! The whole system in network namespaces: agents, controllers, an API server double, routers, clients, pods, and packets.
//!
//! Runs as root. A test that needs GRE or MPLS begins with the mode's name; `hack/test` runs it where the kernel has both. A test
//! that another one stands for is ignored with the reason, and `KST_TEST_ALL=1 hack/test` runs it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

mod announce;
mod api;
mod api_cost;
mod bad_input;
mod bird;
mod changes;
mod common;
mod containerd;
mod controller;
mod crash;
mod drain;
mod drain_kinds;
mod dual;
mod families;
mod firewall;
mod fragments;
mod frames;
mod guards;
mod handover;
mod heal;
mod icmp;
mod inspect;
mod life;
mod local;
mod manifest;
mod matrix;
mod metrics;
mod modes;
mod mpls;
mod mtu;
mod nft_versions;
mod packets;
mod pods;
mod printed;
mod protocols;
mod restart;
mod rights;
mod semantics;
mod services;
mod snapshot;
mod start;
mod traffic;
mod upgrade;
mod whose;
