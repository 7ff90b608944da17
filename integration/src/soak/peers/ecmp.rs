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

/// One next hop for each pod that is ready; without any the router knows no way.
pub(super) fn route(router: &Netns, ready: &[&Pod]) -> Result<()> {
    let hops = ready.iter().filter_map(|pod| Some(format!(" nexthop via {}", leg(number(pod.name())?))));
    let route = match hops.collect::<String>() {
        none if none.is_empty() => format!("unreachable {VIP}/32"),
        hops => format!("{VIP}/32{hops}"),
    };
    World::run_in(router, &format!("ip route replace {route}")).map(drop)
}

/// A pod's node has lost its power: whatever goes to the pod is lost, and nobody sees a carrier go.
pub(super) fn cut(router: &Netns, pod: &str) -> Result<()> {
    let Some(number) = number(pod) else { return Ok(()) };
    // 0 is "disabled".
    World::run_in(router, &format!("bridge link set dev leg{number} state 0")).map(drop)
}

fn number(pod: &str) -> Option<u8> {
    pod.rsplit('-').next()?.parse().ok()
}

fn leg(number: u8) -> String {
    format!("10.0.0.{}", 100 + number)
}
