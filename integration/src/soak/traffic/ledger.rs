//! What became of the traffic, row by row.
//!
//! A connection is *broken* when it ended otherwise than its client wanted. Whose fault that is depends on its pod: one that
//! has ended takes its connections along, whatever lies between; one that lives on must keep them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::series::Series;
use crate::traffic::Failure;

/// A question that had been unanswered for so long when its pod ended was lost before, and not by the pod.
const LOST_BEFORE: Duration = Duration::from_secs(3);
/// From when on an answer is worth a line.
const LATE: Duration = Duration::from_millis(300);

/// A connection that broke, or never came to be.
#[derive(Debug, Clone)]
pub struct Break {
    /// When it was noticed, since the row began.
    pub at: Duration,
    /// How long the question, or the connection, had been waited for.
    pub waited: Duration,
    /// The client's end.
    pub source: SocketAddr,
    /// The VIP.
    pub target: SocketAddr,
    /// The pod at the other end, if that is known.
    pub pod: Option<String>,
    /// What happened.
    pub failure: Failure,
    /// Whether the pod lived on.
    pub pod_lives: bool,
    /// Whether its connections were given up by rule.
    pub given_up: bool,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, waited) = (self.at.as_secs_f64(), self.waited.as_secs_f64());
        let (pod, lives) = (self.pod.as_deref().unwrap_or("none"), if self.pod_lives { "" } else { " (ended)" });
        let (source, vip) = (self.source, self.target.ip());
        write!(f, "+{at:.3} s {source} to {vip}, pod {pod}{lives}, after {waited:.3} s: {}", self.failure)
    }
}

/// When a fault was over for new connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Over {
    pub tcp: Option<Duration>,
    pub udp: Option<Duration>,
}

/// What one row counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// How long it took.
    pub took: Duration,
    /// Long-lived connections that were open at some time.
    pub held: usize,
    /// Those that broke.
    pub broken: Vec<Break>,
    /// Those that their client closed because the pod was told to end.
    pub left: usize,
    /// New connections that were tried.
    pub tried: usize,
    /// Those that never came to be, or were not answered.
    pub failed: Vec<Break>,
    /// The longest time from the beginning of a new connection to its first answer.
    pub slowest: Duration,
    /// From the fault to the first of twenty new connections in a row that are answered: TCP and UDP. `None`: they never came.
    pub over: Over,
    /// For how long new connections may wait, because nodes wait for the word of a controller that is dead.
    pub waits: Duration,
    /// The longest time that a question on an open connection went unanswered, and whose it was.
    pub gap: (Duration, String),
    /// Datagrams that were sent.
    pub datagrams: usize,
    /// Those that were not answered.
    pub lost: usize,
    /// How often another pod answered a UDP flow although the one before lived.
    pub moved: usize,
}

impl Counts {
    /// Connections that broke although their pod lived: what must not be.
    pub fn broken_alive(&self) -> impl Iterator<Item = &Break> {
        self.broken.iter().filter(|one| one.pod_lives && !one.given_up)
    }

    /// The same of pods that were the third of a bucket's former owners, and named as such.
    pub fn given_up(&self) -> impl Iterator<Item = &Break> {
        self.broken.iter().filter(|one| one.pod_lives && one.given_up)
    }

    /// Marks what broke on these pods.
    pub fn mark_given_up(&mut self, pods: &BTreeSet<String>) {
        for one in &mut self.broken {
            one.given_up = one.pod.as_ref().is_some_and(|pod| pods.contains(pod));
        }
    }
}

/// An open connection.
#[derive(Debug)]
struct Open {
    pod: String,
    since: Instant,
    /// The last round of questions that it has answered.
    round: u64,
}

/// All that is known of the traffic.
#[derive(Debug)]
pub(super) struct Ledger {
    began: Instant,
    counts: Counts,
    open: BTreeMap<usize, Open>,
    /// Pods that end or have ended: when that began, and when it was over. One of the same name may have begun since.
    ended: BTreeMap<String, (Instant, Option<Instant>)>,
    /// Attempts at new connections that are under way.
    trying: BTreeMap<u64, Instant>,
    attempts: u64,
    opened: usize,
    /// What this row did to the system, and when. Without any it is the row's beginning.
    faults: Vec<Instant>,
    /// New connections at a steady pace.
    pub new_tcp: Series,
    /// New UDP flows at a steady pace.
    pub new_udp: Series,
}

