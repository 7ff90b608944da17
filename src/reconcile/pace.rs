//! When a namespace is looked at next, and how closely. Nothing here waits, or touches a namespace.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use crate::kernel::Change;
use crate::plan::programmed::Doubts;

/// Between two looks while an endpoint cannot be reached, and until the next one beside the rounds when one was disturbed.
const LATE: Duration = Duration::from_secs(2);

/// So many looks beside the rounds may be disturbed by them before a round has to look.
const DISTURBED_AT_MOST: u32 = 3;

/// A namespace that somebody else keeps changing back must not keep a core busy.
const CONTESTED: Duration = Duration::from_secs(5);
const CONTESTED_AFTER: u32 = 8;

/// How closely a round looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// The kernel is read.
    Whole,
    /// Nothing has changed but the goal, and perhaps what there are doubts about.
    AtGoal(Doubts),
}

impl Look {
    /// Nothing has changed but the goal.
    fn at_goal() -> Look {
        Look::AtGoal(Doubts::default())
    }

    /// Nothing is known to have changed, but routes that were not there may be by now.
    fn at_routes() -> Look {
        Look::AtGoal(Doubts { routes: true, ..Doubts::default() })
    }

    /// What the kernel has told of.
    fn at(changes: BTreeSet<Change>) -> Look {
        let veth = |change| if let Change::Veth(name) = change { Some(name) } else { None };
        let veths = changes.into_iter().map(veth).collect::<Option<_>>();
        veths.map_or(Look::Whole, |veths| Look::AtGoal(Doubts { veths, routes: false }))
    }
}

/// What ends a wait.
#[derive(Debug)]
pub(super) enum Wake {
    /// There is another order; `elsewhere`: for another site.
    Ordered { elsewhere: bool },
    /// The kernel has told of changes.
    Heard(BTreeSet<Change>),
    /// Notifications have stopped.
    Deaf,
    /// Everything has been looked at beside the rounds, and is as it is known to be, or not; a look that failed has found nothing.
    Looked { is_confirmed: bool },
    /// Nothing has happened.
    Time,
    /// Nobody gives orders any more; what is in the namespace is somebody else's now.
    Released,
    /// The agent ends.
    Shutdown,
}

/// What comes after a wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A round that looks so closely.
    Round(Look),
    /// The same, and everything is looked at beside the rounds.
    Beside(Look),
    /// A whole round, for what is known may be wrong.
    Doubt,
    /// The same, and the namespace is searched for again: there may be another one at the same site.
    Search,
    /// The namespace is taken up again, as if it had never been found.
    TakeUp,
    /// Nothing: the target has ended.
    End {
        /// Nobody asks for it any more.
        is_gone: bool,
    },
}

/// What a round has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The namespace is as it must be.
    InSync {
        /// What that took.
        writes: usize,
        /// An endpoint cannot be reached.
        is_late: bool,
    },
    /// It is not.
    Failed,
    /// It cannot be.
    Refused,
}

/// The pace of one target.
#[derive(Debug)]
pub(super) struct Pace {
    resync: Duration,
    /// When everything is read from the kernel again, and what has failed is tried again.
    resync_at: Instant,
    backoff: Backoff,
    /// Rounds in a row that had to write although the goal had not changed.
    rewrites: u32,
    /// Everything is being looked at beside the rounds; whether they have written something since that began, which it may or may not have
    /// seen.
    beside: Option<bool>,
    /// Looks in a row that were disturbed so.
    disturbed: u32,
}

impl Pace {
    /// The first round is to come. `resync` is the time between two looks at everything when nothing happens.
    pub(super) fn new(resync: Duration, now: Instant) -> Self {
        Pace { resync, resync_at: now + resync, backoff: Backoff::default(), rewrites: 0, beside: None, disturbed: 0 }
    }

