//! Any history of goals, with the agent killed between any two steps, ends in what was asked for last; and removing that ends in
//! what was there before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::fake::FakeKernel;
use super::support::{
    bare_vip, both, cluster, draining_vip, endpoint, following, ip, next_map, published, routes, settings, unready,
    with_nodes,
};
use crate::model::{Addresses, Bucket, Cluster, Endpoint, Family, Mode, Vip};
use crate::plan::diff::diff;
use crate::plan::nft::seen;
use crate::plan::node::{RouteFact, Routes, desired_node};
use crate::plan::observed::ObservedRoute;
use crate::plan::pod::{PodInput, desired_pod};
use crate::plan::programmed::{Around, Ask, Doubts, Programmed};
use crate::plan::rule::walk;
use crate::plan::{Desired, Nexthop, Observed, Plan, RouteKey, RuleSpec, Settings, Step};

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Gre), Just(Mode::Mpls), Just(Mode::Vxlan)]
}

fn any_vip() -> impl Strategy<Value = String> {
    (0_u8..4, any::<bool>()).prop_map(|(n, v4)| if v4 { format!("192.0.2.{n}") } else { format!("2001:db8::1{n}") })
}

/// What a cluster publishes: IPv4, IPv6 or both.
fn families() -> impl Strategy<Value = Vec<Family>> {
    prop_oneof![Just(vec![Family::V4]), Just(vec![Family::V6]), Just(vec![Family::V4, Family::V6])]
}

/// Up to three VIPs of either family, each in some mode with some of six pods on two nodes. Some were there when the buckets
/// were given out first, some are not ready. Without any that was there before, there is no map.
fn any_cluster() -> impl Strategy<Value = Cluster> {
    let pods = || proptest::collection::btree_set(2_u8..8, 0..6);
    let one = (any_vip(), mode(), pods(), pods(), pods());
    (proptest::collection::vec(one, 0..3), families()).prop_map(|(vips, families)| {
        let pod = |n: u8| published(endpoint(n, if n.is_multiple_of(2) { "n1" } else { "n2" }), &families);
        let build =
            |(address, mode, pods, before, not_ready): (String, Mode, BTreeSet<u8>, BTreeSet<u8>, BTreeSet<u8>)| {
                let now =
                    pods.into_iter().map(|n| if not_ready.contains(&n) { unready(pod(n)) } else { pod(n) }).collect();
                match before.is_empty() {
                    true => bare_vip(&address, mode, now),
                    false => draining_vip(&address, mode, now, &before.into_iter().map(pod).collect::<Vec<_>>()),
                }
            };
        with_nodes(cluster(vips.into_iter().map(build).collect()), &families)
    })
}

fn any_pod() -> impl Strategy<Value = PodInput> {
    let vips = proptest::collection::btree_map(any_vip(), mode(), 0..4);
    let (peers, program) = (proptest::collection::btree_set(3_u8..6, 0..3), proptest::option::of(7_u32..9));
    (vips, families(), peers, program).prop_map(|(vips, outer, peers, program)| {
        let of = |address: IpAddr| outer.iter().filter_map(move |family| both(address).of(*family));
        PodInput {
            vips: vips.into_iter().map(|(address, mode)| (ip(&address), mode)).collect(),
            addresses: Addresses::first_of(&of(ip("10.244.1.2")).collect::<Vec<_>>()),
            outer: outer.iter().copied().collect(),
            nodes: BTreeSet::from([ip("10.0.0.1")]),
            underlay_mtu: None,
            peers: peers.into_iter().flat_map(|n| of(IpAddr::from([10, 244, 2, n]))).collect(),
            program,
        }
    })
}

fn plan(desired: &Desired, observed: &Observed) -> Plan {
    diff(desired, observed, &BTreeMap::new(), "kst-")
}

