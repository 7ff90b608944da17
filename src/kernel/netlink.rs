//! A blocking netlink socket: one request, a batch of requests, a dump.
//!
//! Serial requests cost a round trip each; batches of 64 reach 200,000 changes per second. A dump ends with the kernel's
//! errno in `NLMSG_DONE`, which must not be overlooked: a table that cannot be read is not an empty table.

use std::borrow::Borrow;
use std::io;
use std::ops::RangeInclusive;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::error::KernelError;
use super::wire::{HEADER, NFTABLES, Reply, Request, attribute, messages, text, u32_at};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The error message holds only the header of the request, not all of it.
const NLM_F_CAPPED: u16 = 0x100;
/// Attributes follow.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The bounds of a transaction (include/uapi/linux/netfilter/nfnetlink.h).
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

/// Requests per sendmsg(2).
const BATCH: usize = 64;
/// How often an interrupted dump is repeated before it is an error.
const DUMP_TRIES: u32 = 20;
/// Bytes; the answers of a batch must fit, or the kernel drops them (`ENOBUFS`). The default is 208 KiB.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Bytes; the kernel doubles it. A transaction of nftables is one datagram, which must fit. The default is 208 KiB.
const SEND_BUFFER: usize = 512 << 10;
/// The kernel answers under the RTNL lock, which others may hold for seconds; not to answer at all is a bug.
const TIMEOUT_SECONDS: i64 = 60;

/// A socket of rtnetlink or nfnetlink in the network namespace that the thread was in when it was opened.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    /// Reused: what was received, and what is sent.
    received: Vec<u8>,
    sending: Vec<u8>,
}

impl Netlink {
    /// Opens a socket for links, addresses and routes in the namespace of the calling thread.
    ///
    /// # Errors
    /// [`KernelError::Socket`]
    pub fn route() -> Result<Self, KernelError> {
        Netlink::open(NETLINK_ROUTE)
    }

    /// The same for nftables.
    ///
    /// # Errors
    /// [`KernelError::Socket`]
    pub fn netfilter() -> Result<Self, KernelError> {
        let netlink = Netlink::open(NETLINK_NETFILTER)?;
        // Without the privilege for more the default size must do.
        let _ = setsockopt(&netlink.socket, sockopt::SndBufForce, &SEND_BUFFER);
        Ok(netlink)
    }

    /// Bytes that one datagram may have (`netlink_sendmsg`, net/netlink/af_netlink.c).
    pub fn largest(&self) -> usize {
        const RESERVED: usize = 32;
        getsockopt(&self.socket, sockopt::SndBuf).map_or(0, |size| size.saturating_sub(RESERVED))
    }

    /// The same for sockets.
    ///
    /// # Errors
    /// [`KernelError::Socket`]
    pub fn sock_diag() -> Result<Self, KernelError> {
        Netlink::open(NETLINK_SOCK_DIAG)
    }

    fn open(protocol: isize) -> Result<Self, KernelError> {
        let mut socket = Socket::new(protocol).map_err(failed("open"))?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        // Without these three the answers are longer, or poorer; old kernels lack them.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))
            .map_err(|errno| KernelError::Socket { doing: "set a timeout", source: errno.into() })?;
        Ok(Netlink { socket, sequence: 0, received: Vec::with_capacity(32 << 10), sending: Vec::new() })
    }

