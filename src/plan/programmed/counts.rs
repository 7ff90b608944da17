//! How many have something, and whether the first one comes or the last one goes.

use std::collections::{BTreeMap, BTreeSet};

/// Things with the number of those that have them, which is never zero.
#[derive(Debug, Clone)]
pub(super) struct Counts<K>(BTreeMap<K, usize>);

/// What some changes make of the things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moved<K> {
    /// Nobody had them before.
    pub new: BTreeSet<K>,
    /// Nobody has them any more.
    pub gone: BTreeSet<K>,
}

impl<K> Moved<K> {
    /// Whether somebody has what somebody had.
    pub fn is_nothing(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty()
    }
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Counts(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Counts<K> {
    /// Takes note of one more that has these.
    pub fn add(&mut self, keys: impl IntoIterator<Item = K>) {
        for key in keys {
            *self.0.entry(key).or_default() += 1;
        }
    }

    /// Takes note of what some had and what they have now.
    pub fn note(&mut self, changed: impl IntoIterator<Item = (BTreeSet<K>, BTreeSet<K>)>) -> Moved<K> {
        let mut before: BTreeMap<K, usize> = BTreeMap::new();
        for (old, new) in changed {
            for key in old.symmetric_difference(&new) {
                let count = self.0.entry(key.clone()).or_default();
                before.entry(key.clone()).or_insert(*count);
                *count = if new.contains(key) { count.saturating_add(1) } else { count.saturating_sub(1) };
            }
        }
        let mut moved = Moved { new: BTreeSet::new(), gone: BTreeSet::new() };
        for (key, before) in before {
            let is_gone = self.0.get(&key) == Some(&0);
            if is_gone {
                self.0.remove(&key);
            }
            match (before, is_gone) {
                (0, false) => drop(moved.new.insert(key)),
                (1.., true) => drop(moved.gone.insert(key)),
                _ => {}
            }
        }
        moved
    }

    /// All that anybody has.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_and_the_last_count() {
        let mut counts = Counts::default();
        counts.add(["a", "b"]);
        counts.add(["b"]);
        let mut note = |changed: &[(&[&'static str], &[&'static str])]| {
            let set = |list: &[&'static str]| list.iter().copied().collect::<BTreeSet<_>>();
            let Moved { new, gone } = counts.note(changed.iter().map(|(old, new)| (set(old), set(new))));
            [new, gone].map(|keys| keys.into_iter().collect::<String>())
        };
        assert_eq!(note(&[(&["b"], &["c"])]), ["c", ""], "another one has b");
        assert_eq!(note(&[(&["a"], &[]), (&[], &["a"])]), ["", ""], "somebody has a before and after");
        assert_eq!(note(&[(&[], &["d"]), (&["d"], &[])]), ["", ""], "nobody had it, and nobody has it");
        assert_eq!(note(&[(&["a", "b"], &["c"])]), ["", "ab"]);
    }
}
