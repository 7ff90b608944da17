//! Whose VIP it is: that of the Service whose map holds it, whoever else wants it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, LoadBalancerIngress, LoadBalancerStatus, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::model::handover::{Assignment, FlowHash, Generation, HashKey};
use crate::model::{BucketCount, ServiceRef};
use crate::state::assignment::{MAP_KEY, encode, map_name};

const VIP: &str = "192.0.2.10";

fn created(mut service: Service, time: &str) -> Service {
    service.metadata.creation_timestamp = Some(Time(time.parse().unwrap()));
    service
}

fn older(name: &str, vips: &str) -> Service {
    created(mk_service(name, vips), "2020-01-01T00:00:00Z")
}

/// The stored map of a Service that holds these addresses since some time; of one that knows nothing of VIPs, if there are none.
fn map_of(service: &str, vips: Option<&[&str]>, since: u64) -> ConfigMap {
    let uid = format!("uid-{service}");
    let hash = FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 1, key: HashKey::Ports };
    let mut map = Assignment::begin(hash, &uid.as_str().into(), 3, None);
    match vips {
        Some(vips) => map.hold(&vips.iter().map(|vip| ip(vip)).collect::<BTreeSet<_>>(), since, Generation(3)),
        None => map.vips = None,
    }
    let reference = ServiceRef { namespace: "shop".into(), name: service.to_owned(), uid: uid.clone() };
    let mut metadata = meta(&map_name(&uid));
    metadata.namespace = Some("kube-service-tunnel".to_owned());
    ConfigMap { metadata, data: Some([(MAP_KEY.to_owned(), encode(&reference, &map))].into()), ..ConfigMap::default() }
}

impl World {
    fn stored(self, map: ConfigMap) -> Self {
        self.change(Change::Map(Watched::Apply(Box::new(map))))
    }
}

fn owner(resolved: &Resolved) -> Option<&str> {
    resolved.cluster.vips.get(&ip(VIP)).map(|vip| vip.service.name.as_str())
}

/// Service `echo` holds the VIP.
fn held() -> World {
    World::new().service(mk_service("echo", VIP)).stored(map_of("echo", Some(&[VIP]), 100))
}

#[test]
fn an_older_service_does_not_take_a_vip_that_is_held() {
    let resolved = held().service(older("old", VIP)).resolve();
    assert_eq!(owner(&resolved), Some("echo"));
    assert!(resolved.cluster.vips[&ip(VIP)].map.is_some());
    assert_problem(&resolved, Reason::VipConflict, &["Service shop/old", "192.0.2.10 is held by Service shop/echo"]);
}

#[test]
fn a_vip_goes_to_the_next_when_its_holder_does_not_ask_for_it() {
    let let_go = held().service(mk_service("echo", "192.0.2.20")).service(mk_service("next", VIP)).resolve();
    assert_eq!(owner(&let_go), Some("next"));
    assert_eq!(let_go.cluster.vips[&ip(VIP)].map, None, "its map has still to be written");
    assert_eq!(let_go.cluster.vips[&ip("192.0.2.20")].map, None, "the map says nothing of this address");
}

#[test]
fn who_got_a_vip_last_holds_it_also_when_an_earlier_holder_asks_for_it_again() {
    let world = held().service(older("next", VIP)).stored(map_of("next", Some(&[VIP]), 200));
    assert_eq!(owner(&world.resolve()), Some("next"));
    let world = World::new().service(older("echo", VIP)).stored(map_of("echo", Some(&[VIP]), 100));
    let world = world.service(mk_service("next", VIP)).stored(map_of("next", Some(&[VIP]), 200));
    assert_eq!(owner(&world.resolve()), Some("next"));
}

#[test]
fn a_map_without_vips_holds_what_its_service_asks_for() {
    let world =
        World::new().service(mk_service("echo", VIP)).stored(map_of("echo", None, 0)).service(older("old", VIP));
    assert_eq!(owner(&world.resolve()), Some("echo"));
    assert!(world.resolve().cluster.vips[&ip(VIP)].map.is_some());
}

