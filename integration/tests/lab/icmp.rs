//! Errors from the network about packets that a pod sent from a VIP: they are addressed to the VIP, and must reach the pod
//! that owns the flow which they quote.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::LabSpec;
use integration::traffic::{RawSender, Sniffer, flow_in, send_error};
use integration::world::World;
use integration::world::dual::dual_world;
use integration::world::echo::{VIP, VIP6, echo_at};
use tunnel_router::model::Mode;

const FLOWS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(60);
async fn errors_find_the_owner(world: &World, vip: &str) -> Result<()> {
    let target = echo_at(vip)?;
    let tally = world.tcp(vip, FLOWS).await?;
    let owners: Vec<(SocketAddr, String)> = tally.owners().into_iter().map(|(c, pod)| (c, pod.to_owned())).collect();
    ensure!(owners.len() == FLOWS, "{} flows have an owner", owners.len());
    let mut expected: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (n, (_, pod)) in owners.iter().enumerate() {
        expected.entry(pod).or_default().insert(n);
    }
    let mut sniffers = BTreeMap::new();
    for pod in world.lab.pods() {
        sniffers.insert(pod.name().to_owned(), Sniffer::open(pod.netns(), "eth0")?);
    }
    let sender = RawSender::open(world.lab.router())?;
    for (n, (client, _)) in owners.iter().enumerate() {
        send_error(&sender, n, target, *client)?;
    }
    for (pod, mut left) in expected {
        let sniffer = sniffers.get_mut(pod).context("a pod of the lab")?;
        let collect = async {
            while !left.is_empty() {
                let packet = sniffer.next().await?;
                let Some(n) = flow_in(&packet.bytes).filter(|_| !packet.outgoing) else { continue };
                ensure!(left.remove(&n), "{pod} got the error about flow {n}, which is not its own");
            }
            anyhow::Ok(())
        };
        let outcome = tokio::time::timeout(PATIENCE, collect).await;
        outcome.with_context(|| format!("{vip}: {pod} did not get all errors about its flows\n{}", world.logs()))??;
    }
    Ok(())
}

/// How many ICMP messages of either family the pods' kernels took.
fn taken(world: &World) -> Result<u64> {
    let mut sum = 0;
    for pod in world.lab.pods() {
        let text = World::run_in(pod.netns(), "nstat -asz IcmpInMsgs Icmp6InMsgs IcmpInErrors Icmp6InErrors")?;
        let value = |name: &str| {
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
            line.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
        };
        sum += value("IcmpInMsgs") + value("Icmp6InMsgs");
    }
    Ok(sum)
}

async fn in_mode(mode: Mode) -> Result<()> {
    let world = dual_world(mode, LabSpec::default(), 1500).await?;
    let before = taken(&world)?;
    for vip in [VIP, VIP6] {
        errors_find_the_owner(&world, vip).await.with_context(|| format!("{mode} {vip}"))?;
    }
    let got = taken(&world)? - before;
    ensure!(got >= 2 * u64::try_from(FLOWS)?, "{mode}: the pods' kernels took only {got} messages");
    Ok(())
}

integration::modes! {
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_errors_about_a_flow_reach_its_pod: in_mode(Mode::Gre);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_errors_about_a_flow_reach_its_pod: in_mode(Mode::Mpls);
    vxlan_errors_about_a_flow_reach_its_pod: in_mode(Mode::Vxlan);
}
