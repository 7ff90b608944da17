//! The task that sends Events.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ::kube::api::{Patch, PatchParams, PostParams};
use ::kube::core::Status;
use ::kube::{Api, Client};
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, warn};

use super::event::{last_observed, name, namespace, new, observed_again};
use super::ledger::{Ledger, Now, Outcome, Task, is_too_soon, stale};
use super::throttle::Throttle;
use crate::kube::outage::{Outage, describe};
use crate::model::Problem;

/// How long one Event may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Events that may be sent at once, and how often afterwards: a cluster where everything is wrong on a thousand nodes
/// must not drown its API in Events.
const BURST: u32 = 25;
const EVERY: Duration = Duration::from_secs(3);

/// Sends Events.
pub(in crate::kube) struct Publisher {
    client: Client,
    instance: String,
    ledger: Ledger,
    throttle: Throttle,
    outage: Outage,
}

/// Why an Event was not published.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("no answer within {PATIENCE:?}")]
    NoAnswer,
    #[error("{}", describe(.0))]
    Client(#[from] ::kube::Error),
}

impl PublishError {
    fn status(&self) -> Option<&Status> {
        match self {
            PublishError::Client(::kube::Error::Api(status)) => Some(status),
            _ => None,
        }
    }

    /// Whether trying again is pointless: the namespace is going or gone, or the API does not like the Event itself.
    fn is_final(&self) -> bool {
        self.status().is_some_and(|status| status.is_not_found() || status.is_invalid() || is_terminating(status))
    }
}

/// A namespace that is being deleted refuses new objects with 403, as does a missing permission.
fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

impl Publisher {
    pub(in crate::kube) fn new(client: Client, node_name: &str) -> Self {
        Self {
            client,
            instance: node_name.to_owned(),
            ledger: Ledger::new(node_name),
            throttle: Throttle::new(BURST, EVERY, Instant::now()),
            outage: Outage::new("publish Event"),
        }
    }

    /// Publishes what the channel says, until the other side is dropped.
    pub(in crate::kube) async fn run(mut self, mut problems: watch::Receiver<BTreeSet<Problem>>) {
        loop {
            // The wait is looked up anew each time: what was reported while an Event was on its way may be due first.
            let due = self.ledger.next_due().map(|due| due.max(self.throttle.ready_at()));
            let wait = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = problems.changed() => match changed {
                    Ok(()) => self.ledger.update(&problems.borrow_and_update(), Now::read()),
                    Err(_) => return,
                },
                () = wait => self.publish_one().await,
            }
        }
    }

    async fn publish_one(&mut self) {
        let now = Now::read();
        let Some(task) = self.ledger.next(now) else { return };
        if !self.throttle.take(now.instant) {
            return;
        }
        let result = match timeout(PATIENCE, self.publish(&task, now)).await {
            Ok(result) => result.map_err(PublishError::Client),
            Err(_) => Err(PublishError::NoAnswer),
        };
        let outcome = self.judge(&task, result, now);
        self.ledger.done(&task.problem, outcome, now);
    }

    /// One line per outage; what is wrong with a single Event is not one.
    fn judge(&mut self, task: &Task, result: Result<Outcome, PublishError>, now: Now) -> Outcome {
        match result {
            Ok(outcome) => {
                self.outage.over();
                outcome
            }
            Err(error) if error.is_final() => {
                if error.status().is_some_and(Status::is_invalid) {
                    warn!(about = %task.problem.subject, %error, "event is refused by the api");
                } else {
                    debug!(about = %task.problem.subject, %error, "event has no namespace any more");
                }
                Outcome::Observed(now.wall)
            }
            Err(error) => {
                self.outage.failed(&error);
                Outcome::Failed
            }
        }
    }

    async fn publish(&self, task: &Task, now: Now) -> Result<Outcome, ::kube::Error> {
        let api = Api::<Event>::namespaced(self.client.clone(), namespace(&task.problem.subject));
        match task.observed_since {
            None => match self.create(&api, task, now).await {
                // Another node was first, or this one before it was restarted: then the Event may be old.
                Err(::kube::Error::Api(status)) if status.is_already_exists() => {
                    self.refresh(&api, task, stale(now), now).await
                }
                result => result,
            },
            Some(since) => self.refresh(&api, task, since, now).await,
        }
    }

    async fn create(&self, api: &Api<Event>, task: &Task, now: Now) -> Result<Outcome, ::kube::Error> {
        let event = new(&task.problem, &self.instance, now.wall);
        api.create(&PostParams::default(), &event).await.map(|_| Outcome::Observed(now.wall))
    }

    async fn refresh(
        &self,
        api: &Api<Event>,
        task: &Task,
        since: Timestamp,
        now: Now,
    ) -> Result<Outcome, ::kube::Error> {
        match api.get_opt(&name(&task.problem)).await? {
            None => self.create(api, task, now).await,
            Some(event) => observe_again(api, &event, since, now).await,
        }
    }
}

async fn observe_again(api: &Api<Event>, event: &Event, since: Timestamp, now: Now) -> Result<Outcome, ::kube::Error> {
    let name = event.metadata.name.as_deref().unwrap_or_default();
    if let Some(observed) = last_observed(event) {
        if observed >= since {
            return Ok(Outcome::Observed(observed));
        }
        if is_too_soon(observed, now) {
            return Ok(Outcome::TooSoon(observed));
        }
    }
    match api.patch(name, &PatchParams::default(), &Patch::Merge(observed_again(event, now.wall))).await {
        // Another node was first.
        Err(::kube::Error::Api(status)) if status.is_conflict() => Ok(Outcome::Observed(now.wall)),
        // It expired since it was read: the next attempt creates it.
        Err(::kube::Error::Api(status)) if status.is_not_found() => Ok(Outcome::Failed),
        result => result.map(|_| Outcome::Observed(now.wall)),
    }
}
