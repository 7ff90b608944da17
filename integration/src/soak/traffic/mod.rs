//! Traffic that never pauses: long-lived TCP connections, UDP flows, and now and then a new connection.
//!
//! Half of the connections are busy, half are asked something every few seconds. One that breaks is counted, and another
//! takes its place; so does one whose pod has been told to end: its client leaves, as well-behaved clients do, unless it is
//! one of those that stay to the last.

mod held;
mod ledger;
mod series;
mod short;
mod udp;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::traffic::{Client, Sources};
use ledger::Ledger;
pub use ledger::{Break, Counts};

/// First source port of connections. Each has a port of its own: none is used twice, and there are more than any run opens.
const FIRST_PORT: u16 = 20_000;
/// How long all connections together may take to answer after everything is well again, or to break and be replaced.
const SETTLING: Duration = Duration::from_secs(180);
/// How often it is looked at whether they have.
const LOOK: Duration = Duration::from_millis(20);

/// How much traffic, and where to.
#[derive(Debug, Clone)]
pub struct TrafficSpec {
    /// Where it comes from, and how long a step of a connection may take before it counts as broken.
    pub client: Client,
    /// The client's addresses.
    pub sources: Vec<IpAddr>,
    /// Where to, in turn.
    pub targets: Vec<SocketAddr>,
    /// Long-lived connections.
    pub connections: usize,
    /// UDP flows.
    pub flows: usize,
}

/// What all clients are told.
#[derive(Debug, Clone, Default)]
struct Orders {
    /// Whoever has not been asked in this round is asked at once.
    round: u64,
    /// Pods whose clients leave, how quickly, and whether some of them stay.
    ending: Arc<BTreeMap<String, Leave>>,
}

/// How the clients of one pod leave.
#[derive(Debug, Clone, Copy)]
struct Leave {
    within: Duration,
    some_stay: bool,
}

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    spec: TrafficSpec,
    orders: watch::Sender<Orders>,
    ledger: Mutex<Ledger>,
    /// How many sources have been given out.
    given: AtomicUsize,
}

/// Running traffic. Dropping it ends it.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a connection goes, and a source that no connection had before.
    fn ends(&self, n: usize) -> (SocketAddr, SocketAddr) {
        // Not in step with what is busy and what is not.
        let target = self.spec.targets[n / 2 % self.spec.targets.len()];
        let given = self.given.fetch_add(1, Ordering::Relaxed);
        (self.source(given, FIRST_PORT, target), target)
    }

    fn source(&self, n: usize, first_port: u16, target: SocketAddr) -> SocketAddr {
        Sources::fixed(self.spec.sources.clone(), first_port).of_flow(n, target.is_ipv4())
    }
}

impl Traffic {
    /// Traffic that has not begun.
    pub fn new(spec: TrafficSpec) -> Traffic {
        let (ledger, given) = (Mutex::new(Ledger::new()), AtomicUsize::new(0));
        let shared = Arc::new(Shared { spec, orders: watch::Sender::default(), ledger, given });
        Traffic { shared, tasks: JoinSet::new() }
    }

    /// Starts it, and returns when every connection has been answered.
    pub async fn start(&mut self) -> Result<()> {
        let shared = &self.shared;
        ensure!(!shared.spec.targets.is_empty(), "traffic needs a target");
        for slot in 0..shared.spec.connections {
            self.tasks.spawn(held::hold(Arc::clone(shared), slot));
        }
        for flow in 0..shared.spec.flows {
            self.tasks.spawn(udp::flow(Arc::clone(shared), flow));
        }
        self.tasks.spawn(short::trickle(Arc::clone(shared)));
        self.all_answer().await
    }

    /// Something is done to the system now: from here on it is measured when new connections are answered again.
    pub fn fault_now(&self) {
        self.shared.ledger().fault_now();
    }

    /// Only now the API says what has happened before: it is measured from here on.
    pub fn told_now(&self) {
        self.shared.ledger().told_now();
    }

    /// Nodes wait for that long for the word of a controller that this row has killed.
    pub fn may_wait(&self, time: Duration) {
        self.shared.ledger().may_wait(time);
    }

    /// Asks on every connection and waits until each has been answered, or has broken and been replaced, and until twenty new
    /// connections in a row have been answered.
    pub async fn all_answer(&self) -> Result<()> {
        let began = Instant::now();
        self.shared.orders.send_modify(|orders| orders.round += 1);
        let round = self.shared.orders.borrow().round;
        loop {
            let (silent, tries, over) = {
                let ledger = self.shared.ledger();
                let silent = ledger.silent(round, self.shared.spec.connections);
                (silent, ledger.tries_since_before(began), ledger.over())
            };
            let is_over = over.tcp.is_some() && over.udp.is_some();
            if silent == 0 && !tries && is_over {
                return Ok(());
            }
            ensure!(
                began.elapsed() < SETTLING,
                "{silent} connections are not answered after {SETTLING:?}; new ones were in a row: {over:?}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the row and returns what it has counted.
    pub fn take(&self) -> Counts {
        self.shared.ledger().take()
    }

    /// How many long-lived connections there have ever been.
    pub fn opened_ever(&self) -> usize {
        self.shared.ledger().opened_ever()
    }

    /// How many connections are open with a pod.
    pub fn on_pod(&self, pod: &str) -> usize {
        self.shared.ledger().on_pod(pod)
    }

    /// A pod has been told to end: its clients leave it one after the other within this time. Where `some_stay`, one in ten
    /// does not.
    pub fn leave(&self, pod: &str, within: Duration, some_stay: bool) {
        self.shared.orders.send_modify(|orders| {
            let mut ending = (*orders.ending).clone();
            ending.insert(pod.to_owned(), Leave { within, some_stay });
            orders.ending = Arc::new(ending);
        });
    }

    /// A pod ends now, and whatever is still open with it.
    pub fn pod_ends(&self, pod: &str) {
        self.shared.ledger().pod_ends(pod);
    }

    /// It has ended: what is opened with a pod of this name from now on is another one's.
    pub fn pod_has_ended(&self, pod: &str) {
        self.shared.ledger().pod_has_ended(pod);
    }
}
