//! The lab: everything that a test or a demonstration needs and production must not carry.

pub mod apiserver;
pub mod bench;
pub mod demo;
pub mod lab;
pub mod netns;
pub mod pod;
pub mod protocol;
pub mod traffic;
pub mod world;
