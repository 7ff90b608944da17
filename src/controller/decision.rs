//! What the controller has decided to write or to delete.

use std::fmt;

use crate::model::handover::Assignment;
use crate::model::{Problem, ServiceRef};
use crate::state::ObjectKey;
use crate::state::assignment::map_name;

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Store this map in place of the version that was read, or where nothing is.
    Write(Box<Write>),
    /// Delete the map of a Service that does not ask for a VIP any more, or the report of a node that is gone.
    Delete {
        /// The ConfigMap.
        key: ObjectKey,
        /// The version that was read.
        version: String,
    },
}

/// A map to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// Whose map it is.
    pub(super) service: ServiceRef,
    /// The map.
    pub(super) map: Assignment,
    /// The version that was read.
    pub(super) version: Option<String>,
    /// Buckets that get another owner by it.
    pub(super) moved: usize,
    /// It cannot wait: new connections would go to an owner that may not own its bucket, or be refused for no reason.
    pub(super) urgent: bool,
    /// Nobody had a bucket before.
    pub(super) first: bool,
    /// What users have to know once it is stored.
    pub(super) tell: Vec<Problem>,
}

impl Decision {
    /// The version that it rests on; `None` if nothing was stored.
    pub(super) fn version(&self) -> Option<&str> {
        match self {
            Decision::Write(write) => write.version.as_deref(),
            Decision::Delete { version, .. } => Some(version),
        }
    }

    /// Name of the ConfigMap.
    pub(super) fn name(&self) -> String {
        match self {
            Decision::Write(write) => map_name(&write.service.uid),
            Decision::Delete { key, .. } => key.name.clone(),
        }
    }

    /// Whether it cannot wait.
    pub(super) fn is_urgent(&self) -> bool {
        matches!(self, Decision::Write(write) if write.urgent)
    }
}

impl Write {
    /// Former owners of all buckets.
    pub(super) fn former(&self) -> usize {
        self.map.holdings.iter().map(|holding| holding.former.len()).sum()
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Write(write) => write!(f, "map of Service {}", write.service),
            Decision::Delete { key, .. } => key.fmt(f),
        }
    }
}

/// Buckets that have another owner in the later map.
pub(super) fn moved(before: &Assignment, after: &Assignment) -> usize {
    before.holdings.iter().zip(&after.holdings).filter(|(old, new)| old.owner != new.owner).count()
}

/// Whether an owner that may not own its bucket loses it, new connections are refused or taken again, the Service has other VIPs
/// than before, or the last of the announced moves is made: the announcement has waited already.
pub(super) fn is_urgent(before: &Assignment, after: &Assignment) -> bool {
    let mut holdings = before.holdings.iter().zip(&after.holdings);
    let had_vips = before.vips.as_ref().is_some_and(|vips| !vips.is_empty());
    before.refuses_new != after.refuses_new
        || before.moves().next().is_some() && after.moves().next().is_none()
        || had_vips && before.vips != after.vips
        || holdings.any(|(old, new)| old.owner != new.owner && !new.planned)
}
