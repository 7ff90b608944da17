//! The stored bucket map: one controller decides, all nodes follow, and no connection is lost by it.
//!
//! Witnesses: the ConfigMap as the API server has it, the node's rules as `nft` lists them, and connections that were open
//! before.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::PodSpec;
use integration::traffic::{Connections, Tally};
use integration::world::echo::{ANNOTATION, VIP, echo_at};
use integration::world::map::{is_balanced, owners};
use integration::world::{NAMESPACE, World, WorldSpec};
use serde_json::{Value, json};
use tunnel_router::model::Mode;
use tunnel_router::model::handover::Assignment;

const SERVICE: &str = "echo";
const OPEN: usize = 120;
const PATIENCE: Duration = Duration::from_secs(60);

/// Pods on both workers and one ingress node, two controllers, and a map that everybody follows.
async fn world() -> Result<World> {
    let flags = ["--resync", "2s"].map(str::to_owned).to_vec();
    let mut world = World::build(WorldSpec { flags, ..WorldSpec::new(Mode::Vxlan) }).await?;
    let pods = [("echo-1", "wrk1"), ("echo-2", "wrk2"), ("echo-3", "ing1"), ("echo-4", "wrk1")];
    world.add_pods(pods.map(|(name, node)| (PodSpec::new(name, node), "echo")).into()).await?;
    world.add_service(SERVICE, "echo", &[(ANNOTATION, VIP)])?;
    world.start_controller("ctl-a", "wrk1", &[])?;
    world.start_agents()?;
    stored(&world, |_| true).await?;
    world.start_controller("ctl-b", "wrk2", &[])?;
    world.route(VIP).await?;
    world.converged().await?;
    Ok(world)
}

/// The stored map once it is as it should be.
async fn stored(world: &World, fits: impl Fn(&Assignment) -> bool) -> Result<Assignment> {
    world.stored_map(SERVICE, fits).await
}

/// Waits until no map is stored.
async fn no_map(world: &World, name: &str) -> Result<()> {
    let none = || world.api.store().get("configmaps", NAMESPACE, name).is_err().then_some(());
    let gone = tokio::time::timeout(PATIENCE, world.api.store().wait_for(|_| none())).await;
    gone.ok().flatten().with_context(|| format!("the map stays\n{}", world.logs()))?;
    Ok(())
}

/// Pod UID → number of buckets.
fn shares(map: &Assignment) -> BTreeMap<String, u32> {
    map.counts().into_iter().map(|(id, count)| (id.to_string(), count)).collect()
}

fn is_fair(map: &Assignment) -> bool {
    shares(map).values().eq(&[16, 16, 16, 16])
}

/// What a map says, whatever its number and its names.
fn content(map: &Assignment) -> Vec<Option<String>> {
    owners(map).into_iter().map(|owner| owner.map(ToString::to_string)).collect()
}

fn pod_uid(world: &World, pod: &str) -> Result<String> {
    Ok(world.lab.pod(pod)?.uid().to_owned())
}

async fn open(world: &World) -> Result<Connections> {
    let (connections, tally) = Connections::open(&world.client(), OPEN, echo_at(VIP)?).await?;
    none_broken(&tally)?;
    Ok(connections)
}

