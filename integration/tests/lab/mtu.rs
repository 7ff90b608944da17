//! Path MTU, both ways, both families: clients are told the right size by the VIP itself, and TCP never has to be told.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::{LabSpec, PodSpec};
use integration::netns::Netns;
use integration::traffic::packet::{ICMP, ICMPV6};
use integration::traffic::{Captured, Sniffer};
use integration::world::dual::dual_world;
use integration::world::echo::{SERVICE, VIP, VIP6, echo_at};
use integration::world::{World, WorldSpec, eventually, word_after};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpSocket;
use tunnel_router::model::{Family, Mode};

const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of one TCP line, each way.
const BULK: usize = 300_000;

/// The MTU that a packet-too-big of either family tells, and who says so.
fn too_big(packet: &Captured) -> Option<(IpAddr, u32)> {
    if let Some(ip) = packet.ipv4().filter(|ip| ip.protocol == ICMP && ip.payload.get(..2) == Some(&[3, 4])) {
        let mtu = u16::from_be_bytes(ip.payload.get(6..8)?.try_into().ok()?);
        return Some((ip.source.into(), mtu.into()));
    }
    let ip = packet.ipv6().filter(|ip| ip.next_header == ICMPV6 && ip.payload.first() == Some(&2))?;
    Some((ip.source.into(), u32::from_be_bytes(ip.payload.get(4..8)?.try_into().ok()?)))
}

/// A datagram that fills the client's MTU, then one after the client was told: the second must be answered.
pub async fn a_client_learns_the_size(world: &World, vip: &str, expected: u32) -> Result<()> {
    let target = echo_at(vip)?;
    let mut home = Sniffer::open(world.lab.client(), "eth0")?;
    let any = SocketAddr::new(if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
    let socket = world.lab.client().udp_socket(any)?;
    let header = Family::of(target.ip()).header() + 8;
    let data = vec![b'x'; usize::try_from(1500 - header)?];
    socket.send_to(&data, target).await?;
    let told = home.find(|packet| too_big(packet).is_some()).await.with_context(|| format!("{vip}: nobody says"))?;
    let (by, mtu) = too_big(&told).context("just seen")?;
    ensure!((by, mtu) == (target.ip(), expected), "{vip}: {by} tells {mtu}, not {expected}");
    let route = World::run_in(world.lab.client(), &format!("ip route get {vip}"))?;
    ensure!(route.contains(&format!("mtu {expected}")), "the client's kernel believes otherwise: {route}");
    socket.send_to(&data, target).await?;
    let mut answer = vec![0; 4096];
    let (length, from) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut answer)).await.context("no answer")??;
    ensure!(from == target && length > data.len(), "{vip}: {length} bytes from {from}");
    Ok(())
}

/// One long line each way.
async fn bulk(client: &Netns, vip: &str) -> Result<()> {
    let target = echo_at(vip)?;
    let open = || if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = client.run_in_runtime("open a TCP socket", open)?;
    let connected = tokio::time::timeout(PATIENCE, socket.connect(target)).await;
    let mut stream = connected.with_context(|| format!("connect to {target}"))??;
    let (reader, mut writer) = stream.split();
    let line = [vec![b'y'; BULK], vec![b'\n']].concat();
    let mut answer = Vec::new();
    let mut reader = BufReader::new(reader);
    let (sent, received) =
        tokio::join!(writer.write_all(&line), tokio::time::timeout(PATIENCE, reader.read_until(b'\n', &mut answer)));
    sent?;
    received.context("the answer stopped")??;
    ensure!(answer.len() > BULK, "{} of {BULK} bytes came back", answer.len());
    Ok(())
}

/// How often a namespace was told that a packet is too big.
fn told(netns: &Netns) -> Result<u64> {
    let text = World::run_in(netns, "nstat -asz IcmpInDestUnreachs Icmp6InPktTooBigs")?;
    let count = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    Ok(text.lines().filter(|line| line.starts_with("Icmp")).filter_map(count).sum())
}

async fn tcp_needs_not_be_told(mode: Mode, underlay: u32, pods: u32, lines: usize) -> Result<()> {
    let world = dual_world(mode, LabSpec { underlay_mtu: underlay, ..LabSpec::default() }, pods).await?;
    for vip in [VIP, VIP6] {
        for _ in 0..lines {
            bulk(world.lab.client(), vip).await.with_context(|| format!("{mode} {vip}, underlay {underlay}"))?;
        }
    }
    let at_the_client = told(world.lab.client())?;
    ensure!(at_the_client == 0, "{mode}, underlay {underlay}: the client was told {at_the_client} times");
    if pods <= underlay {
        for pod in world.lab.pods() {
            let times = told(pod.netns())?;
            ensure!(times == 0, "{mode}, underlay {underlay}: pod {} was told {times} times", pod.name());
        }
    }
    Ok(())
}

async fn everything_fits(mode: Mode) -> Result<()> {
    let world = dual_world(mode, LabSpec::default(), 1500).await?;
    // With labels there is always room for what draining buckets travel in.
    let widest = if mode == Mode::Mpls { Mode::Vxlan } else { mode };
    let expected = 1500 - widest.overhead(Family::V4);
    for vip in [VIP, VIP6] {
        a_client_learns_the_size(&world, vip, expected).await.with_context(|| mode.to_string())?;
    }
    drop(world);
    // Pods wider than the underlay, as they are when somebody forgot: the numbers of each mode count here.
    if mode != Mode::Vxlan {
        return tcp_needs_not_be_told(mode, 1400, 1500, 2).await;
    }
    // And as wide as the underlay, as CNI plugins make them.
    for (underlay, pods) in [(1500, 1500), (1400, 1500), (9000, 9000)] {
        tcp_needs_not_be_told(mode, underlay, pods, 6).await?;
    }
    Ok(())
}

integration::modes! {
    gre_everything_fits: everything_fits(Mode::Gre);
    mpls_everything_fits: everything_fits(Mode::Mpls);
    vxlan_everything_fits: everything_fits(Mode::Vxlan);
}

/// Nobody tells the API of it, and the agents that serve no Service of the narrow node's own either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_follow_an_uplink_that_gets_narrower() -> Result<()> {
    let flags = ["--resync", "2s"].map(str::to_owned).into();
    let mut world = World::build(WorldSpec { flags, ..WorldSpec::new(Mode::Vxlan) }).await?;
    world.add_pods(vec![(PodSpec::new("echo-1", "wrk1"), SERVICE)]).await?;
    world.add_service(SERVICE, SERVICE, &[])?;
    world.start_controller("ctl-a", "wrk1", &[])?;
    world.serve(&[VIP]).await?;
    world.converged().await?;
    let pod = world.lab.pod("echo-1")?.netns();
    let segment = || {
        let table = World::run_in(pod, "nft list table inet kube_service_tunnel")?;
        word_after(&table, "maxseg", "set")?.parse::<u32>().context("a size")
    };
    let before = segment()?;
    World::run_in(world.lab.node("wrk1")?.netns(), "ip link set eth0 mtu 1300")?;
    eventually("a smaller MSS", || {
        let now = segment()?;
        ensure!(now < before && now <= 1300, "{now}, before {before}");
        Ok(())
    })
    .await?;
    bulk(world.lab.client(), VIP).await
}
