//! Where it all happens: a world with two ingress nodes that announce, a third to come, two controllers, pods on two other
//! nodes, and traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tunnel_router::model::{EndpointId, Mode};

use super::System;
use super::fault::Fault;
use super::pace::Pace;
use super::pods::Ending;
use super::traffic::{Counts, Traffic, TrafficSpec};
use crate::apiserver::Objects;
use crate::lab::bird::ANNOUNCE_TABLE;
use crate::lab::{Bird, Lab, LabSpec, NodeSpec};
use crate::traffic::Client;
use crate::world::echo::{ANNOTATION, SERVICE, VIP, VIP6, echo_at};
use crate::world::map::own_or_wait;
use crate::world::{World, WorldSpec};

/// The ingress nodes.
pub(super) const INGRESS: [&str; 2] = ["ing1", "ing2"];
/// The one that is to come.
pub(super) const THIRD: &str = "ing3";
/// The nodes that pods run on.
pub(super) const WORKERS: [&str; 2] = ["wrk1", "wrk2"];
/// The controllers and where they run.
pub(super) const CONTROLLERS: [(&str, &str); 2] = [("controller-a", WORKERS[0]), ("controller-b", WORKERS[1])];
/// Pods of the Service, unless it is scaled up.
pub(super) const FEW: usize = 4;
/// Another Service, which shares the nodes.
pub(super) const SIDE: &str = "side";
const SIDE_VIP: &str = "192.0.2.11";
const SIDE_PODS: usize = 2;

/// How long a step of a connection may take before it counts as broken: shorter gaps are told of as such. TCP itself goes on for a
/// quarter of an hour (`tcp_retries2`).
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long everything may take to be well again.
const RECOVERY: Duration = Duration::from_secs(180);
/// How long balance may take, unless it waits for connections.
const SHARED_OUT: Duration = Duration::from_secs(60);

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct StageSpec {
    /// Default mode of the agents.
    pub mode: Mode,
    /// Long-lived connections.
    pub connections: usize,
    /// UDP flows.
    pub flows: usize,
    /// What victims and moments are drawn from.
    pub seed: u64,
    /// How long things last.
    pub pace: Pace,
    /// Between two BFD packets; three that are missing are a silent node.
    pub bfd: Duration,
}

/// The stage. Its methods are the faults.
pub struct Stage {
    pub(super) traffic: Traffic,
    pub(super) bird: Bird,
    pub(super) world: World,
    pub(super) pace: Pace,
    pub(super) rng: fastrand::Rng,
    /// Events about connections that were given up, as of the last row.
    told: BTreeSet<String>,
    /// Pods by Service, those that have not been told to end.
    pub(super) pods: BTreeMap<&'static str, Vec<String>>,
    /// Names of all pods by UID, also of those that are gone: an Event may name them by UID.
    pub(super) names: BTreeMap<String, String>,
    /// Pods that have been.
    pub(super) ending: Vec<Ending>,
    /// Pods ever started: no name is used twice.
    pub(super) started: usize,
    /// Whether the agents are those of the upgrade.
    pub(super) upgraded: bool,
    /// For files of the run.
    pub(super) directory: TempDir,
    /// Tells of stored maps, if somebody wants to know.
    _teller: JoinSet<()>,
}

