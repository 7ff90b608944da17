//! The objects, the one version counter, and the history that watches read.
//!
//! A write replaces one object, takes the next version and appends one [`Change`]. Nothing else changes state, so a watch
//! is a cursor into the history and a consistent list of the past is the present with the later changes taken back. The
//! store knows nothing of verbs, validation or HTTP; [`super::verbs`] decides, the store records.

pub mod continue_token;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::object;

/// Identifies one stored object; the order is that of lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Storage name in the table of resources.
    pub storage: &'static str,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

impl Key {
    /// The key without its storage, as in a continue token.
    pub fn path(&self) -> String {
        if self.namespace.is_empty() { format!("/{}", self.name) } else { format!("/{}/{}", self.namespace, self.name) }
    }

    /// Whether this key comes after the one with that [`Key::path`] in lists.
    pub fn is_after(&self, path: &str) -> bool {
        let path = path.trim_start_matches('/');
        (self.namespace.as_str(), self.name.as_str()) > path.split_once('/').unwrap_or(("", path))
    }
}

/// One step of history.
#[derive(Debug, Clone)]
pub struct Change {
    /// The version this change made.
    pub revision: u64,
    /// What changed.
    pub key: Key,
    /// The object before, absent for a creation.
    pub before: Option<Arc<Value>>,
    /// The object after, absent for a deletion.
    pub after: Option<Arc<Value>>,
}

/// Everything behind the lock.
#[derive(Debug)]
pub struct State {
    objects: BTreeMap<Key, Arc<Value>>,
    revision: u64,
    /// Changes up to this version are forgotten.
    compacted: u64,
    history: VecDeque<Change>,
    /// How many changes are remembered.
    limit: usize,
}

impl State {
    /// The latest version.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A watch from below this version is too old.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// The object under a key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// All objects of one storage, in the order of lists.
    pub fn all(&self, storage: &'static str) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let first = Key { storage, namespace: String::new(), name: String::new() };
        self.objects.range(first..).take_while(move |(key, _)| key.storage == storage)
    }

    /// The objects of one storage as they were at `revision`, which must not be compacted.
    pub fn all_at(&self, storage: &'static str, revision: u64) -> BTreeMap<Key, Arc<Value>> {
        let mut objects: BTreeMap<Key, Arc<Value>> =
            self.all(storage).map(|(key, value)| (key.clone(), Arc::clone(value))).collect();
        let later = self.history.iter().rev().take_while(|change| change.revision > revision);
        for change in later.filter(|change| change.key.storage == storage) {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        objects
    }

    /// The changes after `revision`, oldest first.
    pub fn since(&self, revision: u64) -> impl Iterator<Item = &Change> {
        let start = self.history.partition_point(|change| change.revision <= revision);
        self.history.range(start..)
    }

    /// Stores an object under a new version, which is written into it.
    pub fn put(&mut self, key: Key, mut value: Value) -> Arc<Value> {
        self.revision += 1;
        object::set_revision(&mut value, self.revision);
        let value = Arc::new(value);
        let before = self.objects.insert(key.clone(), Arc::clone(&value));
        self.remember(Change { revision: self.revision, key, before, after: Some(Arc::clone(&value)) });
        value
    }

    /// Removes an object; what comes back carries the version of the deletion.
    pub fn remove(&mut self, key: &Key) -> Option<Value> {
        let before = self.objects.remove(key)?;
        self.revision += 1;
        let mut last = (*before).clone();
        object::set_revision(&mut last, self.revision);
        self.remember(Change { revision: self.revision, key: key.clone(), before: Some(before), after: None });
        Some(last)
    }

    /// Forgets all history. One version is used up, so that every version handed out before is too old afterwards.
    pub fn compact(&mut self) {
        self.revision += 1;
        self.compacted = self.revision;
        self.history.clear();
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        while self.history.len() > self.limit {
            if let Some(oldest) = self.history.pop_front() {
                self.compacted = oldest.revision;
            }
        }
    }
}

/// The state, its lock, and the signal that it changed.
#[derive(Debug)]
pub struct Store {
    state: Mutex<State>,
    latest: watch::Sender<u64>,
}

impl Store {
    /// An empty store whose first object gets the version after `start`.
    pub fn new(start: u64, limit: usize) -> Self {
        let state =
            State { objects: BTreeMap::new(), revision: start, compacted: start, history: VecDeque::new(), limit };
        Self { state: Mutex::new(state), latest: watch::Sender::new(start) }
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state as one transaction and wakes the watches.
    pub fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        let revision = state.revision;
        drop(state);
        self.latest.send_if_modified(|latest| {
            let newer = *latest < revision;
            *latest = revision.max(*latest);
            newer
        });
        result
    }

    /// Says when there is a newer version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        Key { storage: "services", namespace: "default".into(), name: name.into() }
    }

    fn names(objects: &BTreeMap<Key, Arc<Value>>) -> Vec<String> {
        objects.iter().map(|(key, value)| format!("{}={}", key.name, value["v"])).collect()
    }

    #[test]
    fn the_past_is_the_present_with_changes_taken_back() {
        let store = Store::new(10, 100);
        store.write(|state| {
            state.put(key("a"), json!({"v": 1}));
            state.put(key("b"), json!({"v": 1}));
            state.put(key("a"), json!({"v": 2}));
            state.remove(&key("b"));
        });
        let at = |revision| store.read(|state| names(&state.all_at("services", revision)));
        assert_eq!(at(10), Vec::<String>::new());
        assert_eq!(at(12), ["a=1", "b=1"]);
        assert_eq!(at(13), ["a=2", "b=1"]);
        assert_eq!(at(14), ["a=2"]);
    }

    #[test]
    fn history_is_bounded_and_says_what_is_lost() {
        let store = Store::new(0, 2);
        store.write(|state| (0..5).for_each(|v| drop(state.put(key("a"), json!({ "v": v })))));
        store.read(|state| {
            assert_eq!(state.compacted(), 3);
            assert_eq!(state.since(0).map(|change| change.revision).collect::<Vec<_>>(), [4, 5]);
            assert_eq!(state.since(4).count(), 1);
        });
    }

    #[test]
    fn compaction_makes_every_earlier_version_too_old() {
        let store = Store::new(0, 10);
        store.write(|state| drop(state.put(key("a"), json!({}))));
        store.write(State::compact);
        assert!(store.read(|state| state.compacted() > 1 && state.since(0).next().is_none()));
    }
}
