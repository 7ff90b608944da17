//! The main job, with packets, in each mode.

use anyhow::{Result, ensure};
use integration::lab::{Attach, PodSpec};
use integration::traffic::{Client, Sources};
use integration::world::{World, WorldSpec};
use tunnel_router::model::Mode;

const VIP: &str = "192.0.2.10";

/// Five pods on three nodes, on both kinds of attachment, behind one Service with one VIP.
async fn echo_world(mode: Mode) -> Result<World> {
    let mut world = World::build(WorldSpec::new(mode)).await?;
    let pod = |name: &str, node: &str, attach| (PodSpec { attach, ..PodSpec::new(name, node) }, "echo");
    world
        .add_pods(vec![
            pod("echo-1", "wrk1", Attach::PointToPoint),
            pod("echo-2", "wrk1", Attach::PointToPoint),
            pod("echo-3", "wrk2", Attach::Bridge),
            pod("echo-4", "wrk2", Attach::Bridge),
            pod("echo-5", "ing1", Attach::PointToPoint),
        ])
        .await?;
    world.add_service("echo", "echo", &[])?;
    world.start_agents()?;
    world.annotate("echo", "cmd.nu/tunnel", Some(VIP))?;
    world.converged().await?;
    world.route(VIP).await?;
    Ok(world)
}

async fn two_hundred_flows_of_each_protocol(mode: Mode) -> Result<()> {
    let world = echo_world(mode).await?;
    let client = Client::new(world.lab.client()).with_patience(std::time::Duration::from_secs(3)).with_sources(Sources::fixed(world.lab.client_addresses(), 20_000));
    let target = format!("{VIP}:12345").parse()?;
    for (protocol, tally) in
        [("tcp", client.tcp_exchanges(200, target).await?), ("udp", client.udp_exchanges(200, target).await?)]
    {
        println!("{mode} {protocol}: {tally}");
        ensure!(tally.answered() == 200, "{mode} {protocol}: {tally}\n{}", world.logs());
        ensure!(tally.per_pod().len() == 5, "{mode} {protocol}: not every pod answered: {tally}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gre() -> Result<()> {
    two_hundred_flows_of_each_protocol(Mode::Gre).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mpls() -> Result<()> {
    two_hundred_flows_of_each_protocol(Mode::Mpls).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vxlan() -> Result<()> {
    two_hundred_flows_of_each_protocol(Mode::Vxlan).await
}
