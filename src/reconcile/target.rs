//! The loop around one namespace.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use super::Places;
use super::once::{Execution, Goal, Memory, Note, Outcome, ReconcileError, follow, reconcile};
use super::order::{Order, Site};
use super::pace::{Ended, Look, Next, Pace, Wake};
use crate::kernel::bpf::Programs;
use crate::kernel::{Monitor, Writer};
use crate::model::{Mode, Problem, Reason};
use crate::netns::{FindError, Netns, NetnsId, PodQuery, PodSearch, addresses_in};
use crate::plan::{Plan, Settings};

/// Everything a target needs, the same for all of them.
#[derive(Clone)]
pub struct Shared {
    /// Numbers and names of our kernel objects.
    pub settings: Arc<Settings>,
    /// Time between two rounds when nothing happens.
    pub resync: Duration,
    /// How many namespaces are worked on at once.
    pub permits: Arc<Semaphore>,
    /// Finds the namespaces of pods.
    pub search: Arc<PodSearch>,
    /// The programs that goals name.
    pub programs: Programs,
    /// Where the namespaces that were found are shown.
    pub places: Places,
    /// Where reports go.
    pub reports: mpsc::UnboundedSender<Report>,
    /// Ends the loop; what is in the kernel stays.
    pub shutdown: CancellationToken,
}

/// What a target says after each round.
#[derive(Debug)]
pub struct Report {
    /// Name of the target.
    pub target: String,
    /// How long the round took.
    pub took: Duration,
    /// State after the round.
    pub state: State,
}

/// State of a target.
#[derive(Debug)]
pub enum State {
    /// As it must be, apart from these problems.
    InSync {
        /// Steps that the round had to carry out.
        writes: usize,
        /// What is in place but not as asked for.
        problems: Vec<Problem>,
        /// The same of a pod, for the owners of its Services.
        notes: Vec<Note>,
        /// Whether the program for second chances judges what comes in by each of a pod's tunnels.
        program: bool,
        /// Modes of a pod's VIPs in which it is not set up.
        lacking: BTreeSet<Mode>,
        /// What was asked for.
        goal: Goal,
    },
    /// The round failed; it is tried again.
    Pending {
        /// Rounds that failed in a row.
        failures: u32,
        /// The last error.
        error: String,
    },
    /// The pod is of a kind that cannot be served. It is looked at again when the API has news of it, and at every resync.
    Refused {
        /// Why.
        error: String,
    },
    /// Nothing of ours is left; the target has ended.
    Gone,
}

/// Name of the target that is the node itself.
pub const NODE: &str = "node";

/// The kernel tells of changes in bursts: a round waits this long for the burst to end.
const SETTLE: Duration = Duration::from_millis(30);

/// Runs the loop until its goal is [`Goal::Nothing`] and reached, until nobody gives orders any more, or until shutdown.
pub async fn run(name: String, orders: watch::Receiver<Order>, shared: Shared) {
    let span = info_span!("target", name = %name);
    let started = Instant::now();
    let target = Target {
        name,
        orders,
        pace: Pace::new(shared.resync, started),
        shared,
        memory: Memory::default(),
        remembered: None,
        started,
        beside: None,
        deaf_until: None,
    };
    target.run().instrument(span).await;
}

struct Target {
    name: String,
    orders: watch::Receiver<Order>,
    shared: Shared,
    memory: Memory,
    /// The namespace that `memory` is of.
    remembered: Option<NetnsId>,
    pace: Pace,
    /// When the present round began.
    started: Instant,
    /// Everything is being looked at beside the rounds, which go on: what is there of thousands of VIPs is not read in a moment.
    beside: Option<JoinHandle<Result<Outcome, ReconcileError>>>,
    /// Until when notifications of the kernel are not heeded, because somebody keeps changing what we set up.
    deaf_until: Option<Instant>,
}

/// The namespace that a target works on.
struct Place {
    netns: Netns,
    monitor: Monitor,
    /// Writes what is simple; the node's own namespace has one.
    writer: Option<Writer>,
    /// What it was found by; `None` when it must be looked for again.
    site: Option<Site>,
}

impl Target {
    async fn run(mut self) {
        let mut place: Option<Place> = None;
        let mut look = Look::Whole;
        loop {
            self.started = Instant::now();
            let order = self.orders.borrow_and_update().clone();
            let wait = match self.round(&mut place, &order, look).await {
                Ok(Some(wait)) => wait,
                Ok(None) => return,
                Err(error) => {
                    self.lose(&mut place);
                    self.failed(&error)
                }
            };
            let wake = self.wait(place.as_mut().map(|place| &mut place.monitor), wait, &order).await;
            let can_look_beside = place.is_some() && self.memory.is_known();
            look = match self.pace.next(wake, can_look_beside, Instant::now()) {
                Next::Round(look) => look,
                Next::Beside(look) => {
                    place.iter().for_each(|place| self.look_beside(place.netns.clone(), order.goal.clone()));
                    look
                }
                Next::Doubt => {
                    self.memory.doubt();
                    Look::Whole
                }
                Next::Search => {
                    self.memory.doubt();
                    place.iter_mut().for_each(|place| place.site = None);
                    Look::Whole
                }
                Next::TakeUp => {
                    self.lose(&mut place);
                    Look::Whole
                }
                Next::End { is_gone } => {
                    if is_gone {
                        self.gone();
                    }
                    return;
                }
            };
        }
    }

