//! Nodes whose own rules drop what is not established, or that do not forward: the owner of the VIP is told what to do, and
//! doing it helps.

use anyhow::{Result, ensure};
use integration::lab::PodSpec;
use integration::world::echo::VIP;
use integration::world::{World, WorldSpec};
use tunnel_router::model::Mode;

const SERVICE: &str = "echo";
const FLOWS: usize = 20;

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
    let note = world.event(SERVICE, "FirewallDrops").await?;
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
    let note = world.event(SERVICE, "NotForwarding").await?;
    ensure!(note.contains("node ing1") && note.contains("`sysctl -w net.ipv4.ip_forward=1`"), "{note}");
    World::run_in(netns, "sysctl -qw net.ipv4.ip_forward=1")?;
    world.perfect(VIP, FLOWS).await?;
    Ok(())
}
