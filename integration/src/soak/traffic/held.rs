//! One long-lived connection after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Leave, Orders, Shared};
use crate::traffic::{Connection, Failure};

/// How often a busy connection is asked.
const BUSY: Duration = Duration::from_millis(250);
/// How often one that is nearly idle is asked.
const IDLE: Duration = Duration::from_secs(4);
/// How much longer every eighth connection's questions and answers are, which then take several packets of full size.
const LONG: usize = 4000;
/// Before the next attempt when no connection could be had.
const RETRY: Duration = Duration::from_millis(250);

/// Keeps the slot filled, for ever.
pub(super) async fn hold(shared: Arc<Shared>, slot: usize) {
    let interval = if slot.is_multiple_of(2) { BUSY } else { IDLE };
    // Not all at once.
    let share = u32::try_from(slot % 64).unwrap_or_default();
    sleep(BUSY / 64 * share).await;
    loop {
        match open(&shared, slot).await {
            Some(mut held) => held.keep(&shared, interval).await,
            None => sleep(RETRY).await,
        }
    }
}

/// A connection that has been answered at least once.
struct Held {
    slot: usize,
    connection: Connection,
    ends: (SocketAddr, SocketAddr),
    pod: String,
    orders: watch::Receiver<Orders>,
    /// When its client leaves, once the pod has been told to end.
    leaves: Option<Instant>,
}

/// Opens one, which counts as a new connection.
async fn open(shared: &Shared, slot: usize) -> Option<Held> {
    let mut orders = shared.orders.subscribe();
    let round = orders.borrow_and_update().round;
    let ends = shared.ends(slot);
    let attempt = shared.ledger().tries();
    let opened = first_answer(shared, ends).await;
    let (connection, pod) = match opened {
        Ok(opened) => {
            shared.ledger().tried(attempt, ends, Ok(()));
            opened
        }
        Err(failure) => {
            shared.ledger().tried(attempt, ends, Err(failure));
            return None;
        }
    };
    shared.ledger().opened(slot, &pod, round);
    // Orders may have come in the meantime.
    orders.mark_changed();
    Some(Held { slot, connection, ends, pod, orders, leaves: None })
}

pub(super) async fn first_answer(
    shared: &Shared,
    (source, target): (SocketAddr, SocketAddr),
) -> Result<(Connection, String), Failure> {
    let mut connection = Connection::open(&shared.spec.client, source, target).await?;
    let pod = connection.probe().await?.pod;
    Ok((connection, pod))
}

impl Held {
    /// Asks again and again, until it breaks or its client leaves.
    async fn keep(&mut self, shared: &Shared, interval: Duration) {
        let mut round = 0;
        let mut next = Instant::now() + interval;
        loop {
            tokio::select! {
                biased;
                () = leaving(self.leaves) => return shared.ledger().left(self.slot),
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let orders = self.orders.borrow_and_update().clone();
                    if let Some(leave) = orders.ending.get(&self.pod) {
                        self.leaves = self.leaves.or_else(|| self.time_to_leave(*leave));
                    }
                    if orders.round == round {
                        continue;
                    }
                    round = orders.round;
                }
                () = sleep_until(next) => {}
            }
            if !self.ask(shared, round).await {
                return;
            }
            next = Instant::now() + interval;
        }
    }

    /// One question; false when the connection is broken.
    async fn ask(&mut self, shared: &Shared, round: u64) -> bool {
        let asked = Instant::now();
        let padding = if self.slot.is_multiple_of(8) { LONG } else { 0 };
        let failure = match self.connection.ask(padding).await {
            Ok(answer) if answer.pod == self.pod => {
                shared.ledger().answered(self.slot, round, asked.elapsed(), self.ends.0);
                return true;
            }
            Ok(answer) => Failure { step: "answer", cause: format!("from pod {}", answer.pod) },
            Err(failure) => failure,
        };
        shared.ledger().broke(self.slot, self.ends, asked.elapsed(), failure);
        false
    }

    fn time_to_leave(&self, leave: Leave) -> Option<Instant> {
        // Neither in step with who is busy nor with who goes where.
        let share = u32::try_from(self.slot / 8 % 10).unwrap_or_default();
        let stays = leave.some_stay && share == 0;
        (!stays).then(|| Instant::now() + leave.within / 10 * share)
    }
}

/// Returns at that time, or never.
async fn leaving(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
