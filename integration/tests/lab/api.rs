//! An API server that is away, forgets, or breaks off: traffic does not notice, and no change is lost.

use anyhow::{Result, ensure};
use integration::apiserver::Faults;
use integration::lab::PodSpec;
use integration::world::{World, WorldSpec};
use serde_json::json;
use tunnel_router::model::Mode;

const VIP: &str = "192.0.2.10";
/// What an agent logs when the first request of an outage fails.
const OUTAGE: &str = "kubernetes request failed";

/// Two pods behind a Service with a VIP that the router knows; no agents.
async fn world_without_agents() -> Result<World> {
    let mut world = World::build(WorldSpec::new(Mode::Vxlan)).await?;
    let pods = [("echo-1", "wrk1"), ("echo-2", "wrk2")];
    world.add_pods(pods.map(|(name, node)| (PodSpec::new(name, node), "echo")).into()).await?;
    world.add_service("echo", "echo", &[("cmd.nu/tunnel", VIP)])?;
    world.route(VIP).await?;
    Ok(world)
}

fn node_names(world: &World) -> Vec<String> {
    world.lab.nodes().map(|node| node.name().to_owned()).collect()
}

fn all_agents_live(world: &mut World) -> Result<()> {
    for node in node_names(world) {
        let ended = world.agent(&node)?.ended()?;
        ensure!(ended.is_none(), "the agent of {node} ended: {ended:?}\n{}", world.logs());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_start_without_an_api_server_wait_for_it_and_outlive_its_next_outage() -> Result<()> {
    let mut world = world_without_agents().await?;
    world.api.faults().go_down();
    world.start_agents()?;
    for node in node_names(&world) {
        world.logged(&node, OUTAGE).await?;
    }
    all_agents_live(&mut world)?;
    world.api.faults().come_up();
    world.converged().await?;
    let tally = world.perfect(VIP, 40).await?;
    ensure!(tally.per_pod().len() == 2, "not every pod answered: {tally}");

    world.api.faults().go_down();
    world.perfect(VIP, 40).await?;
    let not_ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
    world.api.store().patch_status("pods", "default", "echo-2", not_ready)?;
    world.api.settled().await;
    // What nobody could hear of changes nothing.
    world.perfect(VIP, 40).await?;
    all_agents_live(&mut world)?;
    world.api.faults().come_up();
    world.converged().await?;
    let tally = world.perfect(VIP, 40).await?;
    ensure!(tally.per_pod().keys().eq(["echo-1"].iter()), "a pod that is not ready gets new flows: {tally}");
    Ok(())
}

/// What goes wrong, and how it is brought about.
type Fault = (&'static str, fn(&Faults));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_after_broken_or_expired_watches_is_not_lost() -> Result<()> {
    let mut world = world_without_agents().await?;
    world.start_agents()?;
    world.converged().await?;
    world.perfect(VIP, 40).await?;
    let faults: [Fault; 6] = [
        ("watches expire", Faults::expire_watches),
        ("history is forgotten", Faults::compact),
        ("watches are cut in the middle of a line", Faults::cut_watches),
        ("watches are reset", Faults::drop_watches),
        ("watches end", Faults::end_watches),
        ("history is forgotten while watches are reset", |faults| {
            faults.compact();
            faults.drop_watches();
        }),
    ];
    for (n, (title, inject)) in (20..).zip(faults) {
        inject(world.api.faults());
        let vip = format!("192.0.2.{n}");
        world.annotate("echo", "cmd.nu/tunnel", Some(&vip))?;
        println!("{title}: {vip}");
        world.converged().await?;
        world.route(&vip).await?;
        world.perfect(&vip, 40).await?;
    }
    all_agents_live(&mut world)?;
    Ok(())
}