impl Stage {
    /// Builds everything and returns when all of it is well and all connections are answered.
    pub async fn build(spec: StageSpec) -> Result<Stage> {
        let nodes = INGRESS.into_iter().chain([THIRD]).map(NodeSpec::ingress);
        let nodes = nodes.chain(WORKERS.map(NodeSpec::worker)).collect();
        let lab = LabSpec { nodes, ..LabSpec::default() };
        let flags = agent_flags(false).map(str::to_owned).into();
        let mut world = World::build(WorldSpec { lab, flags, ..WorldSpec::new(spec.mode) }).await?;
        label(&world, THIRD, None)?;
        keep_hashes(&world.lab)?;
        for (name, node) in CONTROLLERS {
            world.start_controller(name, node, &["--drain-udp", spec.pace.drain_udp])?;
        }
        world.start_agents()?;
        world.add_dual_service(SERVICE, SERVICE, &[(ANNOTATION, &format!("{VIP},{VIP6}"))])?;
        world.add_service(SIDE, SIDE, &[(ANNOTATION, SIDE_VIP)])?;
        let mut bird = world.lab.start_bird(spec.bfd).await?;
        bird.kill(THIRD).await?;

        let mut teller = JoinSet::new();
        if tracing::enabled!(tracing::Level::DEBUG) {
            teller.spawn(tell_maps(world.api.store().clone()));
        }
        let traffic = Traffic::new(traffic_spec(&world, spec)?);
        let (pods, rng) = (BTreeMap::new(), fastrand::Rng::with_seed(spec.seed));
        let (pace, ending, directory) = (spec.pace, Vec::new(), tempfile::tempdir()?);
        let mut stage = Stage {
            traffic,
            bird,
            world,
            pace,
            rng,
            told: BTreeSet::new(),
            pods,
            names: BTreeMap::new(),
            ending,
            started: 0,
            upgraded: false,
            directory,
            _teller: teller,
        };
        stage.add_pods(SERVICE, FEW).await?;
        stage.add_pods(SIDE, SIDE_PODS).await?;
        stage.in_order().await?;
        stage.traffic.start().await?;
        stage.traffic.take();
        Ok(stage)
    }

    /// Waits until everything is as it must be.
    pub(super) async fn in_order(&mut self) -> Result<()> {
        self.all_ended().await?;
        self.announced_by(&INGRESS).await?;
        for node in INGRESS {
            self.bird.guarded(node).await?;
        }
        for (service, pods) in &self.pods {
            self.shared_out(service, pods).await?;
        }
        self.converged().await
    }

    /// Waits until each of these pods owns a bucket, or waits for connections that pods have left behind.
    async fn shared_out(&self, service: &str, pods: &[String]) -> Result<()> {
        let all = self.world.stored_map(service, |map| map.counts().len() == pods.len());
        if let Ok(shared) = tokio::time::timeout(SHARED_OUT, all).await {
            return shared.map(drop);
        }
        let uid = |name: &String| Ok(self.world.lab.pod(name)?.uid().into());
        let uids = pods.iter().map(uid).collect::<Result<Vec<EndpointId>>>()?;
        self.world.stored_map(service, |map| own_or_wait(map, &uids)).await.map(drop)
    }

    /// Waits until every namespace is as the API server's objects ask for, but for the third ingress node's: it goes on for
    /// half a minute after it has lost its label; and for names in next hops: agents name for two minutes who has stood in, and
    /// nothing that is stored says so.
    pub(super) async fn converged(&self) -> Result<()> {
        let is_next_hop =
            |line: &str| ["ip nexthop", "ip -6 nexthop", "ip route replace"].iter().any(|s| line.starts_with(s));
        let is_planned = |difference: &str| difference.lines().count() > 1;
        let ignored = |difference: &str| {
            difference.starts_with(THIRD) || is_planned(difference) && difference.lines().skip(1).all(is_next_hop)
        };
        self.world.converged_but(RECOVERY, ignored).await
    }

    /// Waits until the router sends the packets of all VIPs to exactly these nodes.
    pub(super) async fn announced_by(&self, nodes: &[&str]) -> Result<()> {
        for vip in [VIP, VIP6, SIDE_VIP] {
            self.bird.announced_by(vip.parse()?, nodes).await?;
        }
        Ok(())
    }

    /// Lets time pass, in which pods may end.
    pub(super) async fn observe(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50).min(time)).await;
            self.end_pods().await?;
        }
        Ok(())
    }

    /// One of the ingress nodes, and the other.
    pub(super) fn pick_ingress(&mut self) -> (&'static str, &'static str) {
        let [first, second] = INGRESS;
        if self.rng.bool() { (first, second) } else { (second, first) }
    }
}

fn traffic_spec(world: &World, spec: StageSpec) -> Result<TrafficSpec> {
    let targets = [VIP, VIP6, VIP, SIDE_VIP].map(echo_at).into_iter().collect::<Result<_>>()?;
    Ok(TrafficSpec {
        client: Client::new(world.lab.client()).with_patience(PATIENCE),
        sources: world.lab.client_addresses(),
        targets,
        connections: spec.connections,
        flows: spec.flows,
    })
}

