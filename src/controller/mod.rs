//! `tunnel-router controller`: decides, for all nodes, which endpoint owns which bucket, and stores it.
//!
//! Of several controllers one leads. From the newest map of a Service, its endpoints and what nodes report it computes the next
//! map, and writes it if it differs:
//!
//! ```text
//! watches ─► Index ─► resolve ─► Decider ─► Writes ─► ConfigMaps
//!                                  │  ▲                  │
//!                         Events ◄─┘  └──── Outcome ◄────┘
//! ```
//!
//! What it writes rests on what it has read (resourceVersion): a controller that has lost its leadership without knowing it yet,
//! or has old news, is refused by the API server. It never overwrites or deletes what a later version of the program has written,
//! and nothing is taken away because something is absent: a report, a map, a Node object for less than a minute.

mod absent;
mod alarms;
mod concerns;
mod decide;
mod decision;
#[cfg(test)]
mod tests;
mod told;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Semaphore, mpsc, watch as watched};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::kube::{Election, MapWriter, Reporter, RequestError, Scope, client, watch};
use crate::metrics::{Metrics, Ping, Reader, Server};
use crate::model::Mode;
use crate::model::config::ControllerConfig;
use crate::reconcile::Places;
use crate::state::{Index, Settings};
use decide::{Decider, Now, Rules};
use decision::Decision;

/// Name of the Lease.
pub const LEASE: &str = "tunnel-router-controller";
/// Changes come in bursts.
const SETTLE: Duration = Duration::from_millis(20);
/// Writes that are under way at once.
const PARALLEL: usize = 8;

/// Runs the controller until `shutdown`.
///
/// # Errors
/// A kubeconfig that cannot be used; an API server that does not answer is none.
pub async fn run(config: ControllerConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = client(config.kubeconfig.as_deref()).await.context("cannot talk to Kubernetes")?;
    let (leading, mut leads) = watched::channel(false);
    let election = Election::new(client.clone(), &config.namespace, LEASE, &config.identity);
    let mut election = tokio::spawn(election.run(leading, shutdown.clone()));
    let (pings, mut pinged) = mpsc::channel::<Ping>(1);
    let unready = watched::Sender::new(vec!["has not read the cluster yet".to_owned()]);
    let metrics = Arc::new(Metrics::of_controller());
    if let Some(address) = config.metrics_address {
        let (metrics, places, unready) = (metrics.clone(), Places::default(), unready.subscribe());
        let server = Server { metrics, node: None, places, unready, ping: pings.clone(), reader: Reader::default() };
        tokio::spawn(server.run(address, shutdown.clone()));
    }
    let mut changes = watch(client.clone(), Scope { node: None, namespace: &config.namespace }, shutdown.clone());
    let rules = Rules { buckets: config.buckets, seed: config.hash_seed, drain_non_tcp: config.drain_non_tcp };
    let mut controller = Controller {
        index: Index::of_controller(config.annotation.as_str()),
        settings: settings(&config),
        decider: Decider::new(rules),
        reporter: Reporter::new(client.clone(), &config.identity, shutdown.clone()),
        writer: MapWriter::new(client, &config.namespace),
        metrics,
        has_told: false,
        writes: JoinSet::new(),
        permits: Arc::new(Semaphore::new(PARALLEL)),
    };
    info!(identity = config.identity, version = env!("CARGO_PKG_VERSION"), "controller started");
    let mut due: Option<Instant> = None;
    // Looks that are due all the time must leave time for what they have begun: writes, watches, the Lease.
    let mut rested = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            ended = &mut election => {
                ended.context("the election has panicked")?;
                break;
            }
            change = changes.recv() => {
                let Some(change) = change else {
                    anyhow::ensure!(shutdown.is_cancelled(), "the watches have ended");
                    break;
                };
                if controller.index.apply(change) {
                    // What is due later does not put a change off.
                    due = [due, Some(Instant::now() + SETTLE)].into_iter().flatten().min();
                }
                if controller.index.missing().is_empty() {
                    unready.send_if_modified(|reasons| !std::mem::take(reasons).is_empty());
                }
            }
            Ok(()) = leads.changed() => due = Some(Instant::now()),
            // Who asks may have gone away.
            Some(answer) = pinged.recv() => drop(answer.send(())),
            Some(finished) = controller.writes.join_next() => {
                let (decision, result) = finished.context("a write has panicked")?;
                let again = controller.finished(decision, result);
                due = [due, Some(again)].into_iter().flatten().min();
            }
            () = at(due.map(|due| due.max(rested))) => {
                let (lead, began) = (*leads.borrow(), Instant::now());
                due = controller.look(lead);
                rested = Instant::now() + began.elapsed().max(SETTLE);
            }
        }
    }
    if !election.is_finished() {
        // It gives the Lease back.
        election.await.context("the election has panicked")?;
    }
    info!("controller stopped, nodes go on with what is stored");
    Ok(())
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What resolving needs: who owns a VIP, and which of its endpoints are eligible. Nothing of it depends on a node.
fn settings(config: &ControllerConfig) -> Settings {
    Settings {
        annotation: config.annotation.to_string(),
        default_mode: Mode::Gre,
        ingress_nodes: None,
        vip_ranges: config.vip_ranges.clone(),
        node_name: String::new(),
        buckets: u16::MAX,
    }
}

