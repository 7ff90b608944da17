//! One network stack of the lab: a namespace and the few netlink requests that build what is in it.
//!
//! Requests are awaited one by one; on failure they say which object of which stack they were about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder, RouteNextHopBuilder};

use super::family::Family;
use crate::netns::Netns;

/// `proto static`: what an administrator or a CNI plugin writes.
const STATIC: RouteProtocol = RouteProtocol::Static;

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct VethEnd<'a> {
    /// Device name.
    pub name: &'a str,
    /// MTU of this end.
    pub mtu: u32,
    /// Bridge that this end is a port of; only for the end in the stack that creates the pair.
    pub bridge: Option<&'a str>,
}

impl<'a> VethEnd<'a> {
    /// An end that is no bridge port.
    pub fn new(name: &'a str, mtu: u32) -> Self {
        Self { name, mtu, bridge: None }
    }
}

/// A namespace with a netlink connection into it.
#[derive(Debug, Clone)]
pub struct Stack {
    netns: Netns,
    netlink: Handle,
}

impl Stack {
    /// Creates the namespace. The sysctls are written while there is nothing but `lo`, so that every later device
    /// inherits what they say about `default`.
    pub async fn create(name: &str, sysctls: &[(&str, &str)]) -> Result<Self> {
        let netns = Netns::create(name)?;
        netns.set_sysctls(sysctls)?;
        let stack = Self { netlink: netns.netlink()?, netns };
        stack.set_up("lo").await?;
        Ok(stack)
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The netlink connection, for what is not offered here.
    pub fn netlink(&self) -> &Handle {
        &self.netlink
    }

    fn about(&self, what: impl std::fmt::Display) -> String {
        format!("{}: {what}", self.netns.name())
    }

    /// The link of that name.
    pub async fn link(&self, name: &str) -> Result<LinkMessage> {
        let found = self.netlink.link().get().match_name(name).execute().try_next().await;
        found
            .with_context(|| self.about(format!("link {name}")))?
            .with_context(|| self.about(format!("no link {name}")))
    }

    /// Interface index of the link of that name.
    pub async fn index(&self, name: &str) -> Result<u32> {
        Ok(self.link(name).await?.header.index)
    }

    /// Ethernet address of the link of that name.
    pub async fn mac(&self, name: &str) -> Result<[u8; 6]> {
        let link = self.link(name).await?;
        let address = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => None,
        });
        address.with_context(|| self.about(format!("{name} has no Ethernet address")))
    }

    /// `ip link set NAME up`.
    pub async fn set_up(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?;
        let request = self.netlink.link().set(LinkUnspec::new_with_index(index).up().build());
        request.execute().await.with_context(|| self.about(format!("link set {name} up")))
    }

    /// `ip link add NAME type bridge`, up.
    pub async fn add_bridge(&self, name: &str, mtu: u32) -> Result<()> {
        let message = LinkBridge::new(name).mtu(mtu).up().build();
        let added = self.netlink.link().add(message).execute().await;
        added.with_context(|| self.about(format!("link add {name} type bridge")))
    }

    /// A veth pair between this stack and `other`, both ends up.
    pub async fn add_veth(&self, here: VethEnd<'_>, other: &Stack, there: VethEnd<'_>) -> Result<()> {
        let peer = LinkUnspec::new_with_name(there.name).mtu(there.mtu).setns_by_fd(other.netns.raw_fd()).build();
        let mut message =
            LinkVeth::new(here.name, there.name).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).mtu(here.mtu).up();
        if let Some(bridge) = here.bridge {
            message = message.controller(self.index(bridge).await?);
        }
        let added = self.netlink.link().add(message.build()).execute().await;
        added.with_context(|| self.about(format!("link add {} type veth", here.name)))?;
        other.set_up(there.name).await
    }

    /// `ip link del NAME`.
    pub async fn del_link(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?;
        let deleted = self.netlink.link().del(index).execute().await;
        deleted.with_context(|| self.about(format!("link del {name}")))
    }

    /// `ip addr add ADDRESS/PREFIX dev DEVICE`, for IPv6 with `nodad`.
    pub async fn add_address(&self, device: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let index = self.index(device).await?;
        let mut request = self.netlink.address().add(index, address, prefix);
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.with_context(|| self.about(format!("addr add {address}/{prefix} dev {device}")))
    }

    /// `ip route add DESTINATION/PREFIX via GATEWAY`.
    pub async fn add_route_via(&self, destination: (IpAddr, u8), gateway: IpAddr) -> Result<()> {
        self.add_route(route(destination)?.gateway(gateway)?.build()).await
    }

    /// `ip route add default via GATEWAY`.
    pub async fn add_default_route(&self, gateway: IpAddr) -> Result<()> {
        self.add_route_via(default_of(Family::of(gateway)), gateway).await
    }

    /// `ip -FAMILY route add default via GATEWAY dev DEVICE`, for a gateway that the routes do not lead to: of IPv4 also
    /// `via inet6`.
    pub async fn add_default_route_on(&self, family: Family, gateway: IpAddr, device: &str) -> Result<()> {
        let index = self.index(device).await?;
        self.add_route(route(default_of(family))?.output_interface(index).gateway(gateway)?.build()).await
    }

    /// `ip route add DESTINATION/PREFIX dev DEVICE scope link`.
    pub async fn add_route_dev(&self, destination: (IpAddr, u8), device: &str) -> Result<()> {
        let mut message = route(destination)?.output_interface(self.index(device).await?).build();
        // IPv6 routes have no scope.
        if destination.0.is_ipv4() {
            message.header.scope = rtnetlink::packet_route::route::RouteScope::Link;
        }
        self.add_route(message).await
    }

    /// `ip route add blackhole DESTINATION/PREFIX table TABLE metric 4096`: what is left when nothing better is there.
    pub async fn add_blackhole(&self, destination: (IpAddr, u8), table: u32) -> Result<()> {
        let route = route(destination)?.kind(RouteType::BlackHole).table_id(table).priority(4096);
        self.add_route(route.build()).await
    }

    async fn add_route(&self, message: RouteMessage) -> Result<()> {
        let about = self.about(format!("route add {:?}", message.attributes));
        self.netlink.route().add(message).execute().await.context(about)
    }

    /// `ip route replace DESTINATION/PREFIX nexthop via G1 nexthop via G2 …`, all of the same weight. The gateways of an
    /// IPv4 route may be IPv6 ones (`via inet6 …`).
    pub async fn replace_multipath(&self, destination: (IpAddr, u8), gateways: &[IpAddr]) -> Result<()> {
        let family = if destination.0.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let hops = gateways.iter().map(|gateway| Ok(RouteNextHopBuilder::new(family).via(*gateway)?.build()));
        let message = route(destination)?.multipath(hops.collect::<Result<_>>()?).build();
        let replaced = self.netlink.route().add(message).replace().execute().await;
        replaced.with_context(|| self.about(format!("route replace {} via {gateways:?}", destination.0)))
    }

    /// `ip route del DESTINATION/PREFIX` in table main.
    pub async fn del_route(&self, destination: (IpAddr, u8)) -> Result<()> {
        let deleted = self.netlink.route().del(route(destination)?.build()).execute().await;
        deleted.with_context(|| self.about(format!("route del {}/{}", destination.0, destination.1)))
    }

    /// `ip rule add pref PRIORITY fwmark MARK/MASK lookup TABLE`, and the same with `ip -6`.
    pub async fn add_rule(&self, priority: u32, (mark, mask): (u32, u32), table: u32) -> Result<()> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = self.netlink.rule().add().priority(priority).table_id(table).fw_mark(mark);
            request = request.action(RuleAction::ToTable);
            request.message_mut().header.family = family;
            request.message_mut().attributes.push(RuleAttribute::FwMask(mask));
            request.execute().await.with_context(|| self.about(format!("rule add pref {priority}, {family:?}")))?;
        }
        Ok(())
    }
}

fn route((destination, prefix): (IpAddr, u8)) -> Result<RouteMessageBuilder<IpAddr>> {
    let builder = RouteMessageBuilder::<IpAddr>::new().protocol(STATIC);
    Ok(builder.destination_prefix(destination, prefix)?)
}

/// `0.0.0.0/0` or `::/0`.
fn default_of(family: Family) -> (IpAddr, u8) {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED.into(), 0),
        Family::V6 => (Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// Shorthand for a host route or any other prefix of an IPv4 network.
pub fn net(address: Ipv4Addr, prefix: u8) -> (IpAddr, u8) {
    (IpAddr::V4(address), prefix)
}
