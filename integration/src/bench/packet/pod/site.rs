//! Where it happens: the node, which sends and drops, and the pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use tunnel_router::model::Family;

use super::super::frame::Frame;
use super::super::site::{MTU, Names, SILENT, received};
use super::super::tool;
use super::super::witness::Witness;
use crate::lab::stack::{Stack, VethEnd};
use crate::netns::Netns;
use crate::traffic::FrameSender;

const NODE_DEVICE: &str = "e0";
const POD_DEVICE: &str = "eth0";

/// The two namespaces of one case.
pub struct PodSite {
    /// Of all addresses.
    pub family: Family,
    node: Stack,
    pod: Stack,
    node_mac: [u8; 6],
    /// Last: the kernel removes a namespace when nobody holds it any more.
    _names: Names<2>,
}

impl PodSite {
    /// Builds the two and what joins them.
    pub async fn build(family: Family) -> Result<PodSite> {
        let names = Names::of(["node", "pod"]);
        let [node, pod] = &names.0;
        let (node, pod) = (Stack::create(node, SILENT).await?, Stack::create(pod, POD).await?);
        pod.add_veth(VethEnd::new(POD_DEVICE, MTU), &node, VethEnd::new(NODE_DEVICE, MTU)).await?;
        let site = PodSite { family, node_mac: node.mac(NODE_DEVICE).await?, node, pod, _names: names };
        let prefix = if family == Family::V4 { 24 } else { 64 };
        site.pod.add_address(POD_DEVICE, site.pod_address(), prefix).await?;
        site.pod.add_default_route(site.node_address()).await?;
        let index = site.pod.index(POD_DEVICE).await?;
        for address in [site.node_address(), site.former_address()] {
            let neighbours = site.pod.netlink().neighbours();
            let request = neighbours.add(index, address).link_layer_address(&site.node_mac);
            request.execute().await.with_context(|| format!("introduce {address}"))?;
        }
        tool::run(site.node.netns(), "nft", &["-f", "-"], DROP)?;
        Ok(site)
    }

    /// The pod's namespace.
    pub fn pod(&self) -> &Netns {
        self.pod.netns()
    }

    /// Ethernet address of the pod.
    pub async fn pod_mac(&self) -> Result<[u8; 6]> {
        self.pod.mac(POD_DEVICE).await
    }

    /// Sends frames to the pod.
    pub fn frames(&self) -> Result<FrameSender> {
        FrameSender::open(self.node.netns(), NODE_DEVICE)
    }

    /// Looks at what comes from the pod, and at what is sent to it, from now on.
    pub fn witness(&self) -> Result<Witness> {
        Witness::open(self.node.netns(), NODE_DEVICE)
    }

    /// Of what a witness has seen, what came from the pod.
    pub fn of_pod(&self, seen: &[Vec<u8>]) -> Vec<Frame> {
        let frames = seen.iter().filter_map(|bytes| Frame::parse(bytes));
        frames.filter(|frame| frame.mac == self.node_mac).collect()
    }

    /// How many packets have come from the pod so far.
    pub fn sent(&self) -> Result<usize> {
        received(self.node.netns(), NODE_DEVICE)
    }

    /// A client's end of a flow and the VIP's.
    pub fn ends(&self, port: u16, vip_port: u16) -> (SocketAddr, SocketAddr) {
        let client = self.address(Ipv4Addr::new(198, 51, 100, 10), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10));
        (SocketAddr::new(client, port), SocketAddr::new(self.vip(), vip_port))
    }

    /// The VIP.
    pub fn vip(&self) -> IpAddr {
        self.address(Ipv4Addr::new(192, 0, 2, 10), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10))
    }

    /// Where outer packets come from.
    pub fn node_address(&self) -> IpAddr {
        self.address(Ipv4Addr::new(10, 244, 1, 1), Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 1))
    }

    /// The pod's own address.
    pub fn pod_address(&self) -> IpAddr {
        self.address(Ipv4Addr::new(10, 244, 1, 2), Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 2))
    }

    /// The pod that packets are passed on to.
    pub fn former_address(&self) -> IpAddr {
        self.address(Ipv4Addr::new(10, 244, 1, 3), Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 3))
    }

    fn address(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        if self.family == Family::V4 { v4.into() } else { v6.into() }
    }
}

const POD: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
];

const DROP: &str = "table netdev sink { chain ingress { type filter hook ingress device e0 priority 0; drop; }; }";
