//! Packets that nobody may send, and packets that must not go round in circles.
//!
//! "It did not arrive" cannot be awaited. So each forged packet is seen to arrive at the door (the device that it comes in
//! by), then controls are sent that may pass, and the application must have received nothing but the controls.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::{INTRUDER, PodSpec, STRANGER};
use integration::netns::Netns;
use integration::traffic::packet::{ICMP, Ipv4};
use integration::traffic::{Captured, Client, RawSender, Sniffer};
use integration::world::{World, WorldSpec};
use nix::sys::signal::Signal;
use tokio::net::UdpSocket;
use tunnel_router::model::Mode;

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Somebody in the clients' network, as an inner source claims.
const CLAIMED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 77), 4444);
/// Port of the tunnels of mode vxlan.
const VXLAN_PORT: u16 = 4790;
/// An application bound to the VIP.
const BOUND: u16 = 4000;
/// An application bound to the wildcard address: its packets take another way through the pod.
const WILDCARD: u16 = 4001;
const PATIENCE: Duration = Duration::from_secs(8);

/// One pod, `victim` on `wrk1`, behind the VIP.
async fn victim_world(mode: Mode) -> Result<World> {
    let mut world = World::build(WorldSpec::new(mode)).await?;
    world.add_pods(vec![(PodSpec::new("victim", "wrk1"), "victim")]).await?;
    world.add_service("victim", "victim", &[("cmd.nu/tunnel", &VIP.to_string())])?;
    world.start_agents()?;
    world.converged().await?;
    world.route(&VIP.to_string()).await?;
    Ok(world)
}

fn inner(to: Ipv4Addr, port: u16, data: &str) -> Ipv4 {
    Ipv4::udp(CLAIMED, SocketAddrV4::new(to, port), data.as_bytes())
}

fn wrapped(mode: Mode, inner: &Ipv4, from: Ipv4Addr, to: Ipv4Addr) -> Ipv4 {
    match mode {
        Mode::Vxlan => inner.in_vxlan_gpe(SocketAddrV4::new(from, 5555), SocketAddrV4::new(to, VXLAN_PORT), 0),
        _ => inner.in_gre(from, to),
    }
}

/// Everything that the application gets up to and with `last`.
async fn received(socket: &UdpSocket, last: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut buffer = [0; 2048];
    while all.last().is_none_or(|data| data != last) {
        let next = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await;
        let (length, _) = next.with_context(|| format!("{last:?} did not arrive, only {all:?}"))??;
        all.push(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned());
    }
    Ok(all)
}

/// Sends two packets to the VIP as a node does; the application must get them and nothing that was sent before.
async fn only_controls_arrive(world: &World, mode: Mode, socket: &UdpSocket, port: u16) -> Result<()> {
    let (node, pod) = (world.lab.node("ing1")?, world.lab.pod("victim")?);
    let sender = RawSender::open(node.netns())?;
    for control in [format!("first control {port}"), format!("second control {port}")] {
        sender.send(&wrapped(mode, &inner(VIP, port, &control), node.address(), pod.ip()))?;
        let seen = received(socket, &control).await?;
        ensure!(seen == [control.as_str()], "{mode} port {port}: the application got {seen:?}");
    }
    Ok(())
}

async fn only_nodes_reach_the_pod_and_only_at_the_vip(mode: Mode) -> Result<()> {
    let world = victim_world(mode).await?;
    let (node, pod, stranger) = (world.lab.node("ing1")?, world.lab.pod("victim")?, world.lab.stranger());
    let bound = pod.netns().udp_socket(SocketAddrV4::new(VIP, BOUND).into())?;
    let wildcard = pod.netns().udp_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, WILDCARD).into())?;
    // Whoever has a foothold on the fabric sends to pods by way of their node.
    let via = world.lab.node("wrk1")?;
    let (network, length) = via.pod_cidr();
    World::run_in(stranger, &format!("ip route add {network}/{length} via {} dev eth1", via.address()))?;

    for (port, socket) in [(BOUND, &bound), (WILDCARD, &wildcard)] {
        for (from, device) in [(STRANGER, "eth0"), (INTRUDER, "eth1")] {
            let sender = RawSender::open_on(stranger, device)?;
            for (to, door) in [(pod.ip(), pod.netns()), (node.address(), node.netns())] {
                let data = format!("forged from {from} to {to} port {port}");
                let mut witness = Sniffer::open(door, "eth0")?;
                sender.send(&wrapped(mode, &inner(VIP, port, &data), from, to))?;
                witness.find(|packet| packet.contains(data.as_bytes())).await.context(data)?;
            }
        }
        only_controls_arrive(&world, mode, socket, port).await?;
    }

    let sender = RawSender::open(node.netns())?;
    for to in [pod.ip(), Ipv4Addr::LOCALHOST, via.address()] {
        let data = format!("beside the VIP to {to}");
        let mut witness = Sniffer::open(pod.netns(), "eth0")?;
        sender.send(&wrapped(mode, &inner(to, WILDCARD, &data), node.address(), pod.ip()))?;
        witness.find(|packet| packet.contains(data.as_bytes())).await.context(data)?;
    }
    only_controls_arrive(&world, mode, &wildcard, WILDCARD).await?;
    world.perfect(&VIP.to_string(), 8).await?;
    Ok(())
}

