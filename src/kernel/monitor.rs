//! Waiting for somebody to touch what is ours in a namespace.
//!
//! A node's route daemon, `systemd-networkd` or a colleague with `ip` may delete our rules and routes at any time; the
//! kernel tells those who listen. What is *not* told, and is therefore derived from links: when a device goes down or
//! loses its carrier, the kernel silently drops the nexthop objects and routes that lead through it
//! (`nexthop_flush_dev` in net/ipv4/nexthop.c notifies nobody).
//!
//! The sockets are opened inside the namespace and keep it alive: drop the monitor when the pod is gone.
//!
//! What the agent does itself is reported too, but for what it writes by the socket that it names. A reconcile after it finds nothing to
//! do, so that this comes to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::task::{Context, Poll};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, SockRef};
use tokio::runtime::Handle;

use crate::netns::Netns;
use crate::plan::{NFT_TABLE, WITHDRAWN_TABLE};

use super::apply::Ports;
use super::error::KernelError;
use super::link::{IFINFOMSG, IFLA_IFNAME, IFLA_MTU};
use super::netlink::{Netlink, failed};
use super::wire::{NFTABLES, Reply, attribute, messages, rtm, text, u8_at, u32_at};
use super::{address, bpf, link, nexthop, nft_ruleset, route, rule};

/// `RTNLGRP_*`: LINK, TC, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, MPLS_ROUTE, NEXTHOP
/// (include/uapi/linux/rtnetlink.h).
const ROUTE_GROUPS: [u32; 10] = [1, 4, 5, 7, 8, 9, 11, 19, 27, 32];
/// `NFNLGRP_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h).
const NFT_GROUPS: [u32; 1] = [7];
/// Bytes. When it overflows everything is taken for changed, so that size only saves work.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Datagrams that are read before other tasks get a chance.
const AT_ONCE: usize = 64;
/// Datagrams that are taken together, whoever goes on to send them: more than the buffer holds.
const DRAINED_AT_ONCE: usize = 1 << 14;
/// Bytes of a datagram; `NLMSG_GOODSIZE` is less.
const LARGEST: usize = 1 << 16;

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// A link appeared, vanished, went up or down, or has another name or MTU. Anybody's: routes of ours may lead there.
    Link,
    /// The same of a veth that is not ours, as they come and go with every pod: its name, or of two names each.
    Veth(String),
    /// What judges the packets that come in by a link of ours.
    Filter,
    /// An address of ours, or on a link of ours.
    Address,
    /// A route of ours, IP or MPLS.
    Route,
    /// A rule of ours.
    Rule,
    /// A nexthop object of ours.
    Nexthop,
    /// Our nft table, or something in it.
    Nft,
    /// Notifications were lost: anything may have changed.
    Overrun,
}

/// Listens in one namespace.
pub struct Monitor {
    route: TokioSocket,
    nft: TokioSocket,
    filter: Filter,
}

impl Monitor {
    /// Starts listening in a namespace. Changes from now on are seen; links named `<link_prefix>*` are ours. Must be called
    /// inside a tokio runtime; blocks for the time of one link dump. What the sockets `own` do to routes, nexthops and our nft tables is
    /// not told of.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the sockets cannot be opened there.
    pub fn open_in(netns: &Netns, link_prefix: &str, own: Option<Ports>) -> Result<Self, KernelError> {
        let runtime = Handle::current();
        let (route, nft, links) = netns.run(|| {
            let _registers_with = runtime.enter();
            // Listen first: a link that appears during the dump is told twice rather than never.
            let route = listen(NETLINK_ROUTE, &ROUTE_GROUPS, own.map(|own| own.route))?;
            let nft = listen(NETLINK_NETFILTER, &NFT_GROUPS, own.map(|own| own.netfilter))?;
            Ok::<_, KernelError>((route, nft, known_links()?))
        })??;
        Ok(Monitor { route, nft, filter: Filter { prefix: link_prefix.to_owned(), links, own } })
    }