    /// What the kernel calls the socket, within its namespace and for as long as it is open.
    pub fn port(&self) -> Result<u32, KernelError> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address).map_err(failed("name"))?;
        Ok(address.port_number())
    }

    /// One request that is acknowledged.
    ///
    /// # Errors
    /// The kernel's errno, or a failure of the socket.
    pub fn request(&mut self, request: &Request) -> Result<(), KernelError> {
        self.batch(std::slice::from_ref(request))?.pop().unwrap_or(Ok(()))
    }

    /// Many requests that are acknowledged, in order. The kernel carries each out whatever becomes of the others.
    ///
    /// # Errors
    /// Outer: the socket failed. Inner: the answer to each request.
    pub fn batch(&mut self, requests: &[Request]) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        let mut answers = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(BATCH) {
            let expected = self.send(chunk, NLM_F_REQUEST | NLM_F_ACK)?;
            let first = *expected.start();
            let mut results: Vec<Option<Result<(), KernelError>>> = chunk.iter().map(|_| None).collect();
            self.receive(&expected, |reply, index| {
                if let (NLMSG_ERROR, Some(slot)) = (reply.kind, results.get_mut(index)) {
                    *slot = Some(acknowledgement(&reply));
                }
                Ok(results.iter().any(Option::is_none))
            })?;
            tracing::trace!(first, count = chunk.len(), "netlink batch");
            answers.extend(results.into_iter().flatten());
        }
        Ok(answers)
    }

    /// Many requests that each have one object, or an error, as their answer; `each` gets the index of the request.
    ///
    /// # Errors
    /// The socket failed, or what `each` returns.
    pub fn ask(
        &mut self,
        requests: &[Request],
        mut each: impl FnMut(usize, Result<&[u8], KernelError>),
    ) -> Result<(), KernelError> {
        for (number, chunk) in requests.chunks(BATCH).enumerate() {
            let expected = self.send(chunk, NLM_F_REQUEST)?;
            let mut open = chunk.len();
            self.receive(&expected, |reply, index| {
                let answer = if reply.kind == NLMSG_ERROR {
                    acknowledgement(&reply).map(|()| &[][..])
                } else {
                    Ok(reply.payload)
                };
                each(number * BATCH + index, answer);
                open -= 1;
                Ok(open > 0)
            })?;
        }
        Ok(())
    }

    /// All objects of a kind. `each` gets the type and the payload of every message and keeps what it wants in `T`, which
    /// starts anew when the dump has to be repeated because something changed meanwhile.
    ///
    /// # Errors
    /// The kernel's errno, also when it comes at the end of the dump; [`KernelError::Interrupted`].
    pub fn dump<T: Default>(
        &mut self,
        what: &'static str,
        request: &Request,
        mut each: impl FnMut(&mut T, u16, &[u8]),
    ) -> Result<T, KernelError> {
        for attempt in 1..=DUMP_TRIES {
            let mut collected = T::default();
            let mut interrupted = false;
            let expected = self.send(std::slice::from_ref(request), NLM_F_REQUEST | NLM_F_DUMP)?;
            self.receive(&expected, |reply, _| {
                interrupted |= reply.flags & NLM_F_DUMP_INTR != 0;
                match reply.kind {
                    NLMSG_DONE | NLMSG_ERROR => return acknowledgement(&reply).map(|()| false),
                    kind => each(&mut collected, kind, reply.payload),
                }
                Ok(true)
            })?;
            if !interrupted {
                return Ok(collected);
            }
            tracing::debug!(what, attempt, "dump interrupted, repeated");
        }
        Err(KernelError::Interrupted { what, tries: DUMP_TRIES })
    }

    /// Requests of nftables that are carried out together or not at all (`nfnetlink_rcv_batch`, net/netfilter/nfnetlink.c).
    ///
    /// # Errors
    /// The kernel's errno, or a failure of the socket.
    pub fn transaction(&mut self, requests: &[Request]) -> Result<(), KernelError> {
        if requests.is_empty() {
            return Ok(());
        }
        // `struct nfgenmsg`: whose transaction it is, in network byte order.
        let [high, low] = NFTABLES.to_be_bytes();
        let bound = |kind| Request { kind, flags: 0, payload: vec![0, 0, high, low] };
        let acknowledged = requests.iter().map(|request| (request.clone(), NLM_F_REQUEST | NLM_F_ACK));
        let begin = std::iter::once((bound(NFNL_MSG_BATCH_BEGIN), NLM_F_REQUEST));
        let messages: Vec<_> = begin.chain(acknowledged).chain([(bound(NFNL_MSG_BATCH_END), NLM_F_REQUEST)]).collect();
        let expected = self.send_each(&messages)?;
        let (mut open, mut refusal) = (requests.len(), Ok(()));
        self.receive(&expected, |reply, index| {
            let answer = acknowledgement(&reply);
            // What concerns the transaction as a whole is told as the answer to its beginning, and comes first.
            if index == 0 {
                return answer.map(|()| open > 0);
            }
            open -= 1;
            if refusal.is_ok() {
                refusal = answer;
            }
            Ok(open > 0)
        })?;
        refusal
    }

    /// Sends requests in one datagram and returns their sequence numbers.
    fn send(&mut self, requests: &[Request], flags: u16) -> Result<RangeInclusive<u32>, KernelError> {
        let requests: Vec<_> = requests.iter().map(|request| (request, flags)).collect();
        self.send_each(&requests)
    }

    /// The same with flags for each.
    fn send_each(&mut self, requests: &[(impl Borrow<Request>, u16)]) -> Result<RangeInclusive<u32>, KernelError> {
        self.sending.clear();
        let first = self.sequence.wrapping_add(1);
        for (request, flags) in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.borrow().emit(*flags, self.sequence, &mut self.sending);
        }
        self.socket.send(&self.sending, 0).map_err(failed("send"))?;
        Ok(first..=self.sequence)
    }

    /// Receives until `each` returns `false`. Answers to earlier requests (a dump that was given up) are passed over.
    fn receive(
        &mut self,
        expected: &RangeInclusive<u32>,
        mut each: impl FnMut(Reply<'_>, usize) -> Result<bool, KernelError>,
    ) -> Result<(), KernelError> {
        loop {
            self.receive_datagram()?;
            for reply in messages(&self.received) {
                if !expected.contains(&reply.sequence) {
                    continue;
                }
                let index = usize::try_from(reply.sequence - expected.start()).unwrap_or(usize::MAX);
                if !each(reply, index)? {
                    return Ok(());
                }
            }
        }
    }

    /// One whole datagram, whatever its size: a link with many virtual functions fills more than 64 KiB.
    fn receive_datagram(&mut self) -> Result<(), KernelError> {
        self.received.clear();
        let needed = retry(|| self.socket.recv(&mut Vec::new(), libc::MSG_PEEK | libc::MSG_TRUNC))?;
        self.received.reserve(needed.max(HEADER));
        retry(|| self.socket.recv(&mut self.received, 0)).map(|_| ())
    }
}

