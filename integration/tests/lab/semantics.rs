//! What a Service's own fields mean for its VIPs, seen in who answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use integration::lab::LabSpec;
use integration::traffic::{Connections, Tally};
use integration::world::World;
use integration::world::dual::dual_world;
use integration::world::echo::{PODS, SERVICE, VIP, VIP6, answered_by, echo_at, names};
use serde_json::{Value, json};
use tunnel_router::model::Mode;

const FLOWS: usize = 64;
const CONNECTIONS: usize = 40;

fn patch_service(world: &World, spec: Value) -> Result<()> {
    world.api.store().patch("services", "default", SERVICE, json!({ "spec": spec }))?;
    Ok(())
}

fn set_ready(world: &World, pod: &str, ready: bool) -> Result<()> {
    let status = if ready { "True" } else { "False" };
    let conditions = json!([{ "type": "Ready", "status": status }]);
    let patch = json!({ "status": { "conditions": conditions } });
    world.api.store().patch_status("pods", "default", pod, patch)?;
    Ok(())
}

/// The pods that each client address was answered by.
fn by_client(tally: &Tally) -> BTreeMap<IpAddr, BTreeSet<String>> {
    let mut out: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for (client, pod) in tally.owners() {
        out.entry(client.ip()).or_default().insert(pod.to_owned());
    }
    out
}

async fn one_client_stays_with_one_pod(world: &World) -> Result<()> {
    patch_service(world, json!({ "sessionAffinity": "ClientIP" }))?;
    world.converged().await?;
    for vip in [VIP, VIP6] {
        let (tcp, udp) = (by_client(&world.tcp(vip, FLOWS).await?), by_client(&world.udp(vip, FLOWS).await?));
        ensure!(tcp.values().all(|pods| pods.len() == 1), "{vip}: a client was answered by several pods: {tcp:?}");
        ensure!(tcp == udp, "{vip}: TCP and UDP of a client differ: {tcp:?} {udp:?}");
        let used: BTreeSet<&String> = tcp.values().flatten().collect();
        ensure!(used.len() > 1, "{vip}: all clients are with {used:?}");
    }
    patch_service(world, json!({ "sessionAffinity": "None" }))?;
    world.converged().await?;
    answered_by(&world.tcp(VIP, FLOWS).await?, &names(&PODS))
}

/// It decides which nodes announce; who owns a flow is the same everywhere.
async fn the_traffic_policy_does_not_change_the_map(world: &World) -> Result<()> {
    let before = world.tcp(VIP, FLOWS).await?;
    patch_service(world, json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local" }))?;
    world.converged().await?;
    for node in ["ing1", "ing2"] {
        world.lab.route_vip(VIP.parse()?, &[node]).await?;
        let owners: BTreeMap<SocketAddr, &str> = before.owners();
        let now = world.tcp(VIP, FLOWS).await?;
        ensure!(owners == now.owners(), "through {node} flows have other owners");
    }
    world.route(VIP).await
}

async fn pods_that_are_not_ready_serve_only_where_the_service_says_so(world: &World) -> Result<()> {
    set_ready(world, "echo-2", false)?;
    world.converged().await?;
    let rest = names(&["echo-1", "echo-3", "echo-4", "echo-5"]);
    for vip in [VIP, VIP6] {
        answered_by(&world.tcp(vip, FLOWS).await?, &rest)?;
    }
    for pod in PODS {
        set_ready(world, pod, false)?;
    }
    world.converged().await?;
    world.unanswered(VIP).await?;
    patch_service(world, json!({ "publishNotReadyAddresses": true }))?;
    world.converged().await?;
    for vip in [VIP, VIP6] {
        answered_by(&world.tcp(vip, FLOWS).await?, &names(&PODS))?;
    }
    patch_service(world, json!({ "publishNotReadyAddresses": false }))?;
    for pod in PODS {
        set_ready(world, pod, true)?;
    }
    world.converged().await
}

/// A pod that is being deleted and still serves: only while there is nothing better.
async fn pods_that_leave_serve_when_there_is_nobody_else(world: &World) -> Result<()> {
    for pod in ["echo-1", "echo-2"] {
        world.api.store().delete("pods", "default", pod)?;
    }
    world.converged().await?;
    answered_by(&world.tcp(VIP, FLOWS).await?, &names(&["echo-3", "echo-4", "echo-5"]))?;
    for pod in ["echo-3", "echo-4", "echo-5"] {
        world.api.store().delete("pods", "default", pod)?;
    }
    world.converged().await?;
    for vip in [VIP, VIP6] {
        answered_by(&world.tcp(vip, FLOWS).await?, &names(&PODS))?;
    }
    Ok(())
}

async fn fields_of_a_service_mean_what_they_say(mode: Mode) -> Result<()> {
    let world = dual_world(mode, LabSpec::default(), 1500).await?;
    one_client_stays_with_one_pod(&world).await.context("sessionAffinity")?;
    the_traffic_policy_does_not_change_the_map(&world).await.context("externalTrafficPolicy")?;
    pods_that_are_not_ready_serve_only_where_the_service_says_so(&world).await.context("publishNotReadyAddresses")?;
    pods_that_leave_serve_when_there_is_nobody_else(&world).await.context("terminating")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fields_of_a_service_mean_what_they_say() -> Result<()> {
    // Who owns a flow is decided before it is encapsulated: one mode that every kernel has shows it.
    fields_of_a_service_mean_what_they_say(Mode::Vxlan).await
}

/// Open connections live through a change of their Service's mode.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gre_and_mpls_a_service_changes_its_mode_under_open_connections() -> Result<()> {
    let world = dual_world(Mode::Vxlan, LabSpec::default(), 1500).await?;
    let mut open = Vec::new();
    for vip in [VIP, VIP6] {
        let (connections, tally) = Connections::open(&world.client(), CONNECTIONS, echo_at(vip)?).await?;
        tally.perfect()?;
        open.push(connections);
    }
    for mode in [Mode::Gre, Mode::Mpls, Mode::Vxlan, Mode::Mpls, Mode::Gre] {
        world.annotate(SERVICE, "cmd.nu/tunnel-mode", Some(mode.as_str()))?;
        // While the nodes and pods change over, each at its own time.
        for connections in &mut open {
            connections.probe_all().await.perfect().with_context(|| format!("on the way to {mode}"))?;
        }
        world.converged().await?;
        for connections in &mut open {
            connections.probe_all().await.perfect().with_context(|| format!("in {mode}"))?;
        }
        // The open connections have the ports that new ones over TCP would take.
        world.udp(VIP, FLOWS).await?;
        world.udp(VIP6, FLOWS).await?;
    }
    Ok(())
}
