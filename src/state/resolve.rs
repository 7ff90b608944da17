//! A snapshot and the settings become a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::assignment::AssignmentFault;
use super::endpoints::Lookup;
use super::foreign::{LINUX, foreign_network};
use super::problems::{problem, shown};
use super::records::{MapRecord, NodeRecord, PodRecord};
use super::settings::Settings;
use super::snapshot::{ObjectKey, Snapshot};
use super::vips::{Claim, claims};
use crate::model::{Addresses, Cluster, Mode, Node, Problem, Reason, Vip, parse_duration};

/// What a snapshot means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// VIPs, nodes and problems.
    pub cluster: Cluster,
    /// Pods of the own node by UID, whoever they belong to: where to find the pod of a local endpoint.
    pub local_pods: BTreeMap<String, LocalPod>,
}

/// A pod of the own node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    /// `metadata.uid`.
    pub uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Its addresses; its netns must hold them.
    pub addresses: Vec<IpAddr>,
    /// It has no netns of its own.
    pub host_network: bool,
    /// All its containers have ended (phase `Succeeded` or `Failed`).
    pub terminated: bool,
    /// What its cgroup is named after, where that is not the UID: the hash of a static pod.
    pub config_hash: Option<String>,
    /// Ids of its running containers: when others appear, its netns may be another one.
    pub containers: BTreeSet<String>,
    /// Its network is known not to be one that the kernel of this node runs.
    pub foreign_network: bool,
}

/// The value of the annotation about connection tracking.
const KEEP: &str = "keep";

/// Says what the objects of a snapshot ask for. Pure: the same objects and settings give the same answer on every node,
/// at any time.
pub fn resolve(snapshot: &Snapshot, settings: &Settings) -> Resolved {
    let lookup = Lookup::new(snapshot);
    let maps: BTreeMap<&str, (&ObjectKey, &MapRecord)> =
        snapshot.maps.iter().map(|(key, record)| (record.service_uid.as_str(), (key, &**record))).collect();
    let (claims, mut problems) = claims(snapshot, settings);
    let mut vips = BTreeMap::new();
    for claim in claims {
        match mode(&claim, settings) {
            Ok(mode) => {
                let (tracked, problem) = tracked(&claim, settings);
                problems.extend(problem);
                let (drain_limit, problem) = drain_limit(&claim, settings);
                problems.extend(problem);
                let options = Options { mode, tracked, drain_limit };
                problems.extend(serve(&claim, options, &lookup, settings, &mut vips));
                problems.extend(map_problem(&claim, &maps, snapshot));
                problems.extend(not_enforced(&claim));
            }
            Err(problem) => problems.push(problem),
        }
        problems.extend(claim.problems());
    }
    let with_map = |(address, vip): (IpAddr, Vip)| {
        // One that says nothing of this address is about others: the Service holds it only when the controller has written that.
        let map = snapshot.assignments.get(&vip.service.uid);
        let map = map.filter(|map| map.vips.is_none() || map.holds(address).is_some()).cloned();
        (address, Arc::new(Vip { map, ..vip }))
    };
    let vips = vips.into_iter().map(with_map).collect();
    problems.sort();
    Resolved { cluster: Cluster { vips, nodes: nodes(snapshot, settings), problems }, local_pods: local_pods(snapshot) }
}

/// A Service with a mode that does not exist is left out rather than served in the default mode, which might be one
/// that its network drops. It keeps its claim: correcting a typing error must not find the VIP with somebody else.
fn mode(claim: &Claim<'_>, settings: &Settings) -> Result<Mode, Problem> {
    let Some(text) = &claim.record.mode else { return Ok(settings.default_mode) };
    text.trim().parse().map_err(|_| {
        let service = &claim.service;
        let annotation = settings.mode_annotation();
        let what = format!(
            "annotation {annotation} of Service {service}: {} is no mode, the Service is not served",
            shown(text)
        );
        let all: Vec<&str> = Mode::ALL.into_iter().map(Mode::as_str).collect();
        let remedy = format!("use one of {}, or remove the annotation for {}", all.join(", "), settings.default_mode);
        problem(service, Reason::InvalidMode, what, &remedy)
    })
}

/// Whether the Service's packets stay tracked. A value that means nothing changes nothing: the Service is served.
fn tracked(claim: &Claim<'_>, settings: &Settings) -> (bool, Option<Problem>) {
    match claim.record.conntrack.as_deref().map(str::trim) {
        None => (false, None),
        Some(KEEP) => (true, None),
        Some(text) => {
            let remedy = format!("write {KEEP}, or remove the annotation");
            (false, Some(invalid(claim, &settings.conntrack_annotation(), text, "means nothing", &remedy)))
        }
    }
}

/// For how long the Service's pods may keep connections. A value that means nothing is no limit.
fn drain_limit(claim: &Claim<'_>, settings: &Settings) -> (Option<Duration>, Option<Problem>) {
    let Some(text) = &claim.record.drain else { return (None, None) };
    match parse_duration(text.trim()) {
        Some(limit) => (Some(limit), None),
        None => {
            let remedy = "write seconds, or a number with s, m or h up to 24h; 0 moves connections at once";
            (None, Some(invalid(claim, &settings.drain_annotation(), text, "is no duration", remedy)))
        }
    }
}

/// An annotation whose value cannot be used; the Service is served without it.
fn invalid(claim: &Claim<'_>, annotation: &str, text: &str, why: &str, remedy: &str) -> Problem {
    let what = format!("annotation {annotation} of Service {}: {} {why}", claim.service, shown(text));
    problem(&claim.service, Reason::InvalidOption, what, remedy)
}

