//! Any history of goals, with the agent killed between any two steps, ends in what was asked for last; and removing that ends in
//! what was there before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::fake::FakeKernel;
use super::support::{
    both, cluster, draining_vip, endpoint, ip, published, routes, settings, unprepared, vip, with_nodes,
};
use crate::model::{Addresses, Bucket, Cluster, Endpoint, Family, Mode};
use crate::plan::diff::diff;
use crate::plan::node::desired_node;
use crate::plan::observed::ObservedRoute;
use crate::plan::pod::{PodDrain, PodInput, desired_pod};
use crate::plan::{Desired, Nexthop, Observed, Plan, RouteKey, RuleAction};

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

/// Up to three VIPs of either family, each in some mode with some of six pods on two nodes, of which some were there when
/// the buckets were shared out first, and some do not take new connections any more.
fn any_cluster() -> impl Strategy<Value = Cluster> {
    let pods = || proptest::collection::btree_set(2_u8..8, 0..6);
    let one = (any_vip(), mode(), pods(), pods(), pods());
    (proptest::collection::vec(one, 0..3), families()).prop_map(|(vips, families)| {
        let pod = |n: u8| published(endpoint(n, if n.is_multiple_of(2) { "n1" } else { "n2" }), &families);
        let build =
            |(address, mode, pods, before, unready): (String, Mode, BTreeSet<u8>, BTreeSet<u8>, BTreeSet<u8>)| {
                let now = pods.into_iter().map(|n| Endpoint { eligible: !unready.contains(&n), ..pod(n) }).collect();
                match before.is_empty() {
                    true => vip(&address, mode, now),
                    false => draining_vip(&address, mode, now, &before.into_iter().map(pod).collect::<Vec<_>>()),
                }
            };
        with_nodes(cluster(vips.into_iter().map(build).collect()), &families)
    })
}

fn any_pod() -> impl Strategy<Value = PodInput> {
    let next = (any_vip(), 0_u32..16, 3_u8..6);
    let drains = (proptest::collection::vec(next, 0..6), proptest::collection::btree_set(3_u8..6, 0..3));
    let vips = proptest::collection::btree_map(any_vip(), mode(), 0..4);
    (vips, families(), drains).prop_map(|(vips, outer, (onward, peers))| {
        let pod = |n: u8| {
            Addresses::first_of(
                &outer.iter().filter_map(|f| both(IpAddr::from([10, 244, 2, n])).of(*f)).collect::<Vec<_>>(),
            )
        };
        let onward = onward.into_iter().filter(|(vip, _, _)| vips.contains_key(vip));
        let drain = PodDrain {
            onward: onward.map(|(vip, bucket, n)| ((ip(&vip), Bucket::new(bucket).unwrap()), pod(n))).collect(),
            hashed: vips.keys().map(|vip| (ip(vip), (settings("n1").flows(), false))).collect(),
            peers: peers.into_iter().flat_map(|n| pod(n).iter().collect::<Vec<_>>()).collect(),
        };
        let known = both(ip("10.244.1.2"));
        let addresses: Vec<_> = outer.iter().filter_map(|family| known.of(*family)).collect();
        PodInput {
            vips: vips.into_iter().map(|(address, mode)| (ip(&address), mode)).collect(),
            addresses: Addresses::first_of(&addresses),
            outer: outer.into_iter().collect(),
            nodes: BTreeSet::from([ip("10.0.0.1")]),
            underlay_mtu: None,
            drain,
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

/// Where a node sends a packet of a bucket that opens no connection: the outer destination.
fn open_connection_goes_to(observed: &Observed, vip: IpAddr, bucket: Bucket) -> Option<IpAddr> {
    let settings = settings("n1");
    let mark = settings.mark.mark(bucket);
    let draining = observed.nft.as_ref()?.sets.get("draining");
    let diverted = draining.is_some_and(|set| set.elements.contains(&format!("{vip} . {mark}")));
    let mark = if diverted { settings.mark.mark_previous(bucket) } else { mark };
    let lookup = observed.rules.iter().filter_map(|rule| rule.spec.as_ref()).find_map(|rule| match rule.action {
        RuleAction::Lookup(table) if rule.mark == Some((mark, settings.mark.mask())) => Some(table),
        _ => None,
    });
    let ObservedRoute::Nhid { id, .. } = observed.routes.get(&RouteKey { table: lookup?, vip })? else { return None };
    match observed.nexthops.get(id)?.spec.as_ref()? {
        Nexthop::EncapIp { dst, .. } => Some(*dst),
        Nexthop::Mpls { .. } => None,
    }
}

#[test]
fn at_every_step_of_a_drain_open_connections_go_where_they_went() {
    let endpoints = vec![endpoint(3, "n2"), endpoint(5, "n2")];
    let gone = vec![Endpoint { eligible: false, ..endpoints[0].clone() }, endpoints[1].clone()];
    let of =
        |now: &[Endpoint]| cluster(vec![unprepared(draining_vip("192.0.2.10", Mode::Gre, now.to_vec(), &endpoints))]);
    let desired = |cluster: &Cluster| desired_node(cluster, &routes(cluster), &settings("n1")).0;
    let (before, after) = (desired(&of(&endpoints)), desired(&of(&gone)));
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    kernel.apply(&plan(&before, &kernel.observed), usize::MAX);
    let vip = ip("192.0.2.10");
    let seen = |kernel: &FakeKernel| -> Vec<Option<IpAddr>> {
        (0..16).map(|b| open_connection_goes_to(&kernel.observed, vip, Bucket::new(b).unwrap())).collect()
    };
    let first = seen(&kernel);
    assert!(first.iter().all(Option::is_some), "{first:?}");
    let steps = plan(&after, &kernel.observed);
    for cut in 0..=steps.steps.len() {
        let mut kernel = kernel.clone();
        kernel.apply(&steps, cut);
        assert_eq!(seen(&kernel), first, "after {cut} steps of\n{steps}");
    }
    kernel.apply(&steps, usize::MAX);
    let back = plan(&before, &kernel.observed);
    for cut in 0..=back.steps.len() {
        let mut kernel = kernel.clone();
        kernel.apply(&back, cut);
        assert_eq!(seen(&kernel), first, "after {cut} steps of\n{back}");
    }
    let owners: BTreeSet<String> = kernel.observed.nexthops.values().map(|n| format!("{:?}", n.spec)).collect();
    assert_eq!(owners.len(), 2, "the other one takes new connections: {owners:?}");
}
