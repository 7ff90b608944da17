//! The three pages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Metrics;
use super::accounting::Reader;
use crate::netns::Netns;
use crate::reconcile::Places;
use crate::reconcile::target::NODE;

/// The kubelet's own default is 1 s per probe; a busy machine gets a little more from whoever asks by hand.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(2);
const CANNOT_LISTEN: &str = "cannot serve /metrics, /healthz and /readyz, trying again: free the address (`ss -ltnp` shows who \
                             has it), or give another --metrics-address, or off";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A question to the main loop, which answers as long as it runs.
pub type Ping = oneshot::Sender<()>;

/// What the pages are made of.
#[derive(Clone)]
pub struct Server {
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// The node's namespace, in an agent.
    pub node: Option<Netns>,
    /// Namespaces whose counters are read.
    pub places: Places,
    /// Why the agent is not ready, a line each; empty if it is.
    pub unready: watch::Receiver<Vec<String>>,
    /// To the main loop.
    pub ping: mpsc::Sender<Ping>,
    /// Reads the counters.
    pub reader: Reader,
}

impl Server {
    /// Listens and serves until `shutdown`. An address that cannot be listened on is tried again: packets matter more than
    /// pages about them.
    pub async fn run(self, address: SocketAddr, shutdown: CancellationToken) {
        if let Some(node) = self.node.clone() {
            // What is counted from now on is this agent's.
            let (counts, _) = self.reader.read(vec![(NODE.to_owned(), node)]).await;
            self.metrics.received(&counts);
        }
        let pages = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(self);
        let listening = async {
            let mut told = false;
            loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => return listener,
                    Err(error) if !told => warn!(%address, %error, "{CANNOT_LISTEN}"),
                    Err(_) => {}
                }
                told = true;
                sleep(RETRY).await;
            }
        };
        let Some(listener) = shutdown.run_until_cancelled(listening).await else { return };
        info!(%address, "serving /metrics, /healthz and /readyz");
        let served = axum::serve(listener, pages).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = served.await {
            warn!(%error, "/metrics is served no more");
        }
    }
}

async fn metrics(State(server): State<Server>) -> Response {
    let (counts, unread) = server.reader.read(server.places.all()).await;
    match server.metrics.text(&counts, &unread) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Whether the main loop runs: it has to answer.
async fn healthz(State(server): State<Server>) -> (StatusCode, &'static str) {
    let (answer, answered) = oneshot::channel();
    let asked = async { server.ping.send(answer).await.is_ok() && answered.await.is_ok() };
    match timeout(PATIENCE, asked).await {
        Ok(true) => (StatusCode::OK, "ok\n"),
        Ok(false) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the main loop does not answer\n"),
    }
}

async fn readyz(State(server): State<Server>) -> (StatusCode, String) {
    let reasons = server.unready.borrow().clone();
    if reasons.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
}
