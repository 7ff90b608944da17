//! Traffic: flows that say what became of each of them, connections that live long, packets that nobody should send, and
//! a witness that sees what arrives.
//!
//! A [`Client`] sends from a namespace and counts into a [`Tally`]. Nothing is ever retried: a lost datagram is a lost
//! datagram. Time-outs are long, because an emulated processor is slow; they end a test that fails, not one that works.

mod connection;
mod echo_witness;
mod exchange;
mod icmp_error;
pub mod packet;
mod raw;
mod sniffer;
mod tally;
mod tcp;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::netns::Netns;

pub use connection::{Connection, Connections};
pub use echo_witness::EchoWitness;
pub use icmp_error::{flow_in, send_error};
pub(crate) use raw::link_address;
pub use raw::{FrameSender, RawSender};
pub use sniffer::{Captured, Sniffer};
pub use tally::{Answer, Failure, Flow, Tally};

/// Where flows come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Source addresses, those of the target's family used in turn. None of that family: what the routing says.
    pub addresses: Vec<IpAddr>,
    /// First source port; it grows whenever all addresses have had a turn. `None`: what the kernel picks, and of UDP a port
    /// that no other flow comes from.
    pub first_port: Option<u16>,
}

impl Sources {
    /// The same flows each time: these addresses, ports from `first_port` on.
    pub fn fixed(addresses: Vec<IpAddr>, first_port: u16) -> Self {
        Self { addresses, first_port: Some(first_port) }
    }

    /// Where flow number `n` comes from, in one of the two families.
    pub(crate) fn of_flow(&self, n: usize, ipv4: bool) -> SocketAddr {
        let any = if ipv4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let usable: Vec<IpAddr> = self.addresses.iter().copied().filter(|ip| ip.is_ipv4() == ipv4).collect();
        let round = usable.len().max(1);
        let address = usable.get(n % round).copied().unwrap_or(any);
        let step = u16::try_from(n / round).unwrap_or(u16::MAX);
        SocketAddr::new(address, self.first_port.map_or(0, |first| first.wrapping_add(step)))
    }
}

/// A place that traffic starts from.
#[derive(Debug, Clone)]
pub struct Client {
    netns: Netns,
    sources: Sources,
    concurrency: usize,
    patience: Duration,
}

impl Client {
    /// A client in the namespace: 32 flows at a time, 20 seconds of patience, the kernel's choice of source.
    pub fn new(netns: &Netns) -> Self {
        Self { netns: netns.clone(), sources: Sources::default(), concurrency: 32, patience: Duration::from_secs(20) }
    }

    /// Chooses the sources.
    pub fn with_sources(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// Chooses how many flows are under way at once.
    pub fn with_concurrency(self, concurrency: usize) -> Self {
        Self { concurrency: concurrency.max(1), ..self }
    }

    /// Chooses how long each step of a flow may take. Short patience is for flows that are expected to fail.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Sources of the flows `range`, for a target.
    fn sources_of(&self, range: std::ops::Range<usize>, target: SocketAddr) -> Vec<SocketAddr> {
        range.map(|n| self.sources.of_flow(n, target.is_ipv4())).collect()
    }

    /// `0..n` in pieces that may be under way at once.
    fn rounds(&self, n: usize) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let size = self.concurrency;
        (0..n).step_by(size).map(move |start| start..(start + size).min(n))
    }
}

/// Awaits one step of a flow; a failure says which step it was.
async fn step<T>(
    name: &'static str,
    patience: Duration,
    work: impl Future<Output = std::io::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(patience, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure { step: name, cause: error.to_string() }),
        Err(_) => Err(Failure { step: name, cause: "timed out".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_take_turns_and_then_the_next_port() {
        let addresses = vec![IpAddr::from([198, 51, 100, 2]), IpAddr::from([198, 51, 100, 3])];
        let sources = Sources::fixed(addresses, 20000);
        let text: Vec<String> = (0..4).map(|n| sources.of_flow(n, true).to_string()).collect();
        assert_eq!(text, ["198.51.100.2:20000", "198.51.100.3:20000", "198.51.100.2:20001", "198.51.100.3:20001"]);
        assert_eq!(sources.of_flow(7, false).to_string(), "[::]:20007");
        assert_eq!(Sources::default().of_flow(7, false).to_string(), "[::]:0");
    }
}
