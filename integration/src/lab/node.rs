//! A node of the cluster: one uplink, a pod network, a kube-proxy, and settings that forgive nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};

use super::address::{FABRIC, FABRIC6, Network, Place, host, host6, of_family, pod_network, pod_network6};
use super::fabric::{Fabric, add_addresses, add_default_routes};
use super::family::{Families, Family};
use super::foreign;
use super::spec::{Attach, LabSpec, NodeSpec};
use super::stack::Stack;
use crate::netns::Netns;

/// The bridge that pods of [`Attach::Bridge`] are ports of.
pub(super) const POD_BRIDGE: &str = "cni0";
/// `RT_TABLE_MAIN`
const MAIN: u32 = 254;

/// One node.
#[derive(Debug)]
pub struct Node {
    spec: NodeSpec,
    stack: Stack,
    number: u8,
    underlay_mtu: u32,
    families: Families,
}

impl Node {
    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether it is meant to take traffic in.
    pub fn is_ingress(&self) -> bool {
        self.spec.ingress
    }

    /// IPv4 address of its uplink, `eth0`; in a lab without IPv4 nobody has it.
    pub fn address(&self) -> Ipv4Addr {
        host(FABRIC, 10 + self.number)
    }

    /// IPv6 address of its uplink.
    pub fn address6(&self) -> Ipv6Addr {
        host6(FABRIC6, 10 + self.number)
    }

    /// The addresses that its kubelet would report, that of the primary family first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.families.published().iter().map(|family| of_family(self.place(), *family).0).collect()
    }

    /// Its IPv4 pod network; in a lab without IPv4 no pod is in it.
    pub fn pod_cidr(&self) -> (Ipv4Addr, u8) {
        (pod_network(self.number), 24)
    }

    /// Its IPv6 pod network.
    pub fn pod_cidr6(&self) -> (Ipv6Addr, u8) {
        (pod_network6(self.number), 64)
    }

    /// The pod networks that Kubernetes knows of, that of the primary family first.
    pub fn pod_cidrs(&self) -> Vec<(IpAddr, u8)> {
        self.families.published().iter().map(|family| of_family(self.pods().prefixes(), *family)).collect()
    }

    /// What the cluster is made of.
    pub fn families(&self) -> Families {
        self.families
    }

    fn pods(&self) -> Network {
        Network::pods(self.number)
    }

    fn place(&self) -> Place {
        Network::FABRIC.host(10 + self.number)
    }

    /// The part of a place that nodes and pods have: all of it, or what is not IPv4.
    pub(super) fn there(&self, place: Place) -> impl Iterator<Item = (IpAddr, u8)> + use<> {
        let has_ipv4 = self.families.has_ipv4();
        place.into_iter().filter(move |(address, _)| has_ipv4 || address.is_ipv6())
    }

    /// The first host of its pod networks: the bridge.
    pub(super) fn pod_gateway(&self) -> Place {
        self.pods().host(1)
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        self.stack.netns()
    }

    /// Its stack.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The first address of the pod network behind `last` that is neither the bridge's nor in `used`: as the plugin host-local does, so
    /// that an address that was in use is not given to another pod for as long as possible.
    pub(super) fn free_pod_address(&self, used: &[Ipv4Addr], last: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
        let last = last.map_or(1, |last| last.octets()[3]);
        let mut candidates = (last.saturating_add(1)..255).chain(2..=last).map(|n| host(self.pod_cidr().0, n));
        candidates.find(|ip| !used.contains(ip)).with_context(|| format!("no pod address left on {}", self.name()))
    }

    /// Makes what pods of this style attach to; what is there already stays.
    pub(super) async fn prepare(&self, attach: Attach) -> Result<()> {
        if attach != Attach::Bridge || self.stack.link(POD_BRIDGE).await.is_ok() {
            return Ok(());
        }
        self.stack.add_bridge(POD_BRIDGE, self.underlay_mtu).await?;
        for (address, prefix) in self.there(self.pod_gateway()) {
            self.stack.add_address(POD_BRIDGE, address, prefix).await?;
        }
        Ok(())
    }

    async fn build(prefix: &str, number: u8, spec: &NodeSpec, lab: &LabSpec, fabric: &Fabric) -> Result<Node> {
        let sysctls = [base_sysctls(), strict_sysctls(), forwarding_sysctls()].concat();
        let stack = Stack::create(&format!("{prefix}-{}", spec.name), &sysctls).await?;
        fabric.plug(&stack, &port(&spec.name), "eth0", lab.underlay_mtu).await?;
        let (underlay_mtu, families) = (lab.underlay_mtu, lab.families);
        let node = Node { spec: spec.clone(), stack, number, underlay_mtu, families };
        node.join_fabric().await?;
        for network in node.there(node.pods().prefixes()) {
            // Without it a packet for a pod that is gone would bounce between node and router.
            node.stack.add_blackhole(network, MAIN).await?;
        }
        foreign::furnish_node(&node.stack, lab).await?;
        Ok(node)
    }

    async fn join_fabric(&self) -> Result<()> {
        let gateway = Network::FABRIC.host(1);
        if self.families.has_ipv4() {
            add_addresses(&self.stack, "eth0", self.place()).await?;
            return add_default_routes(&self.stack, gateway).await;
        }
        let [_, (own, prefix)] = self.place();
        let [_, (router, _)] = gateway;
        self.stack.add_address("eth0", own, prefix).await?;
        self.stack.add_default_route(router).await?;
        // For the IPv4 packets of VIPs.
        self.stack.add_default_route_on(Family::V4, router, "eth0").await
    }

    /// Tells a neighbour on the fabric where this node's pods are.
    async fn add_route_on(&self, neighbour: &Stack) -> Result<()> {
        for (network, (address, _)) in self.there(self.pods().prefixes()).zip(self.there(self.place())) {
            neighbour.add_route_via(network, address).await?;
        }
        Ok(())
    }
}