/// Applies each goal, stopping after some steps, then the last one completely, then nothing.
fn live(mut kernel: FakeKernel, goals: &[(impl Fn(&Observed) -> Desired, usize)]) -> Result<(), TestCaseError> {
    let untouched = kernel.clone();
    for (goal, steps) in goals {
        kernel.apply(&plan(&goal(&kernel.observed), &kernel.observed), *steps);
    }
    if let Some((goal, _)) = goals.last() {
        kernel.apply(&plan(&goal(&kernel.observed), &kernel.observed), usize::MAX);
        let again = plan(&goal(&kernel.observed), &kernel.observed);
        prop_assert!(again.is_empty(), "not converged:\n{again}");
    }
    kernel.apply(&plan(&Desired::default(), &kernel.observed), usize::MAX);
    prop_assert_eq!(kernel, untouched);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_node_converges_from_every_half_done_state_and_is_left_as_it_was(
        goals in proptest::collection::vec((any_cluster(), 0_usize..60), 1..5),
    ) {
        let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
        for n in (2..8).step_by(2) {
            kernel.device(&format!("veth{n}"), false, 1500);
        }
        let goals: Vec<_> = goals
            .into_iter()
            .map(|(cluster, steps)| (move |_: &Observed| desired_node(&cluster, &routes(&cluster), &settings("n1")).0, steps))
            .collect();
        live(kernel, &goals)?;
    }

    #[test]
    fn a_pod_converges_from_every_half_done_state_and_is_left_as_it_was(
        goals in proptest::collection::vec((any_pod(), 0_usize..20), 1..5),
    ) {
        let goals: Vec<_> = goals
            .into_iter()
            .map(|(pod, steps)| (move |o: &Observed| desired_pod(&pod, o, &settings("n1")).unwrap(), steps))
            .collect();
        live(FakeKernel::new("eth0", "10.244.1.2"), &goals)?;
    }

    #[test]
    fn while_a_vip_is_switched_on_every_bucket_has_a_route(
        before in any_cluster(), after in any_cluster(), steps in 0_usize..200,
    ) {
        let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
        for n in (2..8).step_by(2) {
            kernel.device(&format!("veth{n}"), false, 1500);
        }
        for (cluster, limit) in [(&before, usize::MAX), (&after, steps)] {
            let desired = desired_node(cluster, &routes(cluster), &settings("n1")).0;
            kernel.apply(&plan(&desired, &kernel.observed), limit);
        }
        let sets = kernel.observed.nft.iter().flat_map(|t| &t.sets);
        let on: BTreeSet<String> =
            sets.filter(|(name, _)| ["vips", "vips6"].contains(&name.as_str())).flat_map(|(_, s)| s.elements.clone()).collect();
        for vip in on {
            for table in 10_000..10_016 {
                let key = RouteKey { table, vip: ip(&vip) };
                prop_assert!(kernel.observed.routes.contains_key(&key), "{vip} is switched on, but table {table} is empty");
            }
        }
    }
}

/// A VIP, its mode and its pods.
type Asked = (String, Mode, BTreeSet<u8>);
/// Whether a VIP is there, which pods owned its buckets first, which are not ready, and which are not there.
type Turn = (bool, BTreeSet<u8>, BTreeSet<u8>, BTreeSet<u8>);

