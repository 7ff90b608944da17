//! Draining: a bucket that goes to another pod takes no open connection along, whichever ingress node its packets take.
//!
//! Witnesses: connections that were open before, which name the pod that answers them, and rules as `nft` lists them.

use anyhow::{Context, Result, ensure};
use integration::lab::PodSpec;
use integration::world::drain::{Held, draining_world};
use integration::world::echo::{ANNOTATION, SERVICE, VIP, VIP6};
use integration::world::map::{drains, is_former};
use integration::world::{World, router_program};
use tunnel_router::model::Mode;
use tunnel_router::plan::diff::NEXTHOP_BASE;

const OPEN: usize = 96;
const INGRESS: [&str; 2] = ["ing1", "ing2"];

async fn world(mode: Mode) -> Result<World> {
    draining_world(mode, "5s").await
}

async fn both(world: &World, first_port: u16) -> Result<Vec<Held>> {
    let held = |vip| Held::open(world, vip, first_port, OPEN);
    Ok(vec![held(VIP).await?, held(VIP6).await?])
}

async fn stay(world: &World, held: &mut [Held]) -> Result<()> {
    for held in held {
        held.stay(world).await?;
    }
    Ok(())
}

/// A drain goes on: pods come, are not ready for a while, and leave, and no connection is cut, by either ingress node alone.
async fn no_connection_is_lost(mode: Mode) -> Result<()> {
    let mut world = world(mode).await?;
    let mut held = both(&world, 30_000).await?;
    ensure!(held[0].on().len() == 4 && held[1].on().len() == 4, "{:?}", held[0].on());

    // More pods take buckets away from those that are there.
    world.add_pods(vec![(PodSpec::new("echo-5", "wrk2"), "echo"), (PodSpec::new("echo-6", "ing1"), "echo")]).await?;
    world.stored_map(SERVICE, |map| map.counts().len() == 6).await?;
    stay(&world, &mut held).await?;
    world.converged().await?;
    held.extend(both(&world, 31_000).await?);
    ensure!(held[2].on().is_superset(&["echo-5", "echo-6"].into()), "{:?}", held[2].on());
    for ingress in INGRESS {
        for vip in [VIP, VIP6] {
            world.lab.route_vip(vip.parse()?, &[ingress]).await?;
        }
        stay(&world, &mut held).await?;
    }
    for vip in [VIP, VIP6] {
        world.route(vip).await?;
    }

    // Half of them are not ready: their connections stay, new ones go to the others; then the other half.
    let (first, second) = (["echo-1", "echo-2", "echo-3"], ["echo-4", "echo-5", "echo-6"]);
    // On an emulated CPU each turn takes a minute.
    let turns = if mode == Mode::Vxlan { 2 } else { 1 };
    for (unready, ready) in [(first, second), (second, first)].into_iter().take(turns) {
        for (pods, state) in [(ready, true), (unready, false)] {
            for pod in pods {
                world.set_ready(pod, state)?;
            }
        }
        world.converged().await?;
        stay(&world, &mut held).await?;
        let port = 32_000 + 1000 * u16::try_from(held.len())?;
        held.extend(both(&world, port).await?);
        let new = held[held.len() - 2].on();
        ensure!(unready.iter().all(|pod| !new.contains(pod)), "{new:?} are new, and not ready are {unready:?}");
        stay(&world, &mut held).await?;
    }
    for pod in first.into_iter().chain(second) {
        world.set_ready(pod, true)?;
    }
    world.converged().await?;
    stay(&world, &mut held).await
}

