//! Waiting until every namespace is what it must be.
//!
//! The yardstick is the product's own planning on what the API server holds at this moment: as long as a dry run would still
//! do something in some namespace, the agents are not done.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde::de::DeserializeOwned;
use tunnel_router::agent::dry_run::attached;
use tunnel_router::agent::follows::{Follows, moment};
use tunnel_router::agent::goals::{PodGoal, pod_goals};
use tunnel_router::agent::prepare::underlay;
use tunnel_router::agent::start::{plan_settings, state_settings};
use tunnel_router::cli::{Cli, Command, Host, agent_config};
use tunnel_router::model::config::Config;
use tunnel_router::model::handover::{Assignment, HashKey, Holding, MOST_FORMER};
use tunnel_router::model::{Cluster, Endpoint, EndpointId};
use tunnel_router::netns::{Netns, NetnsId};
use tunnel_router::plan::Settings;
use tunnel_router::reconcile::{Execution, Goal, Memory, reconcile};
use tunnel_router::state::assignment::MAP_LABEL;
use tunnel_router::state::{Change, Index, Resolved, Watched};

use super::World;
use crate::lab::Node as LabNode;

/// How long anything may take; the emulated CPU is slow. Waiting longer means that it never happens.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// Between two looks, at least.
const LOOK: Duration = Duration::from_millis(50);

/// Where something may still have to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Name of the node that sees it.
    node: String,
    inside: Inside,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Inside {
    /// The bucket map.
    Map,
    /// The node's own namespace.
    Node,
    /// That of one of its pods.
    Pod(String),
}

/// What was last listed in each namespace: a ruleset that nobody has changed since is not listed again.
/// Numbers of namespaces that are gone are given out again, also to the next sandbox of a pod, so the node's name or the container's id belongs
/// to the key.
pub(super) type Looks = Mutex<HashMap<(String, NetnsId), Memory>>;

/// Whether those that have most could give those that have least.
fn is_unbalanced(map: &Assignment) -> bool {
    let counts = map.counts();
    let (least, most) = (counts.values().min().copied().unwrap_or(0), counts.values().max().copied().unwrap_or(0));
    let has_most = |holding: &&Holding| holding.owner.as_ref().and_then(|id| counts.get(id)) == Some(&most);
    most > least + 1 && map.holdings.iter().filter(has_most).any(|holding| holding.former.len() < MOST_FORMER)
}

/// What a node's agent is asked for.
struct View {
    resolved: Resolved,
    settings: Settings,
}

/// What was last resolved for each node. Reading all objects again at every look would cost more than the look itself.
pub(super) type Views = Mutex<HashMap<String, Known>>;

/// What a node's agent was asked for by a version of the store.
pub(super) struct Known {
    flags: Vec<String>,
    revision: u64,
    config: Config,
    resolved: Resolved,
}

/// The kinds that agents watch.
const KINDS: [&str; 6] = ["services", "endpointslices", "servicecidrs", "nodes", "pods", "configmaps"];

impl World {
    /// Waits until every node and pod is as the API server's objects ask for.
    pub async fn converged(&self) -> Result<()> {
        self.converged_but(PATIENCE, |_| false).await
    }

    /// The same within this time, whatever would still be done where `ignored` accepts what
    /// [`World::differences`] says of it.
    ///
    /// A look into a namespace starts processes, and those of the agents wait for the CPU meanwhile. So the one that was not yet
    /// right is looked into again, and all of them only when it is.
    pub async fn converged_but(&self, limit: Duration, ignored: impl Fn(&str) -> bool) -> Result<()> {
        self.api.settled().await;
        let deadline = Instant::now() + limit;
        let mut first = None;
        loop {
            let began = Instant::now();
            let look = || self.first_difference(first.as_ref(), &ignored);
            let Some((place, difference)) = tokio::task::block_in_place(look)? else {
                if first.take().is_none() {
                    return self.nothing_forbidden();
                }
                continue;
            };
            if Instant::now() > deadline {
                let mut left = tokio::task::block_in_place(|| self.differences())?;
                left.retain(|difference| !ignored(difference));
                bail!("not converged after {limit:?}:\n{difference}\n{}\n{}", left.join("\n"), self.logs());
            }
            first = Some(place);
            // The agents get at least half of the time of a slow machine.
            tokio::time::sleep(began.elapsed().max(LOOK)).await;
        }
    }