    /// Waits until something of ours has changed and returns all that is known to have changed by then, never nothing.
    /// Cancel-safe.
    ///
    /// # Errors
    /// A socket failed: open a new monitor, and take everything for changed.
    pub async fn changed(&mut self) -> Result<BTreeSet<Change>, KernelError> {
        loop {
            let changes = poll_fn(|cx| self.poll_pending(cx)).await?;
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    /// All that has been told so far and not been returned yet.
    ///
    /// # Errors
    /// As [`Monitor::changed`].
    pub fn drain(&mut self) -> Result<BTreeSet<Change>, KernelError> {
        let (mut changes, filter) = (BTreeSet::new(), &mut self.filter);
        drain_socket(self.route.socket_ref(), &mut changes, |message| filter.route(message))?;
        drain_socket(self.nft.socket_ref(), &mut changes, |message| filter.nft(message))?;
        Ok(changes)
    }

    /// Reads what is there, up to a limit; ready if there was anything, be it somebody else's.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<BTreeSet<Change>, KernelError>> {
        let mut changes = BTreeSet::new();
        let filter = &mut self.filter;
        let route = poll_socket(&self.route, cx, &mut changes, |message| filter.route(message))?;
        let nft = poll_socket(&self.nft, cx, &mut changes, |message| filter.nft(message))?;
        if route + nft > 0 { Poll::Ready(Ok(changes)) } else { Poll::Pending }
    }
}

/// Reads from one socket and returns the number of datagrams, 0 if it will wake the task later.
fn poll_socket(
    socket: &TokioSocket,
    cx: &mut Context<'_>,
    changes: &mut BTreeSet<Change>,
    mut concerns: impl FnMut(&Reply<'_>) -> Vec<Change>,
) -> Result<usize, KernelError> {
    for count in 0..AT_ONCE {
        match socket.poll_recv_from_full(cx) {
            Poll::Pending => return Ok(count),
            Poll::Ready(Ok((datagram, _))) => {
                changes.extend(messages(&datagram).flat_map(|message| concerns(&message)));
            }
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                changes.insert(Change::Overrun);
            }
            Poll::Ready(Err(error)) => return Err(failed("receive")(error)),
        }
    }
    Ok(AT_ONCE)
}

/// Reads from one socket, past the limit of a poll.
fn drain_socket(
    socket: &Socket,
    changes: &mut BTreeSet<Change>,
    mut concerns: impl FnMut(&Reply<'_>) -> Vec<Change>,
) -> Result<(), KernelError> {
    let mut datagram = Vec::with_capacity(LARGEST);
    for _ in 0..DRAINED_AT_ONCE {
        datagram.clear();
        match socket.recv(&mut datagram, 0) {
            Ok(_) => changes.extend(messages(&datagram).flat_map(|message| concerns(&message))),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => return Ok(()),
                Some(Errno::ENOBUFS) => drop(changes.insert(Change::Overrun)),
                Some(Errno::EINTR) => {}
                _ => return Err(failed("receive")(error)),
            },
        }
    }
    Ok(())
}

fn listen(protocol: isize, groups: &[u32], own: Option<u32>) -> Result<TokioSocket, KernelError> {
    let mut asynchronous = TokioSocket::new(protocol).map_err(failed("open"))?;
    let socket = asynchronous.socket_mut();
    socket.bind(&SocketAddr::new(0, 0)).map_err(failed("bind"))?;
    // Without the privilege for more the default size must do.
    let _ = setsockopt(&*socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    if let Some(port) = own {
        SockRef::from(&*socket).attach_filter(&all_but(port)).map_err(failed("filter"))?;
    }
    groups.iter().try_for_each(|group| socket.add_membership(*group)).map_err(failed("join a group"))?;
    Ok(asynchronous)
}

/// Drops messages about what the socket with this port has done: a plan of many thousand steps would fill the buffer with them.
fn all_but(port: u32) -> [SockFilter; 4] {
    // linux/bpf_common.h; a word of `struct nlmsghdr` is loaded as if it had come from the network.
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NLMSG_PID: u32 = 12;
    [
        SockFilter::new(LOAD_WORD, 0, 0, NLMSG_PID),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from_be_bytes(port.to_ne_bytes())),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

/// What matters about a link.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LinkState {
    name: String,
    /// `IFF_UP`, `IFF_RUNNING` and `IFF_LOWER_UP`.
    flags: u32,
    mtu: u32,
    is_veth: bool,
}

const FLAGS: u32 = 1 | 1 << 6 | 1 << 16;

impl LinkState {
    fn decode(payload: &[u8]) -> Option<(u32, Self)> {
        let state = LinkState {
            name: attribute(payload, IFINFOMSG, IFLA_IFNAME).map(text)?,
            flags: u32_at(payload, 8)? & FLAGS,
            mtu: attribute(payload, IFINFOMSG, IFLA_MTU).and_then(|v| u32_at(v, 0)).unwrap_or(0),
            is_veth: link::kind(payload).as_deref() == Some("veth"),
        };
        Some((u32_at(payload, 4)?, state))
    }
}

fn known_links() -> Result<BTreeMap<u32, LinkState>, KernelError> {
    let mut netlink = Netlink::route()?;
    netlink.dump("links", &link::list(), |links: &mut BTreeMap<_, _>, _, payload| {
        links.extend(LinkState::decode(payload));
    })
}

/// Tells our changes from others'.
#[derive(Debug, Default)]
pub(super) struct Filter {
    prefix: String,
    links: BTreeMap<u32, LinkState>,
    /// The sockets whose changes to routes, nexthops and our nft tables are known.
    own: Option<Ports>,
}

impl Filter {
    pub(super) fn route(&mut self, message: &Reply<'_>) -> Vec<Change> {
        let (kind, payload) = (message.kind, message.payload);
        let is_own = self.own.is_some_and(|own| own.route == message.port);
        let change = match kind {
            rtm::NEWROUTE | rtm::DELROUTE | rtm::NEWNEXTHOP | rtm::DELNEXTHOP if is_own => None,
            rtm::NEWLINK | rtm::DELLINK => return self.link(kind, payload),
            rtm::NEWADDR | rtm::DELADDR => self.address(payload).then_some(Change::Address),
            rtm::NEWQDISC | rtm::DELQDISC | rtm::NEWTFILTER | rtm::DELTFILTER => {
                self.filter(payload).then_some(Change::Filter)
            }
            rtm::NEWROUTE | rtm::DELROUTE => route::is_ours(payload).then_some(Change::Route),
            rtm::NEWRULE | rtm::DELRULE => rule::is_ours(payload).then_some(Change::Rule),
            rtm::NEWNEXTHOP | rtm::DELNEXTHOP => nexthop::is_ours(payload).then_some(Change::Nexthop),
            _ => None,
        };
        change.into_iter().collect()
    }

    pub(super) fn nft(&self, message: &Reply<'_>) -> Vec<Change> {
        let is_own = self.own.is_some_and(|own| own.netfilter == message.port);
        let change = if is_own { None } else { nft_change(message.kind, message.payload) };
        change.into_iter().collect()
    }

    fn link(&mut self, kind: u16, payload: &[u8]) -> Vec<Change> {
        // A bridge tells about its ports with the same messages and the family AF_BRIDGE; there a DELLINK is no deletion.
        if u8_at(payload, 0) != Some(0) {
            return Vec::new();
        }
        let Some((index, state)) = LinkState::decode(payload) else { return Vec::new() };
        let (before, now) = match kind {
            rtm::DELLINK => (self.links.remove(&index), None),
            _ => (self.links.insert(index, state.clone()), Some(state)),
        };
        if before == now {
            return Vec::new();
        }
        let change = |state: LinkState| match state.is_veth && !state.name.starts_with(&self.prefix) {
            true => Change::Veth(state.name),
            false => Change::Link,
        };
        before.into_iter().chain(now).map(change).collect()
    }

    fn filter(&self, payload: &[u8]) -> bool {
        bpf::announced_index(payload).is_some_and(|index| self.name(index).starts_with(&self.prefix))
    }

    fn address(&self, payload: &[u8]) -> bool {
        address::decode(payload).is_some_and(|found| found.is_ours(self.name(found.index), &self.prefix))
    }

    fn name(&self, index: u32) -> &str {
        self.links.get(&index).map_or("", |link| link.name.as_str())
    }
}

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_*`, `struct nfgenmsg` and the name of the table, which is attribute 1 of every
/// message but the one that counts the generation (include/uapi/linux/netfilter/nf_tables.h).
fn nft_change(kind: u16, payload: &[u8]) -> Option<Change> {
    const NEWGEN: u16 = 15;
    const NFGENMSG: usize = 4;
    const TABLE: u16 = 1;
    let nftables = kind >> 8 == NFTABLES && kind & 0xff != NEWGEN;
    let ours = nftables
        && u8_at(payload, 0).and_then(nft_ruleset::family_of).is_some()
        && attribute(payload, NFGENMSG, TABLE)
            .is_some_and(|name| [NFT_TABLE, WITHDRAWN_TABLE].contains(&text(name).as_str()));
    ours.then_some(Change::Nft)
}
