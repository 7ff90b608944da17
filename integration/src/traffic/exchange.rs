//! Short flows of any protocol, and raw packets: one question, one answer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;

use super::{Answer, Client, Failure, Flow, Tally, step};
use crate::lab::Family;
use crate::pod::DEFAULT_PORT;
use crate::protocol::{Frame, Protocol, RawSocket};

/// First source port, or identifier of an echo request, where the sources do not say.
const FIRST_PORT: u16 = 49_152;

/// What the next question is called: no two flows of this process ask the same.
static NEXT: AtomicU16 = AtomicU16::new(1);

/// One flow of raw packets.
struct Exchange {
    protocol: Protocol,
    source: SocketAddr,
    target: SocketAddr,
    patience: Duration,
}

impl Client {
    /// `n` flows of the protocol to the address, one exchange each; where there are ports, to that of the echo servers.
    pub async fn exchanges(&self, protocol: Protocol, n: usize, vip: IpAddr) -> Result<Tally> {
        match protocol {
            Protocol::Tcp => self.tcp_exchanges(n, SocketAddr::new(vip, DEFAULT_PORT)).await,
            Protocol::Udp => self.udp_exchanges(n, SocketAddr::new(vip, DEFAULT_PORT)).await,
            _ => self.raw_exchanges(n, protocol, vip).await,
        }
    }

    /// `n` exchanges of raw packets. Flows of protocols without ports differ in nothing but their sources' addresses and
    /// the question; the port of an ICMP flow is its identifier. Who answered an echo request is not known
    /// ([`Answer::UNKNOWN`]): an [`EchoWitness`](super::EchoWitness) sees it.
    pub async fn raw_exchanges(&self, n: usize, protocol: Protocol, vip: IpAddr) -> Result<Tally> {
        let port = if protocol == Protocol::Sctp { DEFAULT_PORT } else { 0 };
        let target = SocketAddr::new(vip, port);
        let mut tally = Tally::new(target);
        for round in self.rounds(n) {
            let exchanges = self.raw_sources(round, protocol, target).into_iter();
            let exchanges = exchanges.map(|source| Exchange { protocol, source, target, patience: self.patience });
            // One thread opens them all.
            let open = || exchanges.map(|exchange| (exchange.open(), exchange)).collect::<Vec<_>>();
            let opened = self.netns.run_in_runtime("open raw sockets", || Ok(open()))?;
            tally.flows.extend(join_all(opened.into_iter().map(|(socket, exchange)| exchange.run(socket))).await);
        }
        Ok(tally)
    }

    fn raw_sources(&self, round: Range<usize>, protocol: Protocol, target: SocketAddr) -> Vec<SocketAddr> {
        let given = self.sources_of(round.clone(), target).into_iter();
        let port = |(n, source): (usize, SocketAddr)| match (protocol, source.port()) {
            (Protocol::Sctp | Protocol::Icmp, 0) => FIRST_PORT + u16::try_from(n % 16_000).unwrap_or_default(),
            (Protocol::Sctp | Protocol::Icmp, port) => port,
            _ => 0,
        };
        round.zip(given).map(|(n, source)| SocketAddr::new(source.ip(), port((n, source)))).collect()
    }
}

impl Exchange {
    fn family(&self) -> Family {
        Family::of(self.target.ip())
    }

    fn open(&self) -> io::Result<RawSocket> {
        RawSocket::open(self.family(), self.protocol.number(self.family()), self.source.ip())
    }

    async fn run(mut self, socket: io::Result<RawSocket>) -> Flow {
        let outcome = match socket {
            Ok(socket) => self.ask(&socket).await,
            Err(error) => Err(Failure { step: "bind", cause: error.to_string() }),
        };
        Flow { source: self.source, outcome }
    }

    async fn ask(&mut self, socket: &RawSocket) -> Result<Answer, Failure> {
        let question = format!("ask {}", NEXT.fetch_add(1, Ordering::Relaxed));
        // Of an echo request the second number is the sequence number.
        let second = if self.protocol == Protocol::Icmp { 1 } else { self.target.port() };
        let frame = Frame::question((self.source.port(), second), &question);
        let bytes = frame.to_bytes(self.protocol, self.family());
        step("send", self.patience, socket.send(&bytes, self.source.ip(), self.target.ip())).await?;
        step("receive", self.patience, self.answer(socket, &question)).await?
    }

    /// Waits for the answer: the socket hears everything of its protocol, other flows' answers included.
    async fn answer(&mut self, socket: &RawSocket, question: &str) -> io::Result<Result<Answer, Failure>> {
        let mut buffer = vec![0; 65536];
        loop {
            let received = socket.receive(&mut buffer).await?;
            let Some(frame) = Frame::parse(self.protocol, self.family(), &received.payload) else { continue };
            let (from, us) = (received.from.ip(), SocketAddr::new(received.to, self.source.port()));
            let answer = match self.protocol {
                Protocol::Icmp if frame.text == question.as_bytes() && frame.ports.0 == self.source.port() => {
                    Ok(Answer::of_nobody(us, SocketAddr::new(from, 0), self.target.ip()))
                }
                Protocol::Icmp => continue,
                _ if !is_about(&frame.text, question) => continue,
                _ => Answer::parse(&frame.text, question, SocketAddr::new(from, frame.ports.0)),
            };
            if self.source.ip().is_unspecified() {
                self.source = us;
            }
            return Ok(answer);
        }
    }
}

fn is_about(answer: &[u8], question: &str) -> bool {
    answer.trim_ascii_end().ends_with(format!(" {}", question.to_uppercase()).as_bytes())
}
