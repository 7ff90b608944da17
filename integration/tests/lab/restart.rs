//! Agents that end and start again while nothing changes.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use integration::lab::Snapshot;
use integration::world::echo::{PODS, VIP, answered_by, echo_world, names};
use integration::world::{Witness, World};
use tunnel_router::model::Mode;

/// An ingress node that also serves, a node that only serves, and a pod of each attachment.
async fn witnesses(world: &World) -> Result<Vec<Witness>> {
    let lab = &world.lab;
    let stacks =
        [lab.node("ing1")?.stack(), lab.node("wrk1")?.stack(), lab.pod("echo-1")?.stack(), lab.pod("echo-3")?.stack()];
    futures::future::try_join_all(stacks.map(Witness::start)).await
}

/// How long each agent's log is.
fn log_lengths(world: &mut World) -> Result<BTreeMap<String, usize>> {
    let nodes: Vec<String> = world.lab.nodes().map(|n| n.name().to_owned()).collect();
    nodes.into_iter().map(|node| Ok((node.clone(), world.agent(&node)?.log().len()))).collect()
}

async fn a_restart_writes_nothing_and_interrupts_nothing(mode: Mode) -> Result<()> {
    let mut world = echo_world(mode).await?;
    // A report of the first pass shows that an agent is done with what the start had asked of it.
    for node in world.lab.nodes().map(|n| n.name().to_owned()).collect::<Vec<_>>() {
        println!("{}", world.agent(&node)?.line("first pass complete").await?);
    }
    let mut witnesses = witnesses(&world).await?;
    let before = Snapshot::of_lab(&world.lab).await?;
    let lengths = log_lengths(&mut world)?;

    world.stop_agents().await?;
    world.tcp_by(VIP, 100, &names(&PODS)).await?;
    answered_by(&world.udp(VIP, 100).await?, &names(&PODS))?;

    world.start_agents()?;
    for (node, length) in lengths {
        let line = world.agent(&node)?.line_after(length, "first pass complete").await?;
        println!("{node}: {line}");
        ensure!(line.split_whitespace().any(|word| word == "writes=0"), "{node} wrote on a restart: {line}");
    }
    world.converged().await?;
    world.tcp(VIP, 50).await?;
    let difference = before.diff(&Snapshot::of_lab(&world.lab).await?);
    ensure!(difference.is_empty(), "a restart changed:\n{difference}");
    for witness in &mut witnesses {
        let seen = witness.changes().await?;
        ensure!(seen.is_empty(), "changes during a restart:\n{}", seen.join("\n"));
    }
    Ok(())
}

integration::modes! {
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_a_restart_writes_nothing_and_interrupts_nothing: a_restart_writes_nothing_and_interrupts_nothing(Mode::Gre);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_a_restart_writes_nothing_and_interrupts_nothing: a_restart_writes_nothing_and_interrupts_nothing(Mode::Mpls);
    vxlan_a_restart_writes_nothing_and_interrupts_nothing: a_restart_writes_nothing_and_interrupts_nothing(Mode::Vxlan);
}
