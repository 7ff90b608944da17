//! Short UDP flows: one datagram, one answer, from sockets that are not connected and so see who answers.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Result;
use futures::future::join_all;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::{Answer, Client, Failure, Flow, Tally, step};

/// Source ports where the sources do not say. Nobody else's: below those that the kernel picks.
const FIRST_PORT: u16 = 6_000;
const PORTS: u16 = 9_000;

/// How many of them have been taken.
static TAKEN: AtomicU16 = AtomicU16::new(0);

impl Client {
    /// `n` datagrams to the target, each from a socket of its own, each awaiting one answer from whoever it may be.
    pub async fn udp_exchanges(&self, n: usize, target: SocketAddr) -> Result<Tally> {
        let mut tally = Tally::new(target);
        for round in self.rounds(n) {
            let first = round.start;
            let sources = self.sources_of(round, target);
            let sockets: Vec<_> = self.netns.run(|| sources.iter().map(|s| (*s, udp_socket(*s))).collect())?;
            let exchanges = sockets.into_iter().zip(first..).map(|((source, socket), n)| async move {
                let mut flow = Flow { source, outcome: Err(Failure { step: "bind", cause: String::new() }) };
                flow.outcome = self.udp_exchange(socket, target, n, &mut flow.source).await;
                flow
            });
            tally.flows.extend(join_all(exchanges).await);
        }
        Ok(tally)
    }

    async fn udp_exchange(
        &self,
        socket: io::Result<StdSocket>,
        target: SocketAddr,
        n: usize,
        source: &mut SocketAddr,
    ) -> Result<Answer, Failure> {
        let socket = step("bind", self.patience, async { UdpSocket::from_std(socket?) }).await?;
        let question = format!("datagram {n}");
        step("send", self.patience, socket.send_to(question.as_bytes(), target)).await?;
        let mut buffer = vec![0; 65536];
        let (length, from) = step("receive", self.patience, socket.recv_from(&mut buffer)).await?;
        let answer = Answer::parse(buffer.get(..length).unwrap_or_default(), &question, from)?;
        // An unconnected socket does not know which address the kernel gave it; the port is enough to tell flows apart.
        let port = socket.local_addr().map_or(0, |local| local.port());
        *source = SocketAddr::new(if source.ip().is_unspecified() { answer.peer.ip() } else { source.ip() }, port);
        Ok(answer)
    }
}

/// No two flows of this process come from the same port: a pod that is asked at two VIPs from one port sees another one the
/// second time, if its server is bound to the wildcard address.
fn udp_socket(mut source: SocketAddr) -> io::Result<StdSocket> {
    if source.port() == 0 {
        source.set_port(FIRST_PORT + TAKEN.fetch_add(1, Ordering::Relaxed) % PORTS);
    }
    let socket = Socket::new(Domain::for_address(source), Type::DGRAM, Some(Protocol::UDP))?;
    // A process that another test starts has all sockets of this one for a moment, until it becomes its program: also one of this port
    // that has been closed here.
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