struct Controller {
    index: Index,
    settings: Settings,
    decider: Decider,
    reporter: Reporter,
    writer: MapWriter,
    metrics: Arc<Metrics>,
    /// What users have to know has been told since this controller began to lead.
    has_told: bool,
    writes: JoinSet<(Decision, Result<(), RequestError>)>,
    permits: Arc<Semaphore>,
}

impl Controller {
    /// Takes in what is known now. Who leads begins the writes that are due and says when to look again, if not for a change.
    fn look(&mut self, leads: bool) -> Option<Instant> {
        let now = Now::read();
        self.decider.observe(&mut self.index, now.moment.instant);
        if !leads {
            self.reporter.report([]);
            self.has_told = false;
            self.metrics.services().led(None);
            return None;
        }
        let resolved = self.index.resolve(&self.settings)?;
        self.metrics.services().led(Some(&resolved.cluster));
        let decided = self.decider.decide(&self.index, &resolved.cluster, now);
        let is_first = !std::mem::replace(&mut self.has_told, true);
        if is_first || decided.tells {
            self.reporter.report(self.decider.problems().cloned());
        }
        for decision in decided.begin {
            self.begin(decision);
        }
        decided.due.map(Instant::from_std)
    }

    fn begin(&mut self, decision: Decision) {
        let (writer, permits) = (self.writer.clone(), self.permits.clone());
        self.writes.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await;
            let result = match &decision {
                Decision::Write(write) => {
                    writer.write(&write.service, &write.map, write.version.as_deref()).await.map(drop)
                }
                Decision::Delete { key, version } => writer.delete(&key.name, version).await,
            };
            (decision, result)
        });
    }

    /// Takes the outcome of a write, and says when to look again, if not for a change.
    fn finished(&mut self, decision: Decision, result: Result<(), RequestError>) -> Instant {
        match (&result, &decision) {
            (Ok(()), Decision::Write(write)) => {
                let (service, generation) = (&write.service, write.map.generation.0);
                info!(%service, generation, moved = write.moved, former = write.former(), "bucket map stored");
                self.metrics.services().moved(service, write.moved);
            }
            (Ok(()), Decision::Delete { key, .. }) => {
                info!(object = %key, "bucket map or report that is not needed any more deleted");
            }
            // A conflict is resolved by the news that is on its way, anything else by trying again.
            (Err(error), _) => warn!(%decision, %error, "cannot store a decision, trying again"),
        }
        let next = self.decider.finished(decision, result.is_ok(), std::time::Instant::now());
        Instant::from_std(next).max(Instant::now() + SETTLE)
    }
}
