//! A Service whose map is gone when an agent starts.

use std::sync::Arc;

use super::fake::FakeKernel;
use super::support::{cluster, draining_vip, endpoint, on_nodes, routes, settings, unready};
use crate::model::{Cluster, Mode, Vip};
use crate::plan::diff::diff;
use crate::plan::held::Held;
use crate::plan::node::{desired_node, desired_node_holding};
use crate::plan::observed::ObservedRoute;
use crate::plan::{Observed, Plan, Settings};

fn announcing() -> Settings {
    Settings { announce_table: Some(107), ..settings("n1") }
}

/// A VIP of each mode, all of which drain.
fn mapped() -> Cluster {
    let now = vec![unready(endpoint(2, "n1")), endpoint(3, "n2")];
    let modes = [("192.0.2.10", Mode::Gre), ("192.0.2.11", Mode::Mpls), ("192.0.2.12", Mode::Vxlan)];
    cluster(modes.map(|(address, mode)| draining_vip(address, mode, now.clone(), &on_nodes())).into())
}

fn without_maps(cluster: &Cluster, holds: bool) -> Cluster {
    let bare = |vip: &Vip| Arc::new(Vip { map: None, intent: None, holds, ..vip.clone() });
    Cluster { vips: cluster.vips.iter().map(|(address, vip)| (*address, bare(vip))).collect(), ..cluster.clone() }
}

fn programmed() -> Observed {
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    for n in [2, 3] {
        kernel.device(&format!("veth{n}"), false, 1500);
    }
    let desired = desired_node(&mapped(), &routes(&mapped()), &announcing()).0;
    kernel.apply(&diff(&desired, &kernel.observed, &Default::default(), "kst-"), usize::MAX);
    kernel.observed
}

fn replanned(cluster: &Cluster, observed: &Observed) -> Plan {
    let holding = cluster.vips().filter(|vip| vip.holds).map(|vip| vip.address).collect();
    let held = Held::of(&holding, observed);
    let (desired, problems) = desired_node_holding(&held, cluster, &routes(cluster), &announcing());
    assert_eq!(problems, []);
    diff(&desired, observed, &Default::default(), "kst-")
}

#[test]
fn an_agent_that_starts_without_maps_leaves_routes_devices_and_announcements() {
    let observed = programmed();
    assert!(!observed.routes.is_empty());
    assert_eq!(replanned(&without_maps(&mapped(), true), &observed).to_string(), "");
}

#[test]
fn a_service_that_comes_without_a_map_does_not_inherit_routes() {
    let plan = replanned(&without_maps(&mapped(), false), &programmed()).to_string();
    for vip in ["192.0.2.10", "192.0.2.11", "192.0.2.12"] {
        assert!(plan.contains(&format!("ip route replace unreachable {vip}")), "{plan}");
    }
}

#[test]
fn without_maps_and_routes_clients_are_told_that_nobody_is_there() {
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    let plan = replanned(&without_maps(&mapped(), true), &kernel.observed);
    kernel.apply(&plan, usize::MAX);
    let of_buckets = kernel.observed.routes.iter().filter(|(key, _)| (10_000..10_016).contains(&key.table));
    assert!(of_buckets.clone().count() == 3 * 16 && of_buckets.clone().all(|(_, r)| *r == ObservedRoute::Unreachable));
    assert!(kernel.observed.routes.keys().all(|key| key.table != 107), "nothing is announced");
}