    /// What comes now. `can_look_beside` says whether everything that is there is known, so that a look can be compared with it.
    pub(super) fn next(&mut self, wake: Wake, can_look_beside: bool, now: Instant) -> Next {
        match wake {
            Wake::Shutdown => Next::End { is_gone: false },
            Wake::Released => Next::End { is_gone: true },
            Wake::Ordered { elsewhere } => {
                self.rewrites = 0;
                if elsewhere {
                    // What failed at another site says nothing of this one.
                    self.backoff.succeeded();
                }
                Next::Round(Look::at_goal())
            }
            Wake::Deaf => Next::TakeUp,
            Wake::Heard(changes) => Next::Round(Look::at(changes)),
            Wake::Looked { is_confirmed } => self.looked(is_confirmed, now),
            Wake::Time => self.by_time(can_look_beside, now),
        }
    }

    /// Nothing has happened for a while. Only a resync asks for what notifications would have told: beside the rounds where that is enough.
    fn by_time(&mut self, can_look_beside: bool, now: Instant) -> Next {
        if now < self.resync_at {
            return Next::Round(Look::at_routes());
        }
        self.resync_at = now + self.resync;
        if self.beside.is_some() {
            return Next::Round(Look::at_routes());
        }
        if can_look_beside && self.disturbed < DISTURBED_AT_MOST {
            self.beside = Some(false);
            return Next::Beside(Look::at_routes());
        }
        self.disturbed = 0;
        Next::Search
    }

    /// Where everything is not as it is known to be, a round has to look.
    fn looked(&mut self, is_confirmed: bool, now: Instant) -> Next {
        let is_disturbed = self.beside.take().unwrap_or_default();
        self.disturbed = if is_disturbed && !is_confirmed { self.disturbed + 1 } else { 0 };
        if is_confirmed {
            return Next::Round(Look::at_goal());
        }
        if is_disturbed {
            self.resync_at = now + LATE;
            return Next::Round(Look::at_goal());
        }
        Next::Doubt
    }

    /// A round has written something, or failed, which may have been in the middle of it.
    pub(super) fn disturb(&mut self) {
        if let Some(disturbed) = &mut self.beside {
            *disturbed = true;
        }
    }

    /// A round has ended: how long to wait if nothing happens.
    pub(super) fn ended(&mut self, ended: Ended, now: Instant) -> Duration {
        match ended {
            Ended::InSync { writes, is_late } => {
                self.backoff.succeeded();
                self.rewrites = if writes == 0 { 0 } else { self.rewrites + 1 };
                let left = self.resync_at.saturating_duration_since(now);
                // Its route may be late, and the other nodes send its packets to it.
                if is_late { left.min(LATE) } else { left }
            }
            Ended::Failed => self.backoff.failed(),
            Ended::Refused => self.resync,
        }
    }

    /// For how long not to heed what the kernel tells, because somebody keeps changing what is set up.
    pub(super) fn deaf_for(&self) -> Option<Duration> {
        (self.rewrites >= CONTESTED_AFTER).then_some(CONTESTED)
    }

    /// Rounds in a row that had to write although nobody had asked for it.
    pub(super) fn rewrites(&self) -> u32 {
        self.rewrites
    }

