//! What the kernel says of the agent's work: every route and nexthop object that changes, with the time of the notice.
//!
//! A notice is sent before the request is acknowledged, so the last notice is the last acknowledgement, less some
//! microseconds. Notices are read by a thread of its own: it must keep up with an agent that writes 200,000 in a second.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::netns::Netns;

/// `RTMGRP_IPV4_ROUTE`, and the bit of `RTNLGRP_NEXTHOP` (32).
const GROUPS: u32 = 0x40 | 1 << 31;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const NEWNEXTHOP: u16 = 104;
const DELNEXTHOP: u16 = 105;
/// `struct nlmsghdr` and `struct rtmsg`.
const HEADERS: usize = 16 + 12;
const DST: u16 = 1;
const TABLE: u16 = 15;
/// `rtm_protocol` of everything that the agent makes.
const OURS: u8 = 107;
/// Some 60,000 notices.
const BUFFER: usize = 64 << 20;

/// A bucket's table, and a VIP in it.
pub type Key = (u32, Ipv4Addr);

/// What has been noticed so far.
#[derive(Debug, Default)]
pub struct Noticed {
    /// The routes that there are, and when each was last written.
    pub routes: HashMap<Key, Instant>,
    /// Routes and nexthop objects that were written or removed.
    pub writes: u64,
    /// When the last of these notices came.
    pub last: Option<Instant>,
    /// Notices were dropped: the numbers are too low.
    pub lost: bool,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Routes {
    noticed: Arc<Mutex<Noticed>>,
    stop: Arc<AtomicBool>,
}

impl Routes {
    /// Begins to listen in a namespace without routes of the agent.
    pub fn listen(netns: &Netns) -> Result<Routes> {
        let socket = netns.run_io("listen to routes", || open().map_err(io::Error::from))?;
        let routes = Routes { noticed: Arc::default(), stop: Arc::default() };
        let (noticed, stop) = (Arc::clone(&routes.noticed), Arc::clone(&routes.stop));
        std::thread::Builder::new().name("routes".into()).spawn(move || read(&socket, &noticed, &stop))?;
        Ok(routes)
    }

    /// What has been noticed so far.
    pub fn look(&self) -> MutexGuard<'_, Noticed> {
        lock(&self.noticed)
    }

    /// Waits until something holds, or gives up. What is looked for carries its own time, so looking late measures nothing wrong.
    pub async fn until<T>(&self, limit: Duration, mut found: impl FnMut(&Noticed) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = found(&self.look()) {
                return Some(found);
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock(noticed: &Mutex<Noticed>) -> MutexGuard<'_, Noticed> {
    noticed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open() -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    // So that the thread sees that nobody listens any more.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
    Ok(socket)
}

fn read(socket: &OwnedFd, noticed: &Mutex<Noticed>, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => lock(noticed).take(&buffer[..length], Instant::now()),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // ENOBUFS; after anything else nothing comes, which is as bad.
            Err(_) => lock(noticed).lost = true,
        }
    }
}

impl Noticed {
    fn take(&mut self, datagram: &[u8], now: Instant) {
        let Some(kind) = datagram.get(4..6).map(|b| u16::from_ne_bytes([b[0], b[1]])) else { return };
        // The third byte of `struct nhmsg`, the sixth of `struct rtmsg`.
        let protocol_at = if matches!(kind, NEWNEXTHOP | DELNEXTHOP) { 16 + 2 } else { 16 + 5 };
        if datagram.get(protocol_at) != Some(&OURS) {
            return;
        }
        match (kind, key(datagram)) {
            (NEWROUTE, Some(key)) => drop(self.routes.insert(key, now)),
            (DELROUTE, Some(key)) => drop(self.routes.remove(&key)),
            (NEWNEXTHOP | DELNEXTHOP, _) => {}
            _ => return,
        }
        self.writes += 1;
        self.last = Some(now);
    }
}

fn key(datagram: &[u8]) -> Option<Key> {
    let table = u32::from_ne_bytes(attribute(datagram, TABLE)?.try_into().ok()?);
    Some((table, <[u8; 4]>::try_from(attribute(datagram, DST)?).ok()?.into()))
}

fn attribute(datagram: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = datagram.get(HEADERS..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        if kind == wanted {
            return rest.get(4..length);
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(kind: u16, protocol: u8, table: u32) -> Vec<u8> {
        let mut bytes = vec![0; HEADERS];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[21] = protocol;
        for (attribute, value) in [(TABLE, table.to_ne_bytes()), (DST, [192, 0, 2, 1])] {
            bytes.extend([8_u16.to_ne_bytes(), attribute.to_ne_bytes()].concat());
            bytes.extend(value);
        }
        bytes
    }

    #[test]
    fn routes_come_and_go_and_those_of_others_are_not_counted() {
        let (mut noticed, now) = (Noticed::default(), Instant::now());
        for (kind, protocol, table) in [(NEWROUTE, OURS, 10_000), (NEWROUTE, OURS, 10_001), (NEWROUTE, 4, 10_002)] {
            noticed.take(&notice(kind, protocol, table), now);
        }
        noticed.take(&notice(DELROUTE, OURS, 10_000), now);
        noticed.take(&[], now);
        assert_eq!(noticed.routes.keys().collect::<Vec<_>>(), [&(10_001, Ipv4Addr::new(192, 0, 2, 1))]);
        assert_eq!((noticed.writes, noticed.last), (3, Some(now)));
    }
}