fn retry(mut receive: impl FnMut() -> io::Result<usize>) -> Result<usize, KernelError> {
    loop {
        match receive() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(failed("receive")),
        }
    }
}

pub(super) fn failed(doing: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::Socket { doing, source }
}

/// `NLMSG_ERROR` and `NLMSG_DONE` both start with an errno, 0 or negative (`struct nlmsgerr`).
pub(super) fn acknowledgement(reply: &Reply<'_>) -> Result<(), KernelError> {
    match u32_at(reply.payload, 0).map(u32::cast_signed) {
        // Kernels end some dumps with an empty NLMSG_DONE.
        None | Some(0) => Ok(()),
        Some(errno) => Err(KernelError::refused(errno, explanation(reply))),
    }
}

fn explanation(reply: &Reply<'_>) -> Option<String> {
    if reply.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let quoted = match (reply.kind, reply.flags & NLM_F_CAPPED) {
        (NLMSG_DONE, _) => 0,
        (_, 0) => usize::try_from(u32_at(reply.payload, 4)?).ok()?.next_multiple_of(4),
        _ => HEADER,
    };
    attribute(reply.payload, 4 + quoted, NLMSGERR_ATTR_MSG).map(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::route::{RouteAttribute, RouteMessage};
    use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
    use nix::errno::Errno;

    fn routes_of(table: u32) -> Request {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.attributes.push(RouteAttribute::Table(table));
        Request::new(&RouteNetlinkMessage::GetRoute(message), 0)
    }

    fn count(netlink: &mut Netlink, table: u32) -> Result<usize, KernelError> {
        netlink.dump("routes", &routes_of(table), |count: &mut usize, _, _| *count += 1)
    }

    #[test]
    fn a_dump_that_fails_is_an_error_and_not_an_empty_list() {
        let mut netlink = Netlink::route().unwrap();
        // The kernel puts this errno into NLMSG_DONE.
        let error = count(&mut netlink, 4_000_000_000).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOENT));
        assert!(error.to_string().contains("FIB table does not exist"), "{error}");
        // And this one into NLMSG_ERROR: a nexthop dump must not name a protocol.
        let refused =
            Request { kind: super::super::wire::rtm::GETNEXTHOP, flags: 0, payload: vec![0, 0, 107, 0, 0, 0, 0, 0] };
        let error = netlink.dump("nexthops", &refused, |_: &mut (), _, _| ()).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL));
        // The socket is as good as before.
        assert!(count(&mut netlink, 255).unwrap() > 0);
    }

    #[test]
    fn an_error_quotes_the_kernels_explanation_with_and_without_the_request() {
        let tlv = [9, 0, 1, 0, b'b', b'a', b'd', b'!', 0, 0, 0, 0];
        let errno = (-22_i32).to_ne_bytes();
        let explain = |kind, flags, quoted: &[u8]| {
            let payload = [&errno[..], quoted, &tlv].concat();
            explanation(&Reply { kind, flags, sequence: 1, port: 0, payload: &payload })
        };
        let header = [24_u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4]].concat();
        assert_eq!(explain(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, &header).as_deref(), Some("bad!"));
        let whole = [&header[..], &[0; 8]].concat();
        assert_eq!(explain(NLMSG_ERROR, NLM_F_ACK_TLVS, &whole).as_deref(), Some("bad!"));
        assert_eq!(explain(NLMSG_DONE, NLM_F_ACK_TLVS, &[]).as_deref(), Some("bad!"));
        assert_eq!(explain(NLMSG_ERROR, 0, &whole), None);
    }
}
