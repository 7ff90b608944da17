//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubles from attempt to attempt.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    first: Duration,
    limit: Duration,
    /// Attempts that failed since the last success.
    failures: u32,
}

impl Backoff {
    /// Starts at `first` and never waits longer than `limit`.
    pub(super) fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, failures: 0 }
    }

    /// Notes a failure and says how long to wait. Up to half of it is random: all nodes lose the API at the same
    /// moment, and must not come back at the same moment.
    pub(super) fn failed(&mut self) -> Duration {
        self.failed_within(self.limit)
    }

    /// The same with another limit for this time.
    pub(super) fn failed_within(&mut self, limit: Duration) -> Duration {
        let full = self.first.saturating_mul(1 << self.failures.min(16)).min(limit);
        self.failures = self.failures.saturating_add(1);
        // A fresh `RandomState` is the standard library's only source of randomness, and good enough to spread.
        let random = RandomState::new().hash_one(self.failures) % 1000;
        full.mul_f64(1.0 - 0.5 * f64::from(u16::try_from(random).unwrap_or_default()) / 1000.0)
    }

    /// Notes a success.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_limit_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(SECOND, 5 * SECOND);
        for full in [1, 2, 4, 5, 5] {
            let wait = backoff.failed();
            assert!(wait > full * SECOND / 2 - SECOND / 100 && wait <= full * SECOND, "{wait:?} of {full} s");
        }
        backoff.succeeded();
        assert!(backoff.failed() <= SECOND);
    }

    #[test]
    fn a_very_long_outage_overflows_nothing() {
        let mut backoff = Backoff { failures: u32::MAX, ..Backoff::new(SECOND, 30 * SECOND) };
        assert!(backoff.failed() <= 30 * SECOND);
    }
}
