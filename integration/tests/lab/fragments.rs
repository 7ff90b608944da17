//! Datagrams that do not fit into one packet, and errors about packets that did not arrive.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::lab::LabSpec;
use integration::traffic::RawSender;
use integration::traffic::packet::{Ipv4, Ipv6};
use integration::world::World;
use integration::world::dual::dual_world;
use integration::world::echo::{VIP, VIP6, echo_at, echo_world};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tunnel_router::model::Mode;

const FLOWS: u16 = 24;
/// Three fragments on a 1500-byte link.
const BIG: usize = 4000;

/// Sends a datagram and returns who answered; the answer must come from the VIP.
async fn ask(socket: &UdpSocket, vip: SocketAddr, size: usize) -> Result<String> {
    socket.send_to("x".repeat(size).as_bytes(), vip).await?;
    let mut answer = vec![0; 65536];
    let (length, from) =
        timeout(Duration::from_secs(8), socket.recv_from(&mut answer)).await.context("no answer")??;
    ensure!(from == vip, "answered from {from}");
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    ensure!(text.matches('X').count() == size, "{size} bytes were sent, {} came back", text.matches('X').count());
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

async fn fragments_reach_the_pod_of_their_flow(mode: Mode) -> Result<()> {
    let world: World = echo_world(mode).await?;
    let vip: SocketAddr = format!("{VIP}:12345").parse()?;
    let mut pods = std::collections::BTreeSet::new();
    for port in 30_000..30_000 + FLOWS {
        let socket = world.lab.client().udp_socket(format!("198.51.100.2:{port}").parse()?)?;
        let small = ask(&socket, vip, 10).await?;
        let big = ask(&socket, vip, BIG).await.with_context(|| format!("{BIG} bytes\n{}", world.logs()))?;
        ensure!(small == big, "port {port}: the whole packet went to {small}, the fragments to {big}");
        pods.insert(big);
    }
    println!("{mode}: {FLOWS} flows, {BIG} bytes each, pods {pods:?}");
    ensure!(pods.len() > 1, "all flows went to one pod: nothing is shown");
    Ok(())
}

/// Eight kilobytes in fragments that arrive in the wrong order, the last one first.
fn send_backwards(raw: &RawSender, from: SocketAddr, to: SocketAddr) -> Result<()> {
    let data = vec![b'x'; 8192];
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            let fragments = Ipv4::udp(from, to, &data).fragments(from.port(), 1400);
            fragments.iter().rev().try_for_each(|fragment| raw.send(fragment))
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            let fragments = Ipv6::udp(from, to, &data).fragments(from.port().into(), 1400);
            fragments.iter().rev().try_for_each(|fragment| raw.send(fragment))
        }
        _ => bail!("{from} and {to} are of different families"),
    }
}

async fn fragments_out_of_order_reach_the_pod_of_their_flow(mode: Mode) -> Result<()> {
    let world = dual_world(mode, LabSpec::default(), 1500).await?;
    let raw = RawSender::open(world.lab.client())?;
    for (vip, address) in [(VIP, "198.51.100.2"), (VIP6, "2001:db8:51::2")] {
        let vip = echo_at(vip)?;
        for port in 31_000..31_000 + FLOWS {
            let from = SocketAddr::new(address.parse()?, port);
            let socket = world.lab.client().udp_socket(from)?;
            let small = ask(&socket, vip, 10).await?;
            send_backwards(&raw, from, vip)?;
            let mut answer = vec![0; 65536];
            let received = timeout(Duration::from_secs(30), socket.recv_from(&mut answer)).await;
            let (length, by) = received.with_context(|| format!("{from}: no answer\n{}", world.logs()))??;
            let text = String::from_utf8_lossy(&answer[..length]).into_owned();
            ensure!(by == vip && text.matches('X').count() == 8192, "{from}: {length} bytes from {by}");
            ensure!(text.starts_with(&format!("{small} ")), "{from}: {small}, then {:.20}", text);
        }
    }
    Ok(())
}

integration::modes! {
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_fragments_reach_the_pod_of_their_flow: fragments_reach_the_pod_of_their_flow(Mode::Gre);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_fragments_reach_the_pod_of_their_flow: fragments_reach_the_pod_of_their_flow(Mode::Mpls);
    vxlan_fragments_reach_the_pod_of_their_flow: fragments_reach_the_pod_of_their_flow(Mode::Vxlan);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_fragments_out_of_order_reach_the_pod_of_their_flow: fragments_out_of_order_reach_the_pod_of_their_flow(Mode::Gre);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_fragments_out_of_order_reach_the_pod_of_their_flow: fragments_out_of_order_reach_the_pod_of_their_flow(Mode::Mpls);
    vxlan_fragments_out_of_order_reach_the_pod_of_their_flow: fragments_out_of_order_reach_the_pod_of_their_flow(Mode::Vxlan);
}