/// What the Service says about who may reach it, and what does not hold for its VIPs.
fn not_enforced(claim: &Claim<'_>) -> Option<Problem> {
    let fields = claim.record.not_enforced.join(" and ");
    let what = format!("Service {}: packets to its VIPs come from anywhere, whatever {fields} says", claim.service);
    let remedy = "limit them in the pods, by network policies, or on the routers";
    (!fields.is_empty() && !claim.vips.is_empty()).then(|| problem(&claim.service, Reason::NotEnforced, what, remedy))
}

/// What is wrong with the Service's stored map. The newest one that could be read stays in use.
fn map_problem(
    claim: &Claim<'_>,
    maps: &BTreeMap<&str, (&ObjectKey, &MapRecord)>,
    snapshot: &Snapshot,
) -> Option<Problem> {
    let uid = claim.service.uid.as_str();
    let (key, record) = maps.get(uid)?;
    let why = match &record.map {
        Err(AssignmentFault::Old) => return None,
        Err(fault) => fault.to_string(),
        Ok(map) => {
            let known = snapshot.assignments.get(uid).filter(|known| known.generation > map.generation)?;
            format!("it has generation {}, and {} was there already", map.generation, known.generation)
        }
    };
    let remedy = match record.may_be_replaced {
        true => "leave it to the controller, which writes it anew",
        false => "run the agents and controllers of that version, or delete the ConfigMap to begin anew",
    };
    let what = format!("bucket map {key} of Service {} is not used: {why}", claim.service);
    Some(problem(&claim.service, Reason::InvalidMap, what, remedy))
}

/// What the annotations of a Service say.
struct Options {
    mode: Mode,
    tracked: bool,
    drain_limit: Option<Duration>,
}

fn serve(
    claim: &Claim<'_>,
    options: Options,
    lookup: &Lookup<'_>,
    settings: &Settings,
    vips: &mut BTreeMap<IpAddr, Vip>,
) -> Vec<Problem> {
    if claim.vips.is_empty() {
        return Vec::new();
    }
    let (endpoints, problems) = lookup.endpoints(&claim.service, settings.buckets);
    for address in &claim.vips {
        let vip = Vip {
            address: *address,
            service: claim.service.clone(),
            mode: options.mode,
            client_ip_affinity: claim.record.client_ip_affinity,
            tracked: options.tracked,
            endpoints: endpoints.clone(),
            local_only: claim.record.local_only,
            drain_limit: options.drain_limit,
            map: None,
            intent: None,
            holds: false,
        };
        vips.insert(*address, vip);
    }
    problems
}

fn nodes(snapshot: &Snapshot, settings: &Settings) -> BTreeMap<String, Node> {
    let is_ingress = |record: &NodeRecord| {
        let selected = settings.ingress_nodes.as_ref().is_none_or(|selector| selector.matches(&record.labels));
        selected && record.os().is_none_or(|os| os == LINUX)
    };
    // The first step of many upgrades is to cordon all nodes, and their VIPs must not go off the air for it.
    let others_serve = snapshot.nodes.values().any(|record| is_ingress(record) && record.ready && !record.cordoned);
    let pods: BTreeSet<IpAddr> = pod_addresses(snapshot).collect();
    let nodes = snapshot.nodes.iter().map(|(key, record)| {
        let (name, ingress) = (key.name.clone(), is_ingress(record));
        let (uid, cordoned) = (record.uid.clone(), record.cordoned && others_serve);
        let node = Node { name, uid, addresses: own(record, &pods), ingress, cordoned };
        (key.name.clone(), node)
    });
    nodes.collect()
}

fn pod_addresses(snapshot: &Snapshot) -> impl Iterator<Item = IpAddr> {
    let endpoints =
        snapshot.slices.values().flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.pod.is_some());
    endpoints.filter_map(|endpoint| endpoint.address.as_ref()?.parse().ok())
}

/// The addresses of a node, without those of its pods, which some clouds list as well (kubernetes/cloud-provider-aws#656). The
/// first of each family is its own, also where pods on the host's network have it.
fn own(record: &NodeRecord, pods: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
    let first = Addresses::first_of(&record.internal);
    let is_own = |address: &IpAddr| first.iter().any(|own| own == *address) || !pods.contains(address);
    record.internal.iter().copied().filter(is_own).collect()
}

/// Whoever creates a pod may annotate it: a hash that is the UID of another pod is not believed, nor one of a pod to which no
/// kubelet has given an address that its netns must hold.
fn config_hash(pod: &PodRecord, uids: &BTreeSet<&str>) -> Option<String> {
    pod.config_hash.clone().filter(|hash| !pod.addresses.is_empty() && !uids.contains(hash.as_str()))
}

fn local_pods(snapshot: &Snapshot) -> BTreeMap<String, LocalPod> {
    let uids: BTreeSet<&str> = snapshot.pods.values().map(|record| record.uid.as_str()).collect();
    let pods = snapshot.pods.iter().map(|(key, record)| {
        let pod = LocalPod {
            uid: record.uid.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            addresses: record.addresses.clone(),
            host_network: record.host_network,
            terminated: record.terminated,
            config_hash: config_hash(record, &uids),
            containers: record.containers.clone(),
            foreign_network: foreign_network(record).is_some(),
        };
        (record.uid.clone(), pod)
    });
    pods.collect()
}
