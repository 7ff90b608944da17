//! The world with VIPs of both families in one annotation.

use anyhow::Result;
use tunnel_router::model::Mode;

use super::echo::{SERVICE, VIP, VIP6, five_pods, load_modules};
use super::{World, WorldSpec};
use crate::lab::LabSpec;

/// Five pods behind a Service with [`VIP`] and [`VIP6`], agents, and both VIPs routed to all ingress nodes. The pods'
/// devices have the MTU `pod_mtu`, in bytes.
pub async fn dual_world(mode: Mode, lab: LabSpec, pod_mtu: u32) -> Result<World> {
    load_modules();
    let mut world = World::build(WorldSpec { lab, ..WorldSpec::new(mode) }).await?;
    let pods = five_pods().into_iter().map(|(mut pod, app)| {
        pod.mtu = pod_mtu;
        (pod, app)
    });
    world.add_pods(pods.collect()).await?;
    world.add_dual_service(SERVICE, "echo", &[])?;
    world.serve(&[VIP, VIP6]).await?;
    Ok(world)
}
