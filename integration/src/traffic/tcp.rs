//! Short TCP flows: connect, one line, one answer, close.

use std::io;
use std::net::SocketAddr;

use anyhow::Result;
use futures::future::join_all;
use tokio::net::TcpSocket;

use super::{Client, Connection, Failure, Flow, Tally};

impl Client {
    /// `n` connections to the target, one exchange each.
    pub async fn tcp_exchanges(&self, n: usize, target: SocketAddr) -> Result<Tally> {
        let mut tally = Tally::new(target);
        for round in self.rounds(n) {
            let sockets = self.tcp_sockets(&self.sources_of(round, target))?;
            let exchanges = sockets.into_iter().map(|(source, socket)| self.tcp_exchange(source, socket, target));
            tally.flows.extend(join_all(exchanges).await);
        }
        Ok(tally)
    }

    async fn tcp_exchange(&self, source: SocketAddr, socket: io::Result<TcpSocket>, target: SocketAddr) -> Flow {
        let mut connection = match self.connect(socket, target).await {
            Ok(connection) => connection,
            Err(failure) => return Flow { source, outcome: Err(failure) },
        };
        let outcome = connection.probe().await;
        Flow { source: connection.source(), outcome }
    }

    /// Connects a socket that was made by [`tcp_sockets`](Self::tcp_sockets).
    pub(super) async fn connect(
        &self,
        socket: io::Result<TcpSocket>,
        target: SocketAddr,
    ) -> Result<Connection, Failure> {
        let socket = socket.map_err(|error| Failure { step: "bind", cause: error.to_string() })?;
        let stream = super::step("connect", self.patience, socket.connect(target)).await?;
        let inner = || {
            stream.set_nodelay(true)?;
            stream.local_addr()
        };
        let source = inner().map_err(|error| Failure { step: "connect", cause: error.to_string() })?;
        Ok(Connection::new(stream, source, target, self.patience))
    }

    /// Sockets inside the namespace, bound to the sources where those say anything. One thread makes them all.
    pub(super) fn tcp_sockets(&self, sources: &[SocketAddr]) -> Result<Vec<(SocketAddr, io::Result<TcpSocket>)>> {
        Ok(self.netns.run(|| sources.iter().map(|source| (*source, tcp_socket(*source))).collect())?)
    }
}

pub(super) fn tcp_socket(source: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if source.port() != 0 || !source.ip().is_unspecified() {
        socket.set_reuseaddr(true)?;
        socket.bind(source)?;
    }
    if source.port() != 0 {
        // Else the port stays in TIME_WAIT, and the same flow could not be had twice. Before it connects: a handshake may end
        // in the moment in which nobody has patience for it any more.
        socket.set_zero_linger()?;
    }
    Ok(socket)
}
