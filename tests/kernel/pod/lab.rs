//! A pod, and everybody outside of it: nodes, peers, strangers and clients are addresses of one namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use tunnel_router::kernel::bpf::{OBJECT, Programs, SecondChance, Sizes};
use tunnel_router::model::config::MplsLabels;
use tunnel_router::model::names::LinkPrefix;
use tunnel_router::model::{Addresses, BucketCount, Family, MarkField, Mode};
use tunnel_router::netns::Netns;
use tunnel_router::plan::Settings;
use tunnel_router::plan::pod::PodInput;
use tunnel_router::reconcile::{Execution, Goal, Memory, Outcome, reconcile};

use crate::second_chance::packet::{Flow, PORT};
use crate::support::{PREFIX, load_program, netns, settle, sh};

pub const VXLAN_PORT: u16 = 4790;

/// What carries the packets, and the family of its outer header.
#[derive(Debug, Clone, Copy)]
pub struct Tunnel {
    pub mode: Mode,
    pub outer: Family,
}

impl Tunnel {
    /// The pod's device.
    pub fn device(self) -> &'static str {
        match (self.mode, self.outer) {
            (Mode::Gre, Family::V4) => "kst-xgre",
            (Mode::Gre, Family::V6) => "kst-xgre6",
            (Mode::Vxlan | Mode::Mpls, _) => "kst-vxlan",
        }
    }

    fn add(self, name: &str) -> String {
        match (self.mode, self.outer) {
            (Mode::Gre, Family::V4) => format!("ip link add {name} type gre external"),
            (Mode::Gre, Family::V6) => format!("ip link add {name} type ip6gre external"),
            _ => format!("ip link add {name} type vxlan external gpe dstport {VXLAN_PORT} nolearning udp6zerocsumrx"),
        }
    }
}

/// Who sends outer packets.
#[derive(Debug, Clone, Copy)]
pub enum Sender {
    Node,
    Peer,
    Stranger,
}

impl Sender {
    pub fn address(self, family: Family) -> IpAddr {
        let (v4, v6) = match self {
            Sender::Node => ("10.0.0.1", "fd00::1"),
            Sender::Peer => ("10.244.2.3", "fd00:244:2::3"),
            Sender::Stranger => ("10.9.9.9", "fd00:9::9"),
        };
        of(family, v4, v6)
    }
}

fn of(family: Family, v4: &str, v6: &str) -> IpAddr {
    if family == Family::V4 { v4.parse().unwrap() } else { v6.parse().unwrap() }
}

pub fn vip(family: Family) -> IpAddr {
    of(family, "192.0.2.10", "2001:db8::10")
}

fn pod_address(family: Family) -> IpAddr {
    of(family, "10.244.1.2", "fd00:244:1::2")
}

/// A client that exists only in packets made by hand.
pub fn client(family: Family) -> Flow {
    Flow { client: of(family, "203.0.113.7", "2001:db8:c1::7"), port: 4000, vip: vip(family), vip_port: PORT }
}

pub struct Lab {
    pub tunnel: Tunnel,
    pub pod: Netns,
    outside: Netns,
    pub programs: Programs,
    pub memory: Memory,
}

const SYSCTLS: &str = "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0 \
                       net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.rp_filter";

impl Lab {
    /// Two namespaces; nothing of ours is in the pod's.
    pub fn new(tunnel: Tunnel) -> Lab {
        let (pod, outside) = (netns(), netns());
        // A module that is loaded later adds its devices to every namespace.
        sh(&pod, "modprobe -qa ip_gre ip6_gre vxlan mpls_router mpls_iptunnel || true");
        sh(&pod, &format!("{SYSCTLS}=1"));
        let (pid, fd) = (std::process::id(), pod.as_fd().as_raw_fd());
        let mac = "address 02:00:00:00:00:01";
        // Neighbours need not be looked for: both ends have the same MAC address.
        let mut script = format!(
            "{SYSCTLS}=0
             ip link add out {mac} type veth peer name eth0 {mac} netns /proc/{pid}/fd/{fd}; ip link set out arp off up
             {}; ip link set tunnel up
             ip route add 10.244.1.2/32 dev out; ip route add fd00:244:1::2/128 dev out",
            tunnel.add("tunnel")
        );
        for sender in [Sender::Node, Sender::Peer, Sender::Stranger] {
            let [v4, v6] = Family::ALL.map(|family| sender.address(family));
            script.push_str(&format!("\nip addr add {v4}/32 dev lo; ip addr add {v6}/128 dev lo nodad"));
        }
        sh(&outside, &format!("set -e; {script}"));
        sh(
            &pod,
            "set -e; ip link set eth0 arp off up; ip addr add 10.244.1.2/32 dev eth0
             ip addr add fd00:244:1::2/128 dev eth0 nodad
             ip route add default dev eth0; ip -6 route add default dev eth0",
        );
        settle(&outside);
        settle(&pod);
        Lab { tunnel, pod, outside, programs: Programs::default(), memory: Memory::default() }
    }

