//! What a lab should look like: plain data with defaults that make a small realistic cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::cgroup::CgroupSpec;
use super::family::Families;

/// One node.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Name of the node and suffix of its namespace.
    pub name: String,
    /// Whether the node is meant to take traffic in; the lab only remembers it.
    pub ingress: bool,
}

impl NodeSpec {
    /// A node that takes traffic in.
    pub fn ingress(name: &str) -> Self {
        Self { name: name.to_owned(), ingress: true }
    }

    /// A node that only runs pods.
    pub fn worker(name: &str) -> Self {
        Self { name: name.to_owned(), ingress: false }
    }
}

/// A whole lab.
#[derive(Debug, Clone)]
pub struct LabSpec {
    /// The nodes, in the order of their addresses (10.0.0.11 onwards) and pod networks (10.244.1.0/24 onwards).
    pub nodes: Vec<NodeSpec>,
    /// What the cluster is made of.
    pub families: Families,
    /// How many addresses of each family the client has, from 198.51.100.2 and 2001:db8:51::2 on.
    pub client_addresses: u8,
    /// MTU of the fabric.
    pub underlay_mtu: u32,
    /// Whether pods that talk to the world are masqueraded, as most CNIs do by default.
    pub masquerade: bool,
    /// Whether nodes carry objects of other owners (a rule, a table, a nexthop, a bridge, an nft table).
    pub foreign_objects: bool,
    /// Whether the pods' processes outlive this one, for [`Lab::keep`](super::Lab::keep).
    pub detached: bool,
    /// The `kst-lab` binary, which serves in the pods. `None` finds it next to the running program.
    pub pod_program: Option<PathBuf>,
}

impl Default for LabSpec {
    fn default() -> Self {
        Self {
            nodes: vec![
                NodeSpec::ingress("ing1"),
                NodeSpec::ingress("ing2"),
                NodeSpec::worker("wrk1"),
                NodeSpec::worker("wrk2"),
            ],
            families: Families::default(),
            client_addresses: 8,
            underlay_mtu: 1500,
            masquerade: true,
            foreign_objects: true,
            detached: false,
            pod_program: None,
        }
    }
}

/// The pod's quality of service class: decides where the kubelet puts its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Qos {
    /// Directly below `kubepods`.
    Guaranteed,
    /// Below `burstable`.
    #[default]
    Burstable,
    /// Below `besteffort`.
    BestEffort,
}

/// How the pod's veth is attached to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attach {
    /// Calico's way: a /32 and a /128, the gateways 169.254.1.1 (proxy ARP on the node's end) and fe80::1 (an address of the
    /// node's end), and host routes.
    #[default]
    PointToPoint,
    /// The bridge plugin's way: a port of `cni0`, which has the first address of the node's pod network.
    Bridge,
}

/// One pod.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Name, unique in the lab.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// UID; `None` makes one from the lab's prefix and the name, so that labs side by side do not share any.
    pub uid: Option<String>,
    /// Name of the node it runs on.
    pub node: String,
    /// Address; `None` takes the next free one of the node's pod network.
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address; `None` takes the one of the node's pod network with the host number of the IPv4 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Quality of service class.
    pub qos: Qos,
    /// How it is attached.
    pub attach: Attach,
    /// MTU of its `eth0`.
    pub mtu: u32,
    /// Where its process is accounted.
    pub cgroup: CgroupSpec,
    /// Ports that its servers listen on, each TCP and UDP.
    pub ports: Vec<u16>,
    /// Addresses its servers are bound to. An address that the pod does not have yet is bound all the same
    /// (`IP_FREEBIND`).
    pub bind: Vec<IpAddr>,
    /// Whether it also answers IP protocols without sockets of their own (SCTP, ESP, GRE, 253), in the families of `bind`.
    pub raw: bool,
    /// Whether the pod has nft rules of its own.
    pub foreign_objects: bool,
}

impl PodSpec {
    /// A burstable pod in `default`, attached point-to-point, with echo servers on the wildcard addresses, port 12345.
    pub fn new(name: &str, node: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            uid: None,
            node: node.to_owned(),
            ip: None,
            ipv6: None,
            qos: Qos::default(),
            attach: Attach::default(),
            mtu: 1500,
            cgroup: CgroupSpec::default(),
            ports: vec![crate::pod::DEFAULT_PORT],
            bind: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            raw: true,
            foreign_objects: false,
        }
    }
}