/// Up to three VIPs, and what becomes of them, turn by turn.
fn any_turns() -> impl Strategy<Value = (Vec<Asked>, Vec<Vec<Turn>>)> {
    let pods = || proptest::collection::btree_set(2_u8..8, 0..5);
    let absent = || prop_oneof![2 => Just(BTreeSet::new()), 1 => proptest::collection::btree_set(2_u8..8, 1..3)];
    let carried = prop_oneof![Just(Mode::Gre), Just(Mode::Vxlan), Just(Mode::Mpls)];
    let vips = proptest::collection::vec((any_vip(), carried, proptest::collection::btree_set(2_u8..8, 1..6)), 1..4);
    let (is_there, before) = (proptest::bool::weighted(0.8), proptest::collection::btree_set(2_u8..8, 1..3));
    let turn = proptest::collection::vec((is_there, before, pods(), absent()), 4);
    (vips, proptest::collection::vec(turn, 2..6))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Where the change of some VIPs is said to take so much, nothing else is to be done afterwards.
    #[test]
    fn what_is_done_without_a_look_leaves_nothing_to_do(
        (vips, turns) in any_turns(), nobody_mapped in any::<bool>(), announces in any::<bool>(),
        bridged in any::<bool>(), ingress in proptest::bool::weighted(0.8),
    ) {
        let settings = Settings { announce_table: announces.then_some(107), ..settings("n1") };
        let of = |turn: &[Turn]| {
            let pod = |n: &u8| endpoint(*n, if *n >= 6 { "n1" } else { "n2" });
            let build = |((address, mode, pods), (_, before, not_ready, absent)): (&Asked, &Turn)| {
                let now = pods.difference(absent);
                let now = now.map(|n| if not_ready.contains(n) { unready(pod(n)) } else { pod(n) }).collect();
                match nobody_mapped && before.contains(&2) {
                    true => bare_vip(address, *mode, now),
                    false => draining_vip(address, *mode, now, &before.iter().map(pod).collect::<Vec<_>>()),
                }
            };
            let there = vips.iter().zip(turn).filter(|(_, (is_there, ..))| *is_there);
            let mut cluster = cluster(there.map(build).collect());
            cluster.nodes.values_mut().for_each(|node| node.ingress = ingress);
            Arc::new(cluster)
        };
        let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
        ["veth6", "veth7", "cni0"].into_iter().for_each(|device| kernel.device(device, false, 1500));
        let mut programmed = None::<Programmed>;
        for turn in &turns {
            let cluster = of(turn);
            let routes = if bridged { behind_a_bridge(routes(&cluster)) } else { routes(&cluster) };
            let (desired, problems) = desired_node(&cluster, &routes, &settings);
            let step = |programmed: &mut Programmed| programmed.step(&cluster, &settings, &mut Ways(Some(routes.clone())));
            let steps = match programmed.as_mut().and_then(step) {
                Some(steps) => steps,
                None => {
                    let (of, from) = ((cluster.clone(), routes, around()), (&desired, &kernel.observed));
                    programmed = Programmed::new(of, from, problems.clone(), &settings);
                    plan(&desired, &kernel.observed)
                }
            };
            kernel.apply(&steps, usize::MAX);
            let again = plan(&desired, &kernel.observed);
            prop_assert!(again.is_empty(), "after\n{steps}\nthere is left\n{again}");
            prop_assert_eq!(programmed.as_ref().map(Programmed::problems), Some(&problems[..]));
        }
    }
}

/// A node that knows these ways, and depends on nobody.
struct Ways(Option<Routes>);

impl Ask for Ways {
    fn routes(&mut self, to: &BTreeSet<IpAddr>) -> Option<Routes> {
        Some(self.0.clone()?.into_iter().filter(|(address, _)| to.contains(address)).collect())
    }

    fn depends_on(&mut self, _: &BTreeSet<IpAddr>) -> bool {
        false
    }
}

/// The same ways, but that the node's own pods are behind one bridge, which has an address.
fn behind_a_bridge(routes: Routes) -> Routes {
    let bridge = |fact: RouteFact| RouteFact { dev: "cni0".into(), bare: false, bridge: true, ..fact };
    routes.into_iter().map(|(to, fact)| (to, if fact.bare { bridge(fact) } else { fact })).collect()
}

fn around() -> Around {
    Around { announces: Family::ALL.into_iter().collect(), taken: BTreeSet::new() }
}

/// A node that has nothing but what this cluster takes.
fn programmed(cluster: &Arc<Cluster>) -> Programmed {
    let (desired, problems) = desired_node(cluster, &routes(cluster), &settings("n1"));
    let kernel = FakeKernel::new("eth0", "10.0.0.1");
    let of = (cluster.clone(), routes(cluster), around());
    Programmed::new(of, (&desired, &kernel.observed), problems, &settings("n1")).unwrap()
}

