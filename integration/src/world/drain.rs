//! A world in which buckets drain, and connections that must not notice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tunnel_router::model::Mode;

use super::converge::PATIENCE;
use super::echo::{SERVICE, VIP, VIP6, echo_at};
use super::{World, WorldSpec};
use crate::lab::PodSpec;
use crate::traffic::{Connections, Sources, Tally};

/// Four pods on three nodes behind one dual-stack Service, agents, and a controller that lets datagrams stay for `drain_udp`.
pub async fn draining_world(mode: Mode, drain_udp: &str) -> Result<World> {
    let mut world = World::build(WorldSpec::new(mode)).await?;
    let pods = [("echo-1", "wrk1"), ("echo-2", "wrk2"), ("echo-3", "ing1"), ("echo-4", "wrk1")];
    world.add_pods(pods.map(|(name, node)| (PodSpec::new(name, node), "echo")).into()).await?;
    world.add_dual_service(SERVICE, "echo", &[])?;
    world.start_controller("ctl-a", "wrk1", &["--drain-udp", drain_udp])?;
    world.serve(&[VIP, VIP6]).await?;
    world.stored_map(SERVICE, |_| true).await?;
    world.converged().await?;
    Ok(world)
}

/// Connections to one VIP, and who answered each.
#[derive(Debug)]
pub struct Held {
    /// The connections.
    pub connections: Connections,
    /// The pod of each, by the client's end.
    pub pods: BTreeMap<SocketAddr, String>,
}

impl Held {
    /// Opens them, from ports that begin with `first_port`.
    pub async fn open(world: &World, vip: &str, first_port: u16, count: usize) -> Result<Held> {
        let sources = Sources::fixed(world.lab.client_addresses(), first_port);
        let client = world.client().with_sources(sources);
        let (connections, tally) = Connections::open(&client, count, echo_at(vip)?).await?;
        Held::new(connections, perfect(world, tally)?)
    }

    /// Connections with what became of their first probe, which all must have passed.
    pub fn new(connections: Connections, tally: Tally) -> Result<Held> {
        let pods = tally.perfect()?.owners().into_iter().map(|(source, pod)| (source, pod.to_owned())).collect();
        Ok(Held { connections, pods })
    }

    /// Every connection is answered, by the pod that it has always had.
    pub async fn stay(&mut self, world: &World) -> Result<()> {
        let tally = perfect(world, self.connections.probe_all().await)?;
        for (source, pod) in tally.owners() {
            ensure!(self.pods[&source] == pod, "{source} has moved from {} to {pod}", self.pods[&source]);
        }
        Ok(())
    }

    /// How many are on a pod.
    pub fn count(&self, pod: &str) -> usize {
        self.pods.values().filter(|on| *on == pod).count()
    }

    /// The pods that have any.
    pub fn on(&self) -> BTreeSet<&str> {
        self.pods.values().map(String::as_str).collect()
    }
}

impl World {
    /// Waits until new connections are answered by others than this pod, on every ingress node, although no controller runs:
    /// nodes wait for its word first.
    pub async fn stood_in(&self, vip: &str, gone: &str) -> Result<()> {
        let client = self.client().with_patience(Duration::from_secs(2));
        let answered = async {
            loop {
                let tally = client.tcp_exchanges(128, echo_at(vip)?).await?;
                if tally.is_perfect() && !tally.per_pod().contains_key(gone) {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.with_context(|| format!("nobody stands in\n{}", self.logs()))?
    }
}

/// A perfect tally; else an error with the logs.
pub fn perfect(world: &World, tally: Tally) -> Result<Tally> {
    let text = tally.to_string();
    tally.perfect().with_context(|| format!("{text}\n{}", world.logs()))
}
