//! `tunnel-router controller`: decides, for all nodes, which endpoint owns which bucket, and stores it.
//!
//! Of several controllers one leads. It computes the next map of each Service from the stored one and the endpoints, and
//! writes it if it differs, each map at most once per second. What it writes rests on what it has read (resourceVersion): a
//! controller that has lost its leadership without knowing it yet, or has old news, is refused by the API server.

mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::sync::{Semaphore, mpsc, watch as watched};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::kube::{Election, MapWriter, RequestError, Scope, client, watch};
use crate::metrics::{Metrics, Ping, Reader, Server};
use crate::model::config::ControllerConfig;
use crate::model::{Flows, Mode};
use crate::reconcile::Places;
use crate::state::{Change, Index, Settings, Watched, resolve};
use decide::{Decision, decide};

/// Name of the Lease.
pub const LEASE: &str = "tunnel-router-controller";
/// Changes come in bursts.
const SETTLE: Duration = Duration::from_millis(20);
/// Between two writes of one map.
const PER_MAP: Duration = Duration::from_secs(1);
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
    if let Some(address) = config.metrics_address {
        let (metrics, places, unready) = (Arc::new(Metrics::default()), Places::default(), unready.subscribe());
        let server = Server { metrics, places, unready, ping: pings.clone(), reader: Reader::default() };
        tokio::spawn(server.run(address, shutdown.clone()));
    }
    let mut changes = watch(client.clone(), Scope { node: None, namespace: &config.namespace }, shutdown.clone());
    let mut controller = Controller {
        index: Index::of_controller(config.annotation.as_str()),
        settings: settings(&config),
        flows: config.flows,
        drain_datagrams: config.drain_datagrams,
        writer: MapWriter::new(client, &config.namespace),
        written: BTreeMap::new(),
        under_way: BTreeSet::new(),
        writes: JoinSet::new(),
        permits: Arc::new(Semaphore::new(PARALLEL)),
    };
    info!(identity = config.identity, version = env!("CARGO_PKG_VERSION"), "controller started");
    let mut due: Option<Instant> = None;
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
                let again = controller.finished(&decision, result);
                due = [due, again].into_iter().flatten().min();
            }
            () = at(due) => {
                let lead = *leads.borrow();
                due = if lead { controller.decide() } else { None };
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
        vip_cidrs: config.vip_cidrs.clone(),
        node_name: String::new(),
        buckets: u16::MAX,
    }
}

struct Controller {
    index: Index,
    settings: Settings,
    flows: Flows,
    drain_datagrams: Duration,
    writer: MapWriter,
    /// When each map was last tried to be written, by UID of the Service.
    written: BTreeMap<String, Instant>,
    /// Services whose map is being written, by UID.
    under_way: BTreeSet<String>,
    writes: JoinSet<(Decision, Result<Option<ConfigMap>, RequestError>)>,
    permits: Arc<Semaphore>,
}

impl Controller {
    /// Starts the writes that are due, and says when to look again, if not for a change.
    fn decide(&mut self) -> Option<Instant> {
        let snapshot = self.index.snapshot()?;
        let resolved = resolve(&snapshot, &self.settings);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (decisions, due) = decide(&resolved.cluster, &self.index, self.flows, self.drain_datagrams, now.as_secs());
        let uids: BTreeSet<&str> = decisions.iter().map(Decision::uid).collect();
        self.written.retain(|uid, at| uids.contains(uid.as_str()) || at.elapsed() < PER_MAP);
        // Whole seconds are compared: a fraction earlier is too early.
        let wait = due.map(|due| Duration::from_secs(due.saturating_sub(now.as_secs())).max(PER_MAP));
        let mut next: Option<Instant> = wait.map(|wait| Instant::now() + wait);
        for decision in decisions {
            if self.under_way.contains(decision.uid()) {
                continue;
            }
            let earliest = self.written.get(decision.uid()).map(|at| *at + PER_MAP);
            if let Some(earliest) = earliest.filter(|at| *at > Instant::now()) {
                next = [next, Some(earliest)].into_iter().flatten().min();
                continue;
            }
            self.written.insert(decision.uid().to_owned(), Instant::now());
            self.under_way.insert(decision.uid().to_owned());
            let (writer, permits) = (self.writer.clone(), self.permits.clone());
            self.writes.spawn(async move {
                // The semaphore is never closed.
                let _permit = permits.acquire_owned().await;
                let result = match &decision {
                    Decision::Write { service, map, version } => {
                        writer.write(service, map, version.as_deref()).await.map(Some)
                    }
                    Decision::Delete { key, version, .. } => writer.delete(&key.name, version).await.map(|()| None),
                };
                (decision, result)
            });
        }
        next
    }

    /// Takes the outcome of a write, and says when to look again.
    fn finished(&mut self, decision: &Decision, result: Result<Option<ConfigMap>, RequestError>) -> Option<Instant> {
        self.under_way.remove(decision.uid());
        // Not to wait for the watch: the next decision rests on this one. Unless the watch was faster: then it knows better,
        // for what it brought may be newer still.
        let unseen =
            self.index.stored_maps().get(decision.uid()).map(|stored| stored.version.as_str()) == decision.version();
        match (result, decision) {
            (Ok(Some(stored)), Decision::Write { service, map, .. }) => {
                let (generation, previous) = (map.generation, map.previous.len());
                info!(%service, generation, previous, "bucket map stored");
                if unseen {
                    self.index.apply(Change::Map(Watched::Apply(Box::new(stored))));
                }
            }
            (Ok(_), Decision::Delete { key, .. }) => {
                info!(object = %key, "bucket map or report that is not needed any more deleted");
                if unseen {
                    self.index.apply(Change::Map(Watched::Delete(key.clone())));
                }
                self.index.forget_map(decision.uid());
            }
            (Ok(None), Decision::Write { .. }) => {}
            // A conflict is resolved by the news that is on its way, anything else by trying again.
            (Err(error), _) => warn!(map = %decision, %error, "cannot store a decision, trying again"),
        }
        // What has changed while it was under way is due when a second is over; that also paces what fails.
        Some(Instant::now() + PER_MAP)
    }
}
