//! How the owner of a bucket is reached from this node: the encapsulated next hop, or why there is none.
//!
//! | mode | without names | with names in the tunnel id |
//! |---|---|---|
//! | `gre`, `vxlan` | its tunnel | its tunnel, with the id |
//! | `mpls` | label; where that leads nowhere, the carrier | the carrier, with the id |
//!
//! The carrier of `mpls` is vxlan, or gre where this kernel has no vxlan ([`Settings::carrier`](super::Settings::carrier)).
//! Another owner is never chosen: other nodes would not know of it.
//!
//! The family of an outer header has nothing to do with that of the VIP: it is IPv4 where both ends have it, else IPv6.
//! MPLS has no outer header, only a neighbour that the frame goes to: its address is of the VIP's family if it can be. While
//! the MAC address of an IPv4 neighbour is still asked for, the kernel loses the IPv6 packets that wait for it
//! (`__neigh_update`, net/core/neighbour.c, looks the next hop `::ffff:A` up once more, with neighbour discovery).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::node::{Context, RouteFact};
use super::{Nexthop, Settings};
use crate::model::handover::{NextHop, TunnelId};
use crate::model::{Addresses, Cluster, Family, Mode, Node, Vip};

/// A way to an endpoint.
pub(super) struct Way {
    /// The encapsulation.
    pub mode: Mode,
    pub nexthop: Nexthop,
    /// The MTU metric of the route, in bytes.
    pub mtu: u32,
}

/// How the owner of a bucket is reached from this node with packets to `vip`; else a sentence for people.
pub(super) fn reach(vip: &Vip, hop: &NextHop, ctx: &Context<'_>) -> Result<Way, String> {
    let way = match vip.mode {
        Mode::Gre | Mode::Vxlan => tunnel(vip, hop, vip.mode, ctx),
        Mode::Mpls => mpls(vip, hop, ctx),
    };
    way.map_err(|why| {
        let pod = called(vip, hop.owner.as_str());
        format!("pod {pod} ({}) gets no traffic from this node: {why}", hop.addresses)
    })
}

fn tunnel(vip: &Vip, hop: &NextHop, mode: Mode, ctx: &Context<'_>) -> Result<Way, String> {
    let me = ctx.own_addresses();
    let Some(outer) = me.common(hop.addresses) else {
        let why = format!("this node has the InternalIPs [{me}] in its Node object, and none of the pod's family");
        return Err(format!("{why}, which would be the outer source"));
    };
    let (Some(src), Some(dst), Some(dev)) = (me.of(outer), hop.addresses.of(outer), ctx.settings.link(mode, outer))
    else {
        return Err("it has no address".to_owned());
    };
    let fact = ctx.routes.get(&dst).ok_or_else(no_route)?;
    let path = named_mtus(vip, hop, outer, ctx).fold(fact.mtu, u32::min);
    let mtu = path.saturating_sub(mode.overhead(outer)).max(vip.family().min_mtu());
    Ok(Way { mode, nexthop: Nexthop::EncapIp { family: vip.family(), dev, src, dst, id: hop.id }, mtu })
}

/// Path MTUs to the pods that a packet may be forwarded to: over IPv6 a pod that forwards cannot fragment the outer packet.
fn named_mtus(vip: &Vip, hop: &NextHop, outer: Family, ctx: &Context<'_>) -> impl Iterator<Item = u32> {
    let members = vip.intent.iter().flat_map(|intent| intent.members.values());
    let named = members.filter(move |member| outer == Family::V6 && hop.id.list().any(|name| name == member.name));
    named.filter_map(move |member| Some(ctx.routes.get(&member.addresses.of(outer)?)?.mtu))
}

fn mpls(vip: &Vip, hop: &NextHop, ctx: &Context<'_>) -> Result<Way, String> {
    let carrier = ctx.settings.carrier(Mode::Mpls).and_then(|mode| tunnel(vip, hop, mode, ctx).ok());
    match (label(vip, hop, ctx), carrier) {
        (Ok(label), None) => Ok(label),
        (Ok(label), Some(carrier)) if hop.id == TunnelId::OWNER_ALONE => {
            // A bucket may begin to drain at any moment, and clients learn an MTU only from what does not fit.
            let mtu = label.mtu.min(carrier.mtu + Mode::Mpls.overhead(vip.family()));
            Ok(Way { mtu, ..label })
        }
        (_, Some(carrier)) => Ok(carrier),
        (Err(why), None) => Err(why),
    }
}

/// An MTU metric on an MPLS route is that of the frame: the kernel subtracts the labels itself (`lwtunnel_headroom`).
fn label(vip: &Vip, hop: &NextHop, ctx: &Context<'_>) -> Result<Way, String> {
    if ctx.routed(hop.addresses.iter()).next().is_none() {
        return Err(no_route());
    }
    let node = node_of(vip, hop).ok_or("nobody knows which node it runs on")?;
    let (label, (via, fact)) = if node == ctx.settings.node_name {
        (ctx.settings.labels.pop(), at_home(vip, hop, ctx)?)
    } else {
        (ctx.settings.labels.of_pod(hop.addresses), abroad(vip, hop, node, ctx)?)
    };
    let nexthop = Nexthop::mpls(vip.family(), label, via, fact.dev.clone());
    Ok(Way { mode: Mode::Mpls, nexthop, mtu: fact.mtu })
}

