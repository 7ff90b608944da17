//! The local socket by which the agent of a node is asked: it writes its [`NodeStatus`] as JSON to whoever
//! connects, and closes.
//!
//! The socket is a name in the node's network namespace (`unix(7)`, abstract), not a file: it needs no directory that agent,
//! host and `kubectl exec` share, ends with the agent, and every node of a lab has its own. Anybody in the namespace could
//! connect to such a name, so only root and the agent's own user are answered. Anybody could bind it as well: see [`ask`](super::ask).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::NodeStatus;
use super::ask::holder;

/// The name, behind a zero byte.
pub(super) const NAME: &str = "kube-service-tunnel/agent";
/// Between two tries to take the name: the agent before us may still have it.
const RETRY: Duration = Duration::from_secs(2);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who ask at the same time; more wait.
const PARALLEL: usize = 4;

/// A question to the agent.
pub type Question = oneshot::Sender<NodeStatus>;

/// Answers until `shutdown`; `agent` is who knows.
pub async fn serve(agent: mpsc::Sender<Question>, shutdown: CancellationToken) {
    let Some(listener) = shutdown.run_until_cancelled(listen()).await else { return };
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = answers.join_next() => {}
            accepted = listener.accept(), if answers.len() < PARALLEL => match accepted {
                Ok((stream, _)) => drop(answers.spawn(answer(stream, agent.clone()))),
                Err(error) => {
                    debug!(%error, "cannot accept on the local socket");
                    sleep(RETRY).await;
                }
            },
        }
    }
}

async fn listen() -> UnixListener {
    let bind = || {
        let listener = StdListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?)?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    };
    let mut told = false;
    loop {
        match bind() {
            Ok(listener) => return listener,
            Err(error) if !told => {
                let holder = spawn_blocking(|| holder().to_string()).await.unwrap_or_default();
                warn!(%error, holder, "cannot answer `tunnel-router status` and `trace`, trying again: does another agent run here?");
            }
            Err(_) => {}
        }
        told = true;
        sleep(RETRY).await;
    }
}

async fn answer(mut stream: UnixStream, agent: mpsc::Sender<Question>) {
    let may_ask = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
    if !may_ask {
        return;
    }
    let answer = async {
        let (question, status) = oneshot::channel();
        agent.send(question).await.ok()?;
        let json = serde_json::to_vec(&status.await.ok()?).ok()?;
        stream.write_all(&json).await.ok()
    };
    if timeout(PATIENCE, answer).await.ok().flatten().is_none() {
        debug!("somebody asked for the status and went away, or the agent is stopping");
    }
}
