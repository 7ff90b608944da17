//! Announcing by a real daemon: routers send packets where a node can serve them, and elsewhere before it cannot any more.
//!
//! Witnesses: the next hops in the router's kernel, which real BIRD has put there, and connections that stay open.

use anyhow::{Result, ensure};
use integration::lab::bird::{ANNOUNCE_TABLE, BFD_INTERVAL};
use integration::lab::{Bird, PodSpec};
use integration::traffic::Connections;
use integration::world::echo::{ANNOTATION, SERVICE, VIP, VIP6, echo_at};
use integration::world::{World, WorldSpec, router_program};
use serde_json::json;
use tunnel_router::model::Mode;

const BOTH: [&str; 2] = ["ing1", "ing2"];

/// Two ingress nodes whose agents write what BIRD announces, two pods, and open connections.
async fn world() -> Result<(World, Bird)> {
    // Nothing tells of a sysctl that has changed: it is seen at the next look.
    let flags = ["--announce-table", &ANNOUNCE_TABLE.to_string(), "--resync", "2s"].map(str::to_owned).into();
    let mut world = World::build(WorldSpec { flags, ..WorldSpec::new(Mode::Vxlan) }).await?;
    world.add_pods(vec![(PodSpec::new("echo-1", "wrk1"), "echo"), (PodSpec::new("echo-2", "ing1"), "echo")]).await?;
    world.add_dual_service(SERVICE, "echo", &[(ANNOTATION, &format!("{VIP},{VIP6}"))])?;
    world.start_controller("ctl-a", "wrk1", &[])?;
    let bird = world.lab.start_bird(BFD_INTERVAL).await?;
    world.start_agents()?;
    by(&bird, &BOTH).await?;
    Ok((world, bird))
}

/// Waits until the router sends both VIPs to exactly these nodes.
async fn by(bird: &Bird, nodes: &[&str]) -> Result<()> {
    for vip in [VIP, VIP6] {
        bird.announced_by(vip.parse()?, nodes).await?;
    }
    Ok(())
}

async fn open(world: &World) -> Result<Connections> {
    let (connections, tally) = Connections::open(&world.client(), 64, echo_at(VIP)?).await?;
    tally.perfect()?;
    Ok(connections)
}

async fn unbroken(connections: &mut Connections) -> Result<()> {
    connections.probe_all().await.perfect().map(drop)
}

