//! What earlier versions have left is taken over while connections are open (`tests/fixtures/upgrade`).
//!
//! Witnesses: connections that were open before and name the pod that answers them, and `ip`, `nft` and sysctls.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use integration::lab::Snapshot;
use integration::upgrade::{CONTROLLER, Fixture, PODS, world};
use integration::world::World;
use integration::world::drain::Held;
use integration::world::echo::{SERVICE, VIP, VIP6};
use integration::world::map::{is_former, owners};
use tokio::runtime::Handle;
use tunnel_router::model::Mode;
use tunnel_router::model::handover::Assignment;

const OPEN: usize = 48;
/// How the numbers of our next hops begin.
const NUMBERS: &str = "17951";

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
            let began = Instant::now();
            for held in &mut *held {
                held.stay(world).await?;
            }
            // The agents get at least half of the time of a slow machine.
            tokio::time::sleep(began.elapsed()).await;
        }
        anyhow::Ok(())
    };
    let converged = async {
        let converged = world.converged().await;
        over.store(true, Ordering::Relaxed);
        converged
    };
    // On a thread of its own: a look into a namespace holds up who waits for it.
    let runtime = Handle::current();
    let both = || {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| runtime.block_on(asked));
            let converged = runtime.block_on(converged);
            asked.join().unwrap().and(converged)
        })
    };
    tokio::task::block_in_place(both)
}

/// All objects of all namespaces, without what is drawn by lot or counted up: link-local addresses and the numbers of next hops.
async fn objects(world: &World) -> Result<Vec<String>> {
    let snapshot = Snapshot::of_lab(&world.lab).await?;
    let number = |word: &str| word.split('/').all(|part| part.starts_with(NUMBERS) && part.len() == 10);
    let named = |line: &str| -> String {
        if !line.contains(NUMBERS) {
            return line.to_owned();
        }
        let words = line.split_whitespace().map(|word| if number(word) { "N" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<String> = snapshot.lines().filter(|line| !line.contains(" fe80::")).map(named).collect();
    lines.sort();
    Ok(lines)
}

/// Lines of one that the other has not.
fn missing<'a>(from: &'a [String], others: &[String]) -> Vec<&'a str> {
    let others: BTreeSet<&String> = others.iter().collect();
    from.iter().filter(|line| !others.contains(line)).map(String::as_str).collect()
}

async fn is_taken_over(version: &str, mode: Mode, as_expected: impl Fn(&Assignment) -> bool) -> Result<()> {
    let mut world = world(mode).await?;
    let fixture = Fixture::of(version, mode, &world).await?;
    fixture.serve(&world).await?;
    for vip in [VIP, VIP6] {
        world.route(vip).await?;
    }
    let mut held = vec![Held::open(&world, VIP, 30_000, OPEN).await?, Held::open(&world, VIP6, 30_000, OPEN).await?];
    ensure!(held.iter().all(|held| held.on().len() == PODS.len()), "{:?}", held[0].on());
    fixture.drain(&world).await?;
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
    let uid = world.lab.pod(PODS[0].0)?.uid();
    let after = world.stored_map(SERVICE, |map| map.vips.is_some() && is_former(map, uid)).await?;
    ensure!(owners(&after) == owners(&before), "buckets have moved:\n{before:?}\n{after:?}");

    let upgraded = objects(&world).await?;
    world.stop_agents().await?;
    world.cleanup().await?;
    for (pod, _) in PODS {
        let addresses = World::run_in(world.lab.pod(pod)?.netns(), "ip -o address")?;
        ensure!(!addresses.contains(VIP) && !addresses.contains(VIP6), "left on {pod}:\n{addresses}");
    }
    world.start_agents()?;
    world.converged().await?;
    let fresh = objects(&world).await?;
    let (gone, new) = (missing(&upgraded, &fresh).join("\n- "), missing(&fresh, &upgraded).join("\n+ "));
    ensure!(upgraded == fresh, "a fresh start makes something else of it:\n- {gone}\n+ {new}");
    Ok(())
}

/// The first maps that name endpoints.
async fn names(mode: Mode) -> Result<()> {
    is_taken_over("names", mode, |map| map.vips.is_none()).await
}

/// Maps before announced moves.
async fn vips(mode: Mode) -> Result<()> {
    is_taken_over("vips", mode, |map| map.vips.is_some() && map.announced.0 == 0).await
}

/// Maps with announced moves.
async fn announced(mode: Mode) -> Result<()> {
    is_taken_over("announced", mode, |map| map.announced.0 > 0).await
}

integration::modes! {
    gre_the_first_maps_that_name_endpoints_are_taken_over: names(Mode::Gre);
    #[ignore = "announced moves stand for it, with the same kernel objects; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_maps_before_announced_moves_are_taken_over: vips(Mode::Gre);
    gre_maps_with_announced_moves_are_taken_over: announced(Mode::Gre);
    mpls_the_first_maps_that_name_endpoints_are_taken_over: names(Mode::Mpls);
    #[ignore = "announced moves stand for it, with the same kernel objects; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_maps_before_announced_moves_are_taken_over: vips(Mode::Mpls);
    mpls_maps_with_announced_moves_are_taken_over: announced(Mode::Mpls);
    vxlan_the_first_maps_that_name_endpoints_are_taken_over: names(Mode::Vxlan);
    vxlan_maps_before_announced_moves_are_taken_over: vips(Mode::Vxlan);
    vxlan_maps_with_announced_moves_are_taken_over: announced(Mode::Vxlan);
}
