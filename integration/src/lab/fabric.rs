//! What surrounds the cluster: client, router, API server's host, and a stranger.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::node::base_sysctls;
use super::spec::{API, CLIENTS, FABRIC, INTRUDER, LabSpec, OUTSIDE, STRANGER, host};
use super::stack::{Stack, VethEnd};

/// The router's bridge that joins the nodes.
pub(super) const BRIDGE: &str = "fabric";

/// The namespaces around the cluster.
#[derive(Debug)]
pub struct Fabric {
    pub(super) client: Stack,
    pub(super) router: Stack,
    pub(super) stranger: Stack,
    pub(super) api: Stack,
}

impl Fabric {
    pub(super) async fn build(prefix: &str, spec: &LabSpec) -> Result<Fabric> {
        let fabric = Fabric {
            client: Stack::create(&format!("{prefix}-client"), &sysctls(&[])).await?,
            router: Stack::create(&format!("{prefix}-router"), &sysctls(ROUTER)).await?,
            stranger: Stack::create(&format!("{prefix}-stranger"), &sysctls(&[])).await?,
            api: Stack::create(&format!("{prefix}-api"), &sysctls(&[])).await?,
        };
        let router = &fabric.router;
        router.add_bridge(BRIDGE, spec.underlay_mtu).await?;
        router.add_address(BRIDGE, host(FABRIC, 1).into(), 24).await?;
        fabric.connect(&fabric.client, "clients", CLIENTS, &client_addresses(spec).collect::<Vec<_>>()).await?;
        fabric.connect(&fabric.stranger, "outside", OUTSIDE, &[STRANGER]).await?;
        fabric.plug(&fabric.api, "p-api", "eth0", spec.underlay_mtu).await?;
        fabric.api.add_address("eth0", API.into(), 24).await?;
        fabric.api.add_default_route(host(FABRIC, 1).into()).await?;
        fabric.plug(&fabric.stranger, "p-intruder", "eth1", spec.underlay_mtu).await?;
        fabric.stranger.add_address("eth1", INTRUDER.into(), 24).await?;
        Ok(fabric)
    }

    /// A routed link: `eth0` of a host with its addresses, the first address of the network on the router.
    async fn connect(&self, stack: &Stack, port: &str, network: Ipv4Addr, addresses: &[Ipv4Addr]) -> Result<()> {
        self.router.add_veth(VethEnd::new(port, 1500), stack, VethEnd::new("eth0", 1500)).await?;
        self.router.add_address(port, host(network, 1).into(), 24).await?;
        for address in addresses {
            stack.add_address("eth0", (*address).into(), 24).await?;
        }
        stack.add_default_route(host(network, 1).into()).await
    }

    /// A port of the fabric's bridge, with `device` of the stack behind it.
    pub(super) async fn plug(&self, stack: &Stack, port: &str, device: &str, mtu: u32) -> Result<()> {
        let port = VethEnd { name: port, mtu, bridge: Some(BRIDGE) };
        self.router.add_veth(port, stack, VethEnd::new(device, mtu)).await
    }

    pub(super) fn stacks(&self) -> [&Stack; 4] {
        [&self.client, &self.router, &self.stranger, &self.api]
    }
}

/// A data centre router: hashes flows (not packets, not only addresses) over equal paths, and filters nothing.
const ROUTER: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/fib_multipath_hash_policy", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

fn sysctls(own: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [base_sysctls(), own.to_vec()].concat()
}

/// 198.51.100.2 onwards.
pub(super) fn client_addresses(spec: &LabSpec) -> impl Iterator<Item = Ipv4Addr> {
    let last = spec.client_addresses.clamp(1, 250) + 1;
    (2..=last).map(|n| host(CLIENTS, n))
}