impl System for Stage {
    async fn inject(&mut self, fault: Fault) -> Result<()> {
        fault.inject(self).await
    }

    async fn well(&mut self) -> Result<()> {
        self.in_order().await?;
        self.traffic.all_answer().await
    }

    fn take(&self) -> Counts {
        self.traffic.take()
    }

    fn given_up(&mut self) -> BTreeSet<String> {
        let events = self.world.events(SERVICE).into_iter().chain(self.world.events(SIDE));
        let events = events.filter(|(reason, _)| reason == "ConnectionsGivenUp").map(|(_, note)| note);
        // The log has at once what Events say as fast as Events may be sent.
        let logs = CONTROLLERS.map(|(name, _)| self.world.log_of(name));
        let told: BTreeSet<String> = events.chain(logs.iter().flat_map(|log| given_up_in(log))).collect();
        let before = std::mem::replace(&mut self.told, told);
        self.told.difference(&before).filter_map(|note| pod_in(note, &self.names)).collect()
    }

    fn connections_ever(&self) -> usize {
        self.traffic.opened_ever()
    }
}

/// What a controller's log says of connections that were given up, as the Events do.
fn given_up_in(log: &str) -> impl Iterator<Item = String> {
    let lines = log.lines().filter(|line| line.contains("ConnectionsGivenUp"));
    lines.filter_map(|line| Some(line.split_once("note=\"")?.1.split_once('"')?.0.to_owned()))
}

/// The pod that an Event is about: `pod NAME of …`, or `a pod that is not listed any more (UID …) of …`.
fn pod_in(note: &str, names: &BTreeMap<String, String>) -> Option<String> {
    let named = note.strip_prefix("pod ").and_then(|rest| rest.split_whitespace().next());
    let by_uid = || names.get(note.split_once("(UID ")?.1.split_once(')')?.0).map(String::as_str);
    named.or_else(by_uid).map(str::to_owned)
}

/// Keeps connections on their ways. Else the kernel of the client gives one another hash with each retransmission
/// (`sk_rethink_txhash`, net/core/sock.c), and the router, whose links are veth, takes that hash for its own. A real router hashes what
/// it reads in the packet.
pub(super) fn keep_hashes(lab: &Lab) -> Result<()> {
    Ok(lab.client().set_sysctl("net/core/txrehash", "0")?)
}

/// Flags of every agent, before and after an upgrade.
pub(super) fn agent_flags(upgraded: bool) -> [&'static str; 6] {
    const { assert!(ANNOUNCE_TABLE == 10900) };
    let (buckets, field) = if upgraded { ("128", "0x1ff") } else { ("64", "0xff") };
    ["--announce-table", "10900", "--buckets", buckets, "--mark-field", field]
}

/// Gives a node its label of an ingress node, or takes it away.
pub(super) fn label(world: &World, node: &str, value: Option<&str>) -> Result<()> {
    let patch = serde_json::json!({ "metadata": { "labels": { "node": value } } });
    world.api.store().patch("nodes", "", node, patch)?;
    Ok(())
}

/// Tells of every bucket map that is stored, for as long as it is asked to.
async fn tell_maps(store: Objects) {
    let mut told = BTreeMap::new();
    let look = |store: &Objects| -> Option<()> {
        for object in store.list("configmaps").unwrap_or_default() {
            let (name, map) =
                (object["metadata"]["name"].as_str()?, object["data"]["map.json"].as_str().unwrap_or_default());
            if told.get(name).is_none_or(|known| known != map) {
                tracing::debug!(name, map, "stored");
                told.insert(name.to_owned(), map.to_owned());
            }
        }
        None
    };
    store.wait_for(look).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_no_slice_lists_is_found_by_the_uid_in_the_event() {
        let names = BTreeMap::from([("u-1".to_owned(), "echo-1".to_owned())]);
        let notes = [
            "pod echo-7 of Service default/echo has lost the connections",
            "a pod that is not listed any more (UID u-1) of Service default/echo has lost the connections",
            "a pod that is not listed any more (UID u-2) of Service default/echo has lost the connections",
        ];
        assert_eq!(
            notes.map(|note| pod_in(note, &names)),
            [Some("echo-7".to_owned()), Some("echo-1".to_owned()), None]
        );
    }
}
