//! One node that is the client, too, and three pods: `c` owns, `p` and `q` are former owners. All packets between pods cross
//! the node, where they are seen.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recvfrom, sendto,
    socket,
};
use tunnel_router::kernel::bpf::{OBJECT, SecondChance, Sizes, attach};
use tunnel_router::model::second_chance::{Counts, Name, Tables, VipNames};
use tunnel_router::model::{Addresses, Family};
use tunnel_router::netns::Netns;

use super::packet::{Flow, PORT, Seen};
use crate::support::{load_program, settle};

/// What carries the packets, and the family of its outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    Vxlan(Family),
    Gre(Family),
}

pub const PODS: [&str; 3] = ["c", "p", "q"];
pub const C: u32 = 1;
pub const P: u32 = 2;
pub const Q: u32 = 3;
pub const DATAGRAMS: u32 = 1 << 22;
/// How long to listen for what is not expected. Kernels pass on and answer while the packet is being sent.
const QUIET: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(5);

pub fn name(number: u32) -> Name {
    Name::new(number).unwrap()
}

/// A list of former owners as the ingress node sends it.
pub fn list(first: u32, second: u32) -> u32 {
    first | second << 11
}

impl Tunnel {
    pub fn device(self) -> &'static str {
        match self {
            Tunnel::Vxlan(_) => "kst-vxlan",
            Tunnel::Gre(Family::V4) => "kst-gre",
            Tunnel::Gre(Family::V6) => "kst-gre6",
        }
    }

    pub fn outer(self) -> Family {
        let (Tunnel::Vxlan(family) | Tunnel::Gre(family)) = self;
        family
    }

    fn add(self) -> String {
        let device = self.device();
        match self {
            Tunnel::Vxlan(_) => {
                format!("link add {device} type vxlan external gpe dstport 4790 nolearning udp6zerocsumrx")
            }
            Tunnel::Gre(Family::V4) => format!("link add {device} type gre external"),
            Tunnel::Gre(Family::V6) => format!("link add {device} type ip6gre external"),
        }
    }

    /// The next hop towards a pod.
    fn encap(self, id: u32, pod: &str) -> String {
        let (device, key) = (self.device(), if matches!(self, Tunnel::Gre(_)) { "key" } else { "" });
        let to = pod_address(pod, self.outer());
        match self.outer() {
            Family::V4 => format!("encap ip id {id} src 10.244.0.1 dst {to} ttl 64 {key} dev {device}"),
            Family::V6 => format!("encap ip6 id {id} src fd00:244::1 dst {to} hoplimit 64 {key} dev {device}"),
        }
    }
}

pub fn pod_address(pod: &str, family: Family) -> IpAddr {
    let number = 2 + PODS.iter().position(|other| *other == pod).unwrap();
    let text = match family {
        Family::V4 => format!("10.244.0.{number}"),
        Family::V6 => format!("fd00:244::{number}"),
    };
    text.parse().unwrap()
}

fn pod_addresses(pod: &str) -> Addresses {
    Addresses::first_of(&Family::ALL.map(|family| pod_address(pod, family)))
}

pub fn vip(family: Family) -> IpAddr {
    if family == Family::V4 { "192.0.2.10" } else { "2001:db8:99::10" }.parse().unwrap()
}

/// A client that exists only in packets made by hand: nobody answers what is sent to it.
pub fn ghost(family: Family, port: u16) -> Flow {
    let client = if family == Family::V4 { "203.0.113.7" } else { "2001:db8:c1::7" };
    Flow { client: client.parse().unwrap(), port, vip: vip(family), vip_port: PORT }
}

/// What the tables hold when every node knows everything.
pub fn all_names() -> VipNames {
    let endpoints = [(C, "c"), (P, "p"), (Q, "q")].map(|(number, pod)| (name(number), pod_addresses(pod)));
    VipNames { last: name(Q), endpoints: BTreeMap::from(endpoints), present: None }
}

/// The namespaces, and the program that is attached in all pods.
pub struct Lab {
    pub tunnel: Tunnel,
    pub node: Netns,
    pub pods: BTreeMap<&'static str, Netns>,
    pub program: SecondChance,
    wire: OwnedFd,
    /// Index of the node's device towards a pod.
    ports: BTreeMap<usize, &'static str>,
    /// SYN-ACKs that have been seen: nobody answers them, so they are sent again.
    handshakes: RefCell<BTreeSet<u32>>,
}

