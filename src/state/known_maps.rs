//! The bucket map that counts for a Service: the newest one that could be read.
//!
//! A map that is damaged, deleted or replaced by an older one stays known until its Service is gone or asks for no VIP: nodes go on
//! as it says.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::records::MapRecord;
use crate::model::handover::{Assignment, Generation, ServiceUid};

/// The known maps, by UID of the Service.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownMaps {
    /// They are a controller's.
    decides: bool,
    /// The newest map that could be read.
    known: BTreeMap<String, Arc<Assignment>>,
    /// The version of a map that was stored when the Service asked for no VIP. The controller deletes it: should the Service ask
    /// again before that is seen, it is not taken up again. Nodes go on as it says.
    retired: BTreeMap<String, String>,
    /// Services whose stored map is an earlier decision than the known one, with the generation of that one.
    superseded: BTreeMap<ServiceUid, Generation>,
}

impl KnownMaps {
    /// Those of a controller.
    pub(super) fn of_controller() -> Self {
        Self { decides: true, ..Self::default() }
    }

    /// All of them.
    #[cfg(test)]
    pub(super) fn all(&self) -> &BTreeMap<String, Arc<Assignment>> {
        &self.known
    }

    /// The known map of a Service.
    pub(super) fn get(&self, uid: &str) -> Option<&Arc<Assignment>> {
        self.known.get(uid)
    }

    /// Services whose stored map is an earlier decision than the known one.
    pub(super) fn superseded(&self) -> &BTreeMap<ServiceUid, Generation> {
        &self.superseded
    }

    /// Takes in what is stored of a Service, and whether it asks for a VIP. Says whether another map counts now.
    pub(super) fn refresh(&mut self, uid: &str, is_wanted: bool, stored: &[&MapRecord]) -> bool {
        let before = self.known.get(uid).cloned();
        self.retire(uid, is_wanted, stored);
        let readable = stored.iter().filter(|record| self.retired.get(uid) != Some(&record.version));
        let readable: Vec<&Arc<Assignment>> = readable.filter_map(|record| record.map.as_ref().ok()).collect();
        if !is_wanted {
            self.known.remove(uid);
        }
        for map in readable.iter().filter(|_| is_wanted) {
            let known = self.known.get(uid);
            if known.is_none_or(|known| known != *map && map.generation >= known.generation) {
                self.known.insert(uid.to_owned(), Arc::clone(map));
            }
        }
        self.supersede(uid, &readable);
        let is_same = match (&before, self.known.get(uid)) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        !is_same
    }

    /// A retired map is remembered as long as it is stored in that version.
    fn retire(&mut self, uid: &str, is_wanted: bool, stored: &[&MapRecord]) {
        let is_stored = |version: &String| stored.iter().any(|record| record.version == *version);
        if self.retired.get(uid).is_some_and(|version| !is_stored(version)) {
            self.retired.remove(uid);
        }
        if let (true, false, Some(record)) = (self.decides, is_wanted, stored.last()) {
            self.retired.insert(uid.to_owned(), record.version.clone());
        }
    }

    fn supersede(&mut self, uid: &str, readable: &[&Arc<Assignment>]) {
        let known = self.known.get(uid).map(|known| known.generation);
        match known.filter(|known| readable.iter().any(|stored| *known > stored.generation)) {
            Some(generation) => self.superseded.insert(uid.into(), generation),
            None => self.superseded.remove(&ServiceUid::from(uid)),
        };
    }
}
