//! The API server double against recordings of a real one, against the client library, and against kubectl. Needs no privileges.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

mod bench;
mod families;
mod kube_client;
mod kubectl;
mod manifests;
mod rights;
mod semantics;
mod transcripts;
