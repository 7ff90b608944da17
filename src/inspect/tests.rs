//! The agent and the kernel in memory, and whether one tells of the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::report::{NodeProblemStatus, PairStatus, ProblemStatus, SecondChanceStatus, ShortStatus};
use super::trace::{Ask, Trace, TraceError, differences, trace};
use super::{Known, NodeStatus, Seen, text};
use crate::kernel::{KernelError, MarkedRoute};
use crate::model::second_chance::{Counts, Name, Pairs, VipNames};
use crate::model::{Cluster, Mode, Problem, Protocol, Reason, Subject, TracedFlow};
use crate::plan::diff::diff;
use crate::plan::nft::ObservedHash;
use crate::plan::node::desired_node;
use crate::plan::observed::ObservedRoute;
use crate::plan::tests::fake::FakeKernel;
use crate::plan::tests::support::{cluster, draining_vip, endpoint, ip, on_nodes, routes, settings, unready, vip};
use crate::plan::{Observed, RouteKey};

const VIP: &str = "192.0.2.10";

/// What node `n1` holds when it is as the cluster asks for.
fn kernel(cluster: &Cluster) -> Observed {
    let settings = settings("n1");
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    (2..8).for_each(|n| kernel.device(&format!("veth{n}"), false, 1500));
    let (desired, problems) = desired_node(cluster, &routes(cluster), &settings);
    assert_eq!(problems, []);
    let plan = diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-");
    kernel.apply(&plan, usize::MAX);
    let mut observed = kernel.observed;
    // The kernel in memory does not read rules.
    let hash = ObservedHash { buckets: settings.buckets.get(), seed: Some(settings.hash_seed) };
    observed.nft.as_mut().unwrap().chains.get_mut("vip").unwrap().hash = Some(hash);
    observed
}

fn known(cluster: &Cluster) -> NodeStatus {
    knowing(cluster).status()
}

fn knowing(cluster: &Cluster) -> Known {
    let settings = settings("n1");
    Known {
        node: "n1".to_owned(),
        cluster: cluster.clone(),
        second_chances: None,
        pairs: Pairs::default(),
        labels: settings.labels,
        any_address: false,
        unready: Vec::new(),
        pending: Vec::new(),
        problems: BTreeSet::new(),
    }
}

/// A kernel that finds what its rules say.
struct Honest<'a> {
    observed: &'a Observed,
    /// What the program of this node has in its tables.
    names: Option<VipNames>,
}

impl<'a> Honest<'a> {
    fn new(observed: &'a Observed) -> Self {
        Honest { observed, names: None }
    }
}

impl Ask for Honest<'_> {
    fn marked_route(&self, vip: IpAddr, mark: u32) -> Result<MarkedRoute, KernelError> {
        let unreachable = KernelError::NoRoute { to: vip, errno: nix::errno::Errno::EHOSTUNREACH };
        let table = Seen::new(self.observed).table_of(vip, mark).unwrap();
        match self.observed.routes[&RouteKey { table, vip }] {
            ObservedRoute::Nhid { id, .. } => Ok(MarkedRoute { table: Some(table), nexthop: Some(id) }),
            _ => Err(unreachable),
        }
    }

    fn underlay(&self, _: IpAddr) -> Result<(u32, String), KernelError> {
        Ok((1500, "eth0".to_owned()))
    }

    fn names(&self, _: u32, _: IpAddr) -> Result<Option<VipNames>, String> {
        Ok(self.names.clone())
    }
}

fn flow(port: u16) -> TracedFlow {
    TracedFlow { src: ip("198.51.100.7"), dst: ip(VIP), ports: Some((port, 80)), protocol: Protocol::Tcp }
}

fn traced(cluster: &Cluster, observed: &Observed, port: u16) -> Trace {
    trace(&flow(port), &known(cluster), &Seen::new(observed), &Honest::new(observed)).unwrap()
}

fn two_pods(mode: Mode) -> Cluster {
    cluster(vec![vip(VIP, mode, vec![endpoint(2, "n1"), endpoint(3, "n2")])])
}

