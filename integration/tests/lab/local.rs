//! Connections to a VIP from inside the cluster: from nodes, from pods beside the endpoints, from the endpoints themselves.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::{Attach, PodSpec};
use integration::netns::Netns;
use integration::traffic::{Client, Tally};
use integration::world::World;
use integration::world::echo::{VIP, echo_at, echo_world};
use tunnel_router::model::Mode;

const FLOWS: usize = 24;
const PATIENCE: Duration = Duration::from_secs(8);

/// TCP and UDP from a namespace to the VIP, half of the flows each.
async fn from(netns: &Netns, who: &str) -> Result<Tally> {
    let client = Client::new(netns).with_patience(PATIENCE);
    let mut tally = client.tcp_exchanges(FLOWS / 2, echo_at(VIP)?).await?;
    tally.merge(client.udp_exchanges(FLOWS / 2, echo_at(VIP)?).await?);
    println!("{who}: {tally}");
    Ok(tally)
}

/// Every flow is answered by the VIP. Whether the pod sees the true source is asked separately: a CNI plugin masquerades
/// what leaves the pod network.
async fn answered(world: &World, netns: &Netns, who: &str) -> Result<Tally> {
    let tally = from(netns, who).await?;
    let good = tally.answered() == tally.tried() && tally.wrong_source().is_empty();
    ensure!(good, "{who}: {tally}\n{}", world.logs());
    Ok(tally)
}

async fn everybody_inside_reaches_the_vip(mode: Mode) -> Result<()> {
    let mut world = echo_world(mode).await?;
    let guests = [("guest-1", "ing1"), ("guest-2", "ing2"), ("guest-3", "wrk1"), ("guest-4", "wrk2")];
    let pods = guests.map(|(name, node)| {
        let attach = if node == "wrk2" { Attach::Bridge } else { Attach::PointToPoint };
        (PodSpec { attach, ..PodSpec::new(name, node) }, "guest")
    });
    world.add_pods(pods.into()).await?;
    for node in ["ing1", "ing2", "wrk1", "wrk2"] {
        let tally = answered(&world, world.lab.node(node)?.netns(), node).await?;
        ensure!(tally.per_pod().len() > 1, "{node}: only {:?} answered", tally.per_pod());
    }
    for (guest, node) in guests {
        let tally = answered(&world, world.lab.pod(guest)?.netns(), &format!("{guest} on {node}")).await?;
        // On an ingress node the VIP is not outside: nobody translates.
        ensure!(!node.starts_with("ing") || tally.is_perfect(), "{guest}: {tally}");
    }
    for endpoint in ["echo-1", "echo-3", "echo-5"] {
        let tally = answered(&world, world.lab.pod(endpoint)?.netns(), endpoint).await?;
        let by_itself = tally.per_pod().get(endpoint).copied().context("an endpoint answers itself")?;
        ensure!(by_itself == FLOWS, "{endpoint}: {tally}");
    }
    world.perfect(VIP, FLOWS).await?;
    Ok(())
}

integration::modes! {
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_everybody_inside_reaches_the_vip: everybody_inside_reaches_the_vip(Mode::Gre);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_everybody_inside_reaches_the_vip: everybody_inside_reaches_the_vip(Mode::Mpls);
    vxlan_everybody_inside_reaches_the_vip: everybody_inside_reaches_the_vip(Mode::Vxlan);
}
