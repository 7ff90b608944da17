//! The faults: each does its harm, lets it last, and makes good what does not heal by itself.

mod agents;
mod api;
mod controller;
mod damage;
mod endpoints;
mod firewall;
mod ingress;
mod mtu;
mod objects;
mod power;
mod readiness;
mod sandbox;

pub(super) use power::NOTICED;
