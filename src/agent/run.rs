//! The agent's main loop: what the surroundings say goes into `machine`, and what that wants done is carried out.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use tokio::sync::{Semaphore, mpsc, watch as watched};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::drains::{Draining, open_connections, watch_drains};
use super::event::{AgentEvent, Effect, Prepare, Prepared};
use super::follows::moment;
use super::losses::{Ask, watch_losses};
use super::machine::Agent;
use super::prepare::Preparer;
use super::second_chance::SecondChances;
use super::start::{preflight, state_settings};
use crate::inspect::connections::count;
use crate::inspect::{Known, socket};
use crate::kube::{Reporter, Scope, client, keep_report, tell_unbound, watch};
use crate::metrics::{Metrics, Ping, Reader, Server};
use crate::model::Cluster;
use crate::model::config::Config;
use crate::model::handover::NodeReport;
use crate::netns::{Netns, PodSearch, ProcFinder};
use crate::reconcile::target::{Shared, run as run_target};
use crate::reconcile::{Order, Places};

/// Namespaces that are worked on at the same time.
const PARALLEL: usize = 8;

/// Runs the agent until `shutdown`. The kernel state stays.
///
/// # Errors
/// What is missing on this node, what stands in the way, or a kubeconfig that cannot be used; an API server that does not
/// answer is none: the agent waits, and what is in the kernel stays.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let netns = Netns::current()?;
    let settings = Arc::new(preflight(&netns, &config).await?);
    let client = client(config.kubeconfig.as_deref()).await.context("cannot talk to Kubernetes")?;
    let (reports, mut reported) = mpsc::unbounded_channel();
    let (pings, mut pinged) = mpsc::channel::<Ping>(1);
    let metrics = Arc::new(Metrics::of_agent());
    let (places, unready) = (Places::default(), watched::Sender::new(vec!["is starting".to_owned()]));
    if let Some(address) = config.metrics_address {
        let (metrics, places, unready) = (metrics.clone(), places.clone(), unready.subscribe());
        let (ping, node) = (pings.clone(), Some(netns.clone()));
        let server = Server { metrics, node, places, unready, ping, reader: Reader::default() };
        tokio::spawn(server.run(address, shutdown.clone()));
    }
    let second_chances = SecondChances::default();
    let shared = Shared {
        settings: settings.clone(),
        programs: second_chances.programs(),
        resync: config.resync,
        permits: Arc::new(Semaphore::new(PARALLEL)),
        search: Arc::new(PodSearch::new(ProcFinder::new(config.kernel.proc_root.clone()))),
        places: places.clone(),
        reports,
        shutdown: shutdown.clone(),
    };
    let (answers, mut answered) = mpsc::unbounded_channel();
    let mut surroundings = Surroundings {
        orders: HashMap::new(),
        shared,
        preparer: Preparer {
            netns: netns.clone(),
            node: config.node_name.clone(),
            kernel: config.kernel.clone(),
            second_chances: Arc::new(Mutex::new(second_chances)),
        },
        answers,
        reporter: Reporter::new(client.clone(), &config.node_name, shutdown.clone()),
        unready,
        draining: watched::Sender::new(Vec::new()),
        report: watched::Sender::new(NodeReport::default()),
    };
    tokio::spawn(watch_drains(
        surroundings.draining.subscribe(),
        places.clone(),
        surroundings.report.clone(),
        shutdown.clone(),
    ));
    let (lost, mut losses) = watched::channel(BTreeSet::new());
    let (asks, mut asked) = mpsc::channel::<Ask>(1);
    tokio::spawn(watch_losses(asks, places, settings.clone(), lost, shutdown.clone()));
    let (namespace, node) = (config.namespace.clone(), config.node_name.clone());
    tokio::spawn(keep_report(client.clone(), namespace, node, surroundings.report.subscribe(), shutdown.clone()));
    tokio::spawn(tell_unbound(client.clone(), config.node_name.clone(), shutdown.clone()));
    let (questions, mut questioned) = mpsc::channel(1);
    tokio::spawn(socket::serve(questions, shutdown.clone()));
    let mut changes = watch(client, scope(&config), shutdown.clone());
    info!(node = config.node_name, version = env!("CARGO_PKG_VERSION"), "agent started");
    if config.vip_ranges.is_empty() {
        info!("whoever may annotate a Service may take any free address for a VIP, --vip-cidrs limits that");
    }
    let own = (netns, metrics.clone());
    let mut agent = Agent::new(state_settings(&config)?, settings, config.resync, own, Instant::now());
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => break,
            change = changes.recv() => {
                let Some(change) = change else {
                    // What is known would silently grow old.
                    anyhow::ensure!(shutdown.is_cancelled(), "the watches have ended");
                    break;
                };
                AgentEvent::Changed(change)
            }
            Some(report) = reported.recv() => AgentEvent::Reported(report),
            Some(event) = answered.recv() => event,
            Ok(()) = losses.changed() => AgentEvent::Lost(losses.borrow_and_update().clone()),
            () = at(agent.due()) => AgentEvent::Time,
            Some(answer) = pinged.recv() => {
                surroundings.count(metrics.clone(), answer);
                continue;
            }
            Some(question) = questioned.recv() => {
                surroundings.answer(agent.known(), question);
                continue;
            }
            Some(ask) = asked.recv() => {
                // Who asks may have gone away.
                drop(ask.send(agent.watched()));
                continue;
            }
        };
        for effect in agent.handle(event, moment()) {
            surroundings.carry_out(effect);
        }
        agent.rests(Instant::now());
    }
    info!("agent stopped, kernel state stays");
    Ok(())
}

