//! Whose VIP it is: that of the Service that holds it, whoever else wants it, in whatever way.
//!
//! Witnesses: connections that were open before, pods that answer new ones, and Events.

use anyhow::{Result, ensure};
use integration::lab::PodSpec;
use integration::world::drain::Held;
use integration::world::echo::{ANNOTATION, SERVICE, VIP, names};
use integration::world::{World, WorldSpec};
use serde_json::json;
use tunnel_router::model::Mode;

const OPEN: usize = 40;
/// An older Service, which has a pod of its own and no VIP.
const OTHER: &str = "other";

async fn world() -> Result<World> {
    let mut world = World::build(WorldSpec::new(Mode::Vxlan)).await?;
    let pods = [("echo-1", "wrk1", SERVICE), ("echo-2", "wrk2", SERVICE), ("other-1", "wrk1", OTHER)];
    world.add_pods(pods.map(|(name, node, app)| (PodSpec::new(name, node), app)).into()).await?;
    world.add_service(OTHER, OTHER, &[])?;
    world.add_service(SERVICE, SERVICE, &[])?;
    world.start_controller("ctl-a", "wrk1", &[])?;
    world.serve(&[VIP]).await?;
    world.converged().await?;
    Ok(world)
}

/// Open connections are answered, and new ones by the pods of the Service that holds the VIP.
async fn nothing_changes(world: &World, held: &mut Held) -> Result<()> {
    world.converged().await?;
    held.stay(world).await?;
    world.tcp_by(VIP, 60, &names(&["echo-1", "echo-2"])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_stays_with_its_service_until_that_one_lets_it_go() -> Result<()> {
    let world = world().await?;
    ensure!(world.event(SERVICE, "VIPAssigned").await?.contains(VIP));
    let mut held = Held::open(&world, VIP, 30_000, OPEN).await?;

    world.annotate(OTHER, ANNOTATION, Some(VIP))?;
    let note = world.event(OTHER, "VIPConflict").await?;
    ensure!(note.contains("is held by Service default/echo"), "{note}");
    nothing_changes(&world, &mut held).await?;

    world.annotate(SERVICE, ANNOTATION, None)?;
    ensure!(world.event(OTHER, "VIPAssigned").await?.contains(VIP));
    world.converged().await?;
    world.tcp_by(VIP, 60, &names(&["other-1"])).await?;

    // And the other way round: it does not fall back to the one that had it first.
    world.annotate(SERVICE, ANNOTATION, Some(VIP))?;
    let note = world.event(SERVICE, "VIPConflict").await?;
    ensure!(note.contains("is held by Service default/other"), "{note}");
    world.converged().await?;
    world.tcp_by(VIP, 60, &names(&["other-1"])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobodys_external_ip_load_balancer_or_slice_takes_a_vip_away() -> Result<()> {
    let world = world().await?;
    let mut held = Held::open(&world, VIP, 30_000, OPEN).await?;
    let store = world.api.store();
    for (field, spec) in
        [("spec.externalIPs", json!({ "externalIPs": [VIP] })), ("load balancer", json!({ "loadBalancerIP": VIP }))]
    {
        store.patch("services", "default", OTHER, json!({ "spec": spec }))?;
        let note = world.event_with(OTHER, "VIPConflict", field).await?;
        ensure!(note.contains("a VIP of Service default/echo, which keeps it"), "{note}");
        nothing_changes(&world, &mut held).await?;
    }
    let target = json!({ "kind": "Pod", "namespace": "default", "name": "made", "uid": "made" });
    let endpoint =
        json!({ "addresses": [VIP], "conditions": { "ready": true }, "targetRef": target, "nodeName": "wrk1" });
    store.create(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [endpoint], "ports": [],
        "metadata": { "name": "made-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "made" } },
    }))?;
    let note = world.event_with(SERVICE, "VIPConflict", "pod default/made").await?;
    ensure!(note.contains("stays a VIP"), "{note}");
    nothing_changes(&world, &mut held).await
}
