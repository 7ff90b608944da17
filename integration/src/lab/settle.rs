//! Waiting until a new link is really there.
//!
//! The kernel finishes links in the background: the operational state, the IPv6 link-local address and the local routes of
//! all IPv6 addresses come a moment after the request was acknowledged. A snapshot taken in between would differ from a later one for no
//! fault of anybody's, so building ends with waiting for the kernel's own notifications.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

use super::pod::GATEWAY6;
use super::stack::Stack;

/// `RT_TABLE_LOCAL`
const TABLE_LOCAL: u8 = 255;
/// Settling takes milliseconds; this is for finding out what does not.
const PATIENCE: Duration = Duration::from_secs(60);

impl Stack {
    /// Returns when every link that has a carrier is operational and has its IPv6 link-local address, and every IPv6
    /// address works.
    pub async fn settle(&self) -> Result<()> {
        let settled = tokio::time::timeout(PATIENCE, self.watch_until_settled()).await;
        settled.with_context(|| format!("{}: the links do not settle", self.netns().name()))?
    }

    async fn watch_until_settled(&self) -> Result<()> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Ipv6Route];
        let (connection, handle, mut changes) =
            self.netns().run_in_runtime("watch links", || rtnetlink::new_multicast_connection(&groups))?;
        tokio::spawn(connection);
        while !is_settled(&handle).await? {
            if changes.next().await.is_none() {
                bail!("{}: the link watch ended", self.netns().name());
            }
        }
        Ok(())
    }
}

async fn is_settled(handle: &Handle) -> Result<bool> {
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    let local: BTreeSet<u32> = addresses.iter().filter(|a| is_final_link_local(a)).map(|a| a.header.index).collect();
    let bridges: BTreeSet<u32> = links.iter().filter_map(controller).collect();
    let live = links.iter().filter(|l| l.header.flags.contains(LinkFlags::LowerUp) && !is_loopback(l));
    let addressed: BTreeSet<_> = addresses.iter().filter_map(|a| Some((a.header.index, ipv6_of(a)?))).collect();
    Ok(live.into_iter().all(|l| is_operational(l, &bridges) && local.contains(&l.header.index))
        && addressed.is_subset(&local_routes(handle).await?))
}

/// The IPv6 addresses that packets are delivered to, with their devices.
async fn local_routes(handle: &Handle) -> Result<BTreeSet<(u32, Ipv6Addr)>> {
    let all = handle.route().get(RouteMessageBuilder::<Ipv6Addr>::new().build()).execute();
    let routes: Vec<RouteMessage> = all.try_collect().await?;
    let local = routes.iter().filter(|r| r.header.table == TABLE_LOCAL);
    Ok(local.filter_map(|route| Some((device_of(route)?, destination_of(route)?))).collect())
}

fn device_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn destination_of(route: &RouteMessage) -> Option<Ipv6Addr> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
        _ => None,
    })
}

fn ipv6_of(message: &AddressMessage) -> Option<Ipv6Addr> {
    message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(IpAddr::V6(address)) => Some(*address),
        _ => None,
    })
}

fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn is_loopback(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Loopback)
}

/// A veth and a bridge with ports pass through the state "unknown"; tunnels and empty bridges stay in it.
fn is_operational(link: &LinkMessage, bridges: &BTreeSet<u32>) -> bool {
    let veth = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Veth));
    let passing = bridges.contains(&link.header.index)
        || link.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkInfo(info) if info.iter().any(veth)));
    link.attributes.iter().any(|a| match a {
        LinkAttribute::OperState(State::Up) => true,
        LinkAttribute::OperState(State::Unknown) => !passing,
        _ => false,
    })
}

fn is_final_link_local(message: &AddressMessage) -> bool {
    let tentative = message.attributes.iter().any(|a| match a {
        AddressAttribute::Flags(flags) => flags.contains(AddressFlags::Tentative),
        _ => false,
    });
    // The gateway's address is one that we gave.
    let local = ipv6_of(message).is_some_and(|address| address.is_unicast_link_local() && address != GATEWAY6);
    message.header.family == AddressFamily::Inet6 && local && !tentative
}
