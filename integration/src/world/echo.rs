//! The world that most tests of the whole system begin with: five echo pods behind one Service, and flows to its VIPs.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tunnel_router::model::Mode;

use super::{World, WorldSpec};
use crate::lab::{Attach, PodSpec};
use crate::pod::DEFAULT_PORT;
use crate::protocol::Protocol;
use crate::traffic::{Client, EchoWitness, Sources, Tally};

/// The Service.
pub const SERVICE: &str = "echo";
/// The annotation that gives it VIPs.
pub const ANNOTATION: &str = "cmd.nu/tunnel";
/// Its VIP.
pub const VIP: &str = "192.0.2.10";
/// Its IPv6 VIP.
pub const VIP6: &str = "2001:db8:2::10";
/// Its pods.
pub const PODS: [&str; 5] = ["echo-1", "echo-2", "echo-3", "echo-4", "echo-5"];

/// First source port of all flows: the same flows each time.
const FIRST_PORT: u16 = 20_000;
/// How long a step of a flow that must succeed may take.
const LONG: Duration = Duration::from_secs(8);
/// How long a flow that must fail is waited for.
const SHORT: Duration = Duration::from_secs(2);

/// [`PODS`], with the label that the Service selects: on three nodes, one of them an ingress node, and on both kinds of
/// attachment.
pub fn five_pods() -> Vec<(PodSpec, &'static str)> {
    let pod = |name: &str, node: &str, attach| (PodSpec { attach, ..PodSpec::new(name, node) }, "echo");
    vec![
        pod("echo-1", "wrk1", Attach::PointToPoint),
        pod("echo-2", "wrk1", Attach::PointToPoint),
        pod("echo-3", "wrk2", Attach::Bridge),
        pod("echo-4", "wrk2", Attach::Bridge),
        pod("echo-5", "ing1", Attach::PointToPoint),
    ]
}

/// Five pods on three nodes, on both kinds of attachment, behind one Service without a VIP; no agent runs.
pub async fn echo_pods(mode: Mode) -> Result<World> {
    let mut world = World::build(WorldSpec::new(mode)).await?;
    world.add_pods(five_pods()).await?;
    world.add_service(SERVICE, "echo", &[])?;
    Ok(world)
}

/// The same in a world of one's own making, behind a Service of all families that the cluster has.
pub async fn echo_pods_in(spec: WorldSpec) -> Result<World> {
    let mut world = World::build(spec).await?;
    world.add_pods(five_pods()).await?;
    world.add_dual_service(SERVICE, "echo", &[])?;
    Ok(world)
}

/// [`echo_pods`] with running agents, and [`VIP`] routed to all ingress nodes.
pub async fn echo_world(mode: Mode) -> Result<World> {
    let mut world = echo_pods(mode).await?;
    world.serve(&[VIP]).await?;
    Ok(world)
}

/// [`echo_pods_in`] with running agents, and these VIPs in one annotation, routed to all ingress nodes.
pub async fn echo_world_in(spec: WorldSpec, vips: &[&str]) -> Result<World> {
    let mut world = echo_pods_in(spec).await?;
    world.serve(vips).await?;
    Ok(world)
}

/// Loads what any mode needs. A module that comes later adds devices and sysctls to every namespace, and snapshots from
/// before and after would differ for no fault of the agents.
pub fn load_modules() {
    let all = ["-a", "-q", "ip_gre", "ip6_gre", "mpls_router", "mpls_iptunnel", "vxlan"];
    // Kernels that have them built in, or not at all, refuse; the agents say what is missing.
    if let Err(error) = Command::new("modprobe").args(all).status() {
        println!("modprobe: {error}");
    }
}

/// The pods' port at a VIP.
pub fn echo_at(vip: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(vip.parse::<IpAddr>().with_context(|| format!("VIP {vip}"))?, DEFAULT_PORT))
}

/// The names as a set, to compare with those that answered.
pub fn names<'a>(pods: &[&'a str]) -> BTreeSet<&'a str> {
    pods.iter().copied().collect()
}

impl World {
    /// Starts the agents, gives the Service these VIPs in one annotation, and routes them to all ingress nodes.
    pub async fn serve(&mut self, vips: &[&str]) -> Result<()> {
        self.start_agents()?;
        self.annotate(SERVICE, ANNOTATION, Some(&vips.join(",")))?;
        self.converged().await?;
        for vip in vips {
            self.route(vip).await?;
        }
        Ok(())
    }

    /// The client, with the same sources each time.
    pub fn client(&self) -> Client {
        let sources = Sources::fixed(self.lab.client_addresses(), FIRST_PORT);
        Client::new(self.lab.client()).with_sources(sources).with_patience(LONG)
    }

    /// `n` TCP exchanges with a VIP, which must all be perfect.
    pub async fn tcp(&self, vip: &str, n: usize) -> Result<Tally> {
        let tally = self.client().tcp_exchanges(n, echo_at(vip)?).await?;
        self.checked("tcp", tally)
    }

    /// `n` UDP exchanges with a VIP, which must all be perfect.
    pub async fn udp(&self, vip: &str, n: usize) -> Result<Tally> {
        // A wildcard server cannot tell two VIPs apart: one client port towards both at once would have to be translated.
        let last = match vip.parse::<IpAddr>()? {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        };
        let port = FIRST_PORT + 100 * u16::from(last);
        let client = self.client().with_sources(Sources::fixed(self.lab.client_addresses(), port));
        let tally = client.udp_exchanges(n, echo_at(vip)?).await?;
        self.checked("udp", tally)
    }

    /// `n` exchanges of any protocol with a VIP, as they come out; the answers name their pods, whatever the protocol.
    pub async fn exchanges(&self, protocol: Protocol, vip: &str, n: usize) -> Result<Tally> {
        let address = vip.parse().with_context(|| format!("VIP {vip}"))?;
        let mut witness = match protocol {
            Protocol::Icmp => Some(EchoWitness::start(self.lab.pods())?),
            _ => None,
        };
        let mut tally = self.client().exchanges(protocol, n, address).await?;
        if let Some(witness) = &mut witness {
            witness.attribute(&mut tally).await;
        }
        Ok(tally)
    }

    /// `n` TCP exchanges with a VIP, perfect, and answered by exactly these pods.
    pub async fn tcp_by(&self, vip: &str, n: usize, pods: &BTreeSet<&str>) -> Result<()> {
        answered_by(&self.tcp(vip, n).await?, pods)
    }

    /// Nobody answers at a VIP.
    pub async fn unanswered(&self, vip: &str) -> Result<()> {
        let tally = self.client().with_patience(SHORT).tcp_exchanges(8, echo_at(vip)?).await?;
        println!("expected to fail: {tally}");
        ensure!(tally.answered() == 0, "a VIP that was taken away still answers: {tally}\n{}", self.logs());
        Ok(())
    }

    fn checked(&self, protocol: &str, tally: Tally) -> Result<Tally> {
        println!("{protocol} {tally}");
        tally.perfect().with_context(|| format!("{protocol}\n{}", self.logs()))
    }
}

/// Exactly these pods answered, each at least once.
pub fn answered_by(tally: &Tally, pods: &BTreeSet<&str>) -> Result<()> {
    let used: BTreeSet<&str> = tally.per_pod().into_keys().collect();
    ensure!(used == *pods, "expected answers from {pods:?}: {tally}");
    Ok(())
}