#[test]
fn a_service_that_comes_takes_its_own_routes_and_elements_and_leaves_none() {
    let pods = |n| vec![endpoint(n, "n2"), endpoint(n + 1, "n2")];
    let vip = |address, n| draining_vip(address, Mode::Gre, pods(n), &pods(n));
    let of = |vips| Arc::new(cluster(vips));
    let (one, both) = (of(vec![vip("192.0.2.10", 3)]), of(vec![vip("192.0.2.10", 3), vip("192.0.2.11", 4)]));
    let mut programmed = programmed(&one);
    let mut printed = |to: &Arc<Cluster>| -> Vec<String> {
        let plan = programmed.step(to, &settings("n1"), &mut Ways(Some(routes(to)))).expect("simple");
        plan.steps.into_iter().map(|step| step.to_string()).filter(|step| !step.starts_with("ip route")).collect()
    };
    let table = "inet kube_service_tunnel";
    let nft = |lines: &[String]| format!("nft -f - <<'EOF'\n{}\nEOF", lines.join("\n"));
    let element = |action: &str, element: &str| format!("{action} element {table} {element}");
    let nexthop =
        "ip nexthop replace id 1795162114 encap ip id 0 src 10.0.0.1 dst 10.244.2.5 ttl 64 dev kst-gre protocol 107";
    assert_eq!(
        printed(&both),
        [
            nft(&[
                element("add", "served { 192.0.2.11 }"),
                element("add", "error_source { 3221225995 : 192.0.2.11 }"),
                element("add", "endpoints { 10.244.2.5 }"),
            ]),
            nexthop.to_owned(),
            nft(&[element("add", "vips { 192.0.2.11 }")]),
        ]
    );
    assert_eq!(
        printed(&one),
        [
            nft(&[element("delete", "vips { 192.0.2.11 }")]),
            "ip nexthop del id 1795162114".to_owned(),
            nft(&[
                element("delete", "served { 192.0.2.11 }"),
                element("delete", "error_source { 3221225995 }"),
                element("delete", "endpoints { 10.244.2.5 }"),
            ]),
        ]
    );
    assert_eq!(printed(&one), [""; 0]);
}

#[test]
fn veths_of_others_matter_where_a_route_leads_through_one_or_another_way_by_now() {
    let pods = || vec![endpoint(2, "n1"), endpoint(3, "n2")];
    let cluster = Arc::new(cluster(vec![draining_vip("192.0.2.10", Mode::Gre, pods(), &pods())]));
    let ways = routes(&cluster);
    let programmed = {
        let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
        kernel.device("veth2", false, 1500);
        let (desired, problems) = desired_node(&cluster, &ways, &settings("n1"));
        let of = (cluster.clone(), ways.clone(), around());
        Programmed::new(of, (&desired, &kernel.observed), problems, &settings("n1")).unwrap()
    };
    let is_as_before = |veths: &[&str], ways: Option<Routes>| {
        let veths = veths.iter().map(|name| (*name).to_owned()).collect();
        programmed.is_as_before(&Doubts { veths, routes: false }, &mut Ways(ways))
    };
    assert!(is_as_before(&[], None), "nothing is asked");
    assert!(is_as_before(&["veth9"], Some(ways.clone())));
    assert!(!is_as_before(&["veth9", "eth0"], Some(ways.clone())), "other nodes are behind it");
    assert!(!is_as_before(&["veth2"], Some(ways.clone())), "a pod is behind it");
    let mut elsewhere = ways.clone();
    elsewhere.get_mut(&ip("10.244.1.2")).unwrap().dev = "veth9".into();
    assert!(!is_as_before(&["veth9"], Some(elsewhere)), "the pod is behind another one now");
    assert!(!is_as_before(&["veth9"], None), "nobody can tell");
}

