//! Plans as commands, compared with the files in `tests/golden/plan`. `UPDATE_GOLDEN=1` writes them anew.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::fake::FakeKernel;
use super::pod;
use super::support::{
    both, cluster, draining_vip, endpoint, ip, published, routes, settings, unready, vip, with_nodes,
};
use crate::model::{Addresses, Cluster, Family, Mode};
use crate::plan::diff::diff;
use crate::plan::node::desired_node;
use crate::plan::pod::{PodInput, desired_pod};
use crate::plan::{Desired, Plan, Settings, Step};

fn golden(case: &str, plan: &Plan) {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/golden/plan", &format!("{case}.sh")].iter().collect();
    let text = plan.to_string();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(text, want, "plan of {case} differs from {}", path.display());
}

fn node_kernel(cluster: &Cluster) -> FakeKernel {
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    for fact in routes(cluster).into_values().filter(|f| f.dev.starts_with("veth")) {
        kernel.device(&fact.dev, false, 1500);
    }
    kernel
}

fn node_plan(cluster: &Cluster, kernel: &FakeKernel) -> Plan {
    let (desired, problems) = desired_node(cluster, &routes(cluster), &settings("n1"));
    assert_eq!(problems, []);
    diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-")
}

fn pod_plan(vips: &[(&str, Mode)]) -> Plan {
    pod_plan_over(&[Family::V4], vips)
}

/// For a pod that publishes addresses of these families, in a cluster of nodes that do so, too. It has the program.
fn pod_plan_over(families: &[Family], vips: &[(&str, Mode)]) -> Plan {
    let kernel = FakeKernel::new("eth0", "10.244.1.2");
    let of =
        |address: &str| both(ip(address)).iter().filter(|a| families.contains(&Family::of(*a))).collect::<Vec<_>>();
    let input = PodInput {
        vips: vips.iter().map(|(v, m)| (ip(v), *m)).collect(),
        addresses: Addresses::first_of(&of("10.244.1.2")),
        outer: families.iter().copied().take(1).collect(),
        nodes: ["10.0.0.1", "10.0.0.2"].into_iter().flat_map(of).collect(),
        underlay_mtu: Some(1500),
        peers: of("10.244.2.4").into_iter().collect(),
        program: Some(7),
    };
    let desired = desired_pod(&input, &kernel.observed, &settings("n1")).unwrap();
    diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-")
}

#[test]
fn an_ingress_node_in_every_mode() {
    for mode in Mode::ALL {
        let cluster = cluster(vec![vip("192.0.2.10", mode, vec![endpoint(2, "n1"), endpoint(3, "n2")])]);
        golden(&format!("node-{mode}"), &node_plan(&cluster, &node_kernel(&cluster)));
    }
}

/// The VIP's family, what nodes and pods publish, and the name of the case.
const MIXED: [(&str, &[Family], &str); 3] = [
    ("2001:db8::10", &[Family::V4], "6-over-4"),
    ("192.0.2.10", &[Family::V6], "4-over-6"),
    ("2001:db8::10", &[Family::V6], "6-over-6"),
];

#[test]
fn an_ingress_node_for_either_family_over_either() {
    for (address, families, name) in MIXED {
        for mode in Mode::ALL {
            let endpoints = [endpoint(2, "n1"), endpoint(3, "n2")].map(|e| published(e, families));
            let cluster = with_nodes(cluster(vec![vip(address, mode, endpoints.into())]), families);
            golden(&format!("node-{mode}-{name}"), &node_plan(&cluster, &node_kernel(&cluster)));
        }
    }
}

#[test]
fn a_pod_for_either_family_over_either() {
    for (address, families, name) in MIXED {
        for mode in Mode::ALL {
            golden(&format!("pod-{mode}-{name}"), &pod_plan_over(families, &[(address, mode)]));
        }
    }
}

#[test]
fn a_dual_stack_vip_pair_in_a_dual_stack_cluster() {
    let families = &[Family::V4, Family::V6];
    let pair = ["192.0.2.10", "2001:db8::10"];
    let vips = pair.map(|address| vip(address, Mode::Gre, vec![published(endpoint(3, "n2"), families)]));
    let cluster = with_nodes(cluster(vips.into()), families);
    golden("node-gre-dual", &node_plan(&cluster, &node_kernel(&cluster)));
    golden("pod-gre-dual", &pod_plan_over(families, &pair.map(|address| (address, Mode::Gre))));
}

#[test]
fn a_pod_in_every_mode_and_in_two_at_once() {
    for mode in Mode::ALL {
        golden(&format!("pod-{mode}"), &pod_plan(&[("192.0.2.10", mode), ("192.0.2.11", mode)]));
    }
    golden("pod-gre-and-mpls", &pod_plan(&[("192.0.2.10", Mode::Gre), ("192.0.2.11", Mode::Mpls)]));
}

