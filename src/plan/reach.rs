//! How one endpoint is reached from this node, in one mode: the encapsulated next hop, or why there is none.
//!
//! The family of an outer header has nothing to do with that of the VIP: it is IPv4 where both ends have it, else IPv6.
//! MPLS has no outer header, only a neighbour that the frame goes to: its address is of the VIP's family if it can be. While
//! the MAC address of an IPv4 neighbour is still asked for, the kernel loses the IPv6 packets that wait for it
//! (`__neigh_update`, net/core/neighbour.c, looks the next hop `::ffff:A` up once more, with neighbour discovery).

use std::net::IpAddr;

use super::Nexthop;
use super::node::{Context, RouteFact};
use crate::model::{Endpoint, Family, Mode, Node, Reason, Vip};

/// The answer.
pub(super) enum Reach {
    /// Through this next hop, with this path MTU for the packet inside.
    Via { nexthop: Nexthop, mtu: u32 },
    /// Not at all; the user is told.
    No { reason: Reason, note: String },
}

/// How `endpoint` is reached from this node with packets to `vip`.
pub(super) fn reach(vip: &Vip, endpoint: &Endpoint, ctx: &Context<'_>) -> Reach {
    match vip.mode {
        Mode::Gre | Mode::Vxlan => encap_ip(vip, endpoint, ctx),
        Mode::Mpls if endpoint.node == ctx.settings.node_name => mpls_local(vip.family(), endpoint, ctx),
        Mode::Mpls => mpls_remote(vip.family(), endpoint, ctx),
    }
}

fn encap_ip(vip: &Vip, endpoint: &Endpoint, ctx: &Context<'_>) -> Reach {
    let me = ctx.me().map(Node::tunnel_addresses).unwrap_or_default();
    let Some(outer) = me.common(endpoint.addresses) else {
        let why = format!("this node has the InternalIPs [{me}] in its Node object, and none of the pod's family");
        return failed(endpoint, &format!("{why}, which would be the outer source"));
    };
    let (Some(src), Some(dst), Some(dev)) =
        (me.of(outer), endpoint.addresses.of(outer), ctx.settings.link(vip.mode, outer))
    else {
        return failed(endpoint, "it has no address");
    };
    let Some(fact) = ctx.routes.get(&dst) else { return no_route(endpoint) };
    let mtu = fact.mtu.saturating_sub(vip.mode.overhead(outer)).max(vip.family().min_mtu());
    Reach::Via { nexthop: Nexthop::EncapIp { family: vip.family(), dev, src, dst }, mtu }
}

/// An MTU metric on an MPLS route is that of the frame: the kernel subtracts the labels itself (`lwtunnel_headroom`).
fn mpls_local(vip: Family, endpoint: &Endpoint, ctx: &Context<'_>) -> Reach {
    if ctx.first_route(endpoint.addresses.iter()).is_none() {
        return no_route(endpoint);
    }
    let Some((via, fact)) = ctx.on_link(endpoint.addresses.preferring(vip)) else {
        return failed(endpoint, "its address is not on-link on its own node, which MPLS needs; use gre or vxlan");
    };
    Reach::Via { nexthop: Nexthop::mpls(vip, ctx.settings.labels.pop(), via, fact.dev.clone()), mtu: fact.mtu }
}

fn mpls_remote(vip: Family, endpoint: &Endpoint, ctx: &Context<'_>) -> Reach {
    if ctx.first_route(endpoint.addresses.iter()).is_none() {
        return no_route(endpoint);
    }
    if let Some(other) = label_owner(endpoint, ctx) {
        let why = format!("its MPLS label is also that of pod {}/{} on the same node", other.namespace, other.pod);
        return failed(endpoint, &format!("{why}; recreate one of them or use gre or vxlan"));
    }
    let node = ctx.cluster.nodes.get(&endpoint.node).map(Node::tunnel_addresses).unwrap_or_default();
    let Some((via, fact)) = ctx.on_link(node.preferring(vip)) else {
        let why = format!("its node {} is not on the same link as this one, which MPLS needs", endpoint.node);
        return failed(endpoint, &format!("{why}; use gre or vxlan"));
    };
    let label = ctx.settings.labels.of_pod(endpoint.addresses);
    Reach::Via { nexthop: Nexthop::mpls(vip, label, via, fact.dev.clone()), mtu: fact.mtu }
}

impl Context<'_> {
    /// This node.
    pub(super) fn me(&self) -> Option<&Node> {
        self.cluster.nodes.get(&self.settings.node_name)
    }

    /// The first of the addresses that a route leads to.
    pub(super) fn first_route(&self, addresses: impl Iterator<Item = IpAddr>) -> Option<(IpAddr, &RouteFact)> {
        self.routed(addresses).next()
    }

    /// The first of the addresses that is a neighbour.
    pub(super) fn on_link(&self, addresses: impl Iterator<Item = IpAddr>) -> Option<(IpAddr, &RouteFact)> {
        self.routed(addresses).find(|(_, fact)| fact.gateway.is_none())
    }

    fn routed(&self, addresses: impl Iterator<Item = IpAddr>) -> impl Iterator<Item = (IpAddr, &RouteFact)> {
        addresses.filter_map(|address| Some((address, self.routes.get(&address)?)))
    }
}

/// The pod that has this endpoint's label on the same node by right of the smaller UID.
fn label_owner<'a>(endpoint: &Endpoint, ctx: &Context<'a>) -> Option<&'a Endpoint> {
    let label = ctx.settings.labels.of_pod(endpoint.addresses);
    let mpls = ctx.cluster.vips.values().filter(|v| v.mode == Mode::Mpls).flat_map(|v| &v.endpoints);
    mpls.filter(|e| e.node == endpoint.node && e.pod_uid < endpoint.pod_uid)
        .find(|e| ctx.settings.labels.of_pod(e.addresses) == label && e.addresses != endpoint.addresses)
}

fn no_route(endpoint: &Endpoint) -> Reach {
    failed(endpoint, "this node has no route to it; look at `ip route get` and at the CNI plugin")
}

fn failed(endpoint: &Endpoint, why: &str) -> Reach {
    let note = format!(
        "pod {}/{} ({}) gets no traffic from this node: {why}",
        endpoint.namespace, endpoint.pod, endpoint.addresses
    );
    Reach::No { reason: Reason::EndpointFailed, note }
}
