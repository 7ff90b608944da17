//! The local socket by which the agent of a node is asked: it writes its [`NodeStatus`] as JSON to whoever
//! connects, and closes.
//!
//! The socket is a name in the node's network namespace (`unix(7)`, abstract), not a file: it needs no directory that agent,
//! host and `kubectl exec` share, ends with the agent, and every node of a lab has its own. Anybody in the namespace could
//! connect to such a name, so only root and the agent's own user are answered.

use std::io::{self, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::NodeStatus;

/// The name, behind a zero byte.
const NAME: &str = "kube-service-tunnel/agent";
/// Between two tries to take the name: the agent before us may still have it.
const RETRY: Duration = Duration::from_secs(2);
/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who ask at the same time; more wait.
const PARALLEL: usize = 4;

/// A question to the agent.
pub type Question = oneshot::Sender<NodeStatus>;

fn name() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(NAME)
}

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
        let listener = StdListener::bind_addr(&name()?)?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    };
    let mut told = false;
    loop {
        match bind() {
            Ok(listener) => return listener,
            Err(error) if !told => {
                warn!(%error, "cannot answer `tunnel-router status` and `trace`, trying again: does another agent run here?");
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

/// Why the agent was not heard.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody has the name.
    #[error("no agent runs here")]
    NoAgent,
    /// It did not answer, or not whom it should.
    #[error("the agent does not answer: {0}")]
    Silent(io::Error),
    /// Another version's answer.
    #[error("the agent's answer is unintelligible ({0}): is it of another version?")]
    Unintelligible(serde_json::Error),
}

/// Asks the agent in the network namespace of the calling thread.
///
/// # Errors
/// See [`AskError`].
pub fn ask() -> Result<NodeStatus, AskError> {
    let connected = name().and_then(|name| StdStream::connect_addr(&name));
    let mut stream = connected.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => AskError::NoAgent,
        _ => AskError::Silent(error),
    })?;
    let mut json = Vec::new();
    stream.set_read_timeout(Some(PATIENCE)).map_err(AskError::Silent)?;
    stream.read_to_end(&mut json).map_err(AskError::Silent)?;
    if json.is_empty() {
        return Err(AskError::Silent(io::Error::new(io::ErrorKind::PermissionDenied, "only root is answered")));
    }
    serde_json::from_slice(&json).map_err(AskError::Unintelligible)
}
