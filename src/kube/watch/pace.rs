//! How patient a watch is.

use std::time::Duration;

/// All waits of a watch. Tests are less patient.
#[derive(Debug, Clone, Copy)]
pub(in crate::kube) struct Pace {
    /// For one page of a list, or the headers of a watch. The client itself waits for ever.
    pub(in crate::kube) answer: Duration,
    /// How long the server should keep a watch open; it ends it then.
    pub(in crate::kube) watch: Duration,
    /// How long a watch may bring nothing, not even a bookmark (the server sends one a minute), before the connection
    /// counts as dead. A node that is cut off without a FIN would otherwise believe its old state for five minutes.
    pub(in crate::kube) quiet: Duration,
    /// A watch that lived this long counts as working.
    pub(in crate::kube) settled: Duration,
    /// Wait after the first failure; doubles.
    pub(in crate::kube) retry: Duration,
    /// Longest wait after a failure: news that are late by more than a few seconds cost connections.
    pub(in crate::kube) retry_limit: Duration,
    /// Longest wait after a watch that was granted and ended at once, without news.
    pub(in crate::kube) useless_limit: Duration,
    /// Longest wait while the server says that it has too much to do (429).
    pub(in crate::kube) busy_limit: Duration,
    /// Longest wait before the next look for a kind that the server does not have, or does not show.
    pub(in crate::kube) absent_limit: Duration,
    /// Objects per page of a list.
    pub(in crate::kube) page: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(60),
            watch: Duration::from_secs(290),
            quiet: Duration::from_secs(100),
            settled: Duration::from_secs(2),
            retry: Duration::from_millis(800),
            retry_limit: Duration::from_secs(5),
            useless_limit: Duration::from_secs(2),
            busy_limit: Duration::from_secs(30),
            absent_limit: Duration::from_secs(300),
            page: 500,
        }
    }
}
