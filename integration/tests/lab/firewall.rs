//! Nodes whose own rules drop what is not established, or that do not forward: an Event of the node says what to do, and
//! doing it helps. And what connection tracking does in the pod.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::PodSpec;
use integration::traffic::Sources;
use integration::world::echo::{VIP, echo_at};
use integration::world::{World, WorldSpec};
use tunnel_router::model::Mode;

const SERVICE: &str = "echo";
const FLOWS: usize = 20;
/// A hang is no answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// As many host firewalls have it; new connections to the VIP are explicitly welcome.
const FIREWALL: &str = "add table ip hostfw; \
    add chain ip hostfw FORWARD { type filter hook forward priority 0; policy drop; }; \
    add rule ip hostfw FORWARD ct state established,related accept; \
    add rule ip hostfw FORWARD ct state new accept";

/// One pod on the only ingress node that the router uses, so that requests and replies pass the same firewall.
async fn behind_one_node() -> Result<World> {
    let flags = vec!["--resync".to_owned(), "1s".to_owned()];
    let mut world = World::build(WorldSpec { flags, ..WorldSpec::new(Mode::Vxlan) }).await?;
    world.add_pods(vec![(PodSpec::new("echo-1", "ing1"), "echo")]).await?;
    world.add_service(SERVICE, "echo", &[("cmd.nu/tunnel", VIP)])?;
    world.start_agents()?;
    world.converged().await?;
    world.lab.route_vip(VIP.parse()?, &["ing1"]).await?;
    world.perfect(VIP, FLOWS).await?;
    Ok(world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_drops_by_default_is_named_with_the_accept_to_add() -> Result<()> {
    let world = behind_one_node().await?;
    for command in FIREWALL.split("; add").map(|c| c.trim_start_matches("add").trim()) {
        World::run_in(world.lab.node("ing1")?.netns(), &format!("nft add {command}"))?;
    }
    world.unanswered(VIP).await?;
    let note = world.node_event("ing1", "FirewallDrops").await?;
    let accept = note.split('`').nth(1).unwrap_or_default();
    ensure!(accept == "nft insert rule ip hostfw FORWARD ct state untracked accept", "{note}");
    ensure!(note.contains("node ing1") && note.contains("tunnel-conntrack: keep"), "{note}");

    // Tracked packets are established after the first.
    world.annotate(SERVICE, "cmd.nu/tunnel-conntrack", Some("keep"))?;
    world.converged().await?;
    world.perfect(VIP, FLOWS).await?;
    world.annotate(SERVICE, "cmd.nu/tunnel-conntrack", None)?;
    world.converged().await?;
    world.unanswered(VIP).await?;

    World::run_in(world.lab.node("ing1")?.netns(), accept)?;
    world.perfect(VIP, FLOWS).await?;
    world.logged("ing1", "problem resolved").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_forward_is_named_with_the_sysctl_to_set() -> Result<()> {
    let world = behind_one_node().await?;
    let netns = world.lab.node("ing1")?.netns();
    World::run_in(netns, "sysctl -qw net.ipv4.ip_forward=0")?;
    let note = world.node_event("ing1", "NotForwarding").await?;
    ensure!(note.contains("node ing1") && note.contains("`sysctl -w net.ipv4.ip_forward=1`"), "{note}");
    let of_service = world.events(SERVICE);
    ensure!(of_service.iter().all(|(reason, _)| reason != "NotForwarding"), "told to the Service, too: {of_service:?}");
    World::run_in(netns, "sysctl -qw net.ipv4.ip_forward=1")?;
    world.perfect(VIP, FLOWS).await?;
    Ok(())
}

/// Lets clients ask in vain until the Event is there.
async fn told_while_clients_ask(world: &World, event: impl Future<Output = Result<String>>) -> Result<String> {
    let client = world.client();
    let asks = async {
        loop {
            client.udp_exchanges(10, echo_at(VIP)?).await?;
        }
    };
    tokio::select! {
        note = event => note,
        failed = asks => failed,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_firewall_of_any_kind_is_found_by_counting() -> Result<()> {
    let world = behind_one_node().await?;
    let (node, pod) = (world.lab.node("ing1")?.netns(), world.lab.pod("echo-1")?);
    let in_node = |lines: &[&str]| lines.iter().try_for_each(|line| World::run_in(node, line).map(drop));

    // As firewalld does it: the policy accepts, and the last rule rejects.
    in_node(&[
        "nft add table inet wall",
        "nft add chain inet wall last { type filter hook forward priority 10; }",
        "nft add rule inet wall last ct state established,related accept",
        "nft add rule inet wall last reject",
    ])?;
    let note = told_while_clients_ask(&world, world.node_event("ing1", "PacketsLost")).await?;
    ensure!(note.contains("none was sent into a tunnel: they pass "), "{note}");
    ensure!(note.contains("chain last of table inet wall (forward)") && !note.contains(" ip6 "), "{note}");
    in_node(&["nft delete table inet wall"])?;
    world.perfect(VIP, FLOWS).await?;

    // What the node's nft does not show: a filter between it and the pod's stack.
    for line in [
        "nft add table netdev wall",
        "nft add chain netdev wall door { type filter hook ingress device eth0 priority 0; }",
        "nft add rule netdev wall door meta l4proto 17 drop",
    ] {
        World::run_in(pod.netns(), line)?;
    }
    let note = told_while_clients_ask(&world, world.event(SERVICE, "PacketsLost")).await?;
    ensure!(note.contains("pod default/echo-1 none reached the pod") && note.contains("tc filter show"), "{note}");
    World::run_in(pod.netns(), "nft delete table netdev wall")?;
    world.perfect(VIP, FLOWS).await?;
    Ok(())
}

/// Asks from this port at a VIP, which must answer; returns the source that the pod saw.
async fn seen_as(world: &World, source: SocketAddr, vip: &str) -> Result<SocketAddr> {
    let client = world.client().with_sources(Sources::fixed(vec![source.ip()], source.port()));
    let tally = client.udp_exchanges(1, echo_at(vip)?).await?;
    ensure!(tally.wrong_source().is_empty(), "{tally}");
    let flow = tally.flows.into_iter().next().context("one flow")?;
    Ok(flow.outcome?.peer)
}

/// How long the pod remembers a client's port that asked once, in seconds.
const ONCE: u32 = 5;

/// For how many seconds the pod will remember that this port asked at a VIP; `None` if it does not.
fn remembered(world: &World, port: u16, vip: &str) -> Result<Option<u32>> {
    let pod = world.lab.pods().next().context("one pod")?;
    let entries = World::run_in(pod.netns(), "cat /proc/net/nf_conntrack")?;
    let asked = [format!(" dst={vip} "), format!(" sport={port} ")];
    let entry = entries.lines().find(|line| line.contains(" udp ") && asked.iter().all(|part| line.contains(part)));
    let left = |line: &str| line.split_whitespace().nth(4)?.parse().ok();
    entry.map(|line| left(line).with_context(|| format!("no time in {line:?}"))).transpose()
}

/// As [`seen_as`], of a port that asks until the pod remembers it for longer. The kernel does so for flows older than 2 s.
async fn seen_while_asking(world: &World, source: SocketAddr, vip: &str) -> Result<SocketAddr> {
    let seen = seen_as(world, source, vip).await?;
    while remembered(world, source.port(), vip)?.is_none_or(|left| left <= ONCE) {
        let next = seen_as(world, source, vip).await?;
        ensure!(next == seen, "{source} was seen as {seen} by {vip}, then as {next}");
    }
    Ok(seen)
}

/// All answers of a wildcard server leave from the pod's own address. Those to one port that asked at two VIPs could not be
/// told apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_asks_at_two_vips_of_a_pod_is_answered_by_each_and_seen_as_two() -> Result<()> {
    const SECOND: &str = "192.0.2.11";
    let world = behind_one_node().await?;
    world.annotate(SERVICE, "cmd.nu/tunnel", Some(&format!("{VIP}, {SECOND}")))?;
    world.converged().await?;
    world.lab.route_vip(SECOND.parse()?, &["ing1"]).await?;
    let source: SocketAddr = "198.51.100.2:5000".parse()?;
    let asks = async {
        anyhow::Ok((seen_while_asking(&world, source, VIP).await?, seen_while_asking(&world, source, SECOND).await?))
    };
    let seen = tokio::time::timeout(PATIENCE, asks).await.context("the pod keeps forgetting a port that asks")??;
    let (first, second) = seen;
    ensure!(first == source, "{source} was seen as {first}");
    ensure!(second.ip() == source.ip() && second.port() != source.port(), "{source} was seen as {second} by {SECOND}");
    // It stays so.
    let again = (seen_as(&world, source, VIP).await?, seen_as(&world, source, SECOND).await?);
    ensure!(again == seen, "{source} was seen as {first} and {second}, then as {again:?}");
    Ok(())
}

/// Ports of clients are reused at other VIPs, and each that is remembered takes memory. This server does not answer: an answer that
/// is late would make the entry an older flow's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_asked_a_pod_once_is_soon_forgotten() -> Result<()> {
    let world = behind_one_node().await?;
    let pod = world.lab.pods().next().context("one pod")?;
    let server = pod.netns().udp_socket("0.0.0.0:4001".parse()?)?;
    let client = world.lab.client().udp_socket("198.51.100.2:5000".parse()?)?;
    client.send_to(b"once", SocketAddr::new(VIP.parse()?, 4001)).await?;
    tokio::time::timeout(PATIENCE, server.recv_from(&mut [0; 8])).await.context("nothing came")??;
    let left = remembered(&world, 5000, VIP)?;
    // On a slow machine it may be forgotten by now.
    ensure!(left.is_none_or(|left| left <= ONCE), "the pod remembers it for {left:?} s");
    Ok(())
}

/// Nodes filter strictly by reverse path here. What tells the filter where VIPs may be a source outlives the device of a pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_while_no_agent_runs_leaves_the_answers_of_others_on_its_node_alone() -> Result<()> {
    let mut world = World::build(WorldSpec::new(Mode::Vxlan)).await?;
    let pods = [("echo-1", "wrk1"), ("side-1", "wrk1")];
    world.add_pods(pods.map(|(name, node)| (PodSpec::new(name, node), &name[..4])).into()).await?;
    world.add_service(SERVICE, "echo", &[("cmd.nu/tunnel", VIP)])?;
    world.add_service("side", "side", &[("cmd.nu/tunnel", "192.0.2.11")])?;
    world.start_agents()?;
    world.converged().await?;
    world.route(VIP).await?;
    world.perfect(VIP, FLOWS).await?;
    world.kill_agents().await?;
    world.lab.remove_pod("side-1").await?;
    world.perfect(VIP, FLOWS).await?;
    Ok(())
}
