//! What only MPLS asks for: nodes on one link, and one label per pod of a node. Who does not fit is named, the others are served.

use anyhow::{Result, ensure};
use integration::lab::{Families, LabSpec, PodSpec};
use integration::world::echo::{ANNOTATION, VIP, load_modules, names};
use integration::world::{World, WorldSpec};
use serde_json::json;
use tunnel_router::model::Mode;

const SERVICE: &str = "echo";
const FLOWS: usize = 40;

/// A pod on each worker, and the VIP routed to one ingress node.
async fn world() -> Result<World> {
    load_modules();
    let flags = vec!["--resync".to_owned(), "1s".to_owned()];
    // With both families a neighbour would be found by the other one.
    let lab = LabSpec { families: Families::V4, ..LabSpec::default() };
    let mut world = World::build(WorldSpec { flags, lab, ..WorldSpec::new(Mode::Mpls) }).await?;
    let pods = [("echo-1", "wrk1"), ("echo-2", "wrk2")];
    world.add_pods(pods.map(|(name, node)| (PodSpec::new(name, node), "echo")).into()).await?;
    world.add_service(SERVICE, "echo", &[(ANNOTATION, VIP)])?;
    world.start_agents()?;
    world.converged().await?;
    world.lab.route_vip(VIP.parse()?, &["ing1"]).await?;
    world.tcp_by(VIP, FLOWS, &names(&["echo-1", "echo-2"])).await?;
    Ok(world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_behind_a_router_is_named_and_the_others_take_its_flows() -> Result<()> {
    let world = world().await?;
    let ing1 = world.lab.node("ing1")?.netns();
    let wrk1 = world.lab.node("wrk1")?.address();
    World::run_in(ing1, &format!("ip route add {wrk1}/32 via 10.0.0.1"))?;
    let note = world.event(SERVICE, "EndpointFailed").await?;
    ensure!(note.contains("default/echo-1") && note.contains("node wrk1 is not on the same link"), "{note}");
    ensure!(note.contains("use gre or vxlan"), "{note}");
    world.converged().await?;
    world.tcp_by(VIP, FLOWS, &names(&["echo-2"])).await?;

    World::run_in(ing1, &format!("ip route del {wrk1}/32 via 10.0.0.1"))?;
    world.logged("ing1", "problem resolved").await?;
    world.converged().await?;
    world.tcp_by(VIP, FLOWS, &names(&["echo-1", "echo-2"])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pods_with_one_label_one_is_named_and_the_other_served() -> Result<()> {
    let world = world().await?;
    let [_, _, net, host] = world.lab.pod("echo-1")?.ip().octets();
    let twin = format!("10.245.{net}.{host}");
    let wrk1 = world.lab.node("wrk1")?.address();
    for node in ["ing1", "ing2"] {
        World::run_in(world.lab.node(node)?.netns(), &format!("ip route add {twin}/32 via {wrk1}"))?;
    }
    // Its UID is greater than any other, so that it is the one that has to give way.
    let target = json!({ "kind": "Pod", "namespace": "default", "name": "twin",
        "uid": "ffffffff-ffff-4fff-8fff-ffffffffffff" });
    world.api.store().create(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "echo-twin", "namespace": "default", "labels": { "kubernetes.io/service-name": SERVICE } },
        "endpoints": [{ "addresses": [twin], "nodeName": "wrk1", "targetRef": target, "conditions": { "ready": true } }],
        "ports": [{ "name": "udp", "protocol": "UDP", "port": 12345 }],
    }))?;
    // Its own node complains as well, for nobody runs it.
    let collision = "also that of pod default/echo-1";
    world.logged("ing1", collision).await?;
    let note = world.event_with(SERVICE, "EndpointFailed", collision).await?;
    ensure!(note.contains("default/twin") && note.contains("recreate one of them or use gre or vxlan"), "{note}");
    world.tcp_by(VIP, FLOWS, &names(&["echo-1", "echo-2"])).await
}