#[test]
fn agent_and_kernel_say_the_same_of_a_node_that_is_as_asked_for() {
    for mode in Mode::ALL {
        let cluster = two_pods(mode);
        let observed = kernel(&cluster);
        let (meant, found) = (known(&cluster), Seen::new(&observed).status());
        assert_eq!(differences(&meant, &Seen::new(&observed)), Vec::<String>::new());
        assert_eq!((found.node.as_deref(), found.ingress), (Some("n1"), true));
        let shares =
            |status: &NodeStatus| status.vips[0].endpoints.iter().map(|e| e.buckets.clone()).collect::<BTreeSet<_>>();
        assert_eq!(shares(&meant), shares(&found), "{mode}");
        assert_eq!(found.vips[0].mode.as_deref(), Some(mode.as_str()));
        assert_eq!(traced(&cluster, &observed, 4000).disagreements, Vec::<String>::new(), "{mode}");
    }
}

#[test]
fn what_is_not_as_meant_is_named() {
    let cluster = two_pods(Mode::Gre);
    let mut observed = kernel(&cluster);
    let trace = traced(&cluster, &observed, 4000);
    let key = RouteKey { table: trace.owner.table.unwrap(), vip: ip(VIP) };
    observed.routes.insert(key, ObservedRoute::Unreachable);
    let line = format!(
        "{VIP}: bucket {} belongs to {}, and the route in the kernel says unreachable",
        trace.bucket,
        trace.owner.endpoint.unwrap()
    );
    assert_eq!(differences(&known(&cluster), &Seen::new(&observed)), std::slice::from_ref(&line));
    assert_eq!(traced(&cluster, &observed, 4000).disagreements, [line]);

    let hash = &mut observed.nft.as_mut().unwrap().chains.get_mut("vip").unwrap().hash;
    *hash = Some(ObservedHash { buckets: 16, seed: Some(5) });
    let found = differences(&known(&cluster), &Seen::new(&observed));
    assert!(found[0].contains("16 buckets with seed 0x5 by the kernel"), "{found:?}");
    observed.nft.as_mut().unwrap().sets.get_mut("vips").unwrap().elements.clear();
    let found = differences(&known(&cluster), &Seen::new(&observed));
    assert!(found[0].contains("does not take its packets in"), "{found:?}");
}

#[test]
fn a_narrower_route_than_the_way_allows_is_a_disagreement() {
    let cluster = two_pods(Mode::Vxlan);
    let mut observed = kernel(&cluster);
    let trace = traced(&cluster, &observed, 4000);
    assert_eq!(
        (trace.owner.mtu, trace.owner.mtu_reason.as_deref()),
        (Some(1464), Some(&*format!("1500 on the way to {} by eth0, less 36 for vxlan over IPv4", outer(&trace))))
    );
    let key = RouteKey { table: trace.owner.table.unwrap(), vip: ip(VIP) };
    let Some(ObservedRoute::Nhid { mtu, .. }) = observed.routes.get_mut(&key) else { panic!("no route") };
    *mtu = Some(1300);
    let found = traced(&cluster, &observed, 4000).disagreements;
    assert!(found.len() == 1 && found[0].contains("MTU is 1300"), "{found:?}");
}

/// The address in `default/echo-2 (10.244.1.2)`.
fn outer(trace: &Trace) -> String {
    let endpoint = trace.owner.endpoint.as_ref().unwrap();
    endpoint.split(['(', ')']).nth(1).unwrap().to_owned()
}

/// All buckets of a pod that is not ready have gone to the other one.
fn one_drains() -> Cluster {
    let [first, second] = on_nodes().try_into().unwrap();
    cluster(vec![draining_vip(VIP, Mode::Gre, vec![unready(first), second], &on_nodes())])
}

