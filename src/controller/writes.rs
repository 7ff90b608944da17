//! When a ConfigMap may be written: one write of it at a time, at most one a second, and none that rests on what is known to be
//! outdated.
//!
//! ```text
//!            begin            finished: yes             the watch shows another version, or AWAITED is over
//!  (nothing) ─────► under way ─────────────► awaited ─────────────────────────────────────────────► seen
//!                     │  │ finished: yes, and the watch was faster                                   ▲
//!                     │  └───────────────────────────────────────────────────────────────────────────┘
//!                     │ finished: no
//!                     └─────────────► failed: not again within a second, however urgent
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two writes of one ConfigMap.
const PACE: Duration = Duration::from_secs(1);
/// For how long a write that succeeded may be unseen. A watch that is later than that is on its way to being opened anew.
const AWAITED: Duration = Duration::from_secs(5);

/// Whether something may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// Now.
    Now,
    /// Not before this moment.
    At(Instant),
    /// Not before the write that is under way has finished.
    WhenFinished,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    UnderWay { is_shown: bool },
    Awaited { until: Instant },
    Seen,
    Failed,
}

#[derive(Debug, Clone)]
struct Write {
    /// The version that it rests on.
    base: Option<String>,
    /// When it began, or failed.
    at: Instant,
    state: State,
}

/// The last write of each ConfigMap, by its name.
#[derive(Debug, Clone, Default)]
pub(super) struct Writes(BTreeMap<String, Write>);

impl Writes {
    /// A write begins that rests on this version.
    pub(super) fn begin(&mut self, name: &str, base: Option<&str>, now: Instant) {
        let write = Write { base: base.map(str::to_owned), at: now, state: State::UnderWay { is_shown: false } };
        self.0.insert(name.to_owned(), write);
    }

    /// A write has finished. Returns when another one may follow, if the watch brings nothing before.
    pub(super) fn finished(&mut self, name: &str, succeeded: bool, now: Instant) -> Instant {
        let Some(write) = self.0.get_mut(name) else { return now };
        match (succeeded, &write.state) {
            (true, State::UnderWay { is_shown: true }) => {
                write.state = State::Seen;
                now
            }
            (true, _) => {
                write.state = State::Awaited { until: now + AWAITED };
                now + AWAITED
            }
            (false, _) => {
                (write.state, write.at) = (State::Failed, now);
                now + PACE
            }
        }
    }

    /// Looks which versions the watch shows now.
    pub(super) fn look<'a>(&mut self, shown: impl Fn(&str) -> Option<&'a str>, now: Instant) {
        for (name, write) in &mut self.0 {
            let is_another = shown(name) != write.base.as_deref();
            match &mut write.state {
                State::UnderWay { is_shown } => *is_shown = is_another,
                State::Awaited { until } if is_another || *until <= now => write.state = State::Seen,
                State::Awaited { .. } | State::Seen | State::Failed => {}
            }
        }
        let is_over = |write: &Write| matches!(write.state, State::Seen | State::Failed) && write.at + PACE <= now;
        self.0.retain(|_, write| !is_over(write));
    }

    /// Whether a ConfigMap may be written now.
    pub(super) fn may(&self, name: &str, urgent: bool, now: Instant) -> May {
        let Some(write) = self.0.get(name) else { return May::Now };
        match write.state {
            State::UnderWay { .. } => May::WhenFinished,
            State::Awaited { until } => May::At(until),
            State::Seen if urgent => May::Now,
            State::Seen | State::Failed if write.at + PACE <= now => May::Now,
            State::Seen | State::Failed => May::At(write.at + PACE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// One write that rests on version 1, begun at `now`.
    fn begun(now: Instant) -> Writes {
        let mut writes = Writes::default();
        assert_eq!(writes.may("map", false, now), May::Now);
        writes.begin("map", Some("1"), now);
        writes
    }

    #[test]
    fn one_write_at_a_time_and_one_a_second_unless_it_is_urgent() {
        let (start, later) = (Instant::now(), Instant::now() + SECOND / 10);
        let mut writes = begun(start);
        assert_eq!(writes.may("map", true, later), May::WhenFinished);
        assert_eq!(writes.may("another", false, later), May::Now);
        assert_eq!(writes.finished("map", true, later), later + AWAITED);
        writes.look(|_| Some("2"), later);
        assert_eq!(writes.may("map", false, later), May::At(start + SECOND));
        assert_eq!(writes.may("map", true, later), May::Now);
        writes.look(|_| Some("2"), start + SECOND);
        assert_eq!(writes.may("map", false, start + SECOND), May::Now);
    }

    #[test]
    fn nothing_rests_on_a_version_that_was_replaced_and_is_still_shown() {
        let start = Instant::now();
        let mut writes = begun(start);
        writes.finished("map", true, start);
        writes.look(|_| Some("1"), start + 2 * SECOND);
        assert_eq!(writes.may("map", true, start + 2 * SECOND), May::At(start + AWAITED));
        writes.look(|_| Some("1"), start + AWAITED);
        assert_eq!(writes.may("map", false, start + AWAITED), May::Now);
    }

    #[test]
    fn a_watch_that_is_faster_than_the_answer_is_enough() {
        let start = Instant::now();
        let mut writes = begun(start);
        writes.look(|_| Some("2"), start);
        assert_eq!(writes.may("map", true, start), May::WhenFinished);
        assert_eq!(writes.finished("map", true, start), start);
        assert_eq!(writes.may("map", true, start), May::Now);
    }

    #[test]
    fn what_failed_is_not_tried_again_within_a_second_however_urgent() {
        let (start, late) = (Instant::now(), Instant::now() + 10 * SECOND);
        let mut writes = begun(start);
        assert_eq!(writes.finished("map", false, late), late + SECOND);
        writes.look(|_| Some("1"), late);
        assert_eq!(writes.may("map", true, late), May::At(late + SECOND));
        writes.look(|_| Some("1"), late + SECOND);
        assert_eq!(writes.may("map", true, late + SECOND), May::Now);
    }
}