#[test]
fn an_address_that_goes_to_a_pod_of_this_node_takes_a_look() {
    let of = |node: &str| {
        let pods = vec![endpoint(2, "n1"), Endpoint { node: node.into(), ..endpoint(3, "n2") }];
        Arc::new(cluster(vec![draining_vip("192.0.2.10", Mode::Gre, pods, &[endpoint(2, "n1")])]))
    };
    let (before, after) = (of("n2"), of("n1"));
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    kernel.device("veth2", false, 1500);
    let (desired, problems) = desired_node(&before, &routes(&before), &settings("n1"));
    let of = (before.clone(), routes(&before), around());
    let mut programmed = Programmed::new(of, (&desired, &kernel.observed), problems, &settings("n1")).unwrap();
    assert!(programmed.step(&after, &settings("n1"), &mut Ways(Some(routes(&after)))).is_none());
}

#[test]
fn a_pod_without_a_route_takes_a_look_when_there_is_one() {
    let pods = || vec![endpoint(3, "n2"), endpoint(5, "n2")];
    let cluster = Arc::new(cluster(vec![draining_vip("192.0.2.10", Mode::Gre, pods(), &pods())]));
    let ways = routes(&cluster);
    let mut without = ways.clone();
    without.remove(&ip("10.244.2.5"));
    let (desired, problems) = desired_node(&cluster, &without, &settings("n1"));
    assert_eq!(problems.len(), 1);
    let of = (cluster.clone(), without.clone(), around());
    let kernel = FakeKernel::new("eth0", "10.0.0.1");
    let programmed = Programmed::new(of, (&desired, &kernel.observed), problems, &settings("n1")).unwrap();
    let is_as_before =
        |routes, ways| programmed.is_as_before(&Doubts { routes, ..Doubts::default() }, &mut Ways(Some(ways)));
    assert!(is_as_before(true, without.clone()));
    assert!(!is_as_before(true, ways.clone()));
    assert!(is_as_before(false, ways), "nothing is asked");
}

#[test]
fn a_vip_that_the_node_needs_for_itself_takes_a_look() {
    struct Depends(Ways);
    impl Ask for Depends {
        fn routes(&mut self, to: &BTreeSet<IpAddr>) -> Option<Routes> {
            self.0.routes(to)
        }

        fn depends_on(&mut self, vips: &BTreeSet<IpAddr>) -> bool {
            vips.contains(&ip("192.0.2.11"))
        }
    }
    let pods = || vec![endpoint(3, "n2")];
    let of = |vips: &[&str]| {
        Arc::new(cluster(vips.iter().map(|vip| draining_vip(vip, Mode::Gre, pods(), &pods())).collect()))
    };
    let mut node = Depends(Ways(Some(routes(&of(&["192.0.2.10"])))));
    let programmed = programmed(&of(&["192.0.2.10"]));
    let mut step = |vips: &[&str]| programmed.clone().step(&of(vips), &settings("n1"), &mut node).is_some();
    assert!(!step(&["192.0.2.10", "192.0.2.11"]) && step(&["192.0.2.10", "192.0.2.12"]));
    // An address of its own, or the next hop of its routes, as it was seen later.
    let mut of_taken = programmed.clone();
    of_taken.see(Around { taken: [ip("192.0.2.12")].into(), ..around() });
    let mut step = |vips: &[&str]| of_taken.clone().step(&of(vips), &settings("n1"), &mut node).is_some();
    assert!(!step(&["192.0.2.10", "192.0.2.12"]) && step(&["192.0.2.10", "192.0.2.13"]));
}

