//! Where it happens: generator, node and sink, and what they know of each other.
//!
//! A site is built for one case and removed after it, so that no case finds anything of another. The node has settings that
//! make plain forwarding as cheap as it gets (no reverse path filter, no connection tracking): whatever is compared with
//! that is not flattered.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use tunnel_router::model::Family;

use super::tool;
use super::way::{Forwarding, Way};
use super::witness::Witness;
use crate::lab::stack::{Stack, VethEnd};
use crate::netns::Netns;

/// Different flows, told apart by their source port.
pub const FLOWS: u16 = 64;
/// Endpoints of the VIP, numbered from 0.
pub const ENDPOINTS: u8 = 10;
/// UDP port of the service.
pub const PORT: u16 = 53;
/// UDP port of VXLAN-GPE.
pub const VXLAN_PORT: u16 = 4790;
/// Device of the generator.
pub const GENERATOR_DEVICE: &str = "e0";
/// Device of the node that packets come in by.
const UPLINK: &str = "c0";
/// Device of the node that leads to the endpoints.
pub const DOWNLINK: &str = "p0";
/// Device of the sink.
const SINK_DEVICE: &str = "eth0";
pub(super) const MTU: u32 = 1500;

/// The three namespaces of one case.
pub struct Site {
    /// What the addresses are made for.
    pub family: Family,
    generator: Stack,
    node: Stack,
    sink: Stack,
    /// Last: the kernel removes a namespace when nobody holds it any more.
    _names: Names<3>,
}

/// The names of namespaces, which go when this does.
pub(super) struct Names<const N: usize>(pub(super) [String; N]);

impl<const N: usize> Names<N> {
    /// A name for each role.
    pub(super) fn of(roles: [&str; N]) -> Self {
        Names(roles.map(|role| format!("kst-bench-{}-{role}", std::process::id())))
    }
}

impl<const N: usize> Drop for Names<N> {
    fn drop(&mut self) {
        for error in self.0.iter().filter_map(|name| Netns::delete(name).err()) {
            eprintln!("{error}");
        }
    }
}

impl Site {
    /// Builds the three and what joins them. The device to the endpoints has an address unless the case says otherwise.
    pub async fn build(case: Forwarding) -> Result<Site> {
        let names = Names::of(["generator", "node", "sink"]);
        let [generator, node, sink] = &names.0;
        let site = Site {
            family: case.family,
            generator: Stack::create(generator, SILENT).await?,
            node: Stack::create(node, NODE).await?,
            sink: Stack::create(sink, SILENT).await?,
            _names: names,
        };
        let node = &site.node;
        let end = |name| VethEnd::new(name, MTU);
        node.add_veth(end(UPLINK), &site.generator, end(GENERATOR_DEVICE)).await?;
        node.add_veth(end(DOWNLINK), &site.sink, end(SINK_DEVICE)).await?;
        node.add_address(UPLINK, site.node_address(), site.link_prefix()).await?;
        node.add_default_route(site.router()).await?;
        if matches!(case.way, Way::Ours { sources: true, .. }) {
            node.add_route_dev((site.endpoint_at(0), site.link_prefix()), DOWNLINK).await?;
        } else {
            node.add_address(DOWNLINK, site.endpoint_at(1), site.link_prefix()).await?;
        }
        site.introduce_endpoints().await?;
        tool::run(site.sink.netns(), "nft", &["-f", "-"], DROP)?;
        Ok(site)
    }

    /// Nobody is there to answer for them.
    async fn introduce_endpoints(&self) -> Result<()> {
        let index = self.node.index(DOWNLINK).await?;
        for n in 0..ENDPOINTS {
            let neighbours = self.node.netlink().neighbours();
            let request = neighbours.add(index, self.endpoint(n)).link_layer_address(&endpoint_mac(n));
            request.execute().await.with_context(|| format!("introduce endpoint {n}"))?;
        }
        Ok(())
    }

    /// The node in the middle.
    pub fn node(&self) -> &Stack {
        &self.node
    }

    /// The namespace that sends.
    pub fn generator(&self) -> &Netns {
        self.generator.netns()
    }

    /// Looks at what arrives at the sink, from now on.
    pub fn witness(&self) -> Result<Witness> {
        Witness::open(self.sink.netns(), SINK_DEVICE)
    }

    /// How many packets have arrived at the sink so far.
    pub fn arrived(&self) -> Result<usize> {
        received(self.sink.netns(), SINK_DEVICE)
    }

    /// Ethernet address of the node's uplink, in the usual notation.
    pub async fn uplink_mac(&self) -> Result<String> {
        Ok(self.node.mac(UPLINK).await?.map(|byte| format!("{byte:02x}")).join(":"))
    }

    /// The VIP.
    pub fn vip(&self) -> IpAddr {
        self.address(Ipv4Addr::new(192, 0, 2, 10), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 10))
    }

    /// Where the packets say they come from.
    pub fn client(&self) -> IpAddr {
        self.address(Ipv4Addr::new(198, 51, 100, 10), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 10))
    }

    /// The node's own address, on its uplink.
    pub fn node_address(&self) -> IpAddr {
        self.address(Ipv4Addr::new(10, 0, 0, 11), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 11))
    }

    /// The node's address on the device that leads to the endpoints.
    pub fn downlink_address(&self) -> IpAddr {
        self.endpoint_at(1)
    }

    /// Address of an endpoint.
    pub fn endpoint(&self, n: u8) -> IpAddr {
        self.endpoint_at(2 + n)
    }

    fn endpoint_at(&self, n: u8) -> IpAddr {
        self.address(Ipv4Addr::new(10, 244, 1, n), Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, n.into()))
    }

    fn router(&self) -> IpAddr {
        self.address(Ipv4Addr::new(10, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1))
    }

    fn address(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self.family {
            Family::V4 => v4.into(),
            Family::V6 => v6.into(),
        }
    }

    /// Length of the prefix of one host.
    pub fn host_prefix(&self) -> u8 {
        self.family.bits()
    }

    fn link_prefix(&self) -> u8 {
        match self.family {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }
}

/// How many packets a device has received so far.
pub(super) fn received(netns: &Netns, device: &str) -> Result<usize> {
    // /proc/net would be that of the main thread's namespace.
    let counters = netns.run_io("read counters", || fs::read_to_string("/proc/thread-self/net/dev"))?;
    let line = counters.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.with_context(|| format!("no counters of {device}"))
}

/// Ethernet address of an endpoint: MPLS packets tell them apart by nothing else.
pub fn endpoint_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0xee, n]
}

/// Says nothing of its own accord.
pub(super) const SILENT: &[(&str, &str)] =
    &[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")];

const NODE: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];

const DROP: &str = "table netdev sink { chain ingress { type filter hook ingress device eth0 priority 0; drop; }; }";
