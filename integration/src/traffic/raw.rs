//! Sending packets and frames that the kernel did not make.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket,
    sockopt,
};

use super::packet::Ipv4;
use crate::netns::Netns;

/// Sends IPv4 packets with whatever header they have, along the namespace's routes.
#[derive(Debug)]
pub struct RawSender {
    fd: OwnedFd,
}

impl RawSender {
    /// A sender in the namespace.
    pub fn open(netns: &Netns) -> Result<RawSender> {
        // Protocol "raw" means that the header is part of what is sent (raw(7)).
        let open = || socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        let fd = netns.run_io("open a raw socket", || Ok(open()?))?;
        Ok(RawSender { fd })
    }

    /// A sender whose packets leave by this device, whatever the routes to the destination say.
    pub fn open_on(netns: &Netns, device: &str) -> Result<RawSender> {
        let sender = Self::open(netns)?;
        setsockopt(&sender.fd, sockopt::BindToDevice, &device.into()).with_context(|| format!("bind to {device}"))?;
        Ok(sender)
    }

    /// Sends one packet to its destination address.
    pub fn send(&self, packet: &Ipv4) -> Result<()> {
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(packet.destination, 0));
        let sent = sendto(self.fd.as_raw_fd(), &packet.to_bytes(), &to, MsgFlags::empty());
        sent.with_context(|| format!("send a packet to {}", packet.destination))?;
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
        let from = self.device.addr().context("the device has no Ethernet address")?;
        let frame = [&to[..], &from, &ethertype.to_be_bytes(), payload].concat();
        sendto(self.fd.as_raw_fd(), &frame, &self.device, MsgFlags::empty()).context("send a frame")?;
        Ok(())
    }
}

/// The link-level address of a device of the thread's namespace: index and Ethernet address. nix has no way to build one
/// without unsafe code, so it is asked for.
pub(super) fn link_address(device: &str) -> io::Result<LinkAddr> {
    let named = getifaddrs()?.filter(|interface| interface.interface_name == device);
    let found = named.filter_map(|interface| interface.address?.as_link_addr().copied()).next();
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no device {device}")))
}
