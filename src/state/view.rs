//! What one Service is resolved from.

use super::known_maps::KnownMaps;
use super::links::Links;
use super::settings::Settings;
use super::stores::Stores;

/// Everything that is known at one moment. It changes nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// The records.
    pub(super) stores: &'a Stores,
    /// Where to look for what concerns a Service.
    pub(super) links: &'a Links,
    /// The newest map of each Service.
    pub(super) maps: &'a KnownMaps,
    /// What the administrator decided.
    pub(super) settings: &'a Settings,
}
