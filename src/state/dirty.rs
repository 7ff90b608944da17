//! What has to be resolved again.

use std::collections::BTreeSet;
use std::mem;

use super::key::Key;

/// What a change may have another effect on than before.
#[derive(Debug, Clone, Default)]
pub(super) struct Dirty {
    /// Everything.
    pub(super) all: bool,
    /// Services.
    pub(super) services: BTreeSet<Key>,
    /// The nodes.
    pub(super) nodes: bool,
    /// The pods of the own node.
    pub(super) pods: bool,
    /// The last change has marked something, also what was marked before.
    is_touched: bool,
}

impl Dirty {
    pub(super) fn everything() -> Self {
        Self { all: true, nodes: true, pods: true, is_touched: true, ..Self::default() }
    }

    pub(super) fn mark_all(&mut self) {
        (self.all, self.nodes, self.pods, self.is_touched) = (true, true, true, true);
    }

    pub(super) fn mark_service(&mut self, service: &Key) {
        self.is_touched = true;
        if !self.all {
            self.services.insert(service.clone());
        }
    }

    pub(super) fn mark_services(&mut self, services: &[Key]) {
        services.iter().for_each(|service| self.mark_service(service));
    }

    pub(super) fn mark_nodes(&mut self) {
        (self.nodes, self.is_touched) = (true, true);
    }

    pub(super) fn mark_pods(&mut self) {
        (self.pods, self.is_touched) = (true, true);
    }

    /// Whether anything was marked since this was asked last.
    pub(super) fn take_touched(&mut self) -> bool {
        mem::take(&mut self.is_touched)
    }
}