#[test]
fn drains_are_seen_by_both_and_traced_in_their_order() {
    let cluster = one_drains();
    let observed = kernel(&cluster);
    let (status, seen) = (known(&cluster), Seen::new(&observed));
    let found = seen.status();
    let buckets = |status: &NodeStatus| status.vips[0].draining.keys().copied().collect::<Vec<_>>();
    assert_eq!(buckets(&status).len(), 8);
    assert_eq!(buckets(&status), buckets(&found));
    assert_eq!(status.vips[0].tunnel_ids, found.vips[0].tunnel_ids);
    assert_eq!(differences(&status, &seen), Vec::<String>::new());
    let of = |protocol| {
        let all = (4000..4100).map(|port| TracedFlow { protocol, ..flow(port) });
        let all = all.map(|flow| trace(&flow, &status, &seen, &Honest::new(&observed)).unwrap()).collect::<Vec<_>>();
        assert!(all.iter().all(|trace| trace.disagreements.is_empty()), "{all:?}");
        all
    };
    let (tcp, udp) = (of(Protocol::Tcp), of(Protocol::Udp));
    assert!(tcp.iter().all(|trace| trace.owner.endpoint.as_deref() == Some("default/echo-3 (10.244.2.3)")));
    assert!(udp.iter().all(|trace| trace.then.is_empty()), "a pod that is not ready keeps no datagrams");
    let draining: Vec<&Trace> = tcp.iter().filter(|trace| !trace.then.is_empty()).collect();
    assert!(!draining.is_empty() && draining.len() < tcp.len());
    assert!(draining.iter().all(|trace| trace.then == ["default/echo-2 (10.244.1.2)"]));
    let text = text::trace(draining[0]);
    assert!(
        text.contains("then           default/echo-2 (10.244.1.2), for connections that are not its own"),
        "{text}"
    );
}

#[test]
fn the_tables_of_the_program_are_compared_with_whom_the_agent_names() {
    let cluster = one_drains();
    let observed = kernel(&cluster);
    let intent = cluster.vips().next().unwrap().intent.clone().unwrap();
    let status = Known { second_chances: Some((7, Counts::default())), ..knowing(&cluster) }.status();
    let right = VipNames::of(&intent).unwrap();
    let drained = (4000..4100).map(flow).find(|flow| {
        let trace = trace(flow, &status, &Seen::new(&observed), &Honest::new(&observed)).unwrap();
        assert_eq!(trace.tables_agree, None, "no pod of this node has the VIP");
        !trace.then.is_empty()
    });
    let traced = |names: VipNames| {
        let kernel = Honest { names: Some(names), ..Honest::new(&observed) };
        trace(drained.as_ref().unwrap(), &status, &Seen::new(&observed), &kernel).unwrap()
    };
    let found = traced(right.clone());
    assert_eq!((found.tables_agree, found.disagreements.clone()), (Some(true), vec![]));
    assert!(text::trace(&found).contains("kernel         agrees, and so do the tables of the program"), "{found:?}");

    let first = Name::new(1).unwrap();
    let mut without = right.clone();
    without.endpoints.remove(&first);
    let found = traced(without);
    assert_eq!(found.tables_agree, Some(false));
    assert!(found.disagreements[0].contains("knows nobody of name 1"), "{found:?}");

    let mut elsewhere = right;
    elsewhere.endpoints.insert(first, std::net::Ipv4Addr::new(10, 9, 9, 9).into());
    let found = traced(elsewhere).disagreements;
    assert!(found.len() == 1 && found[0].contains("sends what is for it to 10.9.9.9"), "{found:?}");
}

#[test]
fn an_id_that_is_not_as_meant_is_named() {
    let cluster = one_drains();
    let observed = kernel(&cluster);
    let mut status = known(&cluster);
    let bucket = *status.vips[0].tunnel_ids.keys().next().unwrap();
    status.vips[0].tunnel_ids.insert(bucket, 5);
    let found = differences(&status, &Seen::new(&observed));
    assert!(found.len() == 1 && found[0].contains("with id 5"), "{found:?}");
}

#[test]
fn problems_of_the_node_are_told_apart_from_those_of_services() {
    let cluster = two_pods(Mode::Gre);
    let problem = |subject, reason| Problem { subject, reason, note: "no".to_owned() };
    let service = &cluster.vips().next().unwrap().service;
    let problems = BTreeSet::from([
        problem(service.into(), Reason::InvalidVip),
        problem(Subject::Node(cluster.node_ref("n1")), Reason::NotForwarding),
    ]);
    let status = Known { problems, ..knowing(&cluster) }.status();
    let of_services = [ProblemStatus { service: service.to_string(), reason: "InvalidVIP".into(), note: "no".into() }];
    assert_eq!(status.problems, of_services);
    assert_eq!(status.node_problems, [NodeProblemStatus { reason: "NotForwarding".into(), note: "no".into() }]);
}

