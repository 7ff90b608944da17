//! Several values per key.

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// Values by key, each once, in their order. Most keys have one value, so each list has room for what it holds.
#[derive(Debug, Clone)]
pub struct Multimap<K, V>(BTreeMap<K, Vec<V>>);

impl<K, V> Default for Multimap<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: Ord> Multimap<K, V> {
    /// The values of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> &[V]
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Every key that has a value.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Adds a value, unless it is there.
    pub fn insert(&mut self, key: K, value: V) {
        let values = self.0.entry(key).or_insert_with(|| Vec::with_capacity(1));
        if let Err(place) = values.binary_search(&value) {
            values.insert(place, value);
        }
    }

    /// Removes a value, if it is there.
    pub fn remove(&mut self, key: &K, value: &V) {
        let Some(values) = self.0.get_mut(key) else { return };
        if let Ok(place) = values.binary_search(value) {
            values.remove(place);
        }
        if values.is_empty() {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_there_once_and_an_empty_list_is_forgotten() {
        let mut map = Multimap::default();
        for value in [3, 1, 3, 2] {
            map.insert("a", value);
        }
        assert_eq!(map.get("a"), [1, 2, 3]);
        for value in [2, 2, 4] {
            map.remove(&"a", &value);
        }
        assert_eq!(map.get("a"), [1, 3]);
        map.remove(&"a", &1);
        map.remove(&"a", &3);
        assert_eq!((map.get("a"), map.keys().count()), (&[][..], 0));
    }
}
