//! A row as numbers: what `--json` prints, a line each, and what several runs are joined from.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::traffic::Counts;

/// What a run was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Run {
    /// Encapsulation, or what takes its place.
    pub system: String,
    /// `short` or `long`.
    pub pace: String,
    pub seed: u64,
    pub connections: usize,
    pub flows: usize,
    /// Between two BFD packets.
    pub bfd_ms: u64,
}

/// One row, with the run that it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub fault: String,
    #[serde(flatten)]
    pub run: Run,
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// The columns. Times are in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Numbers {
    pub took_ms: u64,
    pub held: usize,
    pub broken: usize,
    pub broken_pod_alive: usize,
    pub given_up: usize,
    pub tried: usize,
    pub failed: usize,
    pub slowest_ms: u64,
    /// From the fault to the first of twenty new TCP connections in a row that are answered; null: they never came.
    pub tcp_over_ms: Option<u64>,
    /// The same of new UDP flows.
    pub udp_over_ms: Option<u64>,
    /// For how long both may wait, because nodes wait for the word of a controller that is dead.
    #[serde(default)]
    pub waits_ms: u64,
    pub gap_ms: u64,
    pub datagrams: usize,
    pub lost: usize,
    pub moved: usize,
    pub stolen_percent: u64,
}

impl Numbers {
    /// Those of one row, and what the hypervisor took of the CPU time meanwhile, in percent.
    pub fn new(counts: &Counts, stolen_percent: u64) -> Numbers {
        Numbers {
            took_ms: ms(counts.took),
            held: counts.held,
            broken: counts.broken.len(),
            broken_pod_alive: counts.broken_alive().count(),
            given_up: counts.given_up().count(),
            tried: counts.tried,
            failed: counts.failed.len(),
            slowest_ms: ms(counts.slowest),
            tcp_over_ms: counts.over.tcp.map(ms),
            udp_over_ms: counts.over.udp.map(ms),
            waits_ms: ms(counts.waits),
            gap_ms: ms(counts.gap.0),
            datagrams: counts.datagrams,
            lost: counts.lost,
            moved: counts.moved,
            stolen_percent,
        }
    }

    /// Nothing broke whose pod lived, and new connections were answered in the end.
    pub fn passes(&self) -> bool {
        self.broken_pod_alive == 0 && self.tcp_over_ms.is_some() && self.udp_over_ms.is_some()
    }

    /// Says it if it took longer than `limit` milliseconds, less what nodes wait and the stolen time, until 20 new connections in a row were
    /// answered.
    pub fn late(&self, limit: u64) -> Option<String> {
        let allowed = limit + self.waits_ms + self.took_ms * self.stolen_percent / 100;
        let never = self.tcp_over_ms.is_none() || self.udp_over_ms.is_none();
        let over = self.tcp_over_ms.max(self.udp_over_ms).unwrap_or_default();
        (never || over > allowed).then(|| match never {
            true => "20 new connections in a row were never answered".to_owned(),
            false => format!("20 new connections in a row were answered after {over} ms, {allowed} ms are allowed"),
        })
    }

    /// Counts of both, and the longer of two times.
    pub fn joined(&self, other: &Numbers) -> Numbers {
        let longer = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.max(b));
        Numbers {
            took_ms: self.took_ms.max(other.took_ms),
            held: self.held + other.held,
            broken: self.broken + other.broken,
            broken_pod_alive: self.broken_pod_alive + other.broken_pod_alive,
            given_up: self.given_up + other.given_up,
            tried: self.tried + other.tried,
            failed: self.failed + other.failed,
            slowest_ms: self.slowest_ms.max(other.slowest_ms),
            tcp_over_ms: longer(self.tcp_over_ms, other.tcp_over_ms),
            udp_over_ms: longer(self.udp_over_ms, other.udp_over_ms),
            waits_ms: self.waits_ms.max(other.waits_ms),
            gap_ms: self.gap_ms.max(other.gap_ms),
            datagrams: self.datagrams + other.datagrams,
            lost: self.lost + other.lost,
            moved: self.moved + other.moved,
            stolen_percent: self.stolen_percent.max(other.stolen_percent),
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_connections_may_be_late_by_as_much_time_as_was_stolen() {
        let row = |tcp, udp, stolen_percent| Numbers {
            took_ms: 10_000,
            tcp_over_ms: tcp,
            udp_over_ms: udp,
            stolen_percent,
            ..Numbers::default()
        };
        assert_eq!([row(Some(1000), Some(3), 0), row(Some(1500), Some(3), 5)].map(|row| row.late(1000)), [None, None]);
        assert!(row(Some(3), Some(1501), 5).late(1000).is_some_and(|text| text.contains("after 1501 ms, 1500 ms")));
        let waits = Numbers { waits_ms: 5000, ..row(Some(6000), Some(3), 0) };
        assert!(waits.late(1000).is_none() && waits.late(999).is_some());
        assert!(row(Some(3), None, 50).late(1000).is_some_and(|text| text.contains("never")));
    }
}