impl Ledger {
    pub fn new() -> Ledger {
        Ledger {
            began: Instant::now(),
            counts: Counts::default(),
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            trying: BTreeMap::new(),
            attempts: 0,
            opened: 0,
            faults: Vec::new(),
            new_tcp: Series::default(),
            new_udp: Series::default(),
        }
    }

    /// Ends the row and begins the next.
    pub fn take(&mut self) -> Counts {
        let next = Counts { held: self.open.len(), ..Counts::default() };
        let mut counts = std::mem::replace(&mut self.counts, next);
        counts.over = self.over();
        self.faults.clear();
        counts.took = std::mem::replace(&mut self.began, Instant::now()).elapsed();
        counts
    }

    /// Something is done to the system now, after which new connections have to be answered again.
    pub fn fault_now(&mut self) {
        self.faults.push(Instant::now());
    }

    /// Only now the API says what has happened: what was before is not measured.
    pub fn told_now(&mut self) {
        self.faults.clear();
        self.fault_now();
    }

    /// Nodes wait for that long for the word of a controller that this row has killed.
    pub fn may_wait(&mut self, time: Duration) {
        self.counts.waits = time;
    }

    /// When the row's faults were over; of several the one that took longest.
    pub fn over(&self) -> Over {
        let faults = if self.faults.is_empty() { std::slice::from_ref(&self.began) } else { &self.faults };
        let longest = |series: &Series| {
            let each = faults.iter().map(|fault| series.over_after(*fault)).collect::<Option<Vec<_>>>();
            each.and_then(|each| each.into_iter().max())
        };
        Over { tcp: longest(&self.new_tcp), udp: longest(&self.new_udp) }
    }

    /// How many long-lived connections there have ever been.
    pub fn opened_ever(&self) -> usize {
        self.opened
    }

    /// How many are open with this pod.
    pub fn on_pod(&self, pod: &str) -> usize {
        self.open.values().filter(|open| open.pod == pod).count()
    }

    /// The connections that have not answered in this round, out of so many.
    pub fn silent(&self, round: u64, connections: usize) -> usize {
        connections.saturating_sub(self.open.values().filter(|open| open.round >= round).count())
    }

    /// Whether attempts from before this moment are still under way.
    pub fn tries_since_before(&self, moment: Instant) -> bool {
        self.trying.values().any(|began| *began < moment)
    }

    pub fn pod_ends(&mut self, pod: &str) {
        self.ended.insert(pod.to_owned(), (Instant::now(), None));
    }

    pub fn pod_has_ended(&mut self, pod: &str) {
        if let Some((_, over)) = self.ended.get_mut(pod) {
            *over = Some(Instant::now());
        }
    }

    /// A new connection is tried.
    pub fn tries(&mut self) -> u64 {
        self.counts.tried += 1;
        self.attempts += 1;
        self.trying.insert(self.attempts, Instant::now());
        self.attempts
    }

    /// An attempt has ended.
    pub fn tried(&mut self, attempt: u64, ends: (SocketAddr, SocketAddr), outcome: Result<(), Failure>) {
        let waited = self.trying.remove(&attempt).map(|began| began.elapsed()).unwrap_or_default();
        match outcome {
            Ok(()) => self.counts.slowest = self.counts.slowest.max(waited),
            Err(failure) => {
                let one = self.one(ends, None, waited, failure);
                tracing::info!(%one, "failed");
                self.counts.failed.push(one);
            }
        }
    }

    pub fn opened(&mut self, slot: usize, pod: &str, round: u64) {
        self.open.insert(slot, Open { pod: pod.to_owned(), since: Instant::now(), round });
        self.counts.held += 1;
        self.opened += 1;
    }

    pub fn answered(&mut self, slot: usize, round: u64, waited: Duration, source: SocketAddr) {
        let Some(open) = self.open.get_mut(&slot) else { return };
        open.round = round;
        if waited >= LATE {
            let pod = &open.pod;
            tracing::info!(%source, pod, ?waited, "late answer");
        }
        if waited > self.counts.gap.0 {
            self.counts.gap = (waited, format!("{source} with {}", open.pod));
        }
    }

    pub fn broke(&mut self, slot: usize, ends: (SocketAddr, SocketAddr), waited: Duration, failure: Failure) {
        let open = self.open.remove(&slot);
        let one = self.one(ends, open, waited, failure);
        tracing::info!(%one, "broken");
        self.counts.broken.push(one);
    }