    /// Rounds that failed in a row.
    pub(super) fn failures(&self) -> u32 {
        self.backoff.failures()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESYNC: Duration = Duration::from_secs(30);
    const IN_SYNC: Ended = Ended::InSync { writes: 0, is_late: false };
    const WRITES: Ended = Ended::InSync { writes: 1, is_late: false };

    fn pace() -> (Pace, Instant) {
        let now = Instant::now();
        (Pace::new(RESYNC, now), now)
    }

    fn heard() -> Wake {
        Wake::Heard([Change::Link].into())
    }

    #[test]
    fn who_keeps_changing_what_is_set_up_is_heard_only_every_few_seconds_until_he_stops_or_the_goal_changes() {
        let (mut pace, now) = pace();
        for round in 1..=CONTESTED_AFTER {
            assert_eq!(pace.next(heard(), true, now), Next::Round(Look::Whole));
            assert_eq!(pace.deaf_for(), None, "round {round}");
            pace.ended(WRITES, now);
        }
        assert_eq!(pace.deaf_for(), Some(CONTESTED));
        pace.ended(WRITES, now);
        assert_eq!(pace.deaf_for(), Some(CONTESTED), "still");
        pace.ended(IN_SYNC, now);
        assert_eq!(pace.deaf_for(), None, "he has stopped");
        for _ in 0..CONTESTED_AFTER {
            pace.ended(WRITES, now);
        }
        pace.next(Wake::Ordered { elsewhere: false }, true, now);
        assert_eq!(pace.deaf_for(), None, "orders are no quarrel");
    }

    #[test]
    fn a_monitor_that_is_lost_has_the_namespace_taken_up_again() {
        let (mut pace, now) = pace();
        assert_eq!(pace.next(Wake::Deaf, true, now), Next::TakeUp);
    }

    #[test]
    fn a_target_that_nobody_asks_for_ends_as_gone_and_one_whose_agent_ends_does_not() {
        let (mut pace, now) = pace();
        assert_eq!(pace.next(Wake::Released, true, now), Next::End { is_gone: true });
        assert_eq!(pace.next(Wake::Shutdown, true, now), Next::End { is_gone: false });
    }

    #[test]
    fn failures_wait_longer_and_longer_and_begin_anew_at_another_site() {
        let (mut pace, now) = pace();
        let waits: Vec<u128> = (0..3).map(|_| pace.ended(Ended::Failed, now).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800]);
        pace.next(Wake::Ordered { elsewhere: false }, false, now);
        assert_eq!(pace.failures(), 3, "the same site");
        pace.next(Wake::Ordered { elsewhere: true }, false, now);
        assert_eq!(pace.ended(Ended::Failed, now), Backoff::FIRST);
        assert_eq!(pace.ended(Ended::Refused, now), RESYNC);
    }

    #[test]
    fn only_veths_of_other_pods_leave_the_rest_as_it_is() {
        let (mut pace, now) = pace();
        let veths: BTreeSet<String> = ["veth1".to_owned()].into();
        let look = Look::AtGoal(Doubts { veths, routes: false });
        assert_eq!(pace.next(Wake::Heard([Change::Veth("veth1".into())].into()), true, now), Next::Round(look));
        let both = [Change::Veth("veth1".into()), Change::Link].into();
        assert_eq!(pace.next(Wake::Heard(both), true, now), Next::Round(Look::Whole));
    }

    #[test]
    fn an_endpoint_that_cannot_be_reached_is_asked_for_again_soon_and_everything_at_the_resync() {
        let (mut pace, now) = pace();
        assert_eq!(pace.ended(Ended::InSync { writes: 0, is_late: true }, now), LATE);
        assert_eq!(pace.next(Wake::Time, true, now + LATE), Next::Round(Look::at_routes()));
        assert_eq!(pace.ended(IN_SYNC, now + LATE), RESYNC - LATE);
        assert_eq!(pace.next(Wake::Time, false, now + RESYNC), Next::Search, "not everything is known");
        assert_eq!(pace.next(Wake::Time, true, now + 2 * RESYNC), Next::Beside(Look::at_routes()));
    }

    #[test]
    fn a_look_beside_the_rounds_that_finds_something_else_has_a_round_look() {
        let (mut pace, now) = pace();
        let at = |n| now + n * RESYNC;
        pace.next(Wake::Time, true, at(1));
        assert_eq!(pace.next(Wake::Time, true, at(2)), Next::Round(Look::at_routes()), "one at a time");
        assert_eq!(pace.next(Wake::Looked { is_confirmed: true }, true, at(2)), Next::Round(Look::at_goal()));
        pace.next(Wake::Time, true, at(3));
        assert_eq!(pace.next(Wake::Looked { is_confirmed: false }, true, at(3)), Next::Doubt);
    }

    #[test]
    fn a_look_that_the_rounds_have_disturbed_is_repeated_a_few_times() {
        let (mut pace, mut now) = pace();
        now += RESYNC;
        for _ in 0..DISTURBED_AT_MOST {
            assert!(matches!(pace.next(Wake::Time, true, now), Next::Beside(_)));
            pace.disturb();
            assert_eq!(pace.next(Wake::Looked { is_confirmed: false }, true, now), Next::Round(Look::at_goal()));
            assert_eq!(pace.ended(IN_SYNC, now), LATE);
            now += LATE;
        }
        assert_eq!(pace.next(Wake::Time, true, now), Next::Search);
        now += RESYNC;
        assert!(matches!(pace.next(Wake::Time, true, now), Next::Beside(_)), "and it begins anew");
    }
}
