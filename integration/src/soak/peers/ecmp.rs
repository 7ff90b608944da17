//! Pods that the router reaches by itself: each has a leg on the fabric, and the VIP on its loopback device.

use anyhow::Result;

use crate::lab::Pod;
use crate::netns::Netns;
use crate::world::World;
use crate::world::echo::VIP;

/// Gives a pod its leg: 10.0.0.100 and upwards.
pub(super) fn add(router: &Netns, pod: &Netns, number: u8) -> Result<()> {
    let (port, name) = (format!("leg{number}"), pod.name());
    World::run_in(router, &format!("ip link add {port} type veth peer name eth1 netns {name}"))?;
    World::run_in(router, &format!("ip link set {port} master fabric up"))?;
    World::run_in(pod, &format!("ip address add {}/24 dev eth1", leg(number)))?;
    World::run_in(pod, "ip link set eth1 up")?;
    World::run_in(pod, &format!("ip address add {VIP}/32 dev lo"))?;
    // The way back is the other leg.
    Ok(pod.set_sysctl("net/ipv4/conf/eth1/rp_filter", "2")?)
}

/// One next hop for each pod.
pub(super) fn route(router: &Netns, pods: &[&Pod]) -> Result<()> {
    let number = |pod: &&Pod| pod.name().rsplit('-').next().and_then(|number| number.parse::<u8>().ok());
    let hops: String = pods.iter().filter_map(number).map(|number| format!(" nexthop via {}", leg(number))).collect();
    World::run_in(router, &format!("ip route replace {VIP}/32{hops}")).map(drop)
}

fn leg(number: u8) -> String {
    format!("10.0.0.{}", 100 + number)
}