    pub fn left(&mut self, slot: usize) {
        self.open.remove(&slot);
        self.counts.left += 1;
    }

    /// A datagram was answered by `pod`, or by nobody; the one before by `previous`.
    pub fn datagram(&mut self, pod: Option<&str>, previous: Option<&str>) {
        self.counts.datagrams += 1;
        let Some(pod) = pod else {
            self.counts.lost += 1;
            return;
        };
        let moved = previous.is_some_and(|previous| previous != pod && !self.ended.contains_key(previous));
        self.counts.moved += usize::from(moved);
    }

    fn one(&self, ends: (SocketAddr, SocketAddr), open: Option<Open>, waited: Duration, failure: Failure) -> Break {
        let asked = Instant::now().checked_sub(waited).unwrap_or(self.began);
        // A pod takes connections until it is gone.
        let of_that_life = |open: &Open| {
            let (began, over) = self.ended.get(&open.pod)?;
            over.is_none_or(|over| open.since < over).then_some(*began)
        };
        let pod_lives = open.as_ref().and_then(of_that_life).is_none_or(|began| asked + LOST_BEFORE < began);
        Break {
            at: self.began.elapsed(),
            waited,
            source: ends.0,
            target: ends.1,
            pod: open.map(|open| open.pod),
            failure,
            pod_lives,
            given_up: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (SocketAddr, SocketAddr) {
        ("198.51.100.2:20000".parse().unwrap(), "192.0.2.10:12345".parse().unwrap())
    }

    fn reset() -> Failure {
        Failure { step: "receive", cause: "reset".to_owned() }
    }

    #[test]
    fn a_connection_that_goes_with_its_pod_is_told_apart() {
        let mut ledger = Ledger::new();
        ledger.opened(0, "a", 1);
        ledger.opened(1, "b", 1);
        ledger.pod_ends("a");
        ledger.broke(0, ends(), Duration::ZERO, reset());
        ledger.broke(1, ends(), Duration::ZERO, reset());
        let counts = ledger.take();
        let alive: Vec<_> = counts.broken_alive().map(|one| one.pod.as_deref()).collect();
        assert_eq!((counts.held, counts.broken.len(), alive), (2, 2, vec![Some("b")]));
    }

    #[test]
    fn a_question_that_was_lost_long_before_the_pod_ended_is_not_the_pods_fault() {
        let mut ledger = Ledger::new();
        ledger.opened(0, "a", 1);
        ledger.pod_ends("a");
        ledger.broke(0, ends(), Duration::from_secs(15), reset());
        assert_eq!(ledger.take().broken_alive().count(), 1);
    }

    #[test]
    fn a_connection_with_a_pods_next_life_does_not_go_with_its_last_one() {
        let mut ledger = Ledger::new();
        ledger.opened(0, "a", 1);
        ledger.pod_ends("a");
        ledger.opened(2, "a", 1);
        ledger.pod_has_ended("a");
        ledger.opened(1, "a", 1);
        ledger.broke(2, ends(), Duration::ZERO, reset());
        ledger.broke(0, ends(), Duration::ZERO, reset());
        ledger.broke(1, ends(), Duration::ZERO, reset());
        let lives: Vec<bool> = ledger.take().broken.iter().map(|one| one.pod_lives).collect();
        assert_eq!(lives, [false, false, true], "the first was made while the pod ended");
    }

    #[test]
    fn a_row_begins_with_the_connections_that_are_open() {
        let mut ledger = Ledger::new();
        ledger.opened(0, "a", 1);
        ledger.opened(1, "a", 1);
        ledger.left(1);
        assert_eq!(ledger.take().held, 2);
        assert_eq!((ledger.take().held, ledger.on_pod("a"), ledger.opened_ever()), (1, 1, 2));
        assert_eq!((ledger.silent(1, 2), ledger.silent(2, 2)), (1, 2));
    }

    #[test]
    fn a_udp_flow_moves_only_away_from_a_pod_that_lives() {
        let mut ledger = Ledger::new();
        ledger.datagram(Some("a"), None);
        ledger.datagram(Some("b"), Some("a"));
        ledger.datagram(None, Some("b"));
        ledger.pod_ends("b");
        ledger.datagram(Some("c"), Some("b"));
        let counts = ledger.take();
        assert_eq!((counts.datagrams, counts.lost, counts.moved), (4, 1, 1));
    }
}
