//! Draining: a bucket that goes to another pod takes no open connection along, whichever ingress node its packets take.
//!
//! Witnesses: connections that were open before, which name the pod that answers them, and rules as `nft` lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::PodSpec;
use integration::traffic::{Connections, Sources, Tally};
use integration::world::echo::{ANNOTATION, SERVICE, VIP, VIP6, echo_at};
use integration::world::{World, WorldSpec};
use tunnel_router::model::Mode;

const OPEN: usize = 96;
const INGRESS: [&str; 2] = ["ing1", "ing2"];

/// Four pods on three nodes behind one dual-stack Service, agents and a controller.
async fn world(mode: Mode) -> Result<World> {
    let mut world = World::build(WorldSpec::new(mode)).await?;
    let pods = [("echo-1", "wrk1"), ("echo-2", "wrk2"), ("echo-3", "ing1"), ("echo-4", "wrk1")];
    world.add_pods(pods.map(|(name, node)| (PodSpec::new(name, node), "echo")).into()).await?;
    world.add_dual_service(SERVICE, "echo", &[])?;
    world.start_controller("ctl-a", "wrk1", &["--drain-udp", "5s"])?;
    world.serve(&[VIP, VIP6]).await?;
    world.stored_map(SERVICE, |_| true).await?;
    world.converged().await?;
    Ok(world)
}

/// Connections to one VIP, and who answered each.
struct Held {
    connections: Connections,
    pods: BTreeMap<SocketAddr, String>,
}

impl Held {
    async fn open(world: &World, vip: &str, first_port: u16, count: usize) -> Result<Held> {
        let sources = Sources::fixed(world.lab.client_addresses(), first_port);
        let client = world.client().with_sources(sources);
        let (connections, tally) = Connections::open(&client, count, echo_at(vip)?).await?;
        let tally = perfect(world, tally)?;
        Ok(Held { connections, pods: tally.owners().into_iter().map(|(s, pod)| (s, pod.to_owned())).collect() })
    }

    /// Every connection is answered, by the pod that it has always had.
    async fn stay(&mut self, world: &World) -> Result<()> {
        let tally = perfect(world, self.connections.probe_all().await)?;
        for (source, pod) in tally.owners() {
            ensure!(self.pods[&source] == pod, "{source} has moved from {} to {pod}", self.pods[&source]);
        }
        Ok(())
    }

    fn on(&self) -> BTreeSet<&str> {
        self.pods.values().map(String::as_str).collect()
    }
}

fn perfect(world: &World, tally: Tally) -> Result<Tally> {
    let text = tally.to_string();
    tally.perfect().with_context(|| format!("{text}\n{}", world.logs()))
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
    world.stored_map(SERVICE, |map| map["endpoints"].as_array().is_some_and(|e| e.len() == 6)).await?;
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
    for (unready, ready) in [(first, second), (second, first)] {
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
    for pod in ["echo-4", "echo-5", "echo-6"] {
        world.set_ready(pod, true)?;
    }
    world.converged().await?;
    stay(&world, &mut held).await
}

/// `#[tokio::test]` for each mode.
macro_rules! modes {
    ($($name:ident: $test:ident($mode:expr);)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> Result<()> {
            $test($mode).await
        }
    )*};
}

modes! {
    vxlan_keeps_connections_while_pods_come_and_go: no_connection_is_lost(Mode::Vxlan);
    gre_keeps_connections_while_pods_come_and_go: no_connection_is_lost(Mode::Gre);
    mpls_keeps_connections_while_pods_come_and_go: no_connection_is_lost(Mode::Mpls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vxlan_drains_end_by_the_limit() -> Result<()> {
    let world = world(Mode::Vxlan).await?;
    world.annotate(SERVICE, &format!("{ANNOTATION}-drain"), Some("0"))?;
    world.converged().await?;
    let mut held = Held::open(&world, VIP, 30_000, OPEN).await?;
    let lost = held.pods.values().filter(|pod| *pod == "echo-1").count();
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
    let count = |pod: &&str| held.pods.values().filter(|p| p == pod).count();
    let busiest = held.on().into_iter().max_by_key(count).context("a pod has answered")?.to_owned();
    world.set_ready(&busiest, false)?;
    let uid = world.lab.pod(&busiest)?.uid().to_owned();
    let drains = |map: &serde_json::Value| map["previous"].as_object().map_or(0, serde_json::Map::len);
    let map = world.stored_map(SERVICE, |map| drains(map) > 0).await?;
    ensure!(map["endpoints"].to_string().contains(&uid), "{map}");
    // Buckets without a connection are given up; those with one stay, then go with it.
    let fewer = world.stored_map(SERVICE, |now| drains(now) < drains(&map)).await?;
    ensure!(drains(&fewer) > 0, "buckets with connections are given up: {fewer}");
    drop(held);
    world.stored_map(SERVICE, |map| drains(map) == 0).await?;
    world.converged().await?;
    let reports = || world.api.store().list("configmaps").ok().filter(|all| all.len() == 1);
    let gone = tokio::time::timeout(Duration::from_secs(60), world.api.store().wait_for(|_| reports())).await;
    gone.ok().flatten().context("a report that says nothing is left")?;
    world.perfect(VIP, 40).await?;
    Ok(())
}
