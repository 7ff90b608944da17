//! What has to be written, from what is known. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::model::{Cluster, DrainRules, Flows, ServiceRef, SharedMap, Vip};
use crate::state::{Index, ObjectKey, StoredMap};

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Store this map in place of the version that was read, or where nothing is.
    Write {
        /// Whose map it is.
        service: ServiceRef,
        /// The map.
        map: SharedMap,
        /// The version that was read.
        version: Option<String>,
    },
    /// Delete the map of a Service that does not ask for a VIP any more, or the report of a node that is gone.
    Delete {
        /// The ConfigMap.
        key: ObjectKey,
        /// UID of the Service, or the name of the report.
        uid: String,
        /// The version that was read.
        version: String,
    },
}

impl Decision {
    /// The version that it rests on; `None` if nothing was stored.
    pub(super) fn version(&self) -> Option<&str> {
        match self {
            Decision::Write { version, .. } => version.as_deref(),
            Decision::Delete { version, .. } => Some(version),
        }
    }

    /// UID of the Service.
    pub(super) fn uid(&self) -> &str {
        match self {
            Decision::Write { service, .. } => &service.uid,
            Decision::Delete { uid, .. } => uid,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Write { service, .. } => write!(f, "of Service {service}"),
            Decision::Delete { key, .. } => key.fmt(f),
        }
    }
}

/// Everything that is stored differently from what it should be. A map that cannot be read is written anew from the last one
/// that could; one for another hash than `flows` keeps it, for all its life.
///
/// Also says when something has to be decided although nothing else changes, in seconds since 1970 (UTC).
pub(super) fn decide(
    cluster: &Cluster,
    index: &Index,
    flows: Flows,
    datagrams: Duration,
    now: u64,
) -> (Vec<Decision>, Option<u64>) {
    let by_service: BTreeMap<&str, &Vip> = cluster.vips.values().map(|vip| (vip.service.uid.as_str(), vip)).collect();
    let stored_maps = index.stored_maps();
    let (mut decisions, mut due) = (Vec::new(), None);
    for (uid, vip) in &by_service {
        let rules = DrainRules { limit: vip.drain_limit, datagrams };
        let map = match &vip.shared {
            Some(map) => map.next(&vip.endpoints, now, rules, |bucket, drain| index.is_drained(uid, bucket, drain)),
            None => SharedMap::new(flows, &vip.endpoints),
        };
        due = [due, map.due(rules)].into_iter().flatten().min();
        let stored = stored_maps.get(*uid);
        if stored.and_then(|stored| stored.map.as_deref()) != Some(&map) {
            let version = stored.map(|stored| stored.version.clone());
            decisions.push(Decision::Write { service: vip.service.clone(), map, version });
        }
    }
    let wanted: BTreeSet<String> = index.services_with_annotation();
    let surplus = stored_maps.into_iter().filter(|(uid, _)| !wanted.contains(uid));
    decisions.extend(surplus.map(|(uid, StoredMap { key, version, .. })| Decision::Delete { key, uid, version }));
    let orphaned = index.orphaned_reports().into_iter();
    decisions.extend(orphaned.map(|(key, version)| Decision::Delete { uid: key.name.clone(), key, version }));
    (decisions, due)
}
