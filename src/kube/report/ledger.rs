//! Which problem has to be published when. Pure: the time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::event::fnv1a;
use crate::model::Problem;

/// An Event whose problem lasts is observed again after this time. The API keeps Events for an hour after their last
/// change.
const REFRESH: Duration = Duration::from_secs(30 * 60);

/// Nodes refresh at different times within this, so that the first does it for the others.
const REFRESH_SPREAD: Duration = Duration::from_secs(15 * 60);

/// An Event is not changed more often than this.
const MIN_BUMP: Duration = Duration::from_secs(2 * 60);

/// The same for a problem that came back.
const RETURN_SPREAD: Duration = Duration::from_secs(3);

/// A problem that is resolved is remembered as long as its Event can live, to know it when it comes back.
const REMEMBER: Duration = Duration::from_secs(60 * 60);

/// First wait after a failure; doubles.
const RETRY: Duration = Duration::from_secs(2);

/// Longest wait after a failure.
const RETRY_LIMIT: Duration = Duration::from_secs(5 * 60);

/// One moment on both clocks: the first for waits, the second to compare with what an Event says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: Timestamp,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: Instant::now(), wall: Timestamp::now() }
    }
}

/// What has to be done for a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) problem: Problem,
    /// Its Event must have been observed since; `None`: it must exist.
    pub(super) observed_since: Option<Timestamp>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The Event is there and was observed at this time.
    Observed(Timestamp),
    /// It was changed at this time, too short ago to change it again.
    TooSoon(Timestamp),
    /// It did not work.
    Failed,
}

/// What an Event must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// That it exists.
    Exists,
    /// That the problem came back at this time.
    Since(Timestamp),
    /// That the problem lasts.
    Fresh,
}

#[derive(Debug)]
struct Entry {
    /// What the Event must show; set when the problem appears or comes back and when it was published.
    want: Want,
    /// When to see to it; `None` while the problem is resolved.
    due: Option<Instant>,
    /// When the problem was resolved last.
    resolved: Option<Instant>,
    /// Attempts that failed since the last success.
    failures: u32,
}

/// Every problem that holds, and those that held a short while ago.
#[derive(Debug)]
pub(super) struct Ledger {
    entries: BTreeMap<Problem, Entry>,
    /// Differs from node to node.
    salt: String,
}

impl Ledger {
    pub(super) fn new(node_name: &str) -> Self {
        Self { entries: BTreeMap::new(), salt: node_name.to_owned() }
    }

    /// Takes the problems that hold now.
    pub(super) fn update(&mut self, problems: &BTreeSet<Problem>, now: Now) {
        for (problem, entry) in &mut self.entries {
            if entry.due.is_some() && !problems.contains(problem) {
                entry.due = None;
                entry.resolved = Some(now.instant);
            }
        }
        self.entries.retain(|_, e| e.due.is_some() || e.resolved.is_some_and(|at| now.instant < at + REMEMBER));
        for problem in problems {
            let spread = self.spread(problem, RETURN_SPREAD);
            match self.entries.get_mut(problem) {
                None => {
                    let entry = Entry { want: Want::Exists, due: Some(now.instant), resolved: None, failures: 0 };
                    self.entries.insert(problem.clone(), entry);
                }
                Some(entry) if entry.due.is_none() => {
                    entry.want = Want::Since(now.wall);
                    entry.due = Some(now.instant + spread);
                }
                Some(_) => {}
            }
        }
    }

    /// When the next task is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    /// The task that is due for longest.
    pub(super) fn next(&self, now: Now) -> Option<Task> {
        let due = self.entries.iter().filter_map(|(problem, entry)| Some((entry.due?, problem, entry.want)));
        let (_, problem, want) = due.filter(|(due, ..)| *due <= now.instant).min_by_key(|(due, ..)| *due)?;
        let observed_since = match want {
            Want::Exists => None,
            Want::Since(time) => Some(time),
            Want::Fresh => Some(stale(now)),
        };
        Some(Task { problem: problem.clone(), observed_since })
    }

    /// Takes what came of a task.
    pub(super) fn done(&mut self, problem: &Problem, outcome: Outcome, now: Now) {
        let spread = self.spread(problem, REFRESH_SPREAD);
        let Some(entry) = self.entries.get_mut(problem).filter(|entry| entry.due.is_some()) else { return };
        let wait = match outcome {
            Outcome::Observed(at) => {
                entry.want = Want::Fresh;
                entry.failures = 0;
                REFRESH.saturating_sub(age(at, now)) + spread
            }
            Outcome::TooSoon(at) => MIN_BUMP.saturating_sub(age(at, now)),
            Outcome::Failed => {
                entry.failures = entry.failures.saturating_add(1);
                RETRY.saturating_mul(1 << (entry.failures - 1).min(16)).min(RETRY_LIMIT)
            }
        };
        entry.due = Some(now.instant + wait);
    }

    /// Between nothing and `limit`, another time for each node and problem.
    fn spread(&self, problem: &Problem, limit: Duration) -> Duration {
        let hash = fnv1a([&self.salt, problem.subject.identity(), problem.note.as_str()]);
        limit.mul_f64(f64::from(u16::try_from(hash % 1000).unwrap_or_default()) / 1000.0)
    }
}

/// An Event that was observed before this is to be observed again.
pub(super) fn stale(now: Now) -> Timestamp {
    now.wall.saturating_sub(SignedDuration::try_from(REFRESH).unwrap_or_default()).unwrap_or(Timestamp::MIN)
}

/// Whether an Event was changed too short ago to change it again.
pub(super) fn is_too_soon(observed: Timestamp, now: Now) -> bool {
    age(observed, now) < MIN_BUMP
}

/// Nothing for what lies in the future: clocks differ.
fn age(at: Timestamp, now: Now) -> Duration {
    Duration::try_from(now.wall.duration_since(at)).unwrap_or_default()
}
