//! Errors from the network about packets that a pod sent from a VIP: they are addressed to the VIP, and must reach the pod
//! that owns the flow which they quote.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::lab::LabSpec;
use integration::traffic::packet::{ICMP, ICMPV6, Ipv4, Ipv6, checksum};
use integration::traffic::{RawSender, Sniffer};
use integration::world::World;
use integration::world::dual::dual_world;
use integration::world::echo::{VIP, VIP6, echo_at};
use tunnel_router::model::Mode;

const FLOWS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(60);
const TCP: u8 = 6;
/// Some router of the internet.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1);
/// Unreachable host, time exceeded, too big, parameter problem: type and code.
const ERRORS: [[u8; 2]; 4] = [[3, 1], [11, 0], [3, 4], [12, 0]];
const ERRORS6: [[u8; 2]; 4] = [[1, 3], [3, 0], [2, 0], [4, 0]];

/// What is quoted of the segment that the pod sent: ports, and a sequence number that tells the flows apart.
fn segment(n: usize, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), &marker(n)].concat()
}

fn marker(n: usize) -> [u8; 4] {
    (0x5eed_0000 + u32::try_from(n).unwrap_or(u32::MAX)).to_be_bytes()
}

/// Type, code, checksum, and the four bytes before the quotation, which hold an MTU where there is one.
fn message([kind, code]: [u8; 2], mtu: u32, pseudo: &[u8], quoted: &[u8]) -> Vec<u8> {
    let body = [&[kind, code, 0, 0][..], &mtu.to_be_bytes(), quoted].concat();
    let sum = checksum(&[pseudo, &body].concat()).to_be_bytes();
    [&body[..2], &sum, &body[4..]].concat()
}

fn error_v4(n: usize, router: Ipv4Addr, vip: (Ipv4Addr, SocketAddr), client: (Ipv4Addr, SocketAddr)) -> Ipv4 {
    let quoted = Ipv4::new(vip.0, client.0, TCP, segment(n, vip.1, client.1)).to_bytes();
    Ipv4::new(router, vip.0, ICMP, message(ERRORS[n % 4], 1400, &[], &quoted))
}

fn error_v6(n: usize, router: Ipv6Addr, vip: (Ipv6Addr, SocketAddr), client: (Ipv6Addr, SocketAddr)) -> Ipv6 {
    let quoted = Ipv6::new(vip.0, client.0, TCP, segment(n, vip.1, client.1)).to_bytes();
    let length = u32::try_from(8 + quoted.len()).unwrap_or_default();
    let ends = [router.octets(), vip.0.octets()].concat();
    let pseudo = [&ends[..], &length.to_be_bytes(), &[0, 0, 0, ICMPV6]].concat();
    Ipv6::new(router, vip.0, ICMPV6, message(ERRORS6[n % 4], 1400, &pseudo, &quoted))
}

/// The flow whose error is in there, however deep it is wrapped.
fn flow_in(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(4).position(|w| w[..2] == marker(0)[..2])?;
    Some(usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?])))
}

/// Sends the error about one flow as a router far away does.
fn send(sender: &RawSender, n: usize, vip: SocketAddr, client: SocketAddr) -> Result<()> {
    match (vip.ip(), client.ip()) {
        (IpAddr::V4(v), IpAddr::V4(c)) => sender.send(&error_v4(n, ROUTER, (v, vip), (c, client))),
        (IpAddr::V6(v), IpAddr::V6(c)) => sender.send(&error_v6(n, ROUTER6, (v, vip), (c, client))),
        other => bail!("mixed families: {other:?}"),
    }
}

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
        send(&sender, n, target, *client)?;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_about_a_flow_reach_its_pod_over_gre() -> Result<()> {
    in_mode(Mode::Gre).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_about_a_flow_reach_its_pod_over_mpls() -> Result<()> {
    in_mode(Mode::Mpls).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_about_a_flow_reach_its_pod_over_vxlan() -> Result<()> {
    in_mode(Mode::Vxlan).await
}
