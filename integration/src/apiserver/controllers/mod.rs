//! The controllers without which an API server is no cluster: EndpointSlices and the emptying of deleted namespaces.
//!
//! They follow the history of the store and write through the same verbs as everybody else, a moment after the change that
//! caused it, just as the real ones do. [`Controllers::settled`] waits for that moment.

mod endpointslice;
mod namespace;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::verbs::Verbs;

/// Which controllers run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Enabled {
    pub endpoint_slices: bool,
}

/// The running controllers.
#[derive(Debug)]
pub(super) struct Controllers {
    verbs: Verbs,
    done: watch::Receiver<u64>,
}

impl Controllers {
    /// Starts them; they stop with the token.
    pub fn start(verbs: Verbs, enabled: Enabled, stop: CancellationToken) -> Self {
        let (report, done) = watch::channel(0);
        tokio::spawn(stop.run_until_cancelled_owned(run(verbs.clone(), enabled, report)));
        Self { verbs, done }
    }

    /// Waits until everything that was stored before the call, and what follows from it, is stored.
    pub async fn settled(&self) {
        let mut done = self.done.clone();
        loop {
            let wanted = self.verbs.store.read(|state| state.revision());
            if done.wait_for(|done| *done >= wanted).await.is_err() {
                return;
            }
            if self.verbs.store.read(|state| state.revision()) == wanted {
                return;
            }
        }
    }
}

async fn run(verbs: Verbs, enabled: Enabled, report: watch::Sender<u64>) {
    let mut slices = endpointslice::Controller::default();
    let mut latest = verbs.store.subscribe();
    let mut cursor = 0;
    loop {
        latest.borrow_and_update();
        let (revision, changes) = verbs.store.read(|state| {
            // After a compaction it is unknown what changed: then everything did.
            let known = cursor >= state.compacted();
            let changes = known.then(|| state.since(cursor).cloned().collect::<Vec<_>>());
            (state.revision(), changes.map(Arc::<[_]>::from))
        });
        if enabled.endpoint_slices {
            slices.sync(&verbs, changes.as_deref());
        }
        namespace::sync(&verbs);
        cursor = revision;
        report.send_replace(revision);
        if latest.changed().await.is_err() {
            return;
        }
    }
}
