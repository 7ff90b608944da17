//! The UDP echo server: looks at the address a datagram was sent to, and answers without caring for it.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvmsg, setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{answer, prepare};

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
            Ok((length, peer, local)) => {
                let reply = answer(&name, peer, local, buffer.get(..length).unwrap_or_default());
                if let Err(error) = socket.send_to(&reply, peer).await {
                    tracing::debug!(%error, %peer, "answer not sent");
                }
            }
            // An ICMP error about an earlier answer.
            Err(error) => tracing::debug!(%error, "receive failed"),
        }
    }
}

/// One datagram: its length, who sent it, and to which address.
fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, IpAddr)> {
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
    let local = message.cmsgs()?.find_map(|item| match item {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into()),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into()),
        _ => None,
    });
    let peer = message.address.as_ref().and_then(to_std).ok_or_else(|| io::Error::other("a datagram from nowhere"))?;
    Ok((message.bytes, peer, local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))))
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|a| SocketAddr::from((a.ip(), a.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::from((a.ip(), a.port()))))
}
