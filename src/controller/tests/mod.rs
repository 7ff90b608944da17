//! The controller's decisions over an API server that is a map of ConfigMaps, by a clock that a test sets.

mod events;
mod fuzz;
mod lives;
mod nodes;
mod pace;
mod world;
