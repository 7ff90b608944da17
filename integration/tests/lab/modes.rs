//! The main job, with packets, in each mode.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use integration::world::World;
use integration::world::echo::{PODS, VIP, answered_by, echo_at, echo_world, names};
use tunnel_router::model::hash::bucket;
use tunnel_router::model::{Flow, Mode};

const FLOWS: usize = 250;

async fn flows_are_spread_as_the_hash_says_on_every_ingress_node(mode: Mode) -> Result<()> {
    let world = echo_world(mode).await?;
    let (tcp, udp) = (world.tcp(VIP, FLOWS).await?, world.udp(VIP, FLOWS).await?);
    for tally in [&tcp, &udp] {
        answered_by(tally, &names(&PODS))?;
        agree(&predicted(&world, tally.owners().into_keys())?, &tally.owners(), "the prediction")?;
    }
    for node in ["ing1", "ing2"] {
        world.lab.route_vip(VIP.parse()?, &[node]).await?;
        agree(&tcp.owners(), &world.tcp(VIP, FLOWS).await?.owners(), node)?;
        agree(&udp.owners(), &world.udp(VIP, FLOWS).await?.owners(), node)?;
    }
    Ok(())
}

/// Which pod each flow has to reach, computed without looking at the kernel.
fn predicted(world: &World, sources: impl Iterator<Item = SocketAddr>) -> Result<BTreeMap<SocketAddr, String>> {
    let target = echo_at(VIP)?;
    let cluster = world.resolve(&world.config("ing1")?)?.cluster;
    let vip = cluster.vips.get(&target.ip()).context("the VIP is resolved")?;
    let map = vip.map.as_ref().context("the Service has a map")?;
    let pods: BTreeMap<&str, &str> = vip.endpoints.iter().map(|e| (e.pod_uid.as_str(), e.pod.as_str())).collect();
    let owner = |source: SocketAddr| {
        let flow = Flow { src: source.ip(), dst: target.ip(), ports: Some((source.port(), target.port())) };
        let holding = map.holding(bucket(&flow, map.hash.buckets, map.hash.seed));
        let uid = holding.and_then(|holding| holding.owner.as_ref()).context("every bucket has an owner")?;
        Ok((source, (*pods.get(uid.as_str()).context("owners are listed")?).to_owned()))
    };
    sources.map(owner).collect()
}

/// The same flows reached the same pods.
fn agree<P: AsRef<str>>(
    expected: &BTreeMap<SocketAddr, P>,
    seen: &BTreeMap<SocketAddr, &str>,
    what: &str,
) -> Result<()> {
    ensure!(expected.len() == FLOWS && seen.len() == FLOWS, "{what}: {} and {} flows", expected.len(), seen.len());
    let other = |(source, pod): (&SocketAddr, &P)| match seen.get(source) {
        Some(now) if *now == pod.as_ref() => None,
        now => Some(format!("{source}: {} and {now:?}", pod.as_ref())),
    };
    let moved: Vec<String> = expected.iter().filter_map(other).collect();
    println!("{what}: {} of {FLOWS} flows agree", FLOWS - moved.len());
    ensure!(moved.is_empty(), "{what}: {} flows disagree, e.g. {:?}", moved.len(), moved.first());
    Ok(())
}

integration::modes! {
    #[ignore = "matrix:: and vxlan stand for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_spreads_flows_as_the_hash_says_on_every_ingress_node: flows_are_spread_as_the_hash_says_on_every_ingress_node(Mode::Gre);
    #[ignore = "matrix:: and vxlan stand for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_spreads_flows_as_the_hash_says_on_every_ingress_node: flows_are_spread_as_the_hash_says_on_every_ingress_node(Mode::Mpls);
    vxlan_spreads_flows_as_the_hash_says_on_every_ingress_node: flows_are_spread_as_the_hash_says_on_every_ingress_node(Mode::Vxlan);
}