    /// A program that may be attached.
    pub fn load(&self) -> SecondChance {
        let program = load_program(OBJECT, Sizes::LEAST);
        self.programs.insert(program.handle());
        program
    }

    /// A VIP of each family, and who may send packets.
    pub fn input(&self, program: Option<u32>, peers: &[Sender]) -> PodInput {
        let Tunnel { mode, outer } = self.tunnel;
        let addresses = Family::ALL.map(pod_address);
        PodInput {
            vips: Family::ALL.map(|family| (vip(family), mode)).into(),
            addresses: Addresses::first_of(&addresses),
            outer: BTreeSet::from([outer]),
            nodes: Family::ALL.map(|family| Sender::Node.address(family)).into(),
            underlay_mtu: None,
            peers: peers.iter().flat_map(|peer| Family::ALL.map(|family| peer.address(family))).collect(),
            program,
        }
    }

    /// One round of the agent.
    pub fn round(&mut self, input: PodInput) -> Outcome {
        let execution = Execution::Apply(&self.programs);
        reconcile(&self.pod, &Goal::Pod(input), &settings(), &mut self.memory, execution).unwrap()
    }

    /// Sends a packet through the tunnel, from this address.
    pub fn send(&self, sender: Sender, packet: &[u8]) {
        let outer = self.tunnel.outer;
        let (src, dst) = (sender.address(outer), pod_address(outer));
        let key = if self.tunnel.mode == Mode::Gre { "key" } else { "" };
        let encap = match outer {
            Family::V4 => format!("encap ip id 0 src {src} dst {dst} ttl 64 {key} dev tunnel"),
            Family::V6 => format!("encap ip6 id 0 src {src} dst {dst} hoplimit 64 {key} dev tunnel"),
        };
        let to = if packet[0] >> 4 == 4 { vip(Family::V4) } else { vip(Family::V6) };
        sh(&self.outside, &format!("ip route replace {to} {encap}"));
        if self.tunnel.mode == Mode::Gre && outer == Family::V6 {
            // `ip6gre` takes any address of its own, whatever the route says.
            let chain = "outer output { type filter hook output priority -300; }";
            let rule = format!("outer output meta l4proto 47 ip6 saddr set {src}");
            sh(
                &self.outside,
                &format!(
                    "nft 'add table ip6 outer; add chain ip6 {chain}; flush chain ip6 outer output; add rule ip6 {rule}'"
                ),
            );
        }
        self.send_raw(to, packet);
    }

    /// Sends a packet as it is.
    pub fn send_raw(&self, to: IpAddr, packet: &[u8]) {
        let raw = |family| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap();
        let sent = self.outside.run(|| match to {
            IpAddr::V4(v4) => {
                let to = SockaddrIn::from(std::net::SocketAddrV4::new(v4, 0));
                sendto(raw(AddressFamily::Inet).as_raw_fd(), packet, &to, MsgFlags::empty())
            }
            IpAddr::V6(v6) => {
                let to = SockaddrIn6::from(std::net::SocketAddrV6::new(v6, 0, 0, 0));
                sendto(raw(AddressFamily::Inet6).as_raw_fd(), packet, &to, MsgFlags::empty())
            }
        });
        assert_eq!(sent.unwrap(), Ok(packet.len()));
    }

    /// Runs a command where everybody else is.
    pub fn outside(&self, command: &str) -> String {
        sh(&self.outside, command)
    }

    /// A server on the VIP.
    pub fn server(&self, family: Family) -> UdpSocket {
        let socket = self.pod.run(|| UdpSocket::bind((vip(family), PORT)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    /// What `tc` says about ingress of the pod's device.
    pub fn tc(&self) -> String {
        sh(&self.pod, &format!("tc -d filter show dev {} ingress", self.tunnel.device()))
    }
}

/// What the next datagram says.
pub fn received(server: &UdpSocket) -> String {
    let mut data = [0; 64];
    let length = server.recv(&mut data).expect("nothing arrives");
    String::from_utf8_lossy(&data[..length]).into_owned()
}

pub fn settings() -> Settings {
    Settings {
        node_name: "n1".into(),
        buckets: BucketCount::DEFAULT,
        table_base: 10_000,
        announce_table: None,
        link_prefix: LinkPrefix::new(PREFIX).unwrap(),
        hash_seed: 1,
        mark: MarkField::DEFAULT,
        rule_priority: 101,
        labels: MplsLabels::new(100, 65_536).unwrap(),
        vxlan_port: VXLAN_PORT,
        proc_root: "/proc".into(),
        vip_ranges: BTreeSet::new(),
        limits_udp: true,
        unavailable: BTreeMap::new(),
    }
}