    fn look_beside(&mut self, netns: Netns, goal: Goal) {
        let (mut memory, settings) = (self.memory.for_a_look(), self.shared.settings.clone());
        let work = move || reconcile(&netns, &goal, &settings, &mut memory, Execution::DryRun);
        self.beside = Some(tokio::task::spawn_blocking(work));
    }

    /// One round. `Ok(None)` ends the target.
    async fn round(
        &mut self,
        place: &mut Option<Place>,
        order: &Order,
        look: Look,
    ) -> Result<Option<Duration>, Failure> {
        let goal = &order.goal;
        match self.locate(place, &order.site).await {
            Ok(()) => {}
            Err(Failure::Find(error)) if *goal == Goal::Nothing => {
                debug!(%error, "namespace is gone, nothing to clean up");
                return Ok(self.gone());
            }
            Err(error) => return Err(error),
        }
        let Some(Place { netns, writer, .. }) = place.as_mut() else { return Ok(Some(self.shared.resync)) };
        let Outcome { plan, problems, notes, program, lacking, .. } =
            self.blocking_round(netns, writer, goal, look).await?;
        let writes = plan.steps.len();
        self.log(&plan);
        if *goal == Goal::Nothing {
            return Ok(self.gone());
        }
        let is_late = problems.iter().any(|problem| problem.reason == Reason::EndpointFailed);
        let wait = self.pace.ended(Ended::InSync { writes, is_late }, Instant::now());
        self.report(State::InSync { writes, problems, notes, program, lacking, goal: goal.clone() });
        self.deaf_until = self.pace.deaf_for().map(|time| Instant::now() + time);
        if self.deaf_until.is_some() {
            warn!(rounds = self.pace.rewrites(), %plan, "somebody keeps changing what we set up, slowing down");
        }
        Ok(Some(wait))
    }

    /// Makes `place` the namespace at this site. One that is held stays, with its monitor, if it is the same.
    async fn locate(&mut self, place: &mut Option<Place>, site: &Site) -> Result<(), Failure> {
        if place.as_ref().is_some_and(|held| held.site.as_ref() == Some(site)) {
            return Ok(());
        }
        let netns = match site {
            Site::Node(netns) => netns.clone(),
            Site::Pod(query) => self.find(query, place.as_ref().map(|held| &held.netns)).await?,
        };
        if let Some(held) = place.as_mut().filter(|held| held.netns == netns) {
            held.site = Some(site.clone());
            return Ok(());
        }
        // Listening starts before looking, so that nothing is missed in between.
        let writer = matches!(site, Site::Node(_)).then(|| Writer::open_in(&netns)).transpose()?;
        let own = writer.as_ref().map(Writer::ports);
        let monitor = Monitor::open_in(&netns, self.shared.settings.link_prefix.as_str(), own)?;
        self.shared.places.found(&self.name, &netns);
        // The number of a pod's namespace that nobody has held open may be another one's by now, and so may be its ruleset's generation.
        let known = self.remembered.replace(netns.id()) == Some(netns.id()) && matches!(site, Site::Node(_));
        if !known {
            self.memory = Memory::default();
        }
        *place = Some(Place { netns, monitor, writer, site: Some(site.clone()) });
        Ok(())
    }

    /// The namespace of a pod. While no process of it runs (its runtime keeps none besides the containers), the one that is
    /// held is its own for as long as it has the pod's address.
    async fn find(&self, query: &PodQuery, held: Option<&Netns>) -> Result<Netns, Failure> {
        match (self.shared.search.find(query.clone()).await?, held) {
            (Err(FindError::NoProcess { .. }), Some(held)) if holds_address(held, query).await? => Ok(held.clone()),
            (found, _) => Ok(found?),
        }
    }

