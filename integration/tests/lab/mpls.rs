//! What only MPLS asks for: nodes on one link. Who is elsewhere is reached in another way.

use anyhow::{Result, ensure};
use integration::lab::{Families, LabSpec, PodSpec};
use integration::world::echo::{ANNOTATION, VIP, load_modules, names};
use integration::world::{World, WorldSpec, eventually};
use tunnel_router::model::Mode;

const SERVICE: &str = "echo";
const FLOWS: usize = 40;

/// A pod on each worker, and the VIP routed to one ingress node.
async fn world() -> Result<World> {
    load_modules();
    let flags = vec!["--resync".to_owned(), "1s".to_owned()];
    // With both families a neighbour would be found by the other one.
    let lab = LabSpec { families: Families::V4, ..LabSpec::default() };
    let mut world = World::build(WorldSpec { flags, lab, ..WorldSpec::new(Mode::Mpls) }).await?;
    let pods = [("echo-1", "wrk1"), ("echo-2", "wrk2")];
    world.add_pods(pods.map(|(name, node)| (PodSpec::new(name, node), "echo")).into()).await?;
    world.add_service(SERVICE, "echo", &[(ANNOTATION, VIP)])?;
    world.start_agents()?;
    world.converged().await?;
    world.lab.route_vip(VIP.parse()?, &["ing1"]).await?;
    world.tcp_by(VIP, FLOWS, &names(&["echo-1", "echo-2"])).await?;
    Ok(world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_behind_a_router_is_reached_by_vxlan() -> Result<()> {
    let world = world().await?;
    let ing1 = world.lab.node("ing1")?.netns();
    let (wrk1, pod) = (world.lab.node("wrk1")?.address(), world.lab.pod("echo-1")?.ip());
    let encapsulated = || {
        Ok::<_, anyhow::Error>(World::run_in(ing1, "ip nexthop show protocol 107")?.contains(&format!("dst {pod} ")))
    };
    eventually("no drain is left", || {
        ensure!(!encapsulated()?, "packets to echo-1 travel in vxlan");
        Ok(())
    })
    .await?;
    World::run_in(ing1, &format!("ip route add {wrk1}/32 via 10.0.0.1"))?;
    eventually("ing1 takes another way", || {
        ensure!(encapsulated()?, "packets to echo-1 travel with labels");
        Ok(())
    })
    .await?;
    world.tcp_by(VIP, FLOWS, &names(&["echo-1", "echo-2"])).await
}
