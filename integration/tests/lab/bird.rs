//! The announcement by real BIRD, without agents: a route in a node's table becomes a next hop of the router, and stops being one
//! when the route goes, the daemon dies, or the node falls silent.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::bird::{ANNOUNCE_TABLE, BFD_INTERVAL};
use integration::lab::{Bird, Lab};
use integration::world::World;
use integration::world::echo::{VIP, VIP6};

const VIPS: [&str; 2] = [VIP, VIP6];
const BOTH: [&str; 2] = ["ing1", "ing2"];
const FLOWS: u16 = 64;

/// What an agent would write.
fn serve(lab: &Lab, node: &str, vip: &str) -> Result<()> {
    route(lab, node, &format!("add unreachable {vip} table {ANNOUNCE_TABLE} proto 107"))
}

/// `ip route` on a node.
fn route(lab: &Lab, node: &str, words: &str) -> Result<()> {
    World::run_in(lab.node(node)?.netns(), &format!("ip route {words}")).map(drop)
}

/// A lab whose ingress nodes have announced both VIPs.
async fn announced() -> Result<(Lab, Bird)> {
    let lab = crate::common::lab().await;
    let bird = lab.start_bird(BFD_INTERVAL).await?;
    for (node, vip) in BOTH.into_iter().flat_map(|node| VIPS.map(|vip| (node, vip))) {
        serve(&lab, node, vip)?;
    }
    announced_by(&bird, &BOTH).await?;
    Ok((lab, bird))
}

/// Waits until both VIPs go to these nodes; returns how long that took.
async fn announced_by(bird: &Bird, nodes: &[&str]) -> Result<Duration> {
    let [v4, v6] = VIPS.map(|vip| async move { bird.announced_by(vip.parse()?, nodes).await });
    let (v4, v6) = tokio::try_join!(v4, v6)?;
    Ok(v4.max(v6))
}

/// The next hops that the router takes for TCP connections from one address that differ in their source port only.
fn spread(lab: &Lab, vip: &str) -> Result<BTreeSet<String>> {
    let family = if vip.parse::<IpAddr>()?.is_ipv4() { IpAddr::is_ipv4 } else { IpAddr::is_ipv6 };
    let client = lab.client_addresses().into_iter().find(family).context("a client")?;
    let hops = (0..FLOWS).map(|n| {
        let line = format!("ip -o route get {vip} from {client} iif clients ipproto tcp sport {} dport 80", 20_000 + n);
        let answer = World::run_in(lab.router(), &line)?;
        let mut words = answer.split_whitespace().skip_while(|word| *word != "via");
        Ok(words.nth(1).with_context(|| format!("no next hop: {answer}"))?.to_owned())
    });
    hops.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_are_spread_over_the_nodes_that_have_the_route_in_their_table() -> Result<()> {
    let (lab, bird) = announced().await?;
    for vip in VIPS {
        let hops = spread(&lab, vip)?;
        ensure!(hops.len() == BOTH.len(), "{FLOWS} flows to {vip} all go to {hops:?}");
    }
    for vip in VIPS {
        route(&lab, "ing1", &format!("del unreachable {vip} table {ANNOUNCE_TABLE}"))?;
    }
    let took = announced_by(&bird, &["ing2"]).await?;
    println!("withdrawn by ing1: {} ms", took.as_millis());
    serve(&lab, "ing1", VIP)?;
    serve(&lab, "ing1", VIP6)?;
    announced_by(&bird, &BOTH).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_vips_that_the_agent_wrote_are_announced() -> Result<()> {
    let (lab, bird) = announced().await?;
    // Of another protocol, in another table, outside the ranges, no host route.
    route(&lab, "ing1", &format!("add unreachable 192.0.2.20 table {ANNOUNCE_TABLE} proto static"))?;
    route(&lab, "ing1", "add unreachable 192.0.2.21 table 10901 proto 107")?;
    route(&lab, "ing1", &format!("add unreachable 203.0.113.20 table {ANNOUNCE_TABLE} proto 107"))?;
    route(&lab, "ing1", &format!("add unreachable 192.0.2.32/28 table {ANNOUNCE_TABLE} proto 107"))?;
    // The session keeps the order: when this one has arrived, the others are not coming.
    serve(&lab, "ing1", "192.0.2.30")?;
    bird.announced_by("192.0.2.30".parse()?, &["ing1"]).await?;
    let learned = World::run_in(lab.router(), "ip -o -4 route show proto bird")?;
    let learned: BTreeSet<&str> = learned.lines().filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(learned == BTreeSet::from([VIP, "192.0.2.30"]), "{learned:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bfd_finds_a_node_that_falls_silent_long_before_bgp_would() -> Result<()> {
    let (lab, bird) = announced().await?;
    for round in 1..=3 {
        lab.cut("ing1").await?;
        let took = announced_by(&bird, &["ing2"]).await?;
        println!("round {round}: ing1 cut off, withdrawn after {} ms", took.as_millis());
        let port = World::run_in(lab.router(), "ip -o link show p-ing1")?;
        ensure!(port.contains("LOWER_UP"), "the router saw the carrier go: {port}");
        lab.heal("ing1").await?;
        let took = announced_by(&bird, &BOTH).await?;
        println!("round {round}: ing1 healed, back after {} ms", took.as_millis());
        bird.guarded("ing1").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_dies_takes_its_routes_along_and_brings_them_back() -> Result<()> {
    let (_lab, mut bird) = announced().await?;
    bird.kill("ing1").await?;
    let took = announced_by(&bird, &["ing2"]).await?;
    println!("BIRD of ing1 killed: withdrawn after {} ms", took.as_millis());
    bird.start("ing1")?;
    let took = announced_by(&bird, &BOTH).await?;
    println!("BIRD of ing1 started: back after {} ms", took.as_millis());
    Ok(())
}