#[test]
fn what_any_tenant_can_write_takes_no_vip_away_and_is_told_to_them() {
    let external = with_spec(mk_service("thief", ""), |spec| spec.external_ips = Some(vec![VIP.to_owned()]));
    let wished = with_spec(mk_service("thief", ""), |spec| spec.load_balancer_ip = Some(VIP.to_owned()));
    let ingress = LoadBalancerIngress { ip: Some(VIP.to_owned()), ..LoadBalancerIngress::default() };
    let load_balancer = Some(LoadBalancerStatus { ingress: Some(vec![ingress]) });
    let given = Service {
        status: Some(ServiceStatus { load_balancer, ..ServiceStatus::default() }),
        ..mk_service("thief", "")
    };
    for mut thief in [external, wished, given] {
        thief.metadata.annotations = None;
        let resolved = held().service(thief.clone()).resolve();
        assert_eq!(owner(&resolved), Some("echo"));
        assert_problem(&resolved, Reason::VipConflict, &["Service shop/thief", "Service shop/echo, which keeps it"]);
        assert_eq!(problem(&resolved).subject.name(), "thief");
        // Before anybody holds it, it is theirs.
        let resolved = World::new().service(mk_service("echo", VIP)).service(thief).resolve();
        assert_eq!(owner(&resolved), None);
        assert_problem(&resolved, Reason::InvalidVip, &["Service shop/thief", "nothing in the cluster has"]);
    }
}

#[test]
fn a_slice_that_lists_a_vip_as_a_pods_address_takes_it_from_nobody() {
    let resolved = held().slice(mk_slice("made-1", "made", vec![mk_endpoint("made", VIP)])).resolve();
    assert_eq!(owner(&resolved), Some("echo"));
    assert_problem(&resolved, Reason::VipConflict, &["is the address of pod shop/made", "stays a VIP"]);
}

#[test]
fn a_services_own_external_ip_and_load_balancer_address_may_become_its_vip() {
    let service = with_spec(mk_service("echo", VIP), |spec| {
        (spec.external_ips, spec.load_balancer_ip) = (Some(vec![VIP.to_owned()]), Some(VIP.to_owned()));
    });
    let resolved = World::new().service(service).resolve();
    assert_eq!((owner(&resolved), resolved.cluster.problems.len()), (Some("echo"), 0));
}

#[test]
fn what_the_cluster_itself_gives_out_is_nobodys_vip() {
    let resolved = held().node(mk_node("worker-a", VIP, "10.244.1.0/24")).resolve();
    assert_eq!(owner(&resolved), None);
    assert_problem(&resolved, Reason::InvalidVip, &["is an address of node worker-a"]);
    let resolved = held().service_cidr("kubernetes", &["192.0.2.0/25"]).resolve();
    assert_eq!(owner(&resolved), None);
    assert_problem(&resolved, Reason::InvalidVip, &["192.0.2.0/25, the Service network of ServiceCIDR kubernetes"]);
    let mut slice =
        mk_slice("kubernetes", "kubernetes", vec![Endpoint { target_ref: None, ..mk_endpoint("api", VIP) }]);
    slice.metadata.namespace = Some("default".to_owned());
    let resolved = held().slice(slice).resolve();
    assert_eq!(owner(&resolved), None);
    assert_problem(&resolved, Reason::InvalidVip, &["is an address of the API server"]);
}

#[test]
fn fields_that_limit_clients_and_are_not_enforced_are_told() {
    let limited = with_spec(mk_service("echo", VIP), |spec| {
        spec.load_balancer_source_ranges = Some(vec!["198.51.100.0/24".to_owned()]);
        spec.internal_traffic_policy = Some("Local".to_owned());
    });
    let resolved = World::new().service(limited).resolve();
    let parts = ["come from anywhere", "spec.loadBalancerSourceRanges and spec.internalTrafficPolicy: Local"];
    assert_problem(&resolved, Reason::NotEnforced, &parts);
}
