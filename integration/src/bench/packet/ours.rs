//! The node as tunnel-router would have it, programmed by tunnel-router's own code.
//!
//! Everything of this bench that knows how the product describes a cluster is in here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Result, ensure};
use tunnel_router::kernel::bpf::Programs;
use tunnel_router::model::config::{DEFAULT_HASH_SEED, MplsLabels};
use tunnel_router::model::handover::{FlowHash, Generation, Intent, Member, Name, NextHop, Served, TunnelId};
use tunnel_router::model::names::LinkPrefix;
use tunnel_router::model::{
    Addresses, BucketCount, Cluster, Endpoint, EndpointId, MarkField, Mode, Node, ServiceRef, Vip,
};
use tunnel_router::netns::Netns;
use tunnel_router::plan::tree::sources_table;
use tunnel_router::plan::{RuleAction, Settings, Step};
use tunnel_router::reconcile::{Execution, Goal, Memory, Outcome, reconcile};

use super::site::{ENDPOINTS, Site, VXLAN_PORT};

const NODE: &str = "node";

/// Does one round of the agent for the node: reads back, plans, applies. `sources` says what the plan has to contain for
/// the case to be what its name says.
pub fn program(site: &Site, (mode, buckets): (Mode, u32), sources: bool, draining: bool) -> Result<()> {
    let settings = settings(BucketCount::new(buckets)?)?;
    let mut vip = vip(site, mode);
    vip.intent = Some(Arc::new(intent(settings.flows(), &vip.endpoints, draining)?));
    let goal = Goal::Node(Arc::new(cluster(site, vip)));
    let netns = Netns::open(site.node().netns().path())?;
    let outcome = reconcile(&netns, &goal, &settings, &mut Memory::default(), Execution::Apply(&Programs::default()))?;
    ensure!(outcome.problems.is_empty(), "tunnel-router refuses: {:?}", outcome.problems);
    ensure!(has_sources(&outcome, &settings) == sources, "the plan is for another kind of device:\n{}", outcome.plan);
    Ok(())
}

fn has_sources(outcome: &Outcome, settings: &Settings) -> bool {
    let table = sources_table(settings.buckets, settings.table_base);
    let leads_there = |step: &Step| matches!(step, Step::AddRule(rule) if rule.action == RuleAction::Lookup(table));
    outcome.plan.steps.iter().any(leads_there)
}

/// What the agent uses when nothing is said.
pub(super) fn settings(buckets: BucketCount) -> Result<Settings> {
    Ok(Settings {
        node_name: NODE.to_owned(),
        buckets,
        table_base: 10_000,
        announce_table: None,
        link_prefix: LinkPrefix::new("kst-")?,
        hash_seed: DEFAULT_HASH_SEED,
        mark: MarkField::new(0xff, buckets)?,
        rule_priority: 101,
        labels: MplsLabels::new(100, 1 << 16)?,
        vxlan_port: VXLAN_PORT,
        proc_root: "/proc".into(),
        vip_ranges: BTreeSet::new(),
        limits_udp: true,
        unavailable: BTreeMap::new(),
    })
}

/// What a node does that shares the buckets out evenly; `draining`: and has just taken each from another endpoint.
fn intent(hash: FlowHash, endpoints: &[Endpoint], draining: bool) -> Result<Intent> {
    let mut members = BTreeMap::new();
    for (endpoint, number) in endpoints.iter().zip(1..) {
        let (id, node) = (endpoint.pod_uid.as_str().into(), endpoint.node.as_str().into());
        let (name, addresses) = (Name::new(number)?, endpoint.addresses);
        members.insert(id, Member { name, node, addresses, set_up: true, program: true, named: None });
    }
    let (owners, formers) = (members.iter().cycle(), members.values().cycle().skip(1));
    let next_hop = |((owner, member), former): ((&EndpointId, &Member), &Member)| NextHop {
        owner: owner.clone(),
        addresses: member.addresses,
        id: TunnelId::of(draining.then_some(former.name), true),
        refuses_syn: false,
    };
    Ok(Intent {
        generation: Generation(1),
        hash,
        next_hops: Arc::new(hash.buckets.iter().zip(owners.zip(formers).map(next_hop)).collect()),
        served: Served::default(),
        members,
    })
}

/// A VIP with ten pods.
fn vip(site: &Site, mode: Mode) -> Vip {
    Vip {
        address: site.vip(),
        service: ServiceRef { namespace: "default".into(), name: "echo".into(), uid: "uid-echo".into() },
        mode,
        client_ip_affinity: false,
        tracked: false,
        endpoints: (0..ENDPOINTS).map(|n| endpoint(site, n)).collect(),
        local_only: false,
        drain_limit: None,
        map: None,
        intent: None,
        holds: false,
    }
}

/// One node with this VIP and its pods.
fn cluster(site: &Site, vip: Vip) -> Cluster {
    let node = Node {
        name: NODE.to_owned(),
        uid: NODE.to_owned(),
        addresses: vec![site.node_address()],
        ingress: true,
        cordoned: false,
    };
    Cluster { nodes: BTreeMap::from([(node.name.clone(), node)]), ..Cluster::of_vips([vip]) }
}

fn endpoint(site: &Site, n: u8) -> Endpoint {
    Endpoint {
        pod_uid: format!("uid-{n}"),
        namespace: "default".to_owned(),
        pod: format!("echo-{n}"),
        node: NODE.to_owned(),
        addresses: Addresses::from(site.endpoint(n)),
        state: tunnel_router::model::handover::EndpointState::Ready,
    }
}
