//! What surrounds the cluster: client, router, API server's host, and a stranger.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::Result;

use super::address::{Network, Place, of_family};
use super::family::Family;
use super::node::base_sysctls;
use super::spec::LabSpec;
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
        add_addresses(router, BRIDGE, Network::FABRIC.host(1)).await?;
        fabric.connect(&fabric.client, "clients", Network::CLIENTS, client_numbers(spec)).await?;
        fabric.connect(&fabric.stranger, "outside", Network::OUTSIDE, 66..=66).await?;
        fabric.plug(&fabric.api, "p-api", "eth0", spec.underlay_mtu).await?;
        add_addresses(&fabric.api, "eth0", Network::FABRIC.host(5)).await?;
        add_default_routes(&fabric.api, Network::FABRIC.host(1)).await?;
        fabric.plug(&fabric.stranger, "p-intruder", "eth1", spec.underlay_mtu).await?;
        add_addresses(&fabric.stranger, "eth1", Network::FABRIC.host(66)).await?;
        Ok(fabric)
    }

    /// A routed link: `eth0` of a host with its addresses, the first address of the network on the router.
    async fn connect(&self, stack: &Stack, port: &str, network: Network, hosts: RangeInclusive<u8>) -> Result<()> {
        self.router.add_veth(VethEnd::new(port, 1500), stack, VethEnd::new("eth0", 1500)).await?;
        add_addresses(&self.router, port, network.host(1)).await?;
        for n in hosts {
            add_addresses(stack, "eth0", network.host(n)).await?;
        }
        add_default_routes(stack, network.host(1)).await
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
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/fib_multipath_hash_policy", "1"),
];

fn sysctls(own: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [base_sysctls(), own.to_vec()].concat()
}

/// Adds the host's addresses of both families.
pub(super) async fn add_addresses(stack: &Stack, device: &str, place: Place) -> Result<()> {
    for (address, prefix) in place {
        stack.add_address(device, address, prefix).await?;
    }
    Ok(())
}

/// Makes the host the gateway in both families.
pub(super) async fn add_default_routes(stack: &Stack, gateway: Place) -> Result<()> {
    for (address, _) in gateway {
        stack.add_default_route(address).await?;
    }
    Ok(())
}

fn client_numbers(spec: &LabSpec) -> RangeInclusive<u8> {
    2..=spec.client_addresses.clamp(1, 250) + 1
}

/// 198.51.100.2 or 2001:db8:51::2 onwards.
pub(super) fn client_addresses(spec: &LabSpec, family: Family) -> impl Iterator<Item = IpAddr> {
    client_numbers(spec).map(move |n| of_family(Network::CLIENTS.host(n), family).0)
}
