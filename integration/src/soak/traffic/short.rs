//! New connections and new UDP flows, one exchange each: what does not fail shows that the door is open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Shared;
use super::held::first_answer;
use super::udp::first_datagram;

/// How often one is begun.
const EVERY: Duration = Duration::from_millis(50);

/// Opens connections at a steady pace, whatever becomes of those before.
pub(super) async fn trickle(shared: Arc<Shared>) {
    let mut attempts = JoinSet::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 0.. {
        ticks.tick().await;
        attempts.spawn(exchange(Arc::clone(&shared), n));
        attempts.spawn(datagram(Arc::clone(&shared), n));
        while attempts.try_join_next().is_some() {}
    }
}

async fn exchange(shared: Arc<Shared>, n: usize) {
    let ends = shared.ends(n);
    let attempt = shared.ledger().tries();
    let number = shared.ledger().new_tcp.begins(Instant::now());
    let outcome = first_answer(&shared, ends).await.map(drop);
    let mut ledger = shared.ledger();
    ledger.new_tcp.ends(number, Instant::now(), outcome.is_ok());
    ledger.tried(attempt, ends, outcome);
}

async fn datagram(shared: Arc<Shared>, n: usize) {
    let number = shared.ledger().new_udp.begins(Instant::now());
    let answered = first_datagram(&shared, n).await;
    shared.ledger().new_udp.ends(number, Instant::now(), answered);
}