const MAC: &str = "02:00:00:00:00:01";
const EVERYWHERE: [(&str, u32); 7] = [
    ("ipv6/conf/all/disable_ipv6", 0),
    ("ipv6/conf/default/disable_ipv6", 0),
    ("ipv6/conf/all/accept_dad", 0),
    ("ipv6/conf/default/accept_dad", 0),
    ("ipv6/conf/default/router_solicitations", 0),
    ("ipv4/conf/all/rp_filter", 0),
    ("ipv4/conf/default/rp_filter", 0),
];
const ON_THE_NODE: [(&str, u32); 2] = [("ipv4/ip_forward", 1), ("ipv6/conf/all/forwarding", 1)];

impl Lab {
    pub fn new(tunnel: Tunnel) -> Lab {
        Lab::with(tunnel, load_program(OBJECT, Sizes::LEAST))
    }

    /// The same with the program for kernels without type information.
    pub fn untyped(tunnel: Tunnel) -> Lab {
        Lab::with(tunnel, SecondChance::load_untyped(OBJECT, Sizes::LEAST).unwrap())
    }

    fn with(tunnel: Tunnel, mut program: SecondChance) -> Lab {
        program.write(&Tables::from(Family::ALL.map(|family| (vip(family), all_names())))).unwrap();
        let node = Netns::anonymous().unwrap();
        let pods: BTreeMap<_, _> = PODS.iter().map(|pod| (*pod, Netns::anonymous().unwrap())).collect();
        set_up_node(&node, &pods, tunnel);
        for (pod, netns) in &pods {
            set_up_pod(netns, pod, tunnel);
            netns.run(|| attach(tunnel.device(), &program.handle())).unwrap().unwrap();
            batch(netns, &[format!("link set {} up", tunnel.device())]);
            serve(netns, pod);
        }
        pods.values().chain([&node]).for_each(settle);
        let wire = node.run(packet_socket).unwrap();
        let ports = PODS.iter().map(|pod| (index_of(&node, &format!("v{pod}")), *pod)).collect();
        Lab { tunnel, node, pods, program, wire, ports, handshakes: RefCell::default() }
    }

    /// Sends the VIPs' packets to a pod, with a list.
    pub fn steer(&self, pod: &str, id: u32) {
        let encap = self.tunnel.encap(id, pod);
        let (v4, v6) = (vip(Family::V4), vip(Family::V6));
        batch(
            &self.node,
            &[
                format!("route replace {v4}/32 {encap} src 203.0.113.1"),
                format!("route replace {v6}/128 {encap} src 2001:db8:c1::1"),
            ],
        );
    }

