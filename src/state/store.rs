//! The records of one kind, through lists, re-lists and single changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::key::{Key, ObjectKey};

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

/// An object whose record is another one than before: at least one of both is there.
#[derive(Debug)]
pub(super) struct Delta<R> {
    /// The object.
    pub(super) key: Key,
    /// The record before; `None` of one that is new.
    pub(super) old: Option<Arc<R>>,
    /// The record now; `None` of one that is gone.
    pub(super) new: Option<Arc<R>>,
}

impl<R> Delta<R> {
    /// The record before and the one now, as far as they are there.
    pub(super) fn both(&self) -> impl Iterator<Item = &R> {
        self.old.iter().chain(&self.new).map(|record| &**record)
    }
}

/// What followed from a step.
#[derive(Debug)]
pub(super) struct Stepped<R> {
    /// The kind has been listed for the first time.
    pub(super) is_first: bool,
    /// What changed of the records in use.
    pub(super) deltas: Vec<Delta<R>>,
}

impl<R> Default for Stepped<R> {
    fn default() -> Self {
        Self { is_first: false, deltas: Vec::new() }
    }
}

impl<R> From<Delta<R>> for Stepped<R> {
    fn from(delta: Delta<R>) -> Self {
        Self { is_first: false, deltas: vec![delta] }
    }
}

/// Records by key.
type Records<R> = BTreeMap<Key, Arc<R>>;

/// All records of one kind.
#[derive(Debug, Clone)]
pub(super) struct Store<R> {
    /// What is in use: `None` until the first list is complete. Replaced when a list completes, changed by `Apply` and
    /// `Delete`.
    current: Option<Records<R>>,
    /// The list that is being received: made by `Init`, becomes `current` at `InitDone`. While it grows, `current`
    /// stays in use, however long the server takes.
    pending: Option<Records<R>>,
}

impl<R> Default for Store<R> {
    fn default() -> Self {
        Self { current: None, pending: None }
    }
}

impl<R: PartialEq> Store<R> {
    /// Of a kind that is not watched: complete, and empty for ever.
    pub(super) fn unwatched() -> Self {
        Self { current: Some(Records::new()), pending: None }
    }

    /// Whether it has been listed.
    pub(super) fn is_listed(&self) -> bool {
        self.current.is_some()
    }

    /// The records in use, none before the first list.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<R>)> {
        self.current.iter().flatten()
    }

    /// The record of an object.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<R>> {
        self.current.as_ref()?.get(key)
    }

    /// The key and the record of an object.
    pub(super) fn entry(&self, key: &ObjectKey) -> Option<(&Key, &Arc<R>)> {
        self.current.as_ref()?.get_key_value(key)
    }

    /// Everything, as if it had just been listed.
    #[cfg(test)]
    pub(super) fn deltas(&self) -> impl Iterator<Item = Delta<R>> {
        self.iter().map(|(key, record)| Delta { key: key.clone(), old: None, new: Some(record.clone()) })
    }

    /// Takes a step and says what changed of the records in use.
    pub(super) fn step(&mut self, step: Step<R>) -> Stepped<R> {
        match step {
            Step::Init => self.pending = Some(Records::new()),
            Step::InitApply(key, record) => self.receive(key, record),
            Step::InitKeep(key) => self.receive_known(&key),
            Step::InitDone => return self.complete(),
            Step::Apply(key, record) => return self.insert(key, record),
            Step::Delete(key) => return self.remove(&key),
            Step::Absent => return self.go_without(),
        }
        Stepped::default()
    }

    fn known(&self, key: &ObjectKey) -> Option<(Key, Arc<R>)> {
        self.entry(key).map(|(key, record)| (key.clone(), record.clone()))
    }

    fn receive(&mut self, key: ObjectKey, record: R) {
        // A re-list mostly repeats what is known: share it rather than hold it twice while the list lasts.
        let (key, record) = match self.known(&key) {
            Some((key, old)) if *old == record => (key, old),
            Some((key, _)) => (key, Arc::new(record)),
            None => (Arc::new(key), Arc::new(record)),
        };
        self.pending.iter_mut().for_each(|pending| drop(pending.insert(key.clone(), record.clone())));
    }

    fn receive_known(&mut self, key: &ObjectKey) {
        if let (Some((key, old)), Some(pending)) = (self.known(key), &mut self.pending) {
            pending.insert(key, old);
        }
    }

    fn complete(&mut self) -> Stepped<R> {
        let Some(listed) = self.pending.take() else { return Stepped::default() };
        let is_first = self.current.is_none();
        let before = self.current.take().unwrap_or_default();
        let mut deltas = Vec::new();
        for (key, new) in &listed {
            let old = before.get(key).cloned();
            if old.as_ref().is_none_or(|old| !Arc::ptr_eq(old, new) && old != new) {
                deltas.push(Delta { key: key.clone(), old, new: Some(new.clone()) });
            }
        }
        let gone = before.into_iter().filter(|(key, _)| !listed.contains_key(key));
        deltas.extend(gone.map(|(key, old)| Delta { key, old: Some(old), new: None }));
        self.current = Some(listed);
        Stepped { is_first, deltas }
    }

    fn go_without(&mut self) -> Stepped<R> {
        let is_first = self.current.is_none();
        self.current.get_or_insert_default();
        Stepped { is_first, deltas: Vec::new() }
    }

    fn insert(&mut self, key: ObjectKey, record: R) -> Stepped<R> {
        let (key, old) = self.known(&key).map_or_else(|| (Arc::new(key), None), |(key, old)| (key, Some(old)));
        let record = Arc::new(record);
        if let Some(pending) = &mut self.pending {
            pending.insert(key.clone(), record.clone());
        }
        let Some(current) = &mut self.current else { return Stepped::default() };
        if old.as_ref() == Some(&record) {
            return Stepped::default();
        }
        current.insert(key.clone(), record.clone());
        Delta { key, old, new: Some(record) }.into()
    }

    fn remove(&mut self, key: &ObjectKey) -> Stepped<R> {
        if let Some(pending) = &mut self.pending {
            pending.remove(key);
        }
        let removed = self.current.as_mut().and_then(|current| current.remove_entry(key));
        removed.map(|(key, old)| Delta { key, old: Some(old), new: None }.into()).unwrap_or_default()
    }
}
