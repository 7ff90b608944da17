//! Objects that cannot be decoded, so that each is reported once and not with every change of it.

use std::collections::BTreeSet;

use ::kube::core::error_boundary::InvalidObject;
use tracing::{info, warn};

use crate::state::ObjectKey;

/// The undecodable objects of one kind.
#[derive(Debug)]
pub(super) struct Unreadable {
    kind: &'static str,
    /// Those that were reported and not decoded since.
    known: BTreeSet<ObjectKey>,
}

impl Unreadable {
    pub(super) fn new(kind: &'static str) -> Self {
        Self { kind, known: BTreeSet::new() }
    }

    /// An object could not be decoded: what is known of it stays.
    pub(super) fn found(&mut self, key: &ObjectKey, object: &InvalidObject) {
        if self.known.insert(key.clone()) {
            warn!(kind = self.kind, object = %key, error = object.error, "object cannot be decoded, its last state stays");
        }
    }

    /// An object could be decoded.
    pub(super) fn decoded(&mut self, key: Option<ObjectKey>) {
        if key.as_ref().is_some_and(|key| self.known.remove(key)) {
            info!(kind = self.kind, object = ?key, "object can be decoded again");
        }
    }

    /// An object is gone.
    pub(super) fn gone(&mut self, key: &ObjectKey) {
        self.known.remove(key);
    }
}
