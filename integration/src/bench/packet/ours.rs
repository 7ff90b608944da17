//! The node as tunnel-router would have it, programmed by tunnel-router's own code.
//!
//! Everything of this bench that knows how the product describes a cluster is in here.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use tunnel_router::model::config::{DEFAULT_HASH_SEED, MplsLabels};
use tunnel_router::model::names::LinkPrefix;
use tunnel_router::model::{
    Addresses, BucketCount, Cluster, Drain, Endpoint, EndpointId, Flows, MarkField, Mode, Node, ServiceRef, SharedMap,
    Vip,
};
use tunnel_router::netns::Netns;
use tunnel_router::plan::tree::sources_table;
use tunnel_router::plan::{RuleAction, Settings, Step};
use tunnel_router::reconcile::{Goal, Memory, Outcome, reconcile};

use super::site::{ENDPOINTS, Site, VXLAN_PORT};

const NODE: &str = "node";

/// Does one round of the agent for the node: reads back, plans, applies. `sources` says what the plan has to contain for
/// the case to be what its name says.
pub fn program(site: &Site, (mode, buckets): (Mode, u32), sources: bool, draining: bool) -> Result<()> {
    let settings = settings(BucketCount::new(buckets)?)?;
    let mut cluster = cluster(site, mode);
    for vip in cluster.vips.values_mut().filter(|_| draining) {
        vip.shared = Some(Arc::new(all_draining(settings.flows(), &vip.endpoints)));
    }
    let goal = Goal::Node(Arc::new(cluster));
    let netns = Netns::open(site.node().netns().path())?;
    let outcome = reconcile(&netns, &goal, &settings, &mut Memory::default(), false)?;
    ensure!(outcome.problems.is_empty(), "tunnel-router refuses: {:?}", outcome.problems);
    ensure!(has_sources(&outcome, &settings) == sources, "the plan is for another kind of device:\n{}", outcome.plan);
    Ok(())
}

fn has_sources(outcome: &Outcome, settings: &Settings) -> bool {
    let table = sources_table(settings.buckets, settings.table_base);
    let leads_there = |step: &Step| matches!(step, Step::AddRule(rule) if rule.action == RuleAction::Lookup(table));
    outcome.plan.steps.iter().any(leads_there)
}

/// What the agent uses when nothing is said, but for the mark: 128 buckets need a bit more.
fn settings(buckets: BucketCount) -> Result<Settings> {
    Ok(Settings {
        node_name: NODE.to_owned(),
        buckets,
        table_base: 10_000,
        announce_table: None,
        link_prefix: LinkPrefix::new("kst-")?,
        hash_seed: DEFAULT_HASH_SEED,
        mark: MarkField::new(0xff, buckets).or_else(|_| MarkField::new(0x1ff, buckets))?,
        rule_priority: 101,
        labels: MplsLabels::new(100, 1 << 16)?,
        vxlan_port: VXLAN_PORT,
        unavailable: BTreeMap::new(),
    })
}

/// A map in which every bucket has just left one endpoint for another.
fn all_draining(flows: Flows, endpoints: &[Endpoint]) -> SharedMap {
    let mut map = SharedMap::new(flows, endpoints);
    let ids: Vec<EndpointId> = endpoints.iter().map(|e| e.pod_uid.as_str().into()).collect();
    let former = |bucket| {
        let owner = ids.iter().position(|id| map.owners.owner(bucket) == Some(id))?;
        let endpoint = ids[(owner + 1) % ids.len()].clone();
        Some((bucket, vec![Drain { endpoint, since: 1, generation: 1, datagrams: true }]))
    };
    map.previous = flows.buckets.iter().filter_map(former).collect();
    map
}

/// One VIP, one node, and ten pods on it.
fn cluster(site: &Site, mode: Mode) -> Cluster {
    let vip = Vip {
        address: site.vip(),
        service: ServiceRef { namespace: "default".into(), name: "echo".into(), uid: "uid-echo".into() },
        mode,
        client_ip_affinity: false,
        tracked: false,
        endpoints: (0..ENDPOINTS).map(|n| endpoint(site, n)).collect(),
        local_only: false,
        drain_limit: None,
        shared: None,
        staged: None,
        map: None,
        intent: None,
    };
    let node = Node { name: NODE.to_owned(), addresses: vec![site.node_address()], ingress: true, cordoned: false };
    Cluster {
        vips: BTreeMap::from([(vip.address, vip)]),
        nodes: BTreeMap::from([(node.name.clone(), node)]),
        problems: Vec::new(),
    }
}

fn endpoint(site: &Site, n: u8) -> Endpoint {
    Endpoint {
        pod_uid: format!("uid-{n}"),
        namespace: "default".to_owned(),
        pod: format!("echo-{n}"),
        node: NODE.to_owned(),
        addresses: Addresses::from(site.endpoint(n)),
        eligible: true,
        terminating: false,
        state: tunnel_router::model::handover::EndpointState::Ready,
    }
}
