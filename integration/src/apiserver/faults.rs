//! Ways to make the API server misbehave, each as real clusters do.
//!
//! Requests can be refused or delayed, watches ended, reset or cut in the middle of a line, history forgotten, and the
//! whole server taken off the network and brought back on the same address. Everything acts from within the process and
//! at once; nothing depends on time.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::error::ApiError;
use super::journal::RequestInfo;
use super::store::{State, Store};

type Predicate = Box<dyn Fn(&RequestInfo) -> bool + Send + Sync>;

struct Rule {
    matches: Predicate,
    error: ApiError,
    /// How many more requests it refuses; absent for all.
    left: Option<usize>,
}

/// Counters that open watches compare with what they were when the watch was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Signals {
    /// End the stream as after `timeoutSeconds`.
    pub end: u64,
    /// Reset the connection.
    pub reset: u64,
    /// Send half a line, then reset.
    pub cut: u64,
    /// Send ERROR 410, then end.
    pub expire: u64,
    /// Send a bookmark.
    pub bookmark: u64,
}

/// Hears the faults that are injected after it was made. A request gets its ears before it is entered into the journal, so
/// that a test that has seen the request can rely on its being hit.
#[derive(Debug)]
pub(super) struct Ears {
    receiver: watch::Receiver<Signals>,
    seen: Signals,
}

impl Ears {
    /// Waits for a fault; returns the counters before and now, or nothing when the server is gone.
    pub async fn next(&mut self) -> Option<(Signals, Signals)> {
        self.receiver.changed().await.ok()?;
        let now = *self.receiver.borrow_and_update();
        Some((std::mem::replace(&mut self.seen, now), now))
    }
}

/// The fault injector of one server.
pub struct Faults {
    store: Arc<Store>,
    rules: Mutex<Vec<Rule>>,
    delay: watch::Sender<Duration>,
    signals: watch::Sender<Signals>,
    up: watch::Sender<bool>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Faults").field("signals", &self.signals).field("up", &self.up).finish_non_exhaustive()
    }
}

impl Faults {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            rules: Mutex::default(),
            delay: watch::Sender::new(Duration::ZERO),
            signals: watch::Sender::new(Signals::default()),
            up: watch::Sender::new(true),
        }
    }

    /// Refuses the next `count` requests that match.
    pub fn fail_next(
        &self,
        count: usize,
        matches: impl Fn(&RequestInfo) -> bool + Send + Sync + 'static,
        error: ApiError,
    ) {
        self.rule(Rule { matches: Box::new(matches), error, left: Some(count) });
    }

    /// Refuses every request that matches, until [`Faults::heal`].
    pub fn fail_all(&self, matches: impl Fn(&RequestInfo) -> bool + Send + Sync + 'static, error: ApiError) {
        self.rule(Rule { matches: Box::new(matches), error, left: None });
    }

    /// Ends all refusals and delays, and brings the server back if it is down.
    pub fn heal(&self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.delay.send_replace(Duration::ZERO);
        self.come_up();
    }

    /// Answers every request this much later. A shorter delay also applies to requests that are waiting.
    pub fn delay_all(&self, delay: Duration) {
        self.delay.send_replace(delay);
    }

    /// Ends all open watches cleanly, as the server does after a time-out.
    pub fn end_watches(&self) {
        self.signals.send_modify(|signals| signals.end += 1);
    }

    /// Resets the connections of all open watches.
    pub fn drop_watches(&self) {
        self.signals.send_modify(|signals| signals.reset += 1);
    }

    /// Sends half a JSON line on every open watch, then resets its connection.
    pub fn cut_watches(&self) {
        self.signals.send_modify(|signals| signals.cut += 1);
    }

    /// Sends a bookmark on every open watch that allows them.
    pub fn bookmark_watches(&self) {
        self.signals.send_modify(|signals| signals.bookmark += 1);
    }

    /// Forgets all history: every version handed out so far is too old to resume from. Open watches go on.
    pub fn compact(&self) {
        self.store.write(State::compact);
    }

    /// Forgets all history and ends every open watch with ERROR 410.
    pub fn expire_watches(&self) {
        // Signal first: a watch that is idle must not slip past the compaction unharmed.
        self.signals.send_modify(|signals| signals.expire += 1);
        self.compact();
    }

    /// Takes the server off the network: open connections are reset and new ones refused.
    pub fn go_down(&self) {
        self.up.send_replace(false);
    }

    /// Listens again on the same address.
    pub fn come_up(&self) {
        self.up.send_replace(true);
    }

    /// From now on, no fault is missed.
    pub(super) fn listen(&self) -> Ears {
        let mut receiver = self.signals.subscribe();
        let seen = *receiver.borrow_and_update();
        Ears { receiver, seen }
    }

    pub(super) fn up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Waits as long as answers are delayed.
    pub(super) async fn pause(&self) {
        let began = tokio::time::Instant::now();
        let mut delay = self.delay.subscribe();
        loop {
            let until = began + *delay.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                changed = delay.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The refusal that awaits this request.
    pub(super) fn refusal(&self, info: &RequestInfo) -> Option<ApiError> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let rule = rules.iter_mut().find(|rule| rule.left != Some(0) && (rule.matches)(info))?;
        rule.left = rule.left.map(|left| left - 1);
        Some(rule.error.clone())
    }

    fn rule(&self, rule: Rule) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }
}
