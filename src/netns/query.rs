//! The pod whose namespace is looked for.

use std::collections::BTreeSet;

use crate::model::Addresses;

/// A pod, and how its namespace is recognised. When any of this changes, the namespace may be another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodQuery {
    /// `metadata.uid`, as the API spells it.
    pub uid: String,
    /// What its cgroup is named after, where that is not the UID: the hash of a static pod.
    pub config_hash: Option<String>,
    /// The addresses that the API names now; its namespace must hold one.
    pub addresses: Addresses,
    /// Ids of its running containers: a sandbox that is made again keeps the UID, and often the address.
    pub containers: BTreeSet<String>,
}

impl PodQuery {
    /// A pod of which no more is known.
    pub fn new(uid: impl Into<String>, addresses: impl Into<Addresses>) -> Self {
        let (config_hash, containers) = (None, BTreeSet::new());
        PodQuery { uid: uid.into(), config_hash, addresses: addresses.into(), containers }
    }

    /// What its cgroup may be named after.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.uid.as_str()).chain(self.config_hash.as_deref())
    }
}
