//! Open TCP connections of a namespace, as `ss -tn` lists them (man 7 `sock_diag`).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::error::KernelError;
use super::netlink::Netlink;
use super::wire::{Request, be16, ip, u8_at};

/// A connection that is open, or being opened or closed with data still under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// `struct inet_diag_req_v2` (include/uapi/linux/inet_diag.h): family, protocol, extensions, padding, states, socket id.
const REQUEST: usize = 56;
/// ESTABLISHED, `SYN_RECV`, `FIN_WAIT1`, `FIN_WAIT2`, `CLOSE_WAIT`, `LAST_ACK`, CLOSING, `NEW_SYN_RECV` (include/net/tcp_states.h);
/// not listeners, and not `TIME_WAIT`, where nothing is left to say.
const OPEN: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12;

/// ESTABLISHED, `SYN_SENT`: one that stands, or is asked for from here. The other states can be had from outside.
const OWN: u32 = 1 << 1 | 1 << 2;

/// The open TCP connections of the calling thread's namespace. IPv4 connections of dual-stack sockets are shown as IPv4.
///
/// # Errors
/// A kernel without `inet_diag`, or a failure of the socket.
pub fn connections() -> Result<Vec<Connection>, KernelError> {
    dump(&mut Netlink::sock_diag()?, OPEN, [0, 0])
}

/// Who has a TCP connection with the calling thread's namespace in which either end has this port, or is asked for one.
///
/// # Errors
/// As [`connections`].
pub fn peers_at(port: u16) -> Result<BTreeSet<IpAddr>, KernelError> {
    let mut netlink = Netlink::sock_diag()?;
    let mut peers = BTreeSet::new();
    for ports in [[port, 0], [0, port]] {
        peers.extend(dump(&mut netlink, OWN, ports)?.into_iter().map(|connection| connection.peer.ip()));
    }
    Ok(peers)
}

/// Connections in these states, with these ports at this end and at the other; 0 is any. The kernel leaves out the others
/// (`inet_diag_dump_icsk`, net/ipv4/inet_diag.c).
fn dump(netlink: &mut Netlink, states: u32, ports: [u16; 2]) -> Result<Vec<Connection>, KernelError> {
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut payload = vec![family, IPPROTO_TCP, 0, 0];
        payload.extend(states.to_ne_bytes());
        payload.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        payload.resize(REQUEST, 0);
        let request = Request { kind: SOCK_DIAG_BY_FAMILY, flags: 0, payload };
        all.extend(
            netlink.dump("connections", &request, |found: &mut Vec<_>, _, answer| found.extend(decode(answer)))?,
        );
    }
    Ok(all)
}

/// `struct inet_diag_msg`: family, state, timer, retransmissions, then ports and addresses.
pub(super) fn decode(answer: &[u8]) -> Option<Connection> {
    let length = if u8_at(answer, 0)? == AF_INET { 4 } else { 16 };
    let end = |port: usize, address: usize| {
        let address = ip(answer.get(address..address + length)?)?.to_canonical();
        Some(SocketAddr::new(address, be16(answer.get(port..)?)?))
    };
    Some(Connection { local: end(4, 8)?, peer: end(6, 24)? })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn an_open_connection_is_listed_from_both_ends_and_a_listener_is_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = listener.local_addr().unwrap();
        let about = |all: Vec<Connection>| {
            all.into_iter().filter(|c| c.local == server || c.peer == server).collect::<Vec<_>>()
        };
        assert_eq!(about(connections().unwrap()), []);
        let stream = TcpStream::connect(server).unwrap();
        let client = stream.local_addr().unwrap();
        let found = about(connections().unwrap());
        assert!(found.contains(&Connection { local: server, peer: client }), "{found:?}");
        assert!(found.contains(&Connection { local: client, peer: server }), "{found:?}");
    }

    #[test]
    fn peers_are_known_by_the_port_of_either_end() {
        // Other tests may use these ports at other addresses. Ports of one address differ.
        let own = Ipv4Addr::new(127, 107, 0, 2);
        let listen = || TcpListener::bind((own, 0)).unwrap();
        let (server, idle) = (listen(), listen());
        let stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let both = BTreeSet::from([own.into(), stream.local_addr().unwrap().ip()]);
        let at = |address: SocketAddr| peers_at(address.port()).unwrap();
        assert!(at(server.local_addr().unwrap()).is_superset(&both));
        assert!(at(stream.local_addr().unwrap()).is_superset(&both));
        assert!(!at(idle.local_addr().unwrap()).contains(&IpAddr::from(own)));
    }

    #[test]
    fn an_ipv4_connection_of_a_dual_stack_socket_is_one_of_ipv4() {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()));
        let stream = TcpStream::connect(server).unwrap();
        let peer = stream.local_addr().unwrap();
        assert!(connections().unwrap().contains(&Connection { local: server, peer }));
    }
}