    /// The first place where something is still to be done, and what; only in this one, if one is given.
    fn first_difference(
        &self,
        only: Option<&Place>,
        ignored: impl Fn(&str) -> bool,
    ) -> Result<Option<(Place, String)>> {
        for node in self.lab.nodes() {
            if only.is_some_and(|only| only.node != node.name()) {
                continue;
            }
            let view = self.view(node)?;
            let places = self.places(node).into_iter().filter(|place| only.is_none_or(|only| only == place));
            for place in places {
                let found = self.look(&view, &place)?.into_iter().find(|difference| !ignored(difference));
                if let Some(difference) = found {
                    return Ok(Some((place, difference)));
                }
            }
        }
        Ok(None)
    }

    /// Agents and controllers ask for nothing that the manifest does not grant them.
    fn nothing_forbidden(&self) -> Result<()> {
        match self.api.journal().first_with(403) {
            Some(refused) => bail!("{} may not {} {}", refused.user.name, refused.verb, refused.path),
            None => Ok(()),
        }
    }

    /// What a dry run would still do, one entry per namespace, and what the controller has yet to decide.
    pub fn differences(&self) -> Result<Vec<String>> {
        let mut out = BTreeSet::new();
        for node in self.lab.nodes() {
            let view = self.view(node)?;
            for place in self.places(node) {
                out.extend(self.look(&view, &place)?);
            }
        }
        Ok(out.into_iter().collect())
    }

    /// Where something may have to be done on a node; what costs least first.
    fn places(&self, node: &LabNode) -> Vec<Place> {
        let pods = self.lab.pods().filter(|pod| pod.spec().node == node.name());
        let inside = pods.map(|pod| Inside::Pod(pod.name().to_owned()));
        let all = [Inside::Map, Inside::Node].into_iter().chain(inside);
        all.map(|inside| Place { node: node.name().to_owned(), inside }).collect()
    }

    /// What a node's agent is asked for now.
    fn view(&self, node: &LabNode) -> Result<View> {
        let flags = self.agent_flags(node.name());
        let store = self.api.store();
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |known: &Known| known.flags == flags && !store.has_changed(&KINDS, known.revision);
        if !views.get(node.name()).is_some_and(holds) {
            // Before anything is read: what changes meanwhile is read again.
            let (revision, config) = (store.revision(), self.config(node.name())?);
            let resolved = self.unfollowed(&config)?;
            views.insert(node.name().to_owned(), Known { flags, revision, config, resolved });
        }
        let known = views.get(node.name()).context("just inserted")?;
        let mut resolved = known.resolved.clone();
        Follows::default().follow(&mut resolved.cluster, moment());
        Ok(View { resolved, settings: plan_settings(&known.config) })
    }

    fn look(&self, view: &View, place: &Place) -> Result<Vec<String>> {
        let node = self.lab.node(&place.node)?;
        let View { resolved, settings } = view;
        let (title, key, netns, goal) = match &place.inside {
            Inside::Map => return Ok(self.undecided(&resolved.cluster).into_iter().collect()),
            Inside::Node => {
                let goal = Goal::Node(Arc::new(resolved.cluster.clone()));
                (place.node.clone(), place.node.as_str(), Netns::open(node.netns().path())?, goal)
            }
            Inside::Pod(name) => {
                let (pod, on_node) = (self.lab.pod(name)?, Netns::open(node.netns().path())?);
                let netns = Netns::open(pod.netns().path())?;
                let mut goals = pod_goals(&resolved.cluster, &resolved.local_pods, settings);
                let underlay = underlay(&on_node, &resolved.cluster);
                // Any program of our version will do.
                let program = || attached(&netns, settings).or(Some(0));
                let prepared = |goal: PodGoal| goal.prepared(&resolved.cluster, &underlay, program());
                let goal = goals.remove(pod.uid()).map_or(Goal::Nothing, |goal| Goal::Pod(prepared(goal).input));
                (format!("pod {name}"), pod.container_id(), netns, goal)
            }
        };
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = looks.entry((key.to_owned(), netns.id())).or_default();
        *memory = memory.of_ruleset();
        Ok(match reconcile(&netns, &goal, settings, memory, Execution::DryRun) {
            Ok(outcome) if outcome.plan.is_empty() => Vec::new(),
            Ok(outcome) => vec![format!("{title}:\n{}", outcome.plan)],
            Err(error) => vec![format!("{title}: {error}")],
        })
    }

