//! What the kernel has counted, in all namespaces of this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::debug;

use crate::kernel::{self, KernelError};
use crate::netns::Netns;
use crate::plan::nft::{Counter, received, sent};

/// Namespaces that are read at the same time.
const PARALLEL: usize = 4;
/// For everything; Prometheus waits 10 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one namespace has counted, by VIP.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets to the VIP: on a node those that it took in for a pod, in a pod those that came out of the tunnel.
    pub received: BTreeMap<IpAddr, Counter>,
    /// Packets from the VIP; in pods only.
    pub sent: BTreeMap<IpAddr, Counter>,
}

/// Reads counters, a few namespaces at a time: what hangs keeps its place, so that it cannot use up the threads that
/// reconciling needs.
#[derive(Debug, Clone)]
pub struct Reader(Arc<Semaphore>);

impl Default for Reader {
    fn default() -> Self {
        Reader(Arc::new(Semaphore::new(PARALLEL)))
    }
}

impl Reader {
    /// The counts of every namespace that could be read in time, by target, and the names of the others.
    pub async fn read(&self, places: Vec<(String, Netns)>) -> (BTreeMap<String, Counts>, Vec<String>) {
        let targets: Vec<String> = places.iter().map(|(target, _)| target.clone()).collect();
        let reads = places.into_iter().map(|(target, netns)| async move { Some((target, self.one(netns).await?)) });
        let in_time = stream::iter(reads).buffer_unordered(PARALLEL).take_until(sleep(PATIENCE));
        let counts: BTreeMap<String, Counts> = in_time.filter_map(|read| async { read }).collect().await;
        let unread = targets.into_iter().filter(|target| !counts.contains_key(target)).collect();
        (counts, unread)
    }

    async fn one(&self, netns: Netns) -> Option<Counts> {
        let permit = self.0.clone().acquire_owned().await.ok()?;
        let work = move || {
            let _permit = permit;
            netns.run(kernel::our_table).map_err(KernelError::from).and_then(|table| table)
        };
        match spawn_blocking(work).await.ok()? {
            Ok(None) => Some(Counts::default()),
            Ok(Some(table)) => Some(Counts { received: received(&table), sent: sent(&table) }),
            Err(error) => {
                debug!(%error, "cannot read counters");
                None
            }
        }
    }
}
