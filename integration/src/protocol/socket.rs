//! Raw sockets of any protocol. They say which address a packet was sent to, and send from the address that they are told.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::libc::{SOCK_RAW, in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol as Number, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::lab::Family;

/// Room for a burst of packets while the processor is elsewhere.
const BUFFER: usize = 4 << 20;

/// A raw socket, driven by the runtime.
#[derive(Debug)]
pub struct RawSocket {
    /// Not a UDP socket: the type only lends its readiness. `AsyncFd` cannot be had without unsafe code.
    socket: UdpSocket,
    family: Family,
}

/// One datagram or packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// What stands behind the IP header (and for UDP behind that of UDP).
    pub payload: Vec<u8>,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address it was sent to.
    pub to: IpAddr,
}

impl RawSocket {
    /// A socket in the namespace of the thread, for packets of one protocol to `local`, or to any address.
    pub fn open(family: Family, protocol: u8, local: IpAddr) -> io::Result<RawSocket> {
        let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::from(SOCK_RAW), Some(Number::from(i32::from(protocol))))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(SocketAddr::new(local, 0)))?;
        let fd = OwnedFd::from(socket);
        setsockopt(&fd, sockopt::RcvBufForce, &BUFFER)?;
        match family {
            Family::V4 => setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?,
            Family::V6 => setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        Ok(RawSocket { socket: UdpSocket::from_std(fd.into())?, family })
    }

    /// The next packet.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let fd = self.socket.as_raw_fd();
        let mut received = self.socket.async_io(Interest::READABLE, || receive(fd, buffer)).await?;
        if self.family == Family::V4 {
            // Only of IPv4 the header is part of what is read.
            let header = received.payload.first().map_or(0, |first| usize::from(first & 0xf) * 4);
            received.payload.drain(..header.min(received.payload.len()));
        }
        Ok(received)
    }

    /// Sends what shall stand behind the IP header. The kernel chooses the source if it is unspecified.
    pub async fn send(&self, payload: &[u8], from: IpAddr, to: IpAddr) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        self.socket.async_io(Interest::WRITABLE, || send(fd, payload, from, to)).await
    }
}

/// Reads one datagram from a socket that says where packets were sent to.
pub(crate) fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<Received> {
    let (length, from, to) = {
        let mut control = nix::cmsg_space!(in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
        let to = message.cmsgs()?.find_map(|item| match item {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into())
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into()),
            _ => None,
        });
        (message.bytes, message.address.as_ref().and_then(to_std), to)
    };
    let from = from.ok_or_else(|| io::Error::other("a datagram from nowhere"))?;
    let payload = buffer.get(..length).unwrap_or_default().to_vec();
    Ok(Received { payload, from, to: to.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) })
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|a| SocketAddr::from((a.ip(), a.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::from((a.ip(), a.port()))))
}

fn send(fd: RawFd, payload: &[u8], from: IpAddr, to: IpAddr) -> io::Result<()> {
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    let payload = [IoSlice::new(payload)];
    let send = |control: &[ControlMessage<'_>]| sendmsg(fd, &payload, control, MsgFlags::empty(), Some(&to));
    match from {
        from if from.is_unspecified() => send(&[]),
        IpAddr::V4(from) => {
            let source = in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
            let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: in_addr { s_addr: 0 } };
            send(&[ControlMessage::Ipv4PacketInfo(&info)])
        }
        IpAddr::V6(from) => {
            let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            send(&[ControlMessage::Ipv6PacketInfo(&info)])
        }
    }?;
    Ok(())
}
