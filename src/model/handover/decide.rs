//! What the program in a pod does with a packet: its pure twin, for the model and for `trace`.
//!
//! | packet | what happens |
//! |---|---|
//! | SYN | taken |
//! | belongs to a socket that is not a listener; for a half-open one, the ACK of its own SYN-ACK | taken |
//! | ACK of a cookie that this pod gave | taken |
//! | not TCP, and the id does not say that it belongs to the first name | taken |
//! | anything else, and the list has a name | forwarded to it; the list gets shorter, nobody may be added any more |
//! | … the name is ahead of the last that this node knows | TCP is dropped, so that it is sent again; else taken |
//! | … the name is retired, the pod's own, or has no address in the outer family | skipped |
//! | the list is empty | taken: one RST for a packet that belongs to no pod |
//!
//! The ingress node may know less than the node of the pod. So the first pod that meets a TCP packet adds what its own node
//! lists for the bucket, the present owner first, as far as there is room. A full list stays as it is: its names have the
//! connections that enter by this ingress node, and the present owner only those that were opened by another one meanwhile.

use std::collections::BTreeMap;

use super::{Name, TunnelId};
use crate::model::{Addresses, Family};

/// What a packet is to the pod that has received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// Opens a TCP connection.
    Syn,
    /// Any other TCP packet, or an error about one.
    Tcp(Finds),
    /// Not TCP.
    NonTcp(Finds),
}

/// What the pod's network namespace has for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finds {
    /// A socket that it belongs to: connected, in TIME_WAIT, or half-open and it acknowledges that socket's SYN-ACK.
    Socket,
    /// A listener that gave the cookie which it acknowledges.
    Cookie,
    /// Nothing, or a listener.
    Nothing,
}

/// What the node of the pod knows about the Service.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The pod's own name.
    pub own: Option<Name>,
    /// The endpoints that have a name.
    pub names: &'a BTreeMap<Name, Addresses>,
    /// The last name given out; `None`: the node has no map.
    pub last: Option<Name>,
    /// The family of the outer header.
    pub outer: Family,
    /// For a while after a change: the owner of the packet's bucket, and its former owners.
    pub present: &'a [Name],
}

/// What the program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The pod's network stack gets the packet.
    Take(Taken),
    /// Another pod gets it.
    Forward {
        /// The name of that pod.
        to: Name,
        /// The id that the packet carries there.
        id: TunnelId,
    },
    /// The ingress node knows this name and the pod's node does not yet: the client sends the packet again.
    Drop(Name),
}

/// Why a pod takes a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It opens a connection.
    Opens,
    /// It belongs to a socket.
    Socket,
    /// It acknowledges a cookie.
    Cookie,
    /// It is not TCP, and nobody else is entitled to it.
    NonTcp,
    /// Nobody is left to be asked.
    Last,
}

/// What the program does with a packet that came with this id.
pub fn decide(packet: Packet, id: TunnelId, known: &Known<'_>) -> Verdict {
    let (finds, is_tcp) = match packet {
        Packet::Syn => return Verdict::Take(Taken::Opens),
        Packet::Tcp(finds) => (finds, true),
        Packet::NonTcp(finds) => (finds, false),
    };
    match finds {
        Finds::Socket => return Verdict::Take(Taken::Socket),
        Finds::Cookie => return Verdict::Take(Taken::Cookie),
        Finds::Nothing if !is_tcp && !id.datagrams() => return Verdict::Take(Taken::NonTcp),
        Finds::Nothing => {}
    }
    let asked: Vec<Name> = id.list().filter(|name| !known.skips(*name)).collect();
    let list = if is_tcp && !id.is_passed_on() { known.completed(asked) } else { asked };
    match list[..] {
        [] => Verdict::Take(Taken::Last),
        [first, ..] if !known.names.contains_key(&first) => {
            if is_tcp {
                Verdict::Drop(first)
            } else {
                Verdict::Take(Taken::NonTcp)
            }
        }
        [first, ref rest @ ..] => {
            let id = TunnelId::of(rest.iter().copied(), false).passed_on();
            Verdict::Forward { to: first, id }
        }
    }
}

impl Known<'_> {
    /// Whether nobody of this name can be asked.
    fn skips(&self, name: Name) -> bool {
        let is_reached = |addresses: &Addresses| addresses.of(self.outer).is_some();
        let is_ahead = || self.last.is_none_or(|last| name.is_later_than(last));
        self.own == Some(name) || !self.names.get(&name).map_or_else(is_ahead, is_reached)
    }

    /// The list with what this node knows beyond it.
    fn completed(&self, mut list: Vec<Name>) -> Vec<Name> {
        let usable = |name: &&Name| !self.skips(**name) && self.names.contains_key(name);
        for name in self.present.iter().filter(usable) {
            if list.len() < 2 && !list.contains(name) {
                list.push(*name);
            }
        }
        list
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
