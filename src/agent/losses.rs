//! Counters of this node and its pods, looked at again and again: what comes and gets no further is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::goals::pod_target;
use super::run::send;
use crate::kernel::{self, KernelError};
use crate::model::{Problem, Subject};
use crate::netns::Netns;
use crate::plan::Settings;
use crate::plan::losses::{Judged, Losses, Sample, problems};
use crate::plan::nft::{ObservedTable, node_counts, pod_counts};
use crate::plan::surroundings::HookedChain;
use crate::reconcile::Places;
use crate::reconcile::target::NODE;

/// Before the first look: an agent that starts has better things to do.
const FIRST: Duration = Duration::from_secs(30);
/// Between two looks, at least.
const INTERVAL: Duration = Duration::from_secs(5);
/// A look takes this part of the time, unless that would be longer than [`LONGEST`].
const SHARE: u32 = 100;
/// Between two looks, at most.
const LONGEST: Duration = Duration::from_secs(120);

/// Asks for what is to be looked at.
pub(super) type Ask = oneshot::Sender<Option<Watched>>;

/// What is looked at.
#[derive(Debug)]
pub(super) struct Watched {
    /// What can be judged.
    pub judged: Judged,
    /// This node.
    pub node: Subject,
}

/// Looks, and hands out what users have to know, until `shutdown`.
pub(super) async fn watch_losses(
    asks: mpsc::Sender<Ask>,
    places: Places,
    settings: Arc<Settings>,
    told: watch::Sender<BTreeSet<Problem>>,
    shutdown: CancellationToken,
) {
    let mut losses = Losses::default();
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let (ask, watched) = oneshot::channel();
        if asks.send(ask).await.is_err() {
            return;
        }
        let Ok(watched) = watched.await else { return };
        let began = Instant::now();
        if let Some(Watched { judged, node }) = watched {
            let (places, settings) = (places.clone(), settings.clone());
            let look = move || {
                let found = look(&mut losses, &judged, &places.all().into_iter().collect());
                let told = found.map(|chains| problems(&losses.believed(), &chains, &judged, &node, &settings));
                (losses, told)
            };
            let Ok((back, found)) = tokio::task::spawn_blocking(look).await else { return };
            losses = back;
            if let Some(found) = found {
                send(&told, found);
            }
        }
        pause = (began.elapsed() * SHARE).clamp(INTERVAL, LONGEST);
    }
}

/// One look. Says which chains of others there are, if anything is believed to be lost; `None` if it could not look.
fn look(losses: &mut Losses, judged: &Judged, places: &BTreeMap<String, Netns>) -> Option<Vec<HookedChain>> {
    let node = node_counts(&table(places.get(NODE)?)?);
    let read = |uid: &str| Some((uid.to_owned(), pod_counts(&table(places.get(&pod_target(uid))?)?)));
    let pods = losses.asked(&node, judged).into_iter().filter_map(read).collect();
    losses.look(Sample { node, pods }, judged);
    if losses.believed().is_empty() {
        return Some(Vec::new());
    }
    let chains = places.get(NODE)?.run(kernel::hooked).map_err(KernelError::from).flatten();
    chains.inspect_err(|error| debug!(%error, "cannot list the chains of others")).ok()
}

fn table(netns: &Netns) -> Option<ObservedTable> {
    let table = netns.run(kernel::our_table).map_err(KernelError::from).flatten();
    table.inspect_err(|error| debug!(%error, "cannot read counters")).ok()?
}
