//! What earlier versions have left is taken over while connections are open (`tests/fixtures/upgrade`).
//!
//! Witnesses: connections that were open before and name the pod that answers them, and `ip`, `nft` and sysctls.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use integration::lab::Snapshot;
use integration::upgrade::{CONTROLLER, Fixture, PODS, world};
use integration::world::World;
use integration::world::drain::Held;
use integration::world::echo::{SERVICE, VIP, VIP6};
use integration::world::map::{is_former, owners};
use tunnel_router::model::handover::Assignment;

const OPEN: usize = 48;

/// Who answers UDP, by the client's end.
async fn udp(world: &World) -> Result<BTreeMap<SocketAddr, String>> {
    let mut all = BTreeMap::new();
    for vip in [VIP, VIP6] {
        let tally = world.udp(vip, OPEN).await?;
        all.extend(tally.owners().into_iter().map(|(source, pod)| (source, pod.to_owned())));
    }
    Ok(all)
}

/// Asks all connections again and again until the agents have nothing to do any more.
async fn take_over(world: &mut World, held: &mut [Held]) -> Result<()> {
    world.start_controller("controller", "wrk1", &CONTROLLER)?;
    world.start_agents()?;
    let (world, over) = (&*world, AtomicBool::new(false));
    let asked = async {
        while !over.load(Ordering::Relaxed) {
            for held in &mut *held {
                held.stay(world).await?;
            }
        }
        anyhow::Ok(())
    };
    let converged = async {
        let converged = world.converged().await;
        over.store(true, Ordering::Relaxed);
        converged
    };
    let (asked, converged) = tokio::join!(asked, converged);
    asked.and(converged)
}

/// All objects of all namespaces, without what is drawn by lot or counted up: link-local addresses and the numbers of next hops.
async fn objects(world: &World) -> Result<Vec<String>> {
    let snapshot = Snapshot::of_lab(&world.lab).await?;
    let number = |word: &str| word.split('/').all(|part| part.starts_with("17951") && part.len() == 10);
    let named = |line: &str| -> String {
        let words = line.split_whitespace().map(|word| if number(word) { "N" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<String> = snapshot.lines().filter(|line| !line.contains(" fe80::")).map(named).collect();
    lines.sort();
    Ok(lines)
}

/// Lines of one that the other has not.
fn missing<'a>(from: &'a [String], others: &[String]) -> Vec<&'a str> {
    from.iter().filter(|line| !others.contains(line)).map(String::as_str).collect()
}

async fn is_taken_over(version: &str, as_expected: impl Fn(&Assignment) -> bool) -> Result<()> {
    let mut world = world().await?;
    let fixture = Fixture::of(version, &world)?;
    fixture.serve(&world)?;
    for vip in [VIP, VIP6] {
        world.route(vip).await?;
    }
    let mut held = vec![Held::open(&world, VIP, 30_000, OPEN).await?, Held::open(&world, VIP6, 30_000, OPEN).await?];
    ensure!(held.iter().all(|held| held.on().len() == PODS.len()), "{:?}", held[0].on());
    fixture.drain(&world)?;
    let before = fixture.map(&world)?;
    ensure!(as_expected(&before), "not a map of {version}: {before:?}");
    let datagrams = udp(&world).await?;
    for held in &mut held {
        held.stay(&world).await?;
    }

    take_over(&mut world, &mut held).await?;
    for held in &mut held {
        held.stay(&world).await?;
    }
    ensure!(udp(&world).await? == datagrams, "datagrams have moved");
    let uid = world.api.store().get("pods", "default", PODS[0].0)?["metadata"]["uid"].clone();
    let uid = uid.as_str().unwrap_or_default();
    let after = world.stored_map(SERVICE, |map| map.vips.is_some() && is_former(map, uid)).await?;
    ensure!(owners(&after) == owners(&before), "buckets have moved:\n{before:?}\n{after:?}");

    let upgraded = objects(&world).await?;
    world.stop_agents().await?;
    world.cleanup().await?;
    world.start_agents()?;
    world.converged().await?;
    let fresh = objects(&world).await?;
    let (gone, new) = (missing(&upgraded, &fresh).join("\n- "), missing(&fresh, &upgraded).join("\n+ "));
    ensure!(upgraded == fresh, "a fresh start makes something else of it:\n- {gone}\n+ {new}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_maps_that_name_endpoints_are_taken_over() -> Result<()> {
    is_taken_over("names", |map| map.vips.is_none()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_before_announced_moves_are_taken_over() -> Result<()> {
    is_taken_over("vips", |map| map.vips.is_some() && map.announced.0 == 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_with_announced_moves_are_taken_over() -> Result<()> {
    is_taken_over("announced", |map| map.announced.0 > 0).await
}
