//! The cluster that is measured: nodes with real agents, two controllers, and one Service with endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel_router::model::Mode;
use tunnel_router::model::handover::{Assignment, NodeReport};
use tunnel_router::state::node_report::{REPORT_KEY, decode, report_name};

use super::far::Far;
use crate::apiserver::{Objects, Volumes};
use crate::lab::{LabSpec, NodeSpec, PodSpec};
use crate::world::echo::{ANNOTATION, SERVICE, VIP};
use crate::world::map::{drains, is_balanced};
use crate::world::{NAMESPACE, World, WorldSpec};

/// How many endpoints are pods that run.
pub const REAL_PODS: u16 = 10;
/// How long the cluster may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(300);

/// The cluster. Its methods are the changes.
pub struct Site {
    /// Everything that is real.
    pub world: World,
    nodes: Vec<String>,
    /// Pods that run, the oldest first, and their nodes.
    pods: Vec<(String, String)>,
    started: usize,
    /// The Service's UID.
    service: String,
    /// Endpoints that are objects only.
    far: u16,
    /// Who writes for them.
    writers: JoinSet<()>,
}

impl Site {
    /// Builds it and returns when it is at rest.
    pub async fn build(nodes: u8, endpoints: u16) -> Result<Site> {
        let nodes: Vec<String> = (1..=nodes).map(|n| format!("node{n}")).collect();
        let lab = LabSpec { nodes: nodes.iter().map(|name| NodeSpec::ingress(name)).collect(), ..LabSpec::default() };
        let world = World::build(WorldSpec { lab, ..WorldSpec::new(Mode::Vxlan) }).await?;
        let real = endpoints.min(REAL_PODS);
        let far = Far::create(&world, SERVICE, endpoints - real)?;
        let (pods, service, far_pods) = (Vec::new(), String::new(), endpoints - real);
        let mut site = Site { world, nodes, pods, started: 0, service, far: far_pods, writers: JoinSet::new() };
        site.add_pods(real.into()).await?;
        site.world.add_service(SERVICE, SERVICE, &[(ANNOTATION, VIP)])?;
        site.service = site.world.service_uid(SERVICE)?;
        site.world.api.settled().await;
        for n in 0..2 {
            // Datagrams, of which there are none, keep drains open for a shorter time than by default.
            let node = &site.nodes[n % site.nodes.len()];
            site.world.start_controller(&format!("controller{n}"), node, &["--drain-udp", "5s"])?;
        }
        site.world.start_agents()?;
        // So that some of the pods that run keep buckets.
        site.world.stored_map(SERVICE, |map| map.counts().len() == usize::from(real)).await?;
        site.writers.spawn(far.report(site.world.api.store().clone(), site.service.clone()));
        site.settled().await?;
        Ok(site)
    }

    /// What has been asked for and answered so far.
    pub fn volumes(&self) -> Volumes {
        self.world.api.journal().volumes()
    }

    /// A pod that owns buckets ends, and another one takes its place on its node, as in a rolling update.
    pub async fn replace_pod(&mut self) -> Result<()> {
        let map = self.world.stored_map(SERVICE, |_| true).await?;
        let counts = map.counts();
        let owns = |(name, _): &(String, String)| {
            self.world.lab.pod(name).is_ok_and(|pod| counts.keys().any(|id| id.as_str() == pod.uid()))
        };
        let index = self.pods.iter().position(owns).unwrap_or_default();
        let (old, node) = self.pods.remove(index);
        let uid = self.world.lab.pod(&old)?.uid().to_owned();
        self.add_pods_on(&[node]).await?;
        self.world.api.store().delete("pods", "default", &old)?;
        // It serves on while its buckets move, as with a `preStop` sleep.
        self.world.stored_map(SERVICE, |map| map.counts().keys().all(|id| id.as_str() != uid)).await?;
        self.world.remove_pod(&old).await?;
        self.settled().await
    }

    /// So many pods more.
    pub async fn scale_up(&mut self, count: u16) -> Result<()> {
        self.add_pods(count.into()).await?;
        self.settled().await
    }

    /// Waits until every pod is set up, buckets are balanced, nothing drains, and every node has said what it knows.
    pub async fn settled(&self) -> Result<()> {
        self.world.api.settled().await;
        let rest = |store: &Objects| self.is_at_rest(store).then_some(());
        let found = timeout(PATIENCE, self.world.api.store().wait_for(rest)).await;
        found.ok().flatten().with_context(|| format!("the cluster does not come to rest\n{}", self.world.logs()))
    }

    fn is_at_rest(&self, store: &Objects) -> bool {
        let Some(map) = self.world.map_of(&self.service) else { return false };
        let endpoints = self.pods.len() + usize::from(self.far);
        let owners = endpoints.min(map.holdings.len());
        let decided =
            map.counts().len() == owners && is_balanced(&map) && drains(&map) == 0 && map.moves().count() == 0;
        decided
            && self.pods_by_node().is_some_and(|pods| pods.iter().all(|(node, pods)| has_told(store, node, pods, &map)))
    }

    /// UIDs.
    fn pods_by_node(&self) -> Option<BTreeMap<&str, BTreeSet<&str>>> {
        let mut by_node: BTreeMap<&str, BTreeSet<&str>> =
            self.nodes.iter().map(|node| (node.as_str(), BTreeSet::new())).collect();
        for (pod, node) in &self.pods {
            by_node.entry(node).or_default().insert(self.world.lab.pod(pod).ok()?.uid());
        }
        Some(by_node)
    }

    async fn add_pods(&mut self, count: usize) -> Result<()> {
        let node = |n: usize| self.nodes[n % self.nodes.len()].clone();
        let nodes: Vec<String> = (self.started..self.started + count).map(node).collect();
        self.add_pods_on(&nodes).await
    }

    async fn add_pods_on(&mut self, nodes: &[String]) -> Result<()> {
        let named: Vec<(String, String)> =
            (self.started..).zip(nodes).map(|(n, node)| (format!("{SERVICE}-{n}"), node.clone())).collect();
        self.started += named.len();
        self.world.add_pods(named.iter().map(|(name, node)| (PodSpec::new(name, node), SERVICE)).collect()).await?;
        self.pods.extend(named);
        Ok(())
    }
}

/// Whether the report of a node says that these pods are set up and know of the map, and nothing else.
fn has_told(store: &Objects, node: &str, pods: &BTreeSet<&str>, map: &Assignment) -> bool {
    let report = || -> Option<NodeReport> {
        let object = store.get("configmaps", NAMESPACE, &report_name(node)).ok()?;
        decode(object["data"][REPORT_KEY].as_str(), node).ok()
    };
    let knows = |report: &NodeReport| report.knows.iter().flatten().all(|(_, known)| *known >= map.announced);
    report().is_some_and(|report| {
        let set_up: BTreeSet<&str> = report.pods.keys().map(|id| id.as_str()).collect();
        set_up == *pods && report.over.is_empty() && report.ended.is_empty() && knows(&report)
    })
}
