//! Sending packets and frames that the kernel did not make.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, setsockopt, socket,
    sockopt,
};

use super::packet::Packet;
use crate::netns::Netns;

/// Sends IP packets with whatever header they have, along the namespace's routes.
#[derive(Debug)]
pub struct RawSender {
    ipv4: OwnedFd,
    ipv6: OwnedFd,
}

impl RawSender {
    /// A sender in the namespace.
    pub fn open(netns: &Netns) -> Result<RawSender> {
        // Protocol "raw" means that the header is part of what is sent (raw(7)).
        let open = |family| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        let both = || Ok(RawSender { ipv4: open(AddressFamily::Inet)?, ipv6: open(AddressFamily::Inet6)? });
        Ok(netns.run_io("open raw sockets", both)?)
    }

    /// A sender whose packets leave by this device, whatever the routes to the destination say.
    pub fn open_on(netns: &Netns, device: &str) -> Result<RawSender> {
        let sender = Self::open(netns)?;
        for fd in [&sender.ipv4, &sender.ipv6] {
            setsockopt(fd, sockopt::BindToDevice, &device.into()).with_context(|| format!("bind to {device}"))?;
        }
        Ok(sender)
    }

    /// Sends one packet to its destination address.
    pub fn send(&self, packet: &impl Packet) -> Result<()> {
        let fd = if packet.destination().is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let to = SockaddrStorage::from(SocketAddr::new(packet.destination(), 0));
        let sent = sendto(fd.as_raw_fd(), &packet.to_bytes(), &to, MsgFlags::empty());
        sent.with_context(|| format!("send a packet to {}", packet.destination()))?;
        Ok(())
    }
}

/// Sends Ethernet frames on one device.
#[derive(Debug)]
pub struct FrameSender {
    fd: OwnedFd,
    device: LinkAddr,
}

impl FrameSender {
    /// A sender on a device of the namespace.
    pub fn open(netns: &Netns, device: &str) -> Result<FrameSender> {
        netns
            .run_io("open a packet socket", || {
                let flags = SockFlag::SOCK_CLOEXEC;
                let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
                Ok(FrameSender { fd, device: link_address(device)? })
            })
            .with_context(|| format!("frames on {device}"))
    }

    /// Sends one frame from the device's own Ethernet address.
    pub fn send(&self, to: [u8; 6], ethertype: u16, payload: &[u8]) -> Result<()> {
        self.send_often(to, ethertype, payload, 1)
    }

    /// The same frame many times.
    pub fn send_often(&self, to: [u8; 6], ethertype: u16, payload: &[u8], times: usize) -> Result<()> {
        let from = self.device.addr().context("the device has no Ethernet address")?;
        let frame = [&to[..], &from, &ethertype.to_be_bytes(), payload].concat();
        for _ in 0..times {
            sendto(self.fd.as_raw_fd(), &frame, &self.device, MsgFlags::empty()).context("send a frame")?;
        }
        Ok(())
    }
}

/// The link-level address of a device of the thread's namespace: index and Ethernet address. nix has no way to build one
/// without unsafe code, so it is asked for.
pub(crate) fn link_address(device: &str) -> io::Result<LinkAddr> {
    let named = getifaddrs()?.filter(|interface| interface.interface_name == device);
    let found = named.filter_map(|interface| interface.address?.as_link_addr().copied()).next();
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no device {device}")))
}
