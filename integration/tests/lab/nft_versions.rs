//! Agents with other releases of nft, and in an image without the files that name protocols and services: packets pass, errors
//! come from the VIP, and a second round has nothing to write.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::lab::{LabSpec, PodSpec};
use integration::world::echo::{PODS, VIP, VIP6, answered_by, echo_pods_in, names};
use integration::world::{Image, Witness, World, WorldSpec};
use tunnel_router::model::{Family, Mode};

use crate::mtu::a_client_learns_the_size;

const MODE: Mode = Mode::Vxlan;

async fn world_of(image: Image) -> Result<World> {
    let mut world = echo_pods_in(WorldSpec { image, lab: LabSpec::default(), ..WorldSpec::new(MODE) }).await?;
    world.serve(&[VIP, VIP6]).await?;
    Ok(world)
}

/// Starts all agents anew; none of them may find anything to write.
async fn a_second_round_is_empty(world: &mut World) -> Result<()> {
    let nodes: Vec<String> = world.lab.nodes().map(|n| n.name().to_owned()).collect();
    let mut lengths = BTreeMap::new();
    for node in nodes {
        world.agent(&node)?.line("first pass complete").await?;
        lengths.insert(node.clone(), world.agent(&node)?.log().len());
    }
    world.stop_agents().await?;
    world.start_agents()?;
    for (node, length) in lengths {
        let line = world.agent(&node)?.line_after(length, "first pass complete").await?;
        println!("{node}: {line}");
        ensure!(line.split_whitespace().any(|word| word == "writes=0"), "{node} wrote again: {line}");
    }
    Ok(())
}

async fn serves_in_an_image(image: Image) -> Result<()> {
    let mut world = world_of(image).await?;
    for vip in [VIP, VIP6] {
        for tally in [world.tcp(vip, 80).await?, world.udp(vip, 80).await?] {
            answered_by(&tally, &names(&PODS))?;
        }
        a_client_learns_the_size(&world, vip, 1500 - MODE.overhead(Family::V4)).await?;
    }
    a_second_round_is_empty(&mut world).await?;
    // What comes and goes is written in parts, and read back as well.
    world.add_pods(vec![(PodSpec::new("echo-6", "wrk1"), "echo")]).await?;
    world.converged().await?;
    a_second_round_is_empty(&mut world).await?;
    world.tcp(VIP, 20).await?;
    world.stop_agents().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_serve_with_the_nft_of_debian_stable() -> Result<()> {
    serves_in_an_image(Image::of_suite("trixie")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "KST_TEST_ALL=1 runs it"]
async fn agents_serve_with_the_nft_of_debian_unstable() -> Result<()> {
    serves_in_an_image(Image::of_suite("sid")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_serve_without_names_of_protocols_and_services() -> Result<()> {
    serves_in_an_image(Image { without_names: true, ..Image::default() }).await
}

/// Lists addresses of VIPs as no known release does; the transactions are those of the real nft.
const STRANGE_NFT: &str = r#"#!/bin/sh
PATH=${PATH#"${0%/*}":}
case $* in
    *-j*"list table"*) nft "$@" | sed 's/"type": "ipv4_addr"/"type": {"address": 4}/' ;;
    *) exec nft "$@" ;;
esac
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_listing_is_reported_and_not_written_again() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("nft");
    fs::write(&program, STRANGE_NFT)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let mut world = world_of(Image { nft: Some(directory.path().to_owned()), ..Image::default() }).await?;

    let said = world.agent("ing1")?.line("in a form that is not known here").await?;
    ensure!(said.contains("is listed with the type") && said.contains("not ipv4_addr"), "no object is named: {said}");
    ensure!(said.contains("install an nft between"), "no remedy is named: {said}");

    let mut witness = Witness::start(world.lab.node("ing1")?.stack()).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let seen = witness.changes().await?;
    ensure!(seen.is_empty(), "the agent goes on writing:\n{}", seen.join("\n"));

    // Whatever is asked for, and whatever somebody deletes, is seen to all the same.
    world.add_pods(vec![(PodSpec::new("echo-6", "wrk1"), "echo")]).await?;
    world.converged().await?;
    World::run_in(world.lab.node("ing1")?.netns(), "nft delete table inet kube_service_tunnel")?;
    world.converged().await?;
    world.tcp(VIP, 40).await?;
    Ok(())
}
