//! A node of the cluster: one uplink, a pod network, a kube-proxy, and settings that forgive nothing.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::fabric::Fabric;
use super::foreign;
use super::spec::{Attach, FABRIC, LabSpec, NodeSpec, PODS, host};
use super::stack::{Stack, net};
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

    /// Address of its uplink, `eth0`.
    pub fn address(&self) -> Ipv4Addr {
        host(FABRIC, 10 + self.number)
    }

    /// Its pod network.
    pub fn pod_cidr(&self) -> (Ipv4Addr, u8) {
        let [a, b, _, _] = PODS.octets();
        (Ipv4Addr::new(a, b, self.number, 0), 24)
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        self.stack.netns()
    }

    /// Its stack.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The first address of the pod network that is neither the bridge's nor in `used`.
    pub(super) fn free_pod_address(&self, used: &[Ipv4Addr]) -> Result<Ipv4Addr> {
        let candidates = (2..255).map(|n| host(self.pod_cidr().0, n));
        candidates
            .into_iter()
            .find(|ip| !used.contains(ip))
            .with_context(|| format!("no pod address left on {}", self.name()))
    }

    /// Makes what pods of this style attach to; what is there already stays.
    pub(super) async fn prepare(&self, attach: Attach) -> Result<()> {
        if attach != Attach::Bridge || self.stack.link(POD_BRIDGE).await.is_ok() {
            return Ok(());
        }
        self.stack.add_bridge(POD_BRIDGE, self.underlay_mtu).await?;
        self.stack.add_address(POD_BRIDGE, host(self.pod_cidr().0, 1).into(), 24).await
    }

    async fn build(prefix: &str, number: u8, spec: &NodeSpec, lab: &LabSpec, fabric: &Fabric) -> Result<Node> {
        let sysctls = [base_sysctls(), strict_sysctls(), forwarding_sysctls()].concat();
        let stack = Stack::create(&format!("{prefix}-{}", spec.name), &sysctls).await?;
        fabric.plug(&stack, &format!("p-{}", spec.name), "eth0", lab.underlay_mtu).await?;
        let node = Node { spec: spec.clone(), stack, number, underlay_mtu: lab.underlay_mtu };
        node.stack.add_address("eth0", node.address().into(), 24).await?;
        node.stack.add_default_route(host(FABRIC, 1).into()).await?;
        // Without it a packet for a pod that is gone would bounce between node and router.
        node.stack.add_blackhole(net(node.pod_cidr().0, 24), MAIN).await?;
        foreign::furnish_node(&node.stack, lab).await?;
        Ok(node)
    }

    async fn add_route_to(&self, other: &Node) -> Result<()> {
        self.stack.add_route_via(net(other.pod_cidr().0, 24), other.address().into()).await
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
        fabric.router.add_route_via(net(node.pod_cidr().0, 24), node.address().into()).await?;
        for other in nodes.iter().filter(|other| other.number != node.number) {
            node.add_route_to(other).await?;
        }
    }
    Ok(nodes.into_iter().map(|node| (node.name().to_owned(), node)).collect())
}

/// The name becomes part of a device name of at most 15 bytes, and must not collide with the other namespaces.
fn check_name(name: &str) -> Result<()> {
    let reserved = ["client", "router", "stranger", "api", "intruder"].contains(&name) || name.starts_with("pod-");
    if name.is_empty() || name.len() > 12 || reserved {
        bail!("{name:?} cannot be the name of a node: use up to 12 letters and no role of the lab");
    }
    Ok(())
}

/// For every stack. Duplicate address detection would only make each new device wait for a second.
pub(super) fn base_sysctls() -> Vec<(&'static str, &'static str)> {
    let ipv6 = ("net/ipv6/conf/default/accept_dad", "0");
    if Path::new("/proc/sys/net/ipv6").exists() { vec![ipv6] } else { Vec::new() }
}

/// Strict reverse path filtering on whatever device will come, as hardened distributions have it.
pub(super) fn strict_sysctls() -> Vec<(&'static str, &'static str)> {
    vec![("net/ipv4/conf/all/rp_filter", "1"), ("net/ipv4/conf/default/rp_filter", "1")]
}

fn forwarding_sysctls() -> Vec<(&'static str, &'static str)> {
    let mut values = vec![("net/ipv4/ip_forward", "1")];
    if Path::new("/proc/sys/net/ipv6").exists() {
        values.push(("net/ipv6/conf/all/forwarding", "1"));
    }
    values
}
