//! `tunnel-router controller`: decides, for all nodes, which endpoint owns which bucket, and stores it.
//!
//! Of several controllers one leads. It computes the next map of each Service from the stored one and the endpoints, and
//! writes it if it differs, each map at most once per second. What it writes rests on what it has read (resourceVersion): a
//! controller that has lost its leadership without knowing it yet, or has old news, is refused by the API server.

mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch as watched};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::kube::{Election, MapWriter, Scope, WriteError, client, watch};
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

/// Runs the controller until `shutdown`.
///
/// # Errors
/// A kubeconfig that cannot be used; an API server that does not answer is none.
pub async fn run(config: ControllerConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = client(config.kubeconfig.as_deref()).await.context("cannot talk to Kubernetes")?;
    let (leading, mut leads) = watched::channel(false);
    let election = Election::new(client.clone(), &config.namespace, LEASE, &config.identity);
    let election = tokio::spawn(election.run(leading, shutdown.clone()));
    let (pings, mut pinged) = mpsc::channel::<Ping>(1);
    let unready = watched::Sender::new(vec!["has not read the cluster yet".to_owned()]);
    if let Some(address) = config.metrics_address {
        let (metrics, places, unready) = (Arc::new(Metrics::default()), Places::default(), unready.subscribe());
        let server = Server { metrics, places, unready, ping: pings.clone(), reader: Reader::default() };
        tokio::spawn(server.run(address, shutdown.clone()));
    }
    let mut changes = watch(client.clone(), Scope { node: None, namespace: &config.namespace }, shutdown.clone());
    let mut controller = Controller {
        index: Index::without_pods(config.annotation.as_str()),
        settings: settings(&config),
        flows: config.flows,
        writer: MapWriter::new(client, &config.namespace),
        written: BTreeMap::new(),
    };
    info!(identity = config.identity, version = env!("CARGO_PKG_VERSION"), "controller started");
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(change) = changes.recv() => {
                if controller.index.apply(change) {
                    due = due.or(Some(Instant::now() + SETTLE));
                }
                if controller.index.missing().is_empty() {
                    unready.send_if_modified(|reasons| !std::mem::take(reasons).is_empty());
                }
            }
            Ok(()) = leads.changed() => due = Some(Instant::now()),
            // Who asks may have gone away.
            Some(answer) = pinged.recv() => drop(answer.send(())),
            () = at(due) => {
                let lead = *leads.borrow();
                due = if lead { controller.decide().await } else { None };
            }
        }
    }
    // It gives the Lease back.
    election.await.context("the election has panicked")?;
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
    writer: MapWriter,
    /// When each map was last tried to be written, by UID of the Service.
    written: BTreeMap<String, Instant>,
}

impl Controller {
    /// Writes what has to be written now, and says when to look again, if not for a change.
    async fn decide(&mut self) -> Option<Instant> {
        let snapshot = self.index.snapshot()?;
        let resolved = resolve(&snapshot, &self.settings);
        let decisions = decide(&resolved.cluster, &self.index, self.flows);
        let uids: BTreeSet<String> = decisions.iter().map(|d| d.uid().to_owned()).collect();
        self.written.retain(|uid, at| uids.contains(uid) || at.elapsed() < PER_MAP);
        let mut next = None;
        for decision in decisions {
            let earliest = self.written.get(decision.uid()).map(|at| *at + PER_MAP);
            if let Some(earliest) = earliest.filter(|at| *at > Instant::now()) {
                next = Some(next.map_or(earliest, |next: Instant| next.min(earliest)));
                continue;
            }
            self.written.insert(decision.uid().to_owned(), Instant::now());
            if let Err(error) = self.carry_out(&decision).await {
                // A conflict is resolved by the news that is on its way; anything else by trying again.
                warn!(map = %decision, %error, "cannot store a decision, trying again");
                let again = Instant::now() + PER_MAP;
                next = Some(next.map_or(again, |next| next.min(again)));
            }
        }
        next
    }

    async fn carry_out(&mut self, decision: &Decision) -> Result<(), WriteError> {
        match decision {
            Decision::Write { service, map, version } => {
                let stored = self.writer.write(service, map, version.as_deref()).await?;
                info!(%service, buckets_draining = map.previous.len(), "bucket map stored");
                // Not to wait for the watch: the next decision rests on this one.
                self.index.apply(Change::Map(Watched::Apply(Box::new(stored))));
            }
            Decision::Delete { key, version, .. } => {
                self.writer.delete(&key.name, version).await?;
                info!(map = %key, "bucket map of a Service that has no VIP any more deleted");
                self.index.apply(Change::Map(Watched::Delete(key.clone())));
            }
        }
        Ok(())
    }
}
