//! UDP flows: the same two ends for ever, one datagram and its answer at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::series::IN_TIME;
use super::{FIRST_PORT as FIRST_NEW_PORT, Shared};
use crate::traffic::Answer;

/// How often a flow sends.
const EVERY: Duration = Duration::from_millis(500);
/// First source port.
const FIRST_PORT: u16 = 15_000;

pub(super) async fn flow(shared: Arc<Shared>, n: usize) {
    let target = shared.spec.targets[n % shared.spec.targets.len()];
    let source = shared.source(n, FIRST_PORT, target);
    let socket = match shared.spec.client.netns().udp_socket(source) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%source, %error, "no socket for a UDP flow");
            return;
        }
    };
    sleep(EVERY / 64 * u32::try_from(n % 64).unwrap_or_default()).await;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pod: Option<String> = None;
    for count in 0_u64.. {
        ticks.tick().await;
        let question = format!("datagram {n} {count}");
        let answer = timeout(IN_TIME, ask(&socket, target, &question)).await.ok().flatten();
        shared.ledger().datagram(answer.as_ref().map(|answer| answer.pod.as_str()), pod.as_deref());
        pod = answer.map(|answer| answer.pod).or(pod);
    }
}

/// One datagram from a port that no flow had before, and whether it is answered.
pub(super) async fn first_datagram(shared: &Shared, n: usize) -> bool {
    let target = shared.spec.targets[n % shared.spec.targets.len()];
    let source = shared.source(n, FIRST_NEW_PORT, target);
    let Ok(socket) = shared.spec.client.netns().udp_socket(source) else { return false };
    timeout(IN_TIME, ask(&socket, target, &format!("new flow {n}"))).await.ok().flatten().is_some()
}

async fn ask(socket: &UdpSocket, target: SocketAddr, question: &str) -> Option<Answer> {
    socket.send_to(question.as_bytes(), target).await.ok()?;
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.ok()?;
        // Others are late answers.
        if let Ok(answer) = Answer::parse(buffer.get(..length).unwrap_or_default(), question, from)
            && from == target
        {
            return Some(answer);
        }
    }
}
