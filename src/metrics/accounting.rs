//! What the kernel has counted, in all namespaces of this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use crate::kernel::{self, KernelError};
use crate::netns::Netns;
use crate::plan::nft::{Counter, received, sent};

/// Namespaces that are read at the same time.
const PARALLEL: usize = 4;
/// For each namespace; Prometheus waits 10 s for everything.
const PATIENCE: Duration = Duration::from_secs(3);

/// What one namespace has counted, by VIP.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets to the VIP: on a node those that it took in for a pod, in a pod those that came out of the tunnel.
    pub received: BTreeMap<IpAddr, Counter>,
    /// Packets from the VIP; in pods only.
    pub sent: BTreeMap<IpAddr, Counter>,
}

/// The counts of every namespace that could be read, by target, and the names of the others.
pub async fn read(places: Vec<(String, Netns)>) -> (BTreeMap<String, Counts>, Vec<String>) {
    let reads = places.into_iter().map(|(target, netns)| async move { (target, read_one(netns).await) });
    let all: Vec<(String, Option<Counts>)> = stream::iter(reads).buffer_unordered(PARALLEL).collect().await;
    let mut counts = BTreeMap::new();
    let mut unread = Vec::new();
    for (target, read) in all {
        match read {
            Some(read) => drop(counts.insert(target, read)),
            None => unread.push(target),
        }
    }
    (counts, unread)
}

async fn read_one(netns: Netns) -> Option<Counts> {
    let work = spawn_blocking(move || netns.run(kernel::our_table).map_err(KernelError::from).and_then(|table| table));
    match timeout(PATIENCE, work).await {
        Ok(Ok(Ok(None))) => Some(Counts::default()),
        Ok(Ok(Ok(Some(table)))) => Some(Counts { received: received(&table), sent: sent(&table) }),
        Ok(Ok(Err(error))) => {
            debug!(%error, "cannot read counters");
            None
        }
        Ok(Err(_)) | Err(_) => None,
    }
}