fn at_home<'a>(vip: &Vip, hop: &NextHop, ctx: &Context<'a>) -> Result<(IpAddr, &'a RouteFact), String> {
    let found = ctx.on_link(hop.addresses.preferring(vip.family()));
    found.ok_or_else(|| "its address is not on-link on its own node, which MPLS needs; use gre or vxlan".to_owned())
}

fn abroad<'a>(vip: &Vip, hop: &NextHop, node: &str, ctx: &Context<'a>) -> Result<(IpAddr, &'a RouteFact), String> {
    if let Some(other) = label_owner(hop, node, ctx) {
        let why = format!("its MPLS label is also that of pod {other} on the same node");
        return Err(format!("{why}; recreate one of them or use gre or vxlan"));
    }
    let addresses = ctx.cluster.nodes.get(node).map(Node::tunnel_addresses).unwrap_or_default();
    ctx.on_link(addresses.preferring(vip.family())).ok_or_else(|| {
        format!("its node {node} is not on the same link as this one, which MPLS needs; use gre or vxlan")
    })
}

/// Pods of mode `mpls` by node and label.
#[derive(Debug, Default)]
pub(super) struct LabelOwners<'a>(BTreeMap<(&'a str, u32), Claims<'a>>);

/// Pods by UID and addresses, with a VIP of theirs.
type Claims<'a> = BTreeMap<(&'a str, Addresses), &'a Vip>;

impl<'a> LabelOwners<'a> {
    /// All of the cluster.
    pub fn of(cluster: &'a Cluster, settings: &Settings) -> LabelOwners<'a> {
        let mut owners = LabelOwners::default();
        for vip in cluster.vips().filter(|vip| vip.mode == Mode::Mpls) {
            for pod in vip.pods() {
                let label = (pod.node, settings.labels.of_pod(pod.addresses));
                owners.0.entry(label).or_default().entry((pod.uid, pod.addresses)).or_insert(vip);
            }
        }
        owners
    }
}

/// The pod that has this one's label on the same node by right of the smaller UID.
fn label_owner(hop: &NextHop, node: &str, ctx: &Context<'_>) -> Option<String> {
    let label = ctx.settings.labels.of_pod(hop.addresses);
    let pods = ctx.labels.0.get(&(node, label)).into_iter().flatten();
    let mut others = pods.take_while(|((uid, _), _)| *uid < hop.owner.as_str());
    // A pod that has ended may have had the same address, which then the label leads to.
    let twin = others.find(|((_, addresses), _)| !share_address(*addresses, hop.addresses));
    twin.map(|((uid, _), vip)| called(vip, uid))
}

fn share_address(one: Addresses, other: Addresses) -> bool {
    one.iter().any(|address| other.iter().any(|same| same == address))
}

/// The node of a bucket's owner, as its map or else its slice says.
fn node_of<'a>(vip: &'a Vip, hop: &NextHop) -> Option<&'a str> {
    let member = vip.intent.as_ref().and_then(|intent| intent.members.get(&hop.owner));
    let listed = || vip.endpoints.iter().find(|e| e.pod_uid == hop.owner.as_str()).map(|e| e.node.as_str());
    member.map(|member| member.node.as_str()).or_else(listed)
}

/// What people call a pod: `namespace/name`, as long as a slice lists it.
fn called(vip: &Vip, uid: &str) -> String {
    let listed = vip.endpoints.iter().find(|e| e.pod_uid == uid);
    listed.map_or_else(|| format!("with UID {uid}"), |e| format!("{}/{}", e.namespace, e.pod))
}

fn no_route() -> String {
    "this node has no route to it; look at `ip route get` and at the CNI plugin".to_owned()
}

impl<'a> Context<'a> {
    /// This node.
    pub(super) fn me(&self) -> Option<&'a Node> {
        self.cluster.nodes.get(&self.settings.node_name)
    }

    /// The addresses that this node encapsulates from.
    pub(super) fn own_addresses(&self) -> Addresses {
        self.me().map(Node::tunnel_addresses).unwrap_or_default()
    }

    /// The first of the addresses that is a neighbour.
    pub(super) fn on_link(&self, addresses: impl Iterator<Item = IpAddr>) -> Option<(IpAddr, &'a RouteFact)> {
        self.routed(addresses).find(|(_, fact)| fact.gateway.is_none())
    }

    /// Those of the addresses that a route leads to.
    pub(super) fn routed(
        &self,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> impl Iterator<Item = (IpAddr, &'a RouteFact)> {
        let routes = self.routes;
        addresses.filter_map(move |address| Some((address, routes.get(&address)?)))
    }
}
