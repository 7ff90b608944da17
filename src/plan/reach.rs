//! How one endpoint is reached from this node, in one mode: the encapsulated next hop, or why there is none.

use super::Nexthop;
use super::node::{Context, RouteFact};
use crate::model::{Endpoint, Mode, Node, Reason};

/// The answer.
pub(super) enum Reach {
    /// Through this next hop, with this path MTU for the packet inside.
    Via { nexthop: Nexthop, mtu: u32 },
    /// Not at all; the user is told.
    No { reason: Reason, note: String },
}

/// Smallest MTU that IPv4 may have (RFC 791): a nonsensical figure must not make the kernel refuse the route.
const MIN_MTU: u32 = 68;

/// How `endpoint` is reached from this node.
pub(super) fn reach(mode: Mode, endpoint: &Endpoint, ctx: &Context<'_>) -> Reach {
    let Some(fact) = ctx.routes.get(&endpoint.address) else {
        return failed(endpoint, "this node has no route to it; look at `ip route get` and at the CNI plugin");
    };
    match mode {
        Mode::Gre | Mode::Vxlan => encap_ip(mode, endpoint, fact, ctx),
        Mode::Mpls if endpoint.node == ctx.settings.node_name => mpls_local(endpoint, fact, ctx),
        Mode::Mpls => mpls_remote(endpoint, ctx),
    }
}

fn encap_ip(mode: Mode, endpoint: &Endpoint, fact: &RouteFact, ctx: &Context<'_>) -> Reach {
    let me = ctx.cluster.nodes.get(&ctx.settings.node_name).and_then(Node::ipv4);
    match (ctx.settings.link(mode), me) {
        (Some(dev), Some(src)) => {
            let nexthop = Nexthop::EncapIp { dev, src, dst: endpoint.address };
            Reach::Via { nexthop, mtu: fact.mtu.saturating_sub(mode.overhead()).max(MIN_MTU) }
        }
        _ => failed(endpoint, "this node has no IPv4 InternalIP in its Node object, which would be the outer source"),
    }
}

/// An MTU metric on an MPLS route is that of the frame: the kernel subtracts the labels itself (`lwtunnel_headroom`).
fn mpls_local(endpoint: &Endpoint, fact: &RouteFact, ctx: &Context<'_>) -> Reach {
    if fact.gateway.is_some() {
        return failed(endpoint, "its address is not on-link on its own node, which MPLS needs; use gre or vxlan");
    }
    let nexthop = Nexthop::Mpls { label: ctx.settings.labels.pop(), via: endpoint.address, dev: fact.dev.clone() };
    Reach::Via { nexthop, mtu: fact.mtu }
}

fn mpls_remote(endpoint: &Endpoint, ctx: &Context<'_>) -> Reach {
    if let Some(other) = label_owner(endpoint, ctx) {
        let why = format!("its MPLS label is also that of pod {}/{} on the same node", other.namespace, other.pod);
        return failed(endpoint, &format!("{why}; recreate one of them or use gre or vxlan"));
    }
    let node = ctx.cluster.nodes.get(&endpoint.node).and_then(Node::ipv4);
    let on_link = node.and_then(|a| ctx.routes.get(&a).map(|f| (a, f))).filter(|(_, f)| f.gateway.is_none());
    let Some((via, fact)) = on_link else {
        let why = format!("its node {} is not on the same link as this one, which MPLS needs", endpoint.node);
        return failed(endpoint, &format!("{why}; use gre or vxlan"));
    };
    let label = ctx.settings.labels.of_pod(endpoint.address);
    Reach::Via { nexthop: Nexthop::Mpls { label, via, dev: fact.dev.clone() }, mtu: fact.mtu }
}

/// The pod that has this endpoint's label on the same node by right of the smaller UID.
fn label_owner<'a>(endpoint: &Endpoint, ctx: &Context<'a>) -> Option<&'a Endpoint> {
    let label = ctx.settings.labels.of_pod(endpoint.address);
    let mpls = ctx.cluster.vips.values().filter(|v| v.mode == Mode::Mpls).flat_map(|v| &v.endpoints);
    mpls.filter(|e| e.node == endpoint.node && e.pod_uid < endpoint.pod_uid)
        .find(|e| ctx.settings.labels.of_pod(e.address) == label && e.address != endpoint.address)
}

fn failed(endpoint: &Endpoint, why: &str) -> Reach {
    let note = format!(
        "pod {}/{} ({}) gets no traffic from this node: {why}",
        endpoint.namespace, endpoint.pod, endpoint.address
    );
    Reach::No { reason: Reason::EndpointFailed, note }
}
