//! A witness on a device: sees every packet that passes, in both directions.
//!
//! "It did not arrive" cannot be awaited. So a test sends the packet in question, then one that is known to arrive by the
//! same way, awaits that one ([`Sniffer::until`]) and looks at what came before it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6};
use super::raw::link_address;
use crate::netns::Netns;

/// Room for what arrives between two looks.
const BUFFER: usize = 8 << 20;
/// `PACKET_OUTGOING`
const OUTGOING: u8 = 4;
/// How long an awaited packet may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One packet, without its link-level header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Whether it left by the device (else it came in).
    pub outgoing: bool,
    /// What the link-level header said it is.
    pub ethertype: u16,
    /// The packet.
    pub bytes: Vec<u8>,
}

impl Captured {
    /// The IPv4 packet, if it is one.
    pub fn ipv4(&self) -> Option<Ipv4> {
        (self.ethertype == ETHERTYPE_IPV4).then(|| Ipv4::parse(&self.bytes))?
    }

    /// The IPv6 packet, if it is one.
    pub fn ipv6(&self) -> Option<Ipv6> {
        (self.ethertype == ETHERTYPE_IPV6).then(|| Ipv6::parse(&self.bytes))?
    }

    /// Whether it is a UDP datagram that carries exactly this.
    pub fn is_udp_with(&self, data: &[u8]) -> bool {
        self.ipv4().is_some_and(|packet| packet.as_udp().is_some_and(|(_, _, carried)| carried == data))
            || self.ipv6().is_some_and(|packet| packet.as_udp().is_some_and(|(_, _, carried)| carried == data))
    }

    /// Whether the bytes occur anywhere in it, however deep it is wrapped.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.bytes.windows(needle.len().max(1)).any(|window| window == needle)
    }
}

/// Listens on one device from the moment it is opened.
#[derive(Debug)]
pub struct Sniffer {
    /// Not a UDP socket: the type only lends its readiness to the packet socket inside. `AsyncFd` cannot be had without
    /// unsafe code.
    socket: UdpSocket,
    device: String,
    buffer: Vec<u8>,
}

impl Sniffer {
    /// Opens a sniffer on a device of the namespace.
    pub fn open(netns: &Netns, device: &str) -> Result<Sniffer> {
        let socket = netns
            .run_in_runtime(&format!("sniff on {device}"), || UdpSocket::from_std(packet_socket(device)?.into()))?;
        Ok(Sniffer { socket, device: format!("{} of {}", device, netns.name()), buffer: vec![0; 65536] })
    }

    /// The next packet.
    pub async fn next(&mut self) -> Result<Captured> {
        let (raw, buffer) = (self.socket.as_raw_fd(), &mut self.buffer);
        let receive = self.socket.async_io(Interest::READABLE, || Ok(recvfrom::<LinkAddr>(raw, buffer)?));
        let (length, from) = receive.await.with_context(|| format!("sniff on {}", self.device))?;
        let from = from.context("a packet from no device")?;
        let bytes = self.buffer.get(..length).unwrap_or_default().to_vec();
        Ok(Captured { outgoing: from.pkttype() == OUTGOING, ethertype: u16::from_be(from.protocol()), bytes })
    }

    /// Every packet up to and with the first that `wanted` accepts. An error names the device if it does not come.
    pub async fn until(&mut self, wanted: impl Fn(&Captured) -> bool) -> Result<Vec<Captured>> {
        let mut seen = Vec::new();
        let collect = async {
            loop {
                let packet = self.next().await?;
                let last = wanted(&packet);
                seen.push(packet);
                if last {
                    return anyhow::Ok(());
                }
            }
        };
        let result = tokio::time::timeout(PATIENCE, collect).await;
        result.with_context(|| {
            format!("the awaited packet was not seen on {}; {} others were", self.device, seen.len())
        })??;
        Ok(seen)
    }

    /// The first packet that `wanted` accepts.
    pub async fn find(&mut self, wanted: impl Fn(&Captured) -> bool) -> Result<Captured> {
        self.until(wanted).await?.pop().context("until returns at least the packet awaited")
    }
}

/// A socket for all protocols, without link-level headers, bound to the device.
fn packet_socket(device: &str) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?;
    setsockopt(&fd, sockopt::RcvBufForce, &BUFFER)?;
    bind(fd.as_raw_fd(), &link_address(device)?)?;
    drain(&fd);
    Ok(fd)
}

/// Between its creation and its binding the socket hears all devices.
fn drain(fd: &OwnedFd) {
    let mut scrap = [0; 64];
    while recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut scrap).is_ok() {}
}