fn none_broken(tally: &Tally) -> Result<()> {
    ensure!(tally.is_perfect(), "{tally}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_with_other_flags_hash_as_the_map_says() -> Result<()> {
    let mut world = world().await?;
    let map = stored(&world, is_fair).await?;
    ensure!(map.hash.buckets.get() == 64, "{map:?}");
    let mut connections = open(&world).await?;

    // A rolling upgrade, node by node, to agents that would use other buckets and another seed.
    world.set_flags(&["--resync", "2s", "--buckets", "16"]);
    for node in ["ing1", "ing2", "wrk1", "wrk2"] {
        world.kill_agent(node).await?;
        world.start_agent(node)?;
        world.agent(node)?.line("first pass complete").await?;
        none_broken(&connections.probe_all().await)?;
    }
    world.converged().await?;
    none_broken(&connections.probe_all().await)?;
    world.perfect(VIP, 40).await?;
    let rules = World::run_in(world.lab.node("ing1")?.netns(), "nft list table inet kube_service_tunnel")?;
    let seed = map.hash.seed;
    ensure!(rules.contains(&format!("mod 64 seed {seed:#x}")), "the map's hash is not used:\n{rules}");
    ensure!(content(&stored(&world, |_| true).await?) == content(&map), "the map has changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_buckets_of_what_leaves_or_comes_move() -> Result<()> {
    let mut world = world().await?;
    let before = content(&stored(&world, is_fair).await?);
    let gone = pod_uid(&world, "echo-4")?;
    world.remove_pod("echo-4").await?;
    let after = content(&stored(&world, |map| !shares(map).contains_key(&gone) && is_balanced(map)).await?);
    for (old, new) in before.iter().zip(&after) {
        ensure!(old.as_ref() == Some(&gone) || old == new, "a bucket of {old:?} has moved to {new:?}");
    }
    stored(&world, |map| !map.members.contains_key(gone.as_str())).await.context("who is gone has a name")?;

    world.add_pods(vec![(PodSpec::new("echo-5", "wrk2"), "echo")]).await?;
    let new = pod_uid(&world, "echo-5")?;
    let grown = stored(&world, |map| shares(map).contains_key(&new) && is_fair(map)).await?;
    for (bucket, (old, now)) in after.iter().zip(content(&grown)).enumerate() {
        ensure!(now.as_ref() == Some(&new) || *old == now, "bucket {bucket} of {old:?} has moved to {now:?}");
    }
    world.converged().await?;
    world.perfect(VIP, 40).await?;

    let name = world.map_name(SERVICE)?;
    world.api.store().delete("services", "default", SERVICE)?;
    no_map(&world, &name).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_a_foreign_and_a_deleted_map_are_written_anew_and_nobody_notices() -> Result<()> {
    let world = world().await?;
    let map = content(&stored(&world, is_fair).await?);
    let mut connections = open(&world).await?;
    let name = world.map_name(SERVICE)?;
    let now = || -> Result<String> {
        let object = world.api.store().get("configmaps", NAMESPACE, &name)?;
        Ok(object["data"]["map.json"].as_str().context("a map")?.to_owned())
    };
    let with = |key: &str, value: Value| {
        let mut map: Value = serde_json::from_str(&now()?)?;
        map[key] = value;
        Ok::<_, anyhow::Error>(map.to_string())
    };
    let service = json!({ "namespace": "default", "name": SERVICE, "uid": "other" });
    // The last one is what somebody saved earlier, and restores now.
    for text in ["no JSON".to_owned(), with("service", service)?, "{}".to_owned(), with("generation", json!(1))?] {
        world.api.store().patch("configmaps", NAMESPACE, &name, json!({ "data": { "map.json": text } }))?;
        let written = || {
            let now = now().ok().filter(|now| *now != text)?;
            let map: Value = serde_json::from_str(&now).ok()?;
            (map["service"]["name"] == SERVICE).then_some(map)
        };
        let written = tokio::time::timeout(PATIENCE, world.api.store().wait_for(|_| written())).await;
        written.ok().flatten().with_context(|| format!("{text} stays\n{}", world.logs()))?;
        none_broken(&connections.probe_all().await)?;
        ensure!(content(&stored(&world, |map| map.generation.0 > 1).await?) == map, "{text}");
    }
    let note = world.event_with(SERVICE, "InvalidMap", "another Service").await?;
    ensure!(note.contains(&name) && note.contains("writes it anew"), "{note}");

    world.api.store().delete("configmaps", NAMESPACE, &name)?;
    ensure!(content(&stored(&world, |_| true).await?) == map, "another map was made");
    // Somebody takes its label away, so that nobody sees it any more.
    world.api.store().patch("configmaps", NAMESPACE, &name, json!({ "metadata": { "labels": null } }))?;
    let labelled = || {
        let object = world.api.store().get("configmaps", NAMESPACE, &name).ok()?;
        object["metadata"]["labels"].as_object().filter(|labels| !labels.is_empty()).cloned()
    };
    let again = tokio::time::timeout(PATIENCE, world.api.store().wait_for(|_| labelled()));
    again.await.ok().flatten().with_context(|| format!("the label stays away\n{}", world.logs()))?;
    ensure!(content(&stored(&world, |_| true).await?) == map, "another map was made");
    world.converged().await?;
    none_broken(&connections.probe_all().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_leader_nodes_agree_and_the_next_leader_goes_on_from_there() -> Result<()> {
    let mut world = world().await?;
    let before = content(&stored(&world, is_fair).await?);
    world.controller("ctl-a")?.line("leads=true").await?;
    world.kill_controller("ctl-a").await?;

    // Nobody leads: a pod goes, its buckets are spread by all nodes alike, and a new one has to wait.
    let gone = pod_uid(&world, "echo-4")?;
    world.remove_pod("echo-4").await?;
    world.add_pods(vec![(PodSpec::new("echo-5", "wrk2"), "echo")]).await?;
    world.stood_in(VIP, "echo-4").await?;
    let mut connections = open(&world).await?;
    none_broken(&connections.probe_all().await)?;

    // Each of the two ingress nodes sends every flow where the other does.
    for ingress in ["ing1", "ing2"] {
        world.lab.route_vip(VIP.parse()?, &[ingress]).await?;
        none_broken(&connections.probe_all().await)?;
    }
    let new = pod_uid(&world, "echo-5")?;
    let after = stored(&world, |map| shares(map).contains_key(&new)).await?;
    world.controller("ctl-b")?.line("leads=true").await?;
    for (old, now) in before.iter().zip(content(&after)) {
        let free = old.as_ref() == Some(&gone) || now.as_ref() == Some(&new);
        ensure!(free || *old == now, "a bucket of {old:?} has moved to {now:?}");
    }
    stored(&world, is_fair).await?;
    world.converged().await?;
    world.perfect(VIP, 40).await?;

    // Who steps down in good order leaves at once to the next.
    world.start_controller("ctl-c", "wrk1", &[])?;
    world.controller("ctl-b")?.signal(nix::sys::signal::Signal::SIGTERM)?;
    world.controller("ctl-c")?.line("leads=true").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_wait_for_a_controller_are_told_of_and_a_map_is_made_anew_on_demand() -> Result<()> {
    let mut world = world().await?;
    for name in ["ctl-a", "ctl-b"] {
        world.kill_controller(name).await?;
    }
    world.add_pods(vec![(PodSpec::new("echo-5", "wrk2"), "echo")]).await?;
    let note = world.event(SERVICE, "NoController").await?;
    ensure!(note.contains("a ready pod gets no traffic of Service default/echo"), "{note}");
    world.perfect(VIP, 40).await?;

    world.start_controller("ctl-c", "wrk1", &["--buckets", "16", "--hash-seed", "9"])?;
    let new = pod_uid(&world, "echo-5")?;
    let kept = stored(&world, |map| shares(map).contains_key(&new)).await?;
    ensure!(kept.hash.buckets.get() == 64, "a map keeps what it was made with: {kept:?}");
    world.logged("wrk2", "problem resolved").await?;

    world.annotate(SERVICE, ANNOTATION, None)?;
    no_map(&world, &world.map_name(SERVICE)?).await?;
    world.annotate(SERVICE, ANNOTATION, Some(VIP))?;
    let anew = stored(&world, |map| map.hash.buckets.get() == 16).await?;
    ensure!(anew.hash.seed == 9 && anew.generation > kept.generation, "{anew:?}");
    world.converged().await?;
    world.perfect(VIP, 40).await?;
    let rules = World::run_in(world.lab.node("ing1")?.netns(), "nft list table inet kube_service_tunnel")?;
    ensure!(rules.contains("mod 16 seed 0x9"), "the new map's hash is not used:\n{rules}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_programmed_stays_when_agents_restart_and_all_maps_are_gone() -> Result<()> {
    let mut world = world().await?;
    stored(&world, is_fair).await?;
    // A pod that drains, and is not in the way of new connections.
    let mut connections = open(&world).await?;
    world.set_ready("echo-4", false)?;
    let uid = pod_uid(&world, "echo-4")?;
    let map = stored(&world, |map| !shares(map).contains_key(&uid) && is_balanced(map)).await?;
    world.converged().await?;
    none_broken(&connections.probe_all().await)?;
    for name in ["ctl-a", "ctl-b"] {
        world.kill_controller(name).await?;
    }
    world.api.store().delete("configmaps", NAMESPACE, &world.map_name(SERVICE)?)?;
    for node in ["ing1", "ing2", "wrk1", "wrk2"] {
        world.kill_agent(node).await?;
        world.start_agent(node)?;
        world.agent(node)?.line("first pass complete").await?;
        none_broken(&connections.probe_all().await)?;
        world.perfect(VIP, 40).await?;
    }

    world.start_controller("ctl-c", "wrk1", &[])?;
    let anew = stored(&world, is_balanced).await?;
    ensure!(anew.generation > map.generation, "{anew:?}");
    world.converged().await?;
    world.perfect(VIP, 40).await?;
    Ok(())
}