fn drain_node(world: &World, node: &str, more: &str) -> Result<()> {
    let program = router_program()?;
    World::run_in(world.lab.node(node)?.netns(), &format!("{} drain-node {more}", program.display())).map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cordoned_drained_or_relabelled_loses_its_packets_and_no_connection() -> Result<()> {
    let (mut world, bird) = world().await?;
    world.converged().await?;
    let mut connections = open(&world).await?;
    let node = |patch| world.api.store().patch("nodes", "", "ing1", patch);

    node(json!({ "spec": { "unschedulable": true } }))?;
    by(&bird, &["ing2"]).await?;
    unbroken(&mut connections).await?;
    node(json!({ "spec": { "unschedulable": null } }))?;
    by(&bird, &BOTH).await?;
    unbroken(&mut connections).await?;

    node(json!({ "metadata": { "labels": { "node": null } } }))?;
    by(&bird, &["ing2"]).await?;
    // It goes on forwarding until the routers know.
    let rules = World::run_in(world.lab.node("ing1")?.netns(), "nft list table inet kube_service_tunnel")?;
    ensure!(rules.contains("set vips "), "a node that has just left forwards nothing any more:\n{rules}");
    unbroken(&mut connections).await?;
    world.converged().await?;
    unbroken(&mut connections).await?;
    world.api.store().patch("nodes", "", "ing1", json!({ "metadata": { "labels": { "node": "tunnel" } } }))?;
    by(&bird, &BOTH).await?;
    unbroken(&mut connections).await?;

    // Also without an agent, and over its restart.
    world.kill_agent("ing1").await?;
    drain_node(&world, "ing1", "")?;
    by(&bird, &["ing2"]).await?;
    unbroken(&mut connections).await?;
    world.start_agent("ing1")?;
    world.agent("ing1")?.line("first pass complete").await?;
    by(&bird, &["ing2"]).await?;
    drain_node(&world, "ing1", "--undo")?;
    by(&bird, &BOTH).await?;
    unbroken(&mut connections).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_is_announced_where_it_can_be_served() -> Result<()> {
    let (world, bird) = world().await?;
    let service = |patch| world.api.store().patch("services", "default", SERVICE, patch);

    service(json!({ "spec": { "type": "LoadBalancer", "externalTrafficPolicy": "Local" } }))?;
    by(&bird, &["ing1"]).await?;
    world.set_ready("echo-2", false)?;
    by(&bird, &[]).await?;
    service(json!({ "spec": { "externalTrafficPolicy": "Cluster" } }))?;
    by(&bird, &BOTH).await?;
    // The last owner keeps its connections, and clients are told that there are no new ones.
    world.set_ready("echo-1", false)?;
    world.stored_map(SERVICE, |map| map.refuses_new).await?;
    world.converged().await?;
    by(&bird, &BOTH).await?;
    world.set_ready("echo-1", true)?;
    world.stored_map(SERVICE, |map| !map.refuses_new).await?;
    // A node that does not forward a family takes none of its packets in, and says so.
    let sysctl = |value| {
        let line = format!("sysctl -qw net.ipv4.ip_forward={value}");
        World::run_in(world.lab.node("ing1")?.netns(), &line)
    };
    sysctl(0)?;
    bird.announced_by(VIP.parse()?, &["ing2"]).await?;
    bird.announced_by(VIP6.parse()?, &BOTH).await?;
    ensure!(world.node_event("ing1", "NotForwarding").await?.contains("ing1"), "the Event names another node");
    sysctl(1)?;
    by(&bird, &BOTH).await?;
    world.annotate(SERVICE, ANNOTATION, None)?;
    by(&bird, &[]).await?;
    Ok(())
}

/// As kube-proxy in mode ipvs and keepalived make them: rule 0 delivers its packets to the node itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_that_is_an_address_of_the_node_is_not_announced_there_and_told() -> Result<()> {
    let (world, bird) = world().await?;
    let mut connections = open(&world).await?;
    let node = world.lab.node("ing1")?.netns();
    World::run_in(node, &format!("ip addr add {VIP}/32 dev lo"))?;
    bird.announced_by(VIP.parse()?, &["ing2"]).await?;
    bird.announced_by(VIP6.parse()?, &BOTH).await?;
    let note = world.event(SERVICE, "NodeFailed").await?;
    ensure!(note.contains("node ing1") && note.contains(&format!("`ip addr del {VIP} dev lo`")), "{note}");
    World::run_in(node, &format!("ip addr del {VIP}/32 dev lo"))?;
    by(&bird, &BOTH).await?;
    unbroken(&mut connections).await
}

/// What a node sends to a VIP goes into a pod: of a router or resolver, the node would lose it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_that_a_node_depends_on_is_not_served_there_and_told() -> Result<()> {
    let (world, bird) = world().await?;
    let mut connections = open(&world).await?;
    let node = world.lab.node("ing2")?.netns();
    let route = |verb| World::run_in(node, &format!("ip route {verb} 198.18.0.0/24 via {VIP} dev eth0 onlink"));
    route("add")?;
    bird.announced_by(VIP.parse()?, &["ing1"]).await?;
    bird.announced_by(VIP6.parse()?, &BOTH).await?;
    let note = world.event(SERVICE, "NodeFailed").await?;
    ensure!(note.contains("node ing2") && note.contains(&format!("{VIP}, for it is the next hop")), "{note}");
    ensure!(note.contains("device eth0"), "{note}");
    world.converged().await?;
    let table = World::run_in(node, "nft list table inet kube_service_tunnel")?;
    ensure!(!table.contains(VIP) && table.contains(VIP6), "ing2 serves its next hop:\n{table}");
    unbroken(&mut connections).await?;
    route("del")?;
    by(&bird, &BOTH).await?;
    unbroken(&mut connections).await
}

/// The nodes' default gateway and BGP neighbour.
const ROUTER: &str = "10.0.0.1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_the_router_of_the_nodes_over() -> Result<()> {
    let (world, bird) = world().await?;
    let mut connections = open(&world).await?;
    world.add_service("thief", "echo", &[(ANNOTATION, ROUTER)])?;
    for node in BOTH {
        let note = world.event_with("thief", "NodeFailed", &format!("node {node}")).await?;
        ensure!(note.contains(&format!("{ROUTER}, for it is the next hop")), "{note}");
    }
    world.converged().await?;
    // BGP and BFD go on, which the nodes speak with the router.
    by(&bird, &BOTH).await?;
    bird.announced_by(ROUTER.parse()?, &[]).await?;
    unbroken(&mut connections).await
}