#[test]
fn a_vip_without_endpoints_is_unreachable_in_every_bucket() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, vec![])]);
    golden("node-no-endpoints", &node_plan(&cluster, &node_kernel(&cluster)));
}

#[test]
fn an_endpoint_that_leaves_moves_only_its_own_buckets() {
    let endpoints = vec![endpoint(2, "n1"), endpoint(3, "n2"), endpoint(4, "n2")];
    let before = cluster(vec![vip("192.0.2.10", Mode::Gre, endpoints.clone())]);
    let mut kernel = node_kernel(&before);
    kernel.apply(&node_plan(&before, &kernel), usize::MAX);
    let left = endpoints[..2].to_vec();
    let after = cluster(vec![draining_vip("192.0.2.10", Mode::Gre, left, &endpoints)]);
    golden("node-endpoint-gone", &node_plan(&after, &kernel));
}

#[test]
fn a_bucket_that_changes_hands_gets_a_next_hop_with_the_former_owners_name() {
    for mode in [Mode::Gre, Mode::Mpls] {
        let endpoints = vec![endpoint(2, "n1"), endpoint(3, "n2")];
        let before = cluster(vec![vip("192.0.2.10", mode, endpoints.clone())]);
        let mut kernel = node_kernel(&before);
        kernel.apply(&node_plan(&before, &kernel), usize::MAX);
        let unready = vec![endpoints[0].clone(), unready(endpoints[1].clone())];
        let after = cluster(vec![draining_vip("192.0.2.10", mode, unready, &endpoints)]);
        golden(&format!("node-{mode}-drain"), &node_plan(&after, &kernel));
        kernel.apply(&node_plan(&after, &kernel), usize::MAX);
        let over = cluster(vec![vip("192.0.2.10", mode, vec![endpoints[0].clone()])]);
        golden(&format!("node-{mode}-drain-over"), &node_plan(&over, &kernel));
    }
}

#[test]
fn syns_are_refused_while_nobody_may_own_a_bucket() {
    let endpoints = vec![endpoint(2, "n1"), endpoint(3, "n2")];
    let before = cluster(vec![vip("192.0.2.10", Mode::Gre, endpoints.clone())]);
    let mut kernel = node_kernel(&before);
    kernel.apply(&node_plan(&before, &kernel), usize::MAX);
    let unready = endpoints.iter().cloned().map(unready).collect();
    let after = cluster(vec![draining_vip("192.0.2.10", Mode::Gre, unready, &endpoints)]);
    golden("node-gre-refusing", &node_plan(&after, &kernel));
    kernel.apply(&node_plan(&after, &kernel), usize::MAX);
    golden("node-gre-refusing-over", &node_plan(&before, &kernel));
}

#[test]
fn a_pod_that_0_1_has_set_up() {
    let input = pod::input(Mode::Gre);
    let kernel = pod::left_by_0_1(Mode::Gre);
    golden("pod-gre-from-0.1", &pod::plan(&input, &kernel));
}

#[test]
fn a_vip_is_announced_last_and_withdrawn_first() {
    let announcing = Settings { announce_table: Some(10_900), ..settings("n1") };
    let plan = |cluster: &Cluster, kernel: &FakeKernel| {
        let (desired, _) = desired_node(cluster, &routes(cluster), &announcing);
        diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-")
    };
    let announced = |step: Option<&Step>| match step {
        Some(Step::ReplaceRoute(key, _) | Step::DelRoute(key)) => key.table == 10_900,
        _ => false,
    };
    let mut served = cluster(vec![vip("192.0.2.10", Mode::Gre, vec![endpoint(3, "n2")])]);
    let mut kernel = node_kernel(&served);
    let first = plan(&served, &kernel);
    assert!(announced(first.steps.last()), "{first}");
    kernel.apply(&first, usize::MAX);
    served.nodes.get_mut("n1").unwrap().cordoned = true;
    golden("node-gre-cordoned", &plan(&served, &kernel));
    served.nodes.get_mut("n1").unwrap().ingress = false;
    let left = plan(&served, &kernel);
    assert!(announced(left.steps.first()) && left.steps.len() > 1, "{left}");
}

#[test]
fn removing_everything_puts_the_sysctls_back() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Mpls, vec![endpoint(2, "n1"), endpoint(3, "n2")])]);
    let mut kernel = node_kernel(&cluster);
    let untouched = kernel.clone();
    kernel.apply(&node_plan(&cluster, &kernel), usize::MAX);
    let plan = diff(&Desired::default(), &kernel.observed, &BTreeMap::new(), "kst-");
    golden("node-mpls-cleanup", &plan);
    kernel.apply(&plan, usize::MAX);
    assert_eq!(kernel, untouched);
}
