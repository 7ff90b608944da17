//! How long to wait before the next try.

use std::time::Duration;

/// Doubles from [`Backoff::FIRST`] to [`Backoff::MAX`]; a success starts over.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Wait after the first failure.
    pub const FIRST: Duration = Duration::from_millis(200);
    /// Longest wait.
    pub const MAX: Duration = Duration::from_secs(30);

    /// Notes a failure and returns the time to wait.
    pub fn failed(&mut self) -> Duration {
        let wait = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::MAX);
        self.failures += 1;
        wait
    }

    /// Notes a success.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..10).map(|_| backoff.failed().as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        backoff.succeeded();
        assert_eq!(backoff.failed(), Backoff::FIRST);
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::default();
        assert!((0..1000).map(|_| backoff.failed()).all(|w| w <= Backoff::MAX));
    }
}