integration::modes! {
    gre_packets_of_strangers_and_packets_beside_the_vip_do_not_reach_the_pod: only_nodes_reach_the_pod_and_only_at_the_vip(Mode::Gre);
    vxlan_packets_of_strangers_and_packets_beside_the_vip_do_not_reach_the_pod: only_nodes_reach_the_pod_and_only_at_the_vip(Mode::Vxlan);
}

fn is_host_unreachable(packet: &Captured) -> bool {
    packet.ipv4().is_some_and(|ipv4| ipv4.protocol == ICMP && ipv4.payload.get(..2) == Some(&[3, 1]))
}

fn signal_all(world: &mut World, signal: Signal) -> Result<()> {
    let nodes: Vec<String> = world.lab.nodes().map(|node| node.name().to_owned()).collect();
    nodes.iter().try_for_each(|node| world.agent(node)?.signal(signal))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_whose_rule_is_gone_is_refused_and_does_not_go_round_in_circles() -> Result<()> {
    let mut world = victim_world(Mode::Vxlan).await?;
    world.lab.route_vip(VIP.into(), &["ing1"]).await?;
    world.perfect(&VIP.to_string(), 8).await?;

    signal_all(&mut world, Signal::SIGSTOP)?;
    let node = world.lab.node("ing1")?.netns().clone();
    World::run_in(&node, "ip rule flush protocol 107")?;
    ensure!(!World::run_in(&node, "ip rule show")?.contains("proto 107"), "rules of ours are left");

    let mut road = Sniffer::open(world.lab.router(), "fabric")?;
    let mut home = Sniffer::open(world.lab.client(), "eth0")?;
    let socket = world.lab.client().udp_socket("198.51.100.2:0".parse()?)?;
    socket.send_to(b"lost", SocketAddrV4::new(VIP, 12345)).await?;
    home.find(is_host_unreachable).await?;
    let passed = road.until(is_host_unreachable).await?;
    let copies = passed.iter().filter(|packet| packet.ipv4().is_some_and(|ipv4| ipv4.destination == VIP));
    let (sent, returned): (Vec<_>, Vec<_>) = copies.partition(|packet| packet.outgoing);
    ensure!((sent.len(), returned.len()) == (1, 0), "to the node {}, back {}", sent.len(), returned.len());

    signal_all(&mut world, Signal::SIGCONT)?;
    world.converged().await?;
    world.perfect(&VIP.to_string(), 8).await?;
    Ok(())
}

/// The router sends a whole network to the nodes, and their default route leads back to the router.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_to_an_address_without_a_service_is_refused_and_does_not_go_to_and_fro() -> Result<()> {
    const NOBODY: &str = "192.0.2.99";
    let flags = ["--vip-cidrs", "192.0.2.0/24"].map(str::to_owned).into();
    let mut world = World::build(WorldSpec { flags, ..WorldSpec::new(Mode::Vxlan) }).await?;
    world.add_pods(vec![(PodSpec::new("victim", "wrk1"), "victim")]).await?;
    world.add_service("victim", "victim", &[("cmd.nu/tunnel", &VIP.to_string())])?;
    world.start_agents()?;
    world.converged().await?;
    world.lab.route_vip(NOBODY.parse()?, &["ing1"]).await?;
    let node = world.lab.node("ing1")?.netns();
    for line in [
        "add table inet count",
        "add chain inet count seen { type filter hook prerouting priority -400; }",
        &format!("add rule inet count seen ip daddr {NOBODY} counter"),
    ] {
        World::run_in(node, &format!("nft {line}"))?;
    }
    let client = Client::new(world.lab.client()).with_patience(PATIENCE);
    let tally = client.tcp_exchanges(1, format!("{NOBODY}:80").parse()?).await?;
    ensure!(tally.answered() == 0 && tally.to_string().contains("No route to host"), "{tally}");
    let counted = World::run_in(node, "nft list chain inet count seen")?;
    ensure!(counted.contains("packets 1 "), "the packet came more than once:\n{counted}");
    Ok(())
}

/// Each client's port gives its outer packets a source port of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outer_packets_leave_no_entries_of_connection_tracking() -> Result<()> {
    let world = victim_world(Mode::Vxlan).await?;
    let tracked = |netns: &Netns| -> Result<u64> {
        Ok(World::run_in(netns, "sysctl -n net.netfilter.nf_conntrack_count")?.trim().parse()?)
    };
    let nodes = world.lab.nodes().map(|node| node.netns());
    let places: Vec<&Netns> = nodes.chain(world.lab.pods().map(|pod| pod.netns())).collect();
    let before = places.iter().map(|netns| tracked(netns)).collect::<Result<Vec<_>>>()?;
    let tally = Client::new(world.lab.client()).tcp_exchanges(200, format!("{VIP}:12345").parse()?).await?;
    ensure!(tally.is_perfect(), "{tally}");
    for (netns, before) in places.iter().zip(before) {
        let now = tracked(netns)?;
        ensure!(now <= before + 20, "{}: {before} entries before 200 connections, {now} after", netns.name());
    }
    Ok(())
}