    /// What the controller has yet to decide: endpoints that run here and are ready (or, where none is, serve to the end) own a
    /// bucket, and others do not while there are such; every move that is announced is made, and no other can be.
    fn undecided(&self, cluster: &Cluster) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for vip in cluster.vips() {
            let runs = |e: &&Endpoint| e.state.serves() && self.lab.pods().any(|pod| pod.uid() == e.pod_uid);
            let best = vip.endpoints.iter().filter(runs).map(|e| e.state).min();
            let usable: Vec<&Endpoint> = vip.endpoints.iter().filter(runs).filter(|e| Some(e.state) == best).collect();
            let Some(map) = vip.map.as_ref().filter(|_| !usable.is_empty()) else {
                out.extend((!usable.is_empty()).then(|| format!("{} has no map", vip.service)));
                continue;
            };
            let by_addresses = map.hash.key == HashKey::Addresses;
            out.extend((by_addresses != vip.client_ip_affinity).then(|| format!("{} hashes otherwise", vip.service)));
            let moves = map.moves();
            out.extend(
                moves.map(|(bucket, _)| format!("bucket {} of {} is about to move", bucket.number(), vip.service)),
            );
            out.extend(is_unbalanced(map).then(|| format!("{} is not balanced", vip.service)));
            let owners = map.counts();
            let is_usable = |id: &EndpointId| usable.iter().any(|e| e.pod_uid == id.as_str());
            let wrong =
                owners.keys().filter(|id| !is_usable(id)).map(|id| format!("{id} owns buckets, and others are ready"));
            let room = owners.len() < map.holdings.len();
            let without = usable.iter().filter(|e| room && !owners.keys().any(|id| id.as_str() == e.pod_uid));
            out.extend(wrong.chain(without.map(|e| format!("{} owns no bucket", e.pod))));
        }
        out
    }

    /// The configuration of a node's agent, by the product's own parser.
    pub fn config(&self, node: &str) -> Result<Config> {
        let words = ["tunnel-router".to_owned(), "agent".into()].into_iter().chain(self.agent_flags(node));
        match Cli::try_parse_from(words)? {
            Command::Agent(args) => Ok(agent_config(&args, &Host::default())?),
            _ => bail!("not an agent"),
        }
    }

    /// What the API server's objects ask for, as this node sees them.
    pub fn resolve(&self, config: &Config) -> Result<Resolved> {
        let mut resolved = self.unfollowed(config)?;
        Follows::default().follow(&mut resolved.cluster, moment());
        Ok(resolved)
    }

    /// The same before the node follows any map.
    fn unfollowed(&self, config: &Config) -> Result<Resolved> {
        let mut index = Index::new(config.annotation.as_str());
        self.feed::<Service>(&mut index, "services", Change::Service, |_| true)?;
        self.feed::<EndpointSlice>(&mut index, "endpointslices", Change::EndpointSlice, |_| true)?;
        self.feed::<ServiceCIDR>(&mut index, "servicecidrs", Change::ServiceCidr, |_| true)?;
        self.feed::<Node>(&mut index, "nodes", Change::Node, |_| true)?;
        let own = |pod: &Pod| pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref() == Some(&config.node_name));
        self.feed::<Pod>(&mut index, "pods", Change::Pod, own)?;
        let ours = |map: &ConfigMap| map.metadata.labels.as_ref().is_some_and(|l| l.contains_key(MAP_LABEL.0));
        self.feed::<ConfigMap>(&mut index, "configmaps", Change::Map, ours)?;
        index.resolve(&state_settings(config)?).context("a kind was not listed")
    }

    fn feed<K: DeserializeOwned>(
        &self,
        index: &mut Index,
        plural: &str,
        change: fn(Watched<K>) -> Change,
        keep: impl Fn(&K) -> bool,
    ) -> Result<()> {
        ensure!(KINDS.contains(&plural), "{plural} are no reason to look again");
        index.apply(change(Watched::Init));
        for object in self.api.store().list(plural)? {
            let object: K = serde_json::from_value(object)?;
            if keep(&object) {
                index.apply(change(Watched::InitApply(Box::new(object))));
            }
        }
        index.apply(change(Watched::InitDone));
        Ok(())
    }
}
