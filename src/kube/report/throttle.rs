//! A token bucket: a burst at first, then a steady trickle.

use std::time::{Duration, Instant};

/// How often something may be done.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Time per token.
    every: Duration,
    /// Tokens that can be saved up.
    burst: u32,
    /// When the bucket was, or will be, empty.
    empty_at: Instant,
}

impl Throttle {
    /// A full bucket.
    pub(super) fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self { every, burst, empty_at: now.checked_sub(every * burst).unwrap_or(now) }
    }

    /// When the next token is there.
    pub(super) fn ready_at(&self) -> Instant {
        self.empty_at + self.every
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full_since = now.checked_sub(self.every * self.burst).unwrap_or(self.empty_at);
        self.empty_at = self.empty_at.max(full_since);
        if self.ready_at() > now {
            return false;
        }
        self.empty_at += self.every;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_a_trickle_and_idling_saves_no_more_than_a_burst() {
        let start = Instant::now() + Duration::from_secs(3600);
        let second = Duration::from_secs(1);
        let mut throttle = Throttle::new(3, second, start);
        let take = |throttle: &mut Throttle, now| (0..10).filter(|_| throttle.take(now)).count();
        assert_eq!(take(&mut throttle, start), 3);
        assert_eq!(throttle.ready_at(), start + second);
        assert_eq!(take(&mut throttle, start + second), 1);
        assert_eq!(take(&mut throttle, start + 3 * second), 2);
        assert_eq!(take(&mut throttle, start + 100 * second), 3);
    }
}
