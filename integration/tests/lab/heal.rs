//! Whatever of ours somebody deletes comes back, by notifications alone; what belongs to others stays.

use anyhow::{Context, Result, ensure};
use integration::lab::{Attach, PodSpec};
use integration::netns::Netns;
use integration::world::echo::SERVICE;
use integration::world::{World, WorldSpec, word_after};
use tunnel_router::model::Mode;

const VIP: &str = "192.0.2.10";
const TABLE: &str = "inet kube_service_tunnel";

/// Pods on three nodes, agents that do not look around by themselves.
async fn world_without_resync(mode: Mode) -> Result<World> {
    let flags = vec!["--resync".to_owned(), "1h".to_owned()];
    let mut world = World::build(WorldSpec { flags, ..WorldSpec::new(mode) }).await?;
    world
        .add_pods(vec![
            (PodSpec::new("echo-1", "wrk1"), "echo"),
            (PodSpec { attach: Attach::Bridge, ..PodSpec::new("echo-2", "wrk2") }, "echo"),
            (PodSpec::new("echo-3", "ing1"), "echo"),
        ])
        .await?;
    world.add_service("echo", "echo", &[("cmd.nu/tunnel", VIP)])?;
    world.start_agents()?;
    world.converged().await?;
    world.route(VIP).await?;
    world.perfect(VIP, 40).await?;
    Ok(world)
}

/// What to delete on an ingress node, whatever the mode.
fn damages_to_the_node(node: &Netns) -> Result<Vec<String>> {
    let nexthops = World::run_in(node, "ip nexthop show protocol 107")?;
    let nexthop = word_after(&nexthops, "encap", "id")?;
    let group = word_after(&nexthops, "group", "id")?;
    let member = word_after(&nexthops, "scope host", "id")?;
    let chain = World::run_in(node, &format!("nft -a list chain {TABLE} prerouting"))?;
    let handle = word_after(&chain, "VIP traffic", "handle")?;
    Ok(vec![
        format!("ip route del {VIP}/32 table 10005"),
        "ip rule del priority 101".to_owned(),
        format!("ip nexthop del id {nexthop}"),
        format!("ip nexthop del id {group}"),
        format!("ip nexthop del id {member}"),
        format!("nft delete rule {TABLE} prerouting handle {handle}"),
        format!("nft delete element {TABLE} vips {{ {VIP} }}"),
        format!("nft delete table {TABLE}"),
    ])
}

async fn heals(world: &World, netns: &Netns, damage: &str) -> Result<()> {
    World::run_in(netns, damage)?;
    let about = || format!("after `{damage}` in {}", netns.name());
    world.converged().await.with_context(about)?;
    world.perfect(VIP, 40).await.with_context(about)?;
    Ok(())
}

/// Adds what is not ours, and returns how to take it away.
fn add_foreign_objects(netns: &Netns) -> Result<[&'static str; 3]> {
    let add = [
        "nft add table inet somebody",
        "nft add chain inet somebody idle",
        "nft add rule inet somebody idle counter",
        "ip route add blackhole 198.18.7.0/24",
        "ip rule add priority 5400 fwmark 0x100000/0xf00000 lookup 52",
    ];
    add.into_iter().try_for_each(|line| World::run_in(netns, line).map(drop))?;
    Ok(["nft delete table inet somebody", "ip route del blackhole 198.18.7.0/24", "ip rule del priority 5400"])
}

async fn heals_everything(mode: Mode, device: &str) -> Result<()> {
    let world = world_without_resync(mode).await?;
    let node = world.lab.node("ing1")?.netns();
    for damage in damages_to_the_node(node)? {
        heals(&world, node, &damage).await?;
    }

    let foreign = add_foreign_objects(node)?;
    world.perfect(VIP, 40).await?;
    heals(&world, node, &format!("nft delete table {TABLE}")).await?;
    // That each can be removed shows that it was left alone.
    foreign.into_iter().try_for_each(|line| World::run_in(node, line).map(drop))?;
    let left = tokio::task::block_in_place(|| world.differences())?;
    ensure!(left.is_empty(), "foreign objects disturb: {left:?}");

    heals(&world, node, &format!("ip link set {device} down")).await?;
    heals(&world, node, &format!("ip link del {device}")).await?;

    let pod = world.lab.pod("echo-1")?.netns();
    for damage in [
        format!("ip addr del {VIP}/32 dev {device}"),
        format!("ip link set {device} down"),
        format!("ip link del {device}"),
        format!("nft delete table {TABLE}"),
    ] {
        heals(&world, pod, &damage).await?;
    }
    Ok(())
}