    /// Sends a packet as it is, from the node to the VIP.
    pub fn send(&self, packet: &[u8]) {
        let to = Seen::read(packet).unwrap().to;
        let sent = self.node.run(|| match to {
            IpAddr::V4(v4) => {
                let raw = raw_socket(AddressFamily::Inet);
                let to = SockaddrIn::from(std::net::SocketAddrV4::new(v4, 0));
                sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty())
            }
            IpAddr::V6(v6) => {
                let raw = raw_socket(AddressFamily::Inet6);
                let to = SockaddrIn6::from(std::net::SocketAddrV6::new(v6, 0, 0, 0));
                sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty())
            }
        });
        assert_eq!(sent.unwrap(), Ok(packet.len()));
    }

    /// Sends a packet, and expects exactly this on the wire: `to POD LIST` and `from POD KIND`, in any order of pods but the
    /// order of each way. Returns the packets from pods.
    pub fn trace(&self, packet: &[u8], expected: &[&str]) -> Vec<Seen> {
        self.trace_all(&[packet], expected)
    }

    /// The same for several packets, one after the other.
    pub fn trace_all(&self, packets: &[&[u8]], expected: &[&str]) -> Vec<Seen> {
        let (texts, replies) = self.events_of(packets, expected.len());
        assert_eq!(texts, expected, "{:?}; {}", self.tunnel, self.counts());
        replies
    }

    /// The same in any order: an acknowledgement of the kernel and what the server does next come from different CPUs.
    pub fn trace_unordered(&self, packet: &[u8], expected: &[&str]) {
        let (mut texts, _) = self.events_of(&[packet], expected.len());
        let mut expected = expected.to_vec();
        texts.sort();
        expected.sort();
        assert_eq!(texts, expected, "{:?}; {}", self.tunnel, self.counts());
    }

    /// Sends packets, waits for this many events, and listens a little longer.
    fn events_of(&self, packets: &[&[u8]], expected: usize) -> (Vec<String>, Vec<Seen>) {
        let client = Seen::read(packets[0]).unwrap().from;
        while self.next_event(client, Duration::ZERO).is_some() {}
        packets.iter().for_each(|packet| self.send(packet));
        let (mut texts, mut replies, until) = (Vec::new(), Vec::new(), Instant::now() + PATIENCE);
        while let Some((text, reply)) = {
            let left = until.saturating_duration_since(Instant::now());
            self.next_event(client, if texts.len() < expected { left } else { QUIET })
        } {
            texts.push(text);
            replies.extend(reply);
        }
        (texts, replies)
    }

    /// Sends each packet when the way of the one before is over. For many packets of one client: only once it is waited for
    /// what is not expected.
    pub fn trace_each<T: AsRef<str>>(&self, ways: &[(Vec<u8>, Vec<T>)]) {
        let client = Seen::read(&ways[0].0).unwrap().from;
        while self.next_event(client, Duration::ZERO).is_some() {}
        for (at, (packet, expected)) in ways.iter().enumerate() {
            self.send(packet);
            for text in expected {
                let event = self.next_event(client, PATIENCE).map(|(text, _)| text);
                assert_eq!(event.as_deref(), Some(text.as_ref()), "packet {at}, {:?}; {}", self.tunnel, self.counts());
            }
        }
        assert!(self.next_event(client, QUIET).is_none(), "{:?}; {}", self.tunnel, self.counts());
    }

    fn next_event(&self, client: IpAddr, wait: Duration) -> Option<(String, Option<Seen>)> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap();
            let mut fds = [PollFd::new(self.wire.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout).unwrap() == 0 {
                return None;
            }
            let mut frame = [0; 4096];
            let (length, from) = recvfrom::<LinkAddr>(self.wire.as_raw_fd(), &mut frame).unwrap();
            if let Some(event) = self.event(&frame[..length], &from.unwrap(), client) {
                return Some(event);
            }
        }
    }

    /// Every packet of the client that is on its way to a pod, and every answer of a pod to the client.
    fn event(&self, frame: &[u8], from: &LinkAddr, client: IpAddr) -> Option<(String, Option<Seen>)> {
        const OUTGOING: u8 = 4;
        let pod = self.ports.get(&from.ifindex())?;
        let seen = Seen::read(frame)?;
        match (seen.inner(), from.pkttype() == OUTGOING) {
            (Some((id, inner)), true) if inner.from == client => {
                if id >> 23 != 0 {
                    // What a pod passes on comes from the address that the packet came to, and may be fragmented.
                    let own = PODS.map(|pod| pod_address(pod, self.tunnel.outer()));
                    assert!(own.contains(&seen.from) && !seen.df, "{seen:?}");
                }
                Some((format!("to {pod} {}", text(id)), None))
            }
            (None, false) if seen.to == client && self.is_repeated(&seen) => None,
            (None, false) if seen.to == client => Some((format!("from {pod} {}", seen.kind()), Some(seen))),
            _ => None,
        }
    }

    fn is_repeated(&self, reply: &Seen) -> bool {
        reply.kind() == "SA" && !self.handshakes.borrow_mut().insert(reply.seq())
    }

    /// The handshake of a client made by hand, with whatever pod answers: the sequence number after the pod's SYN.
    pub fn syn(&self, flow: Flow, expected: &[&str]) -> u32 {
        let replies = self.trace(&flow.tcp(super::packet::SYN, 1000, 0, b""), expected);
        replies.last().unwrap().seq().wrapping_add(1)
    }

    pub fn counts(&self) -> Counts {
        self.program.counts().unwrap()
    }

    /// A connection of a real client.
    pub fn connect(&self, family: Family) -> TcpStream {
        self.connect_to((vip(family), PORT))
    }

    /// The same to another port.
    pub fn connect_to(&self, server: (IpAddr, u16)) -> TcpStream {
        let stream = self.node.run(|| TcpStream::connect_timeout(&server.into(), PATIENCE)).unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// Which pod answers on a connection.
pub fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"?").unwrap();
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends much data, and returns what the pod says about it.
pub fn pour(mut stream: TcpStream) -> String {
    stream.write_all(b"b").unwrap();
    stream.write_all(&bulk()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub const BULK: usize = 4 << 20;

/// Data in which every byte that is lost or moved shows.
pub fn bulk() -> Vec<u8> {
    (0..BULK).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

pub fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

/// A tunnel id in words, read bit by bit.
pub fn text(id: u32) -> String {
    let names = [id & 0x7ff, id >> 11 & 0x7ff].into_iter().filter(|name| *name != 0).map(|name| name.to_string());
    let names = names.collect::<Vec<_>>().join(",");
    let flags = [(22, " datagrams"), (23, " passed")].into_iter().filter(|(bit, _)| id >> bit & 1 != 0);
    let flags: String = flags.map(|(_, text)| text).collect();
    format!("{}{flags}", if names.is_empty() { "-" } else { &names })
}

/// Many `ip` commands in one process: processes are slow to start in an emulated machine.
fn batch(netns: &Netns, lines: &[String]) {
    let output = netns.run(|| {
        let mut ip =
            Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
        ip.wait_with_output().unwrap()
    });
    let output = output.unwrap();
    assert!(output.status.success(), "{}: {lines:#?}", String::from_utf8_lossy(&output.stderr));
}

/// `/proc/sys/net` is that of the thread's namespace.
fn set_sysctls(netns: &Netns, sysctls: &[(&str, u32)]) {
    let write = |(key, value): &(&str, u32)| std::fs::write(format!("/proc/sys/net/{key}"), value.to_string());
    netns.run(|| sysctls.iter().try_for_each(write)).unwrap().unwrap();
}

fn set_up_node(node: &Netns, pods: &BTreeMap<&str, Netns>, tunnel: Tunnel) {
    set_sysctls(node, &EVERYWHERE);
    set_sysctls(node, &ON_THE_NODE);
    let pid = std::process::id();
    let mut lines = vec!["link set lo up".to_owned()];
    for (pod, netns) in pods {
        let fd = netns.as_fd().as_raw_fd();
        let [v4, v6] = Family::ALL.map(|family| pod_address(pod, family));
        lines.extend([
            // Without neighbours to be looked for: both ends have the same MAC address.
            format!("link add v{pod} address {MAC} type veth peer name eth0 address {MAC} netns /proc/{pid}/fd/{fd}"),
            format!("link set v{pod} arp off up"),
            format!("addr add 10.244.0.1/32 dev v{pod}"),
            format!("addr add fd00:244::1/128 dev v{pod} nodad"),
            format!("route add {v4}/32 dev v{pod}"),
            format!("route add {v6}/128 dev v{pod}"),
        ]);
    }
    let device = tunnel.device();
    lines.extend([
        "addr add 203.0.113.1/32 dev lo".to_owned(),
        "addr add 2001:db8:c1::1/128 dev lo nodad".to_owned(),
        "route add blackhole 203.0.113.7/32".to_owned(),
        "route add blackhole 2001:db8:c1::7/128".to_owned(),
        tunnel.add(),
        format!("link set {device} up"),
    ]);
    batch(node, &lines);
}

fn set_up_pod(netns: &Netns, pod: &str, tunnel: Tunnel) {
    set_sysctls(netns, &EVERYWHERE);
    let [v4, v6] = Family::ALL.map(|family| pod_address(pod, family));
    let device = tunnel.device();
    batch(
        netns,
        &[
            "link set lo up".to_owned(),
            "link set eth0 arp off up".to_owned(),
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            "route add 10.244.0.1/32 dev eth0".to_owned(),
            "route add fd00:244::1/128 dev eth0".to_owned(),
            format!("route add default via 10.244.0.1 src {v4}"),
            format!("route add default via fd00:244::1 src {v6}"),
            tunnel.add(),
            format!("addr add {}/32 dev {device}", vip(Family::V4)),
            format!("addr add {}/128 dev {device} nodad", vip(Family::V6)),
        ],
    );
}

/// Servers that answer with the pod's name: TCP on all addresses, to every byte, until a byte `x`, or to all that comes after
/// a byte `b`; UDP on each VIP.
fn serve(netns: &Netns, pod: &'static str) {
    listen(netns, pod, (IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED), PORT));
    for family in Family::ALL {
        let socket = netns.run(|| UdpSocket::bind((vip(family), PORT)).unwrap()).unwrap();
        thread::spawn(move || {
            let mut data = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut data) {
                let _ = socket.send_to(pod.as_bytes(), from);
            }
        });
    }
}

/// A TCP server that answers with the pod's name.
pub fn listen(netns: &Netns, pod: &'static str, address: (IpAddr, u16)) {
    let listener = netns.run(|| TcpListener::bind(address).unwrap()).unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || answer(stream, pod));
        }
    });
}

fn answer(mut stream: TcpStream, pod: &str) {
    let (mut byte, mut data) = ([0; 1], Vec::new());
    while stream.read_exact(&mut byte).is_ok() {
        let answered = match &byte {
            b"x" => return,
            b"b" => {
                let length = stream.read_to_end(&mut data).unwrap_or(0);
                stream.write_all(format!("{pod} {length} {}", checksum(&data)).as_bytes())
            }
            _ => stream.write_all(pod.as_bytes()),
        };
        if answered.is_err() {
            return;
        }
    }
}

fn packet_socket() -> OwnedFd {
    socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap()
}

fn raw_socket(family: AddressFamily) -> OwnedFd {
    socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap()
}

fn index_of(netns: &Netns, device: &str) -> usize {
    let index = netns.run(|| nix::net::if_::if_nametoindex(device).unwrap()).unwrap();
    usize::try_from(index).unwrap()
}
