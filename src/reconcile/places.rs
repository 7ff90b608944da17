//! The namespaces that targets are working on, for those who only want to look.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::netns::Netns;

/// Namespaces by the name of their target; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Mutex<BTreeMap<String, Netns>>>);

impl Places {
    /// All of them at this moment.
    pub fn all(&self) -> Vec<(String, Netns)> {
        self.lock().iter().map(|(target, netns)| (target.clone(), netns.clone())).collect()
    }

    pub(super) fn found(&self, target: &str, netns: &Netns) {
        self.lock().insert(target.to_owned(), netns.clone());
    }

    pub(super) fn lost(&self, target: &str) {
        self.lock().remove(target);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Netns>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
