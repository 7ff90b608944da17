//! The records of one kind, through lists, re-lists and single changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ObjectKey;
use super::snapshot::Objects;

/// What happened to one kind, reduced to records.
#[derive(Debug)]
pub(super) enum Step<R> {
    /// A list begins.
    Init,
    /// An object of the list.
    InitApply(ObjectKey, R),
    /// An object of the list that could not be read.
    InitKeep(ObjectKey),
    /// The list is complete.
    InitDone,
    /// An object appeared or changed.
    Apply(ObjectKey, R),
    /// An object is gone.
    Delete(ObjectKey),
    /// There is no list to be had.
    Absent,
}

/// All records of one kind.
#[derive(Debug)]
pub(super) struct Store<R> {
    /// What is in use: `None` until the first list is complete. Replaced when a list completes, changed by `Apply` and
    /// `Delete`.
    current: Option<Objects<R>>,
    /// The list that is being received: made by `Init`, becomes `current` at `InitDone`. While it grows, `current`
    /// stays in use, however long the server takes.
    pending: Option<BTreeMap<ObjectKey, Arc<R>>>,
}

impl<R> Default for Store<R> {
    fn default() -> Self {
        Self { current: None, pending: None }
    }
}

impl<R: Clone + PartialEq> Store<R> {
    /// Of a kind that is not watched: complete, and empty for ever.
    pub(super) fn unwatched() -> Self {
        Self { current: Some(Objects::default()), pending: None }
    }

    /// The records in use.
    pub(super) fn current(&self) -> Option<&Objects<R>> {
        self.current.as_ref()
    }

    /// Takes a step and says whether the records in use changed.
    pub(super) fn step(&mut self, step: Step<R>) -> bool {
        match step {
            Step::Init => {
                self.pending = Some(BTreeMap::new());
                false
            }
            Step::InitApply(key, record) => {
                self.receive(key, record);
                false
            }
            Step::InitKeep(key) => {
                if let (Some(pending), Some(old)) = (&mut self.pending, self.current.as_ref().and_then(|c| c.get(&key)))
                {
                    pending.insert(key, Arc::clone(old));
                }
                false
            }
            Step::InitDone => self.complete(),
            Step::Apply(key, record) => self.insert(key, record),
            Step::Delete(key) => self.remove(&key),
            Step::Absent => self.go_without(),
        }
    }

    fn receive(&mut self, key: ObjectKey, record: R) {
        let known = self.current.as_ref().and_then(|c| c.get(&key)).filter(|old| ***old == record).cloned();
        if let Some(pending) = &mut self.pending {
            // A re-list mostly repeats what is known: share it rather than hold it twice while the list lasts.
            pending.insert(key, known.unwrap_or_else(|| Arc::new(record)));
        }
    }

    fn complete(&mut self) -> bool {
        let Some(listed) = self.pending.take() else { return false };
        if self.current.as_ref().is_some_and(|current| **current == listed) {
            return false;
        }
        self.current = Some(Arc::new(listed));
        true
    }

    fn go_without(&mut self) -> bool {
        let is_new = self.current.is_none();
        self.current.get_or_insert_default();
        is_new
    }

    fn insert(&mut self, key: ObjectKey, record: R) -> bool {
        let record = Arc::new(record);
        if let Some(pending) = &mut self.pending {
            pending.insert(key.clone(), Arc::clone(&record));
        }
        let Some(current) = &mut self.current else { return false };
        if current.get(&key).is_some_and(|old| *old == record) {
            return false;
        }
        Arc::make_mut(current).insert(key, record);
        true
    }

    fn remove(&mut self, key: &ObjectKey) -> bool {
        if let Some(pending) = &mut self.pending {
            pending.remove(key);
        }
        let Some(current) = &mut self.current else { return false };
        // Without this look, deleting what nobody knows would copy the map away from a snapshot.
        current.contains_key(key) && Arc::make_mut(current).remove(key).is_some()
    }
}
