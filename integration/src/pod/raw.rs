//! Echo servers for IP protocols that have no sockets of their own.
//!
//! Nothing in the kernel chooses the address that such a server answers from, so it does what every program with raw
//! sockets has to do: it answers from the address that the question was sent to.

use std::io;
use std::net::SocketAddr;

use super::answer;
use crate::lab::Family;
use crate::protocol::{Frame, Protocol, QUESTION, RawSocket, Received};

/// One server: a protocol in one family, on the wildcard address.
#[derive(Debug)]
pub(super) struct RawServer {
    name: String,
    protocol: Protocol,
    family: Family,
    /// Ports that it answers at, if the protocol has any.
    ports: Vec<u16>,
    socket: RawSocket,
}

impl RawServer {
    pub fn open(name: &str, protocol: Protocol, family: Family, ports: &[u16]) -> io::Result<Self> {
        let any = match family {
            Family::V4 => [0; 4].into(),
            Family::V6 => [0; 16].into(),
        };
        let socket = RawSocket::open(family, protocol.number(family), any)?;
        Ok(Self { name: name.to_owned(), protocol, family, ports: ports.to_vec(), socket })
    }

    pub async fn serve(self) {
        let mut buffer = vec![0; 65536];
        loop {
            match self.socket.receive(&mut buffer).await {
                Ok(received) => {
                    if let Some(reply) = self.reply(&received)
                        && let Err(error) = self.socket.send(&reply, received.to, received.from.ip()).await
                    {
                        tracing::debug!(%error, peer = %received.from, "answer not sent");
                    }
                }
                Err(error) => tracing::debug!(%error, "receive failed"),
            }
        }
    }

    /// The answer, if this is a question for us.
    fn reply(&self, received: &Received) -> Option<Vec<u8>> {
        let frame = Frame::parse(self.protocol, self.family, &received.payload)?;
        let (theirs, ours) = frame.ports;
        let wanted = !self.protocol.has_ports() || self.ports.contains(&ours);
        if !wanted || !frame.text.starts_with(QUESTION) {
            return None;
        }
        let peer = SocketAddr::new(received.from.ip(), theirs);
        let text = answer(&self.name, peer, received.to, &frame.text);
        Some(Frame { ports: (ours, theirs), text }.to_bytes(self.protocol, self.family))
    }
}