/// What the agent of a node watches.
pub(super) fn scope(config: &Config) -> Scope<'_> {
    Scope { node: Some(&config.node_name), namespace: &config.namespace }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Where effects go.
struct Surroundings {
    /// To targets that have not been released.
    orders: HashMap<String, watched::Sender<Order>>,
    shared: Shared,
    preparer: Preparer,
    /// From whoever is asked for something.
    answers: mpsc::UnboundedSender<AgentEvent>,
    reporter: Reporter,
    unready: watched::Sender<Vec<String>>,
    draining: watched::Sender<Vec<Draining>>,
    /// What the other nodes and the controller are told.
    report: watched::Sender<NodeReport>,
}

impl Surroundings {
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Prepare(wanted) => self.prepare(wanted),
            Effect::Start(name, order) => {
                let (sender, receiver) = watched::channel(order);
                tokio::spawn(run_target(name.clone(), receiver, self.shared.clone()));
                self.orders.insert(name, sender);
            }
            Effect::Order(name, order) => {
                if let Some(orders) = self.orders.get(&name) {
                    send(orders, order);
                }
            }
            Effect::Release(name) => drop(self.orders.remove(&name)),
            Effect::Report(new) => self.report.send_modify(|report| {
                let over = std::mem::take(&mut report.over);
                *report = NodeReport { over, ..new };
            }),
            Effect::Drain(draining) => send(&self.draining, draining),
            Effect::Tell(problems) => self.reporter.report(problems),
            Effect::Unready(reasons) => send(&self.unready, reasons),
            Effect::LookAtForwards(here) => self.look_at_forwards(here),
        }
    }

    fn prepare(&self, wanted: Prepare) {
        let (preparer, answers) = (self.preparer.clone(), self.answers.clone());
        let work = spawn_blocking(move || preparer.prepare(&wanted));
        tokio::spawn(async move {
            let prepared =
                work.await.unwrap_or_else(|error| Prepared { failed: Some(error.to_string()), ..Prepared::default() });
            // Nobody listens any more at the end.
            drop(answers.send(AgentEvent::Prepared(prepared)));
        });
    }

    fn look_at_forwards(&self, here: Cluster) {
        let (preparer, answers) = (self.preparer.clone(), self.answers.clone());
        spawn_blocking(move || {
            let forwarding = preparer.second_chances().forwarding(&here);
            // Nobody listens any more at the end.
            drop(answers.send(AgentEvent::Forwarded(forwarding)));
        });
    }

    /// Counts what the program has counted, and says when that is done.
    fn count(&self, metrics: Arc<Metrics>, done: Ping) {
        let preparer = self.preparer.clone();
        spawn_blocking(move || {
            preparer.second_chances().counts().iter().for_each(|(_, counts)| metrics.second_chances(counts));
            // Who asks may have gone away.
            let _ = done.send(());
        });
    }

    /// Answers somebody on this node; pods are looked into, too.
    fn answer(&self, mut known: Known, question: socket::Question) {
        let (preparer, places) = (self.preparer.clone(), self.shared.places.clone());
        spawn_blocking(move || {
            let second_chances = preparer.second_chances();
            (known.second_chances, known.pairs) = (second_chances.counts(), second_chances.pairs());
            drop(second_chances);
            let mut status = known.status();
            let open = open_connections(&known.local_pods(), &places);
            count(&mut status, |endpoint| open.get(endpoint.id.as_str()).map(Vec::as_slice));
            // Who asked may have gone away.
            drop(question.send(status));
        });
    }
}

/// Sends only what is new, so that nobody is woken for nothing.
pub(super) fn send<T: PartialEq>(to: &watched::Sender<T>, new: T) {
    send_part(to, |all| all, new);
}

/// The same for a part of what is sent.
pub(super) fn send_part<T, P: PartialEq>(to: &watched::Sender<T>, part: impl FnOnce(&mut T) -> &mut P, new: P) {
    to.send_if_modified(|all| {
        let old = part(all);
        let changed = *old != new;
        *old = new;
        changed
    });
}