#[test]
fn another_owner_takes_next_hops_and_routes_and_nothing_else() {
    let endpoints = vec![endpoint(3, "n2"), endpoint(5, "n2")];
    let of = |first: Endpoint| {
        let now = vec![first, endpoints[1].clone()];
        let other = draining_vip("192.0.2.11", Mode::Vxlan, endpoints.clone(), &endpoints);
        Arc::new(cluster(vec![draining_vip("192.0.2.10", Mode::Gre, now, &endpoints), other]))
    };
    let (before, after) = (of(endpoints[0].clone()), of(unready(endpoints[0].clone())));
    let mut programmed = programmed(&before);
    let steps = programmed.step(&after, &settings("n1"), &mut Ways(None)).expect("simple").steps;
    let routes =
        steps.iter().filter(|step| matches!(step, Step::ReplaceRoute(key, _) if key.vip == ip("192.0.2.10"))).count();
    let nexthops = steps.iter().filter(|step| matches!(step, Step::ReplaceNexthop(..) | Step::DelNexthop(_))).count();
    // Half of the buckets; the next hop with a name comes, the one without goes.
    assert_eq!((routes, nexthops, steps.len()), (8, 2, 10), "{steps:?}");
    assert_eq!(programmed.step(&after, &settings("n1"), &mut Ways(None)).map(|plan| plan.steps), Some(Vec::new()));
}

#[test]
fn another_pod_elsewhere_takes_its_address_besides() {
    let endpoints = vec![endpoint(3, "n2"), endpoint(5, "n2")];
    let of = |now: Vec<Endpoint>| Arc::new(cluster(vec![draining_vip("192.0.2.10", Mode::Gre, now, &endpoints)]));
    let programmed = programmed(&of(endpoints.clone()));
    let steps = |now: Vec<Endpoint>| {
        let (after, mut programmed) = (of(now), programmed.clone());
        let plan = programmed.step(&after, &settings("n1"), &mut Ways(Some(routes(&after))));
        plan.map(|plan| plan.steps.into_iter().map(|step| step.to_string()).collect::<Vec<_>>())
    };
    let replaced = steps(vec![endpoint(4, "n2"), endpoints[1].clone()]).expect("simple");
    assert_eq!(replaced[0], "nft -f - <<'EOF'\nadd element inet kube_service_tunnel endpoints { 10.244.2.4 }\nEOF");
    assert!(replaced.len() > 1 && replaced[1..].iter().all(|step| step.starts_with("ip ")), "{replaced:?}");
    // The map names the old one still.
    assert_eq!(steps(vec![endpoint(2, "n1"), endpoints[1].clone()]), None, "a pod of this node takes more");
    // A daemon was later than the pod, and the route is another by the time that the pod gets buckets.
    let mut late = programmed.clone();
    let (before, after) = (endpoint(4, "n2"), of(vec![endpoint(4, "n2"), endpoints[1].clone()]));
    let waits = of(vec![unready(before), endpoints[0].clone(), endpoints[1].clone()]);
    assert!(late.step(&waits, &settings("n1"), &mut Ways(Some(routes(&waits)))).is_some());
    let other = |mtu| routes(&after).into_iter().map(|(to, fact)| (to, RouteFact { mtu, ..fact })).collect();
    assert!(late.clone().step(&after, &settings("n1"), &mut Ways(Some(other(1480)))).is_none(), "more than is known");
    assert!(late.step(&after, &settings("n1"), &mut Ways(Some(other(1500)))).is_some());
    let unready = steps(vec![unready(endpoint(4, "n2")), endpoints[0].clone(), endpoints[1].clone()]);
    assert_eq!(unready.map(|steps| steps.len()), Some(1), "not yet an owner");
}

/// The next hop of a bucket, as the rules and routes of a node lead to it.
fn next_hop(observed: &Observed, vip: IpAddr, bucket: Bucket) -> Option<String> {
    let mark = settings("n1").mark.mark(bucket);
    let rules: Vec<RuleSpec> = observed.rules.iter().filter_map(|rule| rule.spec).collect();
    let table = walk(&rules, mark, |table| observed.routes.contains_key(&RouteKey { table, vip })).tables.pop()?;
    let ObservedRoute::Nhid { id, .. } = observed.routes.get(&RouteKey { table, vip })? else { return None };
    observed.nexthops.get(id)?.spec.as_ref().map(Nexthop::to_string)
}

