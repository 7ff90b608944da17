//! Draining: a bucket that goes to another pod takes no open connection along, whichever ingress node its packets take.
//!
//! Witnesses: connections that were open before, which name the pod that answers them, and rules as `nft` lists them.

use anyhow::{Context, Result, ensure};
use integration::lab::PodSpec;
use integration::world::World;
use integration::world::drain::{Held, draining_world};
use integration::world::echo::{ANNOTATION, SERVICE, VIP, VIP6};
use integration::world::map::{drains, is_former};
use tunnel_router::model::Mode;

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