#[test]
fn people_read_tables() {
    let mut status = known(&one_drains());
    status.vips[0].endpoints[0].connections = Some(3);
    status.vips[0].draining.values_mut().next().unwrap()[0].connections = Some(2);
    status.problems.push(ProblemStatus { service: "default/x".into(), reason: "InvalidVIP".into(), note: "no".into() });
    let generation = status.vips[0].generation.unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        text::status(&status),
        format!(
            "\
node n1: ingress, agent {version}, ready

VIP         SERVICE                 MODE  BUCKETS  DRAINING  MAP  ANNOUNCED
192.0.2.10  default/svc-192.0.2.10  gre   16       8         #{generation}   no

VIP         ENDPOINT        NODE  ADDRESS     STATE      BUCKETS    DRAINING  CONNECTIONS
192.0.2.10  default/echo-2  n1    10.244.1.2  not ready  0 (0%)     8         3 (2 draining)
192.0.2.10  default/echo-3  n2    10.244.2.3  ready      16 (100%)  0         -

problems:
  default/x InvalidVIP: no
"
        )
    );
    let short = ShortStatus { endpoint: "uid-2".into(), share: 8, announced: 0, former: vec!["uid-3".into()] };
    let announced = ShortStatus { announced: 5, ..short.clone() };
    status.vips[0].short.extend([short, announced]);
    let pair = PairStatus { from: ip("10.0.0.1"), to: ip("10.0.0.2"), passed: Some(3), received: None };
    status.second_chances = Some(SecondChanceStatus { program: 7, packets: BTreeMap::new(), pairs: vec![pair] });
    let text = text::status(&status);
    assert!(
        text.contains("192.0.2.10 default/echo-2 has 0 of 8 buckets until connections of default/echo-3 end\n"),
        "{text}"
    );
    assert!(text.contains("192.0.2.10 default/echo-2 has 0 of 8 buckets until nodes know of 5 more\n"), "{text}");
    assert!(text.contains("  from 10.0.0.1 to 10.0.0.2: passed on 3\n"), "{text}");
    let anything = text::status(&NodeStatus { any_address: true, ..status.clone() });
    assert!(anything.contains("any free address may become a VIP (--vip-cidrs limits that)\n"), "{anything}");
    let told = NodeProblemStatus { reason: "NotForwarding".into(), note: "node n1 does not forward IPv4".into() };
    let troubled = text::status(&NodeStatus { node_problems: vec![told], ..status });
    let head =
        format!("node n1: ingress, agent {version}, ready\n  NotForwarding: node n1 does not forward IPv4\n\nVIP ");
    assert!(troubled.starts_with(&head), "{troubled}");
    let none = NodeStatus { vips: Vec::new(), ..NodeStatus::default() };
    assert_eq!(text::status(&none), "node of unknown name: no ingress, as the kernel has it\n\nno VIPs\n");
}

#[test]
fn what_cannot_be_traced_is_said_with_the_remedy() {
    let cluster = two_pods(Mode::Gre);
    let observed = kernel(&cluster);
    let seen = Seen::new(&observed);
    let error = |flow: TracedFlow, status: &NodeStatus| {
        trace(&flow, status, &seen, &Honest::new(&observed)).unwrap_err().to_string()
    };
    let status = known(&cluster);
    let other = TracedFlow { dst: ip("192.0.2.11"), ..flow(1) };
    assert_eq!(error(other, &status), "192.0.2.11 is no VIP on this node; VIPs are: 192.0.2.10");
    let portless = TracedFlow { ports: None, ..flow(1) };
    assert!(error(portless.clone(), &status).contains("write 198.51.100.7:PORT and 192.0.2.10:PORT"));
    let elsewhere = NodeStatus { ingress: false, ..status.clone() };
    assert!(error(flow(1), &elsewhere).ends_with("these do: n1, n2"));
    let icmp = TracedFlow { protocol: Protocol::Icmp, ..portless };
    assert!(trace(&icmp, &status, &seen, &Honest::new(&observed)).is_ok());
    assert!(matches!(
        trace(&flow(1), &NodeStatus { vips: Vec::new(), ..status }, &seen, &Honest::new(&observed)),
        Err(TraceError::NoVip(_, none)) if none == "none"
    ));
}
