//! Many searches at once, and one scan of the processes for all of them.
//!
//! ```text
//!  search 1 ─┐                    ┌─ its processes → its namespace
//!  search 2 ─┼─ [GATHER] ─ scan ──┼─ …
//!  search 3 ─┘                    └─ …
//! ```
//!
//! A scan serves every search that began before it, and no other: a search never misses a process that ran when it began.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep};

use super::{FindError, Netns, PodProcesses, PodQuery, ProcFinder};

/// Searches that follow each other this closely share a scan.
const GATHER: Duration = Duration::from_millis(10);

type Scan = dyn Fn() -> Result<PodProcesses, FindError> + Send + Sync;

/// Finds the namespaces of pods of this node.
pub struct PodSearch {
    finder: ProcFinder,
    scan: Arc<Scan>,
    /// The last scan, and when it began.
    last: Mutex<Option<(Instant, Arc<PodProcesses>)>>,
}

impl fmt::Debug for PodSearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodSearch").field("finder", &self.finder).finish_non_exhaustive()
    }
}

impl PodSearch {
    /// Searches with this finder.
    pub fn new(finder: ProcFinder) -> Self {
        let scanner = finder.clone();
        Self::with_scan(finder, Arc::new(move || scanner.scan()))
    }

    fn with_scan(finder: ProcFinder, scan: Arc<Scan>) -> Self {
        PodSearch { finder, scan, last: Mutex::new(None) }
    }

    /// The namespace of a pod, verified as by [`ProcFinder::find_among`].
    ///
    /// # Errors
    /// The outer one only when the runtime shuts down.
    pub async fn find(&self, pod: PodQuery) -> Result<Result<Netns, FindError>, JoinError> {
        let processes = match self.processes().await? {
            Ok(processes) => processes,
            Err(error) => return Ok(Err(error)),
        };
        let finder = self.finder.clone();
        spawn_blocking(move || finder.find_among(&processes, &pod)).await
    }

    async fn processes(&self) -> Result<Result<Arc<PodProcesses>, FindError>, JoinError> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((began, processes)) = &*last
            && *began >= asked
        {
            return Ok(Ok(processes.clone()));
        }
        sleep(GATHER).await;
        let began = Instant::now();
        let scan = self.scan.clone();
        Ok(spawn_blocking(move || scan()).await?.map(|processes| {
            let processes = Arc::new(processes);
            *last = Some((began, processes.clone()));
            processes
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn counting() -> (Arc<PodSearch>, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let scans = count.clone();
        let scan = Arc::new(move || {
            scans.fetch_add(1, Ordering::Relaxed);
            Ok(PodProcesses::default())
        });
        (Arc::new(PodSearch::with_scan(ProcFinder::new("/nonexistent"), scan)), count)
    }

    fn pod(n: usize) -> PodQuery {
        PodQuery::new(format!("uid-{n}"), Ipv4Addr::new(10, 244, 1, 2))
    }

    #[tokio::test]
    async fn one_scan_serves_two_hundred_searches() {
        let (search, scans) = counting();
        let found = futures::future::join_all((0..200).map(|n| search.find(pod(n)))).await;
        assert!(found.iter().all(|one| matches!(one, Ok(Err(FindError::NoProcess { .. })))));
        assert_eq!(scans.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_search_is_not_served_by_a_scan_that_began_before_it() {
        let (search, scans) = counting();
        for n in 1..=3 {
            assert!(search.find(pod(n)).await.unwrap().is_err());
            assert_eq!(scans.load(Ordering::Relaxed), n);
        }
    }
}
