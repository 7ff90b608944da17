//! What arrives at the sink, packet by packet: did it go the way that the case is named after?

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};

use super::frame::{Frame, Wrapping};
use super::site::{ENDPOINTS, FLOWS, PORT, Site, endpoint_mac};
use super::way::Way;
use crate::netns::Netns;
use crate::traffic::link_address;
use crate::traffic::packet::UDP;

/// Room for all packets of a run that is looked at.
const BUFFER: usize = 16 << 20;

/// A packet socket at the sink. While it is open every packet costs more.
pub struct Witness {
    socket: OwnedFd,
}

impl Witness {
    /// Opens the socket on a device.
    pub fn open(netns: &Netns, device: &str) -> Result<Witness> {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            setsockopt(&fd, sockopt::RcvBufForce, &BUFFER)?;
            bind(fd.as_raw_fd(), &link_address(device)?)?;
            Ok(fd)
        };
        Ok(Witness { socket: netns.run_io(&format!("watch {device}"), open)? })
    }

    /// Everything that has arrived since.
    pub fn seen(self) -> Result<Vec<Vec<u8>>> {
        let mut buffer = vec![0; 2048];
        let mut frames = Vec::new();
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => frames.push(buffer.get(..length).unwrap_or_default().to_vec()),
                Err(Errno::EAGAIN) => return Ok(frames),
                Err(errno) => return Err(errno).context("read packets at the sink"),
            }
        }
    }
}

/// Checks that all `sent` packets arrived, that each went the intended way, that every packet of a flow went to the same
/// endpoint, and that as many endpoints had traffic as must.
///
/// # Errors
/// What is not so, with the first packet that is otherwise.
pub fn verify(frames: &[Vec<u8>], way: Way, site: &Site, sent: usize) -> Result<()> {
    ensure!(frames.len() == sent, "{sent} packets were sent and the sink saw {}", frames.len());
    let mut flows: BTreeMap<u16, BTreeSet<u8>> = BTreeMap::new();
    for bytes in frames {
        let frame = Frame::parse(bytes);
        match frame.as_ref().and_then(|frame| Some((frame.ports.0, endpoint(frame, way, site)?))) {
            Some((flow, endpoint)) => flows.entry(flow).or_default().insert(endpoint),
            None => bail!("a packet went another way: {frame:?}, {bytes:02x?}"),
        };
    }
    let endpoints: BTreeSet<u8> = flows.values().flatten().copied().collect();
    ensure!(enough(way, endpoints.len()), "only endpoints {endpoints:?} of {ENDPOINTS} had traffic");
    // Translated flows of different endpoints may have the same port.
    if way != Way::KubeProxy {
        ensure!(flows.len() == usize::from(FLOWS), "the sink saw {} flows of {FLOWS}", flows.len());
        ensure!(flows.values().all(|owners| owners.len() == 1), "a flow went to two endpoints: {flows:?}");
    }
    Ok(())
}

/// The endpoint that a packet was sent to, if everything about the packet is as it should be.
fn endpoint(frame: &Frame, way: Way, site: &Site) -> Option<u8> {
    let n = (0..ENDPOINTS).find(|n| endpoint_mac(*n) == frame.mac)?;
    let sent = frame.protocol == UDP && frame.ports.1 == PORT;
    let untouched = sent && frame.inner == (site.client(), site.vip());
    let wrapped = |source| frame.outer == Some((source, site.endpoint(n)));
    let good = match way {
        Way::Plain => untouched && frame.wrapping == Wrapping::Bare,
        // IPVS takes the address that the node would use towards the endpoint.
        Way::Ipvs => untouched && frame.wrapping == Wrapping::Ipip && wrapped(site.downlink_address()),
        Way::KubeProxy => {
            let translated = sent && frame.inner == (site.downlink_address(), site.endpoint(n));
            translated && frame.wrapping == Wrapping::Bare
        }
        Way::Ours { mode, .. } => {
            let tunnelled = frame.outer.is_none() || wrapped(site.node_address());
            untouched && frame.wrapping == Wrapping::Tunnel(mode) && tunnelled
        }
    };
    good.then_some(n)
}

/// With 64 flows chance may leave out an endpoint or two where flows are spread at random; ours spreads buckets.
fn enough(way: Way, endpoints: usize) -> bool {
    match way {
        Way::Plain => endpoints == 1,
        Way::Ipvs | Way::KubeProxy => endpoints > usize::from(ENDPOINTS) / 2,
        Way::Ours { .. } => endpoints == usize::from(ENDPOINTS),
    }
}