/// Builds all nodes, and the routes among them and the router.
pub(super) async fn build_all(prefix: &str, lab: &LabSpec, fabric: &Fabric) -> Result<BTreeMap<String, Node>> {
    let built = lab.nodes.iter().zip(1u8..).map(|(spec, number)| async move {
        check_name(&spec.name)?;
        Node::build(prefix, number, spec, lab, fabric).await
    });
    let nodes = futures::future::try_join_all(built).await?;
    for node in &nodes {
        node.add_route_on(&fabric.router).await?;
        for other in nodes.iter().filter(|other| other.number != node.number) {
            node.add_route_on(&other.stack).await?;
        }
    }
    Ok(nodes.into_iter().map(|node| (node.name().to_owned(), node)).collect())
}

/// The port of the router's bridge that the node is behind.
pub(super) fn port(node: &str) -> String {
    format!("p-{node}")
}

/// The name becomes part of a device name of at most 15 bytes, and must not collide with the other namespaces.
fn check_name(name: &str) -> Result<()> {
    let reserved = ["client", "router", "stranger", "api", "intruder"].contains(&name) || name.starts_with("pod-");
    if name.is_empty() || name.len() > 12 || reserved {
        bail!("{name:?} cannot be the name of a node: use up to 12 letters and no role of the lab");
    }
    Ok(())
}

/// For every stack: IPv6, which some machines switch off in new namespaces, with nothing that configures itself. Duplicate
/// address detection would only make each new device wait for a second.
pub(super) fn base_sysctls() -> Vec<(&'static str, &'static str)> {
    vec![
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/disable_ipv6", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/all/accept_ra", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
    ]
}

/// Strict reverse path filtering on whatever device will come, as hardened distributions have it.
pub(super) fn strict_sysctls() -> Vec<(&'static str, &'static str)> {
    vec![("net/ipv4/conf/all/rp_filter", "1"), ("net/ipv4/conf/default/rp_filter", "1")]
}

fn forwarding_sysctls() -> Vec<(&'static str, &'static str)> {
    vec![("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]
}
