//! VIPs of both families in one annotation, in clusters of IPv4, of IPv6 and of both; `lab_matrix` has all combinations.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use integration::lab::{Families, LabSpec};
use integration::traffic::Tally;
use integration::world::echo::{ANNOTATION, PODS, SERVICE, VIP, VIP6, answered_by, echo_pods_in, load_modules, names};
use integration::world::{World, WorldSpec};
use tunnel_router::model::Mode;

const FLOWS: usize = 64;

async fn world_of(mode: Mode, families: Families) -> Result<World> {
    load_modules();
    let lab = LabSpec { families, ..LabSpec::default() };
    let mut world = echo_pods_in(WorldSpec { lab, ..WorldSpec::new(mode) }).await?;
    for node in ["ing1", "ing2"] {
        // Nearer to the pods' addresses than the node's own, so that address selection (RFC 6724) prefers it.
        let netns = world.lab.node(node)?.netns();
        World::run_in(netns, "ip address add fd00:244::1/128 dev lo")?;
    }
    world.serve(&[VIP, VIP6]).await?;
    Ok(world)
}

fn same(a: &Tally, b: &Tally, what: &str) -> Result<()> {
    let (a, b): (BTreeMap<SocketAddr, &str>, BTreeMap<SocketAddr, &str>) = (a.owners(), b.owners());
    let other = a.iter().find(|(source, pod)| b.get(source) != Some(pod));
    ensure!(other.is_none(), "{what}: {other:?} is answered by {:?}", other.and_then(|(source, _)| b.get(source)));
    Ok(())
}

async fn both_families_are_served(mode: Mode, families: Families) -> Result<()> {
    let mut world = world_of(mode, families).await?;
    for vip in [VIP, VIP6] {
        let what = format!("{mode}, cluster {families:?}, {vip}");
        println!("{what}");
        let (tcp, udp) = (world.tcp(vip, FLOWS).await?, world.udp(vip, FLOWS).await?);
        for tally in [&tcp, &udp] {
            answered_by(tally, &names(&PODS)).context(what.clone())?;
        }
        world.lab.route_vip(vip.parse()?, &["ing2"]).await?;
        same(&tcp, &world.tcp(vip, FLOWS).await?, &format!("{what} by ing2"))?;
        world.route(vip).await?;
    }
    // One family goes, the other is not touched by that.
    world.annotate(SERVICE, ANNOTATION, Some(VIP6))?;
    world.converged().await?;
    world.tcp(VIP6, FLOWS / 2).await?;
    world.unanswered(VIP).await?;
    world.stop_agents().await
}

integration::modes! {
    #[ignore = "matrix:: stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_both_families_are_served_in_an_ipv6_cluster: both_families_are_served(Mode::Gre, Families::V6);
    #[ignore = "matrix:: stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_both_families_are_served_in_an_ipv4_cluster: both_families_are_served(Mode::Mpls, Families::V4);
    vxlan_both_families_are_served_in_a_dual_stack_cluster: both_families_are_served(Mode::Vxlan, Families::Dual);
}
