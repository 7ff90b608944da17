//! Connections that stay open and are asked again and again: what a soak test counts.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Answer, Client, Failure, Flow, Tally, step};

/// One open TCP connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    source: SocketAddr,
    target: SocketAddr,
    patience: Duration,
    probes: u64,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, source: SocketAddr, target: SocketAddr, patience: Duration) -> Self {
        Self { stream: BufReader::new(stream), source, target, patience, probes: 0 }
    }

    /// Opens one from this very source, which a connection that was closed before may still keep busy.
    pub async fn open(client: &Client, source: SocketAddr, target: SocketAddr) -> Result<Connection, Failure> {
        let sockets = client.tcp_sockets(&[source]);
        let mut sockets = sockets.map_err(|error| Failure { step: "bind", cause: error.to_string() })?;
        let missing = || Failure { step: "bind", cause: "no socket".to_owned() };
        let (_, socket) = sockets.pop().ok_or_else(missing)?;
        client.connect(socket, target).await
    }

    /// The client's end.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Sends a line that was never sent before and awaits its answer. A connection that failed once stays failed.
    pub async fn probe(&mut self) -> Result<Answer, Failure> {
        self.ask(0).await
    }

    /// The same with a line that is this many bytes longer, and an answer that is, too.
    pub async fn ask(&mut self, padding: usize) -> Result<Answer, Failure> {
        self.probes += 1;
        let question = format!("probe {}{}", self.probes, "x".repeat(padding));
        let line = format!("{question}\n");
        step("send", self.patience, self.stream.get_mut().write_all(line.as_bytes())).await?;
        let mut reply = Vec::new();
        if step("receive", self.patience, self.stream.read_until(b'\n', &mut reply)).await? == 0 {
            return Err(Failure { step: "receive", cause: "closed by the pod".to_owned() });
        }
        Answer::parse(&reply, &question, self.target)
    }
}

impl Drop for Connection {
    /// A flow with a chosen port can be had again at once: also while a process that another test starts has copies of all sockets of
    /// this one, until it becomes its program. A `close` here ends no connection before that.
    fn drop(&mut self) {
        let stream = self.stream.get_ref();
        if let Ok(Some(Duration::ZERO)) = SockRef::from(stream).linger() {
            let _ = rustix::net::connect_unspec(stream);
        }
    }
}

/// Many open connections to one target.
#[derive(Debug)]
pub struct Connections {
    target: SocketAddr,
    open: Vec<Connection>,
}

impl Connections {
    /// Opens `n` connections. The tally says how each one began (its first probe); those that failed are left out.
    pub async fn open(client: &Client, n: usize, target: SocketAddr) -> Result<(Connections, Tally)> {
        let (mut connections, mut tally) = Self::connect(client, n, target).await?;
        tally.merge(connections.probe_all().await);
        Ok((connections, tally))
    }

    /// Opens `n` connections and sends nothing by them. The tally has those that failed.
    pub async fn connect(client: &Client, n: usize, target: SocketAddr) -> Result<(Connections, Tally)> {
        let mut connections = Connections { target, open: Vec::new() };
        let mut tally = Tally::new(target);
        for round in client.rounds(n) {
            let sockets = client.tcp_sockets(&client.sources_of(round, target))?;
            let opened = sockets
                .into_iter()
                .map(|(source, socket)| async move { (source, client.connect(socket, target).await) });
            for (source, result) in join_all(opened).await {
                match result {
                    Ok(connection) => connections.open.push(connection),
                    Err(failure) => tally.flows.push(Flow { source, outcome: Err(failure) }),
                }
            }
        }
        Ok((connections, tally))
    }

    /// One probe on every connection, all at once.
    pub async fn probe_all(&mut self) -> Tally {
        self.ask_all(0).await
    }

    /// The same with lines that are this many bytes longer.
    pub async fn ask_all(&mut self, padding: usize) -> Tally {
        let probes = self.open.iter_mut().map(|connection| async {
            let outcome = connection.ask(padding).await;
            Flow { source: connection.source(), outcome }
        });
        Tally { target: self.target, flows: join_all(probes).await }
    }

    /// The connections.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.open.iter_mut()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use tokio::net::TcpListener;

    use super::*;
    use crate::traffic::tcp::tcp_socket;

    #[tokio::test]
    async fn a_flow_can_be_had_again_while_somebody_has_a_copy_of_its_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (target, source) = (listener.local_addr().expect("an address"), SocketAddr::from(([127, 0, 0, 1], 5_999)));
        let connect = || async {
            let stream = tcp_socket(source).expect("a socket").connect(target).await.expect("connected");
            Connection::new(stream, source, target, Duration::from_secs(1))
        };
        let first = connect().await;
        let copy = first.stream.get_ref().as_fd().try_clone_to_owned().expect("a copy");
        drop(first);
        connect().await;
        drop(copy);
    }
}
