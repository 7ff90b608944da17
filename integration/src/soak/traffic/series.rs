//! New connections in the order of their beginning, and when a fault was over for them.
//!
//! A fault is over with the first of twenty new connections in a row that are answered. An answer counts within
//! [`IN_TIME`]: TCP sends its first packet again after that, and UDP never.

use std::time::{Duration, Instant};

/// How many in a row.
const ROW: usize = 20;
/// Within which time a new connection is answered whose first packet was not lost.
pub(super) const IN_TIME: Duration = Duration::from_secs(1);

/// New connections of one protocol.
#[derive(Debug, Default)]
pub(super) struct Series {
    attempts: Vec<Attempt>,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    began: Instant,
    /// Unknown while it is under way.
    answered: Option<bool>,
}

impl Series {
    /// One more begins; returns its number.
    pub fn begins(&mut self, began: Instant) -> usize {
        self.attempts.push(Attempt { began, answered: None });
        self.attempts.len() - 1
    }

    /// One ends, answered or not.
    pub fn ends(&mut self, number: usize, ended: Instant, answered: bool) {
        if let Some(attempt) = self.attempts.get_mut(number) {
            attempt.answered = Some(answered && ended.duration_since(attempt.began) < IN_TIME);
        }
    }

    /// The time from `fault` to the beginning of the first of twenty in a row; `None` if there are not so many.
    pub fn over_after(&self, fault: Instant) -> Option<Duration> {
        let first = self.attempts.partition_point(|attempt| attempt.began < fault);
        let after = self.attempts.get(first..)?;
        let row = after.windows(ROW).find(|row| row.iter().all(|attempt| attempt.answered == Some(true)))?;
        row.first().map(|attempt| attempt.began.duration_since(fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(50);

    /// Attempts at a steady pace, from a moment on; answered or not, or under way.
    fn series(from: Instant, outcomes: &[Option<bool>]) -> Series {
        let mut series = Series::default();
        for (n, outcome) in (0..).zip(outcomes) {
            let began = from + n * EVERY;
            let number = series.begins(began);
            if let Some(answered) = outcome {
                series.ends(number, began + EVERY, *answered);
            }
        }
        series
    }

    #[test]
    fn a_fault_is_over_with_the_first_of_twenty_in_a_row() {
        let start = Instant::now();
        let outcomes = [vec![Some(true); 19], vec![Some(false)], vec![Some(true); 20]].concat();
        assert_eq!(series(start, &outcomes).over_after(start), Some(20 * EVERY));
    }

    #[test]
    fn nineteen_in_a_row_are_not_enough() {
        let start = Instant::now();
        for in_between in [Some(false), None] {
            let outcomes = [vec![Some(true); 19], vec![in_between], vec![Some(true); 19]].concat();
            assert_eq!(series(start, &outcomes).over_after(start), None);
        }
    }

    #[test]
    fn attempts_from_before_the_fault_do_not_count() {
        let start = Instant::now();
        let all = series(start, &[Some(true); 30]);
        let fault = start + EVERY / 2;
        assert_eq!(all.over_after(fault), Some(EVERY / 2));
        assert_eq!(all.over_after(start + 11 * EVERY), None);
    }

    #[test]
    fn an_answer_to_a_packet_that_was_sent_again_does_not_count() {
        let start = Instant::now();
        let mut series = series(start, &[Some(true); 20]);
        series.ends(19, start + 19 * EVERY + IN_TIME, true);
        assert_eq!(series.over_after(start), None);
    }
}
