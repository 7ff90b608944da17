//! The UDP echo server: looks at the address a datagram was sent to, and answers without caring for it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, setsockopt, socket, sockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{answer, prepare};
use crate::protocol::{Received, receive};

/// Room for a burst of datagrams while the processor is elsewhere.
const BUFFER: usize = 4 << 20;

pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Datagram, flags, None)?;
    prepare(&fd, address)?;
    setsockopt(&fd, sockopt::RcvBufForce, &BUFFER)?;
    match address {
        SocketAddr::V4(v4) => {
            setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
            nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?;
        }
        SocketAddr::V6(v6) => {
            setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
            nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?;
        }
    }
    UdpSocket::from_std(fd.into())
}

pub(super) async fn serve(name: String, socket: UdpSocket) {
    let mut buffer = vec![0; 65536];
    loop {
        let fd = socket.as_raw_fd();
        match socket.async_io(Interest::READABLE, || receive(fd, &mut buffer)).await {
            Ok(Received { payload, from: peer, to: local }) => {
                let reply = answer(&name, peer, local, &payload);
                if let Err(error) = socket.send_to(&reply, peer).await {
                    tracing::debug!(%error, %peer, "answer not sent");
                }
            }
            // An ICMP error about an earlier answer.
            Err(error) => tracing::debug!(%error, "receive failed"),
        }
    }
}