fn in_each(netns: &Netns, lines: &[&str]) -> Result<()> {
    lines.iter().try_for_each(|line| World::run_in(netns, line).map(drop))
}

/// A pod with NET_RAW that is not an endpoint, and a namespace that is connected to the node by a veth of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outer_packets_that_pods_forge_do_not_reach_other_pods() -> Result<()> {
    let mut world = victim_world(Mode::Vxlan).await?;
    world.add_pods(vec![(PodSpec::new("forger", "wrk1"), "forger")]).await?;
    world.converged().await?;
    let (forger, node, stranger) = (world.lab.pod("forger")?, world.lab.node("wrk1")?, world.lab.stranger());
    let (network, length) = node.pod_cidr();
    in_each(
        node.netns(),
        &[
            &format!("ip link add back type veth peer name back0 netns {}", stranger.name()),
            "ip address add 172.31.9.1/24 dev back",
            "ip link set back up",
            "sysctl -w net.ipv4.conf.all.rp_filter=0",
            "sysctl -w net.ipv4.conf.back.rp_filter=0",
            &format!("sysctl -w net.ipv4.conf.{}.rp_filter=0", forger.host_device()),
        ],
    )?;
    in_each(
        stranger,
        &[
            "ip address add 172.31.9.2/24 dev back0",
            "ip link set back0 up",
            &format!("ip route replace {network}/{length} via 172.31.9.1 dev back0"),
        ],
    )?;

    // The agent's own counter begins anew whenever the agent writes its chain.
    let doors = format!("{{ back, {} }}", forger.host_device());
    let forged = format!("iifname {doors} udp dport {VXLAN_PORT} counter");
    in_each(
        node.netns(),
        &[
            "nft add table inet count",
            "nft add chain inet count before { type filter hook prerouting priority -301; }",
            "nft add chain inet count after { type filter hook prerouting priority -299; }",
            &format!("nft add rule inet count before {forged}"),
            &format!("nft add rule inet count after {forged}"),
        ],
    )?;

    let (ingress, victim) = (world.lab.node("ing1")?, world.lab.pod("victim")?);
    let socket = victim.netns().udp_socket(SocketAddrV4::new(VIP, BOUND).into())?;
    let senders = [
        ("a pod", RawSender::open(forger.netns())?, forger.host_device()),
        ("a back door", RawSender::open_on(stranger, "back0")?, "back"),
    ];
    for (who, sender, door) in &senders {
        let data = format!("forged by {who}");
        let mut witness = Sniffer::open(node.netns(), door)?;
        sender.send(&wrapped(Mode::Vxlan, &inner(VIP, BOUND, &data), ingress.address(), victim.ip()))?;
        witness.find(|packet| packet.contains(data.as_bytes())).await.context(data)?;
    }
    only_controls_arrive(&world, Mode::Vxlan, &socket, BOUND).await?;
    for (chain, packets) in [("before", 2), ("after", 0)] {
        let counted = World::run_in(node.netns(), &format!("nft list chain inet count {chain}"))?;
        ensure!(
            counted.contains(&format!("packets {packets} ")),
            "{chain} the agent's chain, not {packets} packets:\n{counted}"
        );
    }
    Ok(())
}

/// As flannel and Calico carry packets between nodes: ours come out of their device with the node's address as source, and the
/// route to that address does not lead into the device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outer_packets_are_taken_from_the_overlay_of_a_cni() -> Result<()> {
    let world = victim_world(Mode::Vxlan).await?;
    world.lab.route_vip(VIP.into(), &["ing1"]).await?;
    let (ingress, serving) = (world.lab.node("ing1")?, world.lab.node("wrk1")?);
    let (network, length) = serving.pod_cidr();
    for (node, peer, address) in [(ingress, serving, "172.31.8.1"), (serving, ingress, "172.31.8.3")] {
        let (local, remote) = (node.address(), peer.address());
        let overlay = format!("ip link add flannel.1 type vxlan id 1 dstport 8472 local {local} remote {remote}");
        let address = format!("ip address add {address}/24 dev flannel.1");
        let lines = [&overlay, &address, "sysctl -w net.ipv4.conf.flannel/1.rp_filter=2", "ip link set flannel.1 up"];
        in_each(node.netns(), &lines)?;
    }
    let mut overlay = Sniffer::open(serving.netns(), "flannel.1")?;
    in_each(ingress.netns(), &[&format!("ip route replace {network}/{length} via 172.31.8.3 dev flannel.1")])?;
    world.converged().await?;

    world.perfect(&VIP.to_string(), 20).await?;
    let carried = overlay.find(|packet| packet.ipv4().is_some_and(|outer| outer.source == ingress.address())).await?;
    ensure!(!carried.outgoing, "it was to come in");
    Ok(())
}