integration::modes! {
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_whatever_is_deleted_comes_back: heals_everything(Mode::Gre, "kst-gre");
    vxlan_whatever_is_deleted_comes_back: heals_everything(Mode::Vxlan, "kst-vxlan");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "vxlan and gre_mpls:: of the kernel ring stand for it; emulated it takes minutes (KST_TEST_ALL=1)"]
async fn mpls_whatever_is_deleted_comes_back() -> Result<()> {
    let world = world_without_resync(Mode::Mpls).await?;
    let node = world.lab.node("ing1")?.netns();
    for damage in damages_to_the_node(node)? {
        heals(&world, node, &damage).await?;
    }
    let pod = world.lab.pod("echo-1")?.netns();
    for damage in ["ip -f mpls route del 100", &format!("ip addr del {VIP}/32 dev lo")] {
        heals(&world, pod, damage).await?;
    }
    Ok(())
}

/// How many devices VIPs may be a source behind, as the kernel has it.
fn sources(node: &Netns) -> Result<usize> {
    let nexthops = World::run_in(node, "ip nexthop show protocol 107")?;
    let group = word_after(&nexthops, "group", "group")?;
    Ok(group.split('/').count())
}

async fn holds_nobody_else_up(mode: Mode) -> Result<()> {
    let mut world = world_without_resync(mode).await?;
    world.add_pods(vec![(PodSpec::new("side-1", "ing1"), "side")]).await?;
    world.add_service("side", "side", &[("cmd.nu/tunnel", "192.0.2.11")])?;
    world.converged().await?;
    let before = sources(world.lab.node("ing1")?.netns())?;
    World::run_in(world.lab.pod("side-1")?.netns(), "ip link set eth0 down")?;
    world.add_pods(vec![(PodSpec::new("echo-4", "ing1"), "echo")]).await?;
    world.converged().await?;
    world.perfect(VIP, 40).await?;
    let without = sources(world.lab.node("ing1")?.netns())?;
    ensure!(without == before, "side-1 has gone and echo-4 has come, but {before} sources are {without}");
    World::run_in(world.lab.pod("side-1")?.netns(), "ip link set eth0 up")?;
    world.converged().await?;
    let with = sources(world.lab.node("ing1")?.netns())?;
    ensure!(with == before + 1, "side-1 is back, but {without} sources are {with}");
    Ok(())
}

integration::modes! {
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_a_pod_without_carrier_holds_nobody_else_up: holds_nobody_else_up(Mode::Gre);
    vxlan_a_pod_without_carrier_holds_nobody_else_up: holds_nobody_else_up(Mode::Vxlan);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_a_pod_without_carrier_holds_nobody_else_up: holds_nobody_else_up(Mode::Mpls);
}

/// The CNI plugin may write it after the pod is there, and nothing of ours changes then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_route_comes_late_is_reached_without_waiting_for_the_resync() -> Result<()> {
    let flags = ["--resync", "1h"].map(str::to_owned).into();
    let mut world = World::build(WorldSpec { flags, ..WorldSpec::new(Mode::Vxlan) }).await?;
    world.add_pods(vec![(PodSpec::new("echo-1", "wrk1"), SERVICE), (PodSpec::new("echo-2", "wrk2"), SERVICE)]).await?;
    world.add_service(SERVICE, SERVICE, &[])?;
    world.start_controller("ctl-a", "wrk1", &[])?;
    let address =
        world.lab.pod("echo-1")?.addresses().into_iter().find(std::net::IpAddr::is_ipv4).context("an address")?;
    World::run_in(world.lab.node("ing1")?.netns(), &format!("ip route add unreachable {address}"))?;
    world.serve(&[VIP]).await?;
    let note = world.event_with(SERVICE, "EndpointFailed", "echo-1").await?;
    ensure!(note.contains("no route to it"), "{note}");
    World::run_in(world.lab.node("ing1")?.netns(), &format!("ip route del unreachable {address}"))?;
    world.converged().await?;
    world.perfect(VIP, 40).await?;
    Ok(())
}