    async fn blocking_round(
        &mut self,
        netns: &Netns,
        writer: &mut Option<Writer>,
        goal: &Goal,
        look: Look,
    ) -> Result<Outcome, Failure> {
        let _permit = self.shared.permits.clone().acquire_owned().await?;
        let (netns, goal, settings) = (netns.clone(), goal.clone(), self.shared.settings.clone());
        let (mut memory, programs) = (std::mem::take(&mut self.memory), self.shared.programs.clone());
        let mut taken = writer.take();
        let work = move || {
            let followed = match (look, &mut taken) {
                (Look::AtGoal(doubts), Some(writer)) => {
                    follow(&netns, (&goal, &doubts), &settings, &mut memory, writer)
                }
                _ => None,
            };
            let whole = || reconcile(&netns, &goal, &settings, &mut memory, Execution::Apply(&programs));
            let outcome = followed.unwrap_or_else(whole);
            (outcome, memory, taken)
        };
        let (outcome, memory, taken) = tokio::task::spawn_blocking(work).await?;
        (self.memory, *writer) = (memory, taken);
        if !outcome.as_ref().is_ok_and(|outcome| outcome.plan.is_empty()) {
            self.pace.disturb();
        }
        Ok(outcome?)
    }

    async fn wait(&mut self, mut monitor: Option<&mut Monitor>, time: Duration, order: &Order) -> Wake {
        let deadline = Instant::now() + time;
        let deaf_until = self.deaf_until.take();
        let kernel = async {
            if let Some(until) = deaf_until {
                sleep_until(until).await;
            }
            match monitor.as_deref_mut() {
                Some(monitor) => monitor.changed().await.ok(),
                None => std::future::pending().await,
            }
        };
        let beside = self.beside.as_mut();
        let looked = async {
            match beside {
                Some(look) => look.await.ok().and_then(Result::ok),
                None => std::future::pending().await,
            }
        };
        let mut wake = tokio::select! {
            () = self.shared.shutdown.cancelled() => Wake::Shutdown,
            changed = self.orders.changed() => match changed {
                Ok(()) => Wake::Ordered { elsewhere: self.orders.borrow().site != order.site },
                Err(_) => Wake::Released,
            },
            found = looked => {
                self.beside = None;
                let is_confirmed = found.is_some_and(|found| self.memory.is_confirmed_by(found));
                debug!(is_confirmed, "looked at everything");
                Wake::Looked { is_confirmed }
            }
            heard = kernel => heard.map_or(Wake::Deaf, Wake::Heard),
            () = sleep_until(deadline) => Wake::Time,
        };
        if let (Wake::Heard(changes), Some(monitor)) = (&mut wake, monitor) {
            // Each change of many is told, and would have everything looked at once more. What is told from now on may not be visible yet.
            match monitor.drain() {
                Ok(more) => changes.extend(more),
                Err(_) => return Wake::Deaf,
            }
            tokio::time::sleep(SETTLE).await;
        }
        wake
    }

    fn log(&self, plan: &Plan) {
        let writes = plan.steps.len();
        if writes == 0 {
            debug!(writes, "in sync");
        } else {
            info!(writes, "reconciled");
            debug!(%plan, "applied");
        }
    }

    fn failed(&mut self, error: &Failure) -> Duration {
        if error.is_refusal() {
            warn!(%error, "cannot be served, waiting for news of it");
            self.report(State::Refused { error: error.to_string() });
            return self.pace.ended(Ended::Refused, Instant::now());
        }
        let wait = self.pace.ended(Ended::Failed, Instant::now());
        let failures = self.pace.failures();
        if failures == 1 {
            warn!(%error, retry_in = ?wait, "cannot reconcile");
        } else {
            debug!(%error, failures, retry_in = ?wait, "cannot reconcile");
        }
        self.report(State::Pending { failures, error: error.to_string() });
        wait
    }

    fn lose(&mut self, place: &mut Option<Place>) {
        self.shared.places.lost(&self.name);
        // Nobody listens there for now.
        self.memory.forget_programmed();
        *place = None;
    }

    fn gone(&self) -> Option<Duration> {
        self.shared.places.lost(&self.name);
        self.report(State::Gone);
        None
    }

    fn report(&self, state: State) {
        // The receiver is gone only while the agent shuts down.
        let _ = self.shared.reports.send(Report { target: self.name.clone(), took: self.started.elapsed(), state });
    }
}

async fn holds_address(netns: &Netns, query: &PodQuery) -> Result<bool, Failure> {
    let (netns, addresses) = (netns.clone(), query.addresses);
    let held = tokio::task::spawn_blocking(move || addresses_in(&netns)).await??;
    Ok(addresses.iter().any(|address| held.contains(&address)))
}

/// Everything that can go wrong in a round.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
    #[error(transparent)]
    Netns(#[from] crate::netns::NetnsError),
    #[error("cannot listen for kernel notifications: {0}")]
    Monitor(#[from] crate::kernel::KernelError),
    #[error("worker thread: {0}")]
    Join(#[from] tokio::task::JoinError),
    #[error("shutting down")]
    Closed(#[from] tokio::sync::AcquireError),
}

impl Failure {
    fn is_refusal(&self) -> bool {
        match self {
            Failure::Find(error) => error.is_refusal(),
            Failure::Reconcile(error) => error.is_refusal(),
            _ => false,
        }
    }
}