#[test]
fn at_every_step_a_bucket_goes_to_its_former_owner_or_names_it() {
    let endpoints = vec![endpoint(3, "n2"), endpoint(5, "n2")];
    let gone = vec![unready(endpoints[0].clone()), endpoints[1].clone()];
    let of = |now: &[Endpoint]| cluster(vec![draining_vip("192.0.2.10", Mode::Gre, now.to_vec(), &endpoints)]);
    let desired = |cluster: &Cluster| desired_node(cluster, &routes(cluster), &settings("n1")).0;
    let (before, after) = (desired(&of(&endpoints)), desired(&of(&gone)));
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    kernel.apply(&plan(&before, &kernel.observed), usize::MAX);
    let to = |dst: &str, rest: &str| format!("src 10.0.0.1 dst {dst} ttl 64{rest} dev kst-gre");
    let (former, stays) = (to("10.244.2.3", ""), to("10.244.2.5", ""));
    // The name of the first pod.
    let handed_over = format!("encap ip id 1 {}", to("10.244.2.5", " key"));
    let seen = |kernel: &FakeKernel| -> Vec<String> {
        let vip = ip("192.0.2.10");
        (0..16).map(|b| next_hop(&kernel.observed, vip, Bucket::new(b).unwrap()).expect("a next hop")).collect()
    };
    let first = seen(&kernel);
    assert_eq!(first.iter().filter(|hop| hop.ends_with(&former)).count(), 8, "{first:?}");
    for (from, goal) in [(&before, &after), (&after, &before)] {
        kernel.apply(&plan(from, &kernel.observed), usize::MAX);
        let steps = plan(goal, &kernel.observed);
        for cut in 0..=steps.steps.len() {
            let mut kernel = kernel.clone();
            kernel.apply(&steps, cut);
            for (hop, was) in seen(&kernel).iter().zip(&first) {
                let is_right = if was.ends_with(&stays) { hop == was } else { hop == was || *hop == handed_over };
                assert!(is_right, "{was} became {hop} after {cut} steps of\n{steps}");
            }
        }
    }
    kernel.apply(&plan(&after, &kernel.observed), usize::MAX);
    assert_eq!(seen(&kernel).iter().filter(|hop| **hop == handed_over).count(), 8);
}

#[test]
fn at_every_step_a_syn_is_refused_or_goes_to_a_ready_owner() {
    let endpoints = vec![endpoint(3, "n2"), endpoint(5, "n2")];
    let nobody: Vec<Endpoint> = endpoints.iter().cloned().map(unready).collect();
    let refusing = draining_vip("192.0.2.10", Mode::Gre, nobody.clone(), &endpoints);
    let one = vec![nobody[0].clone(), endpoints[1].clone()];
    let map = next_map(refusing.map.as_ref().unwrap(), &one);
    let served = following(bare_vip("192.0.2.10", Mode::Gre, one), map);
    let desired = |vip: Vip| {
        let cluster = cluster(vec![vip]);
        desired_node(&cluster, &routes(&cluster), &settings("n1")).0
    };
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    kernel.apply(&plan(&desired(refusing), &kernel.observed), usize::MAX);
    let steps = plan(&desired(served), &kernel.observed);
    for cut in 0..=steps.steps.len() {
        let mut kernel = kernel.clone();
        kernel.apply(&steps, cut);
        let table = kernel.observed.nft.as_ref().unwrap();
        let has_rule =
            table.chains["forward"].comments.iter().any(|rule| rule.contains("nobody takes new connections"));
        for bucket in settings("n1").buckets.iter() {
            let vip = ip("192.0.2.10");
            let is_refused = has_rule && seen::refuses(table, vip, settings("n1").mark.mark(bucket));
            let hop = next_hop(&kernel.observed, vip, bucket).expect("a next hop");
            assert!(is_refused || hop.contains("dst 10.244.2.5"), "{hop} after {cut} steps of\n{steps}");
        }
    }
    kernel.apply(&steps, usize::MAX);
    assert!(!kernel.observed.nft.unwrap().sets.contains_key("refusing"));
}