integration::modes! {
    vxlan_keeps_connections_while_pods_come_and_go: no_connection_is_lost(Mode::Vxlan);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_keeps_connections_while_pods_come_and_go: no_connection_is_lost(Mode::Gre);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_keeps_connections_while_pods_come_and_go: no_connection_is_lost(Mode::Mpls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vxlan_drains_end_by_the_limit() -> Result<()> {
    let world = world(Mode::Vxlan).await?;
    world.annotate(SERVICE, &format!("{ANNOTATION}-drain"), Some("0"))?;
    world.converged().await?;
    let mut held = Held::open(&world, VIP, 30_000, OPEN).await?;
    let lost = held.count("echo-1");
    world.set_ready("echo-1", false)?;
    world.converged().await?;
    let tally = held.connections.probe_all().await;
    ensure!(lost > 0 && tally.tried() - tally.answered() == lost, "{lost} were on echo-1: {tally}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vxlan_drains_end_when_the_last_connection_is_closed() -> Result<()> {
    let world = world(Mode::Vxlan).await?;
    // Fewer connections than a pod has buckets: some of them drain, and some have nothing to drain.
    let held = Held::open(&world, VIP, 30_000, 15).await?;
    let busiest = held.on().into_iter().max_by_key(|pod| held.count(pod)).context("a pod has answered")?.to_owned();
    world.set_ready(&busiest, false)?;
    let uid = world.lab.pod(&busiest)?.uid().to_owned();
    let map = world.stored_map(SERVICE, |map| is_former(map, &uid)).await?;
    // Buckets without a connection are given up; those with one stay, then go with it.
    let fewer = world.stored_map(SERVICE, |now| drains(now) < drains(&map)).await?;
    ensure!(drains(&fewer) > 0, "buckets with connections are given up: {fewer:?}");
    drop(held);
    world.stored_map(SERVICE, |map| drains(map) == 0).await?;
    world.converged().await?;
    world.perfect(VIP, 40).await?;
    Ok(())
}

/// What a dry run prints for a node and its pods.
fn dry_run(world: &World, node: &str) -> Result<String> {
    let (program, flags) = (router_program()?, world.agent_flags(node).join(" "));
    World::run_in(world.lab.node(node)?.netns(), &format!("{} agent {flags} --dry-run", program.display()))
}

/// In the middle of a drain a dry run has nothing to do where the agent has done its work, and where something is missing it prints
/// what the agent would do: run by hand, that leaves the agent nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vxlan_a_dry_run_plans_in_a_drain_as_the_agent_does() -> Result<()> {
    let mut world = world(Mode::Vxlan).await?;
    let mut held = both(&world, 30_000).await?;
    world.set_ready("echo-1", false)?;
    let uid = world.lab.pod("echo-1")?.uid().to_owned();
    world.stored_map(SERVICE, |map| is_former(map, &uid)).await?;
    world.converged().await?;
    for (node, places) in [("ing1", 2), ("ing2", 1), ("wrk1", 3), ("wrk2", 2)] {
        let planned = dry_run(&world, node)?;
        let idle = planned.lines().filter(|line| line.starts_with("# ") && line.ends_with(": nothing to do")).count();
        ensure!(idle == places && planned.lines().count() == places, "{node}:\n{planned}");
    }

    world.stop_agent("ing1").await?;
    let node = world.lab.node("ing1")?.netns().clone();
    let routes = |table: u32| World::run_in(&node, &format!("ip route show table {table}"));
    let before = (10_000..10_064).map(routes).collect::<Result<Vec<_>>>()?;
    // Routes go with what they lead through.
    World::run_in(&node, "ip nexthop flush proto 107")?;
    ensure!(routes(10_000)?.is_empty(), "{}", routes(10_000)?);
    let directory = tempfile::tempdir()?;
    let script = directory.path().join("plan");
    std::fs::write(&script, dry_run(&world, "ing1")?)?;
    World::run_in(&node, &format!("sh -e {}", script.display()))?;
    let is_id = |word: &str| word.parse().is_ok_and(|number: u32| number >= NEXTHOP_BASE);
    let without_ids = |text: &String| text.split_whitespace().filter(|word| !is_id(word)).collect::<String>();
    let after = (10_000..10_064).map(routes).collect::<Result<Vec<_>>>()?;
    ensure!(before.iter().map(without_ids).eq(after.iter().map(without_ids)), "{before:?}\n{after:?}");

    world.start_agent("ing1")?;
    let line = world.agent("ing1")?.line("first pass complete").await?;
    ensure!(line.split_whitespace().any(|word| word == "writes=0"), "{line}");
    stay(&world, &mut held).await
}
