//! Problems become log lines and Events, once each.
//!
//! Every agent sees the same problems of Services (and the leading controller some of its own), and users want one Event
//! per problem, not one per node: its name is derived from the problem, so whoever creates it first has done it for all.
//! A problem of a node is one of the Node object, not of each Service: users want one Event, not one per Service.
//! Events are kept for an hour, so one whose problem lasts is refreshed before, by whichever node looks first.
//!
//! Nothing waits for an Event. [`Reporter::report`] only leaves the problems for a task, which sends little, retries
//! slowly, and forgets what no longer holds. While the API is away the log has everything.

mod event;
mod ledger;
mod publish;
mod throttle;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use ::kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::model::Problem;
pub(super) use event::CONTROLLER;
pub(super) use publish::Publisher;

/// Tells users what is wrong.
#[derive(Debug)]
pub struct Reporter {
    /// What was reported last.
    open: BTreeSet<Problem>,
    /// The same for the task that publishes; only the latest matters to it.
    sender: watch::Sender<BTreeSet<Problem>>,
}

impl Reporter {
    /// Starts the task that publishes, until the token is cancelled or the reporter is dropped. `node_name` becomes the
    /// Events' `reportingInstance`. Must be called within a tokio runtime.
    pub fn new(client: Client, node_name: &str, cancel: CancellationToken) -> Self {
        let (sender, problems) = watch::channel(BTreeSet::new());
        let publisher = Publisher::new(client, node_name);
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = publisher.run(problems) => {}
            }
        });
        Self { open: BTreeSet::new(), sender }
    }

    /// Takes everything that is wrong now, and logs what appeared and what is resolved since the last call. Never
    /// waits.
    pub fn report(&mut self, problems: impl IntoIterator<Item = Problem>) {
        let problems: BTreeSet<Problem> = problems.into_iter().collect();
        if problems == self.open {
            return;
        }
        for problem in problems.difference(&self.open) {
            let (about, reason, note) = (&problem.subject, problem.reason.as_str(), &problem.note);
            match problem.reason.is_information() {
                true => info!(%about, reason, note, "condition appeared"),
                false => warn!(%about, reason, note, "problem appeared"),
            }
        }
        for problem in self.open.difference(&problems) {
            info!(about = %problem.subject, reason = problem.reason.as_str(), note = problem.note, "problem resolved");
        }
        self.open.clone_from(&problems);
        self.sender.send_replace(problems);
    }
}
