//! A change costs what the Services cost that it concerns: nothing else is resolved, and every other VIP is the same object.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index as Pick;

use super::order::{as_lists, objects};
use super::*;
use crate::model::config::VipRange;

const VIP: &str = "192.0.2.10";

fn key(name: &str) -> ObjectKey {
    ObjectKey { namespace: "shop".to_owned(), name: name.to_owned() }
}

/// Objects, lists without some of them, and deletions.
fn events() -> Vec<Change> {
    let all = objects();
    let lists: Vec<Change> = as_lists(&all[..all.len() / 2]).into_iter().chain(as_lists(&all[3..])).collect();
    let gone = ["a", "b", "e"].map(|name| Change::Service(Watched::Delete(key(name))));
    let ended = ["a-1", "a-2", "b-1"].map(|name| Change::EndpointSlice(Watched::Delete(key(name))));
    all.into_iter().chain(lists).chain(gone).chain(ended).collect()
}

/// Service `echo` with a VIP and a pod, and another one like it.
fn two() -> World {
    World::new()
        .node(mk_node("worker-a", "10.0.0.21", "10.244.1.0/24"))
        .service(mk_service("echo", VIP))
        .slice(mk_slice("echo-1", "echo", vec![mk_endpoint("a", "10.244.1.2")]))
        .service(mk_service("other", "192.0.2.20"))
        .slice(mk_slice("other-1", "other", vec![mk_endpoint("b", "10.244.1.3")]))
}

fn service(service: Service) -> Change {
    Change::Service(Watched::Apply(Box::new(service)))
}

fn plain(name: &str) -> Service {
    let mut service = mk_service(name, "");
    service.metadata.annotations = None;
    service
}

fn slice(slice: EndpointSlice) -> Change {
    Change::EndpointSlice(Watched::Apply(Box::new(slice)))
}

/// The Services that have to be resolved again after a change, `None` for all of them; and whether the change says so.
fn concerned(mut world: World, change: Change) -> (Option<Vec<String>>, bool) {
    world.0.resolve(&settings());
    let says = world.0.apply(change);
    let names = world.0.dirty.services.iter().map(|key| key.name.clone()).collect();
    ((!world.0.dirty.all).then_some(names), says)
}

fn names(names: &[&str]) -> (Option<Vec<String>>, bool) {
    (Some(names.iter().map(|name| (*name).to_owned()).collect()), true)
}

const NOTHING: (Option<Vec<String>>, bool) = (Some(Vec::new()), false);

#[test]
fn a_change_of_a_service_concerns_itself_and_who_else_claims_its_addresses() {
    assert_eq!(concerned(two(), service(mk_service("new", "192.0.2.30"))), names(&["new"]));
    assert_eq!(concerned(two(), service(mk_service("new", VIP))), names(&["echo", "new"]));
    assert_eq!(concerned(two(), Change::Service(Watched::Delete(key("echo")))), names(&["echo"]));
    let third = || two().service(mk_service("third", VIP));
    assert_eq!(concerned(third(), service(mk_service("third", "192.0.2.30"))), names(&["echo", "third"]));
    let external = with_spec(plain("new"), |spec| spec.external_ips = Some(vec![VIP.to_owned()]));
    assert_eq!(concerned(two(), service(external)), names(&["echo"]));
}

#[test]
fn a_change_of_what_asks_for_no_vip_concerns_nobody() {
    assert_eq!(concerned(two(), service(plain("new"))), NOTHING);
    assert_eq!(concerned(two(), slice(mk_slice("new-1", "new", vec![mk_endpoint("c", "10.244.1.9")]))), NOTHING);
    assert_eq!(concerned(two(), Change::EndpointSlice(Watched::Delete(key("never-seen")))), NOTHING);
}

#[test]
fn a_change_of_a_slice_concerns_its_service_and_who_claims_an_address_of_its_pods() {
    let away = slice(mk_slice("echo-1", "echo", Vec::new()));
    assert_eq!(concerned(two(), away), names(&["echo"]));
    let moved = slice(mk_slice("echo-1", "other", vec![mk_endpoint("a", "10.244.1.2")]));
    assert_eq!(concerned(two(), moved), names(&["echo", "other"]));
    let taken = slice(mk_slice("made-1", "made", vec![mk_endpoint("made", VIP)]));
    assert_eq!(concerned(two(), taken), names(&["echo"]));
}

#[test]
fn a_change_of_a_pod_concerns_the_services_that_list_it() {
    let pod = |name: &str, address: &str| Change::Pod(Watched::Apply(Box::new(mk_pod(name, address))));
    assert_eq!(concerned(two(), pod("a", "10.244.1.2")), names(&["echo"]));
    assert_eq!(concerned(two(), pod("c", "10.244.1.9")), names(&[]));
    assert_eq!(concerned(two(), pod("c", VIP)), names(&["echo"]));
}

#[test]
fn a_cordoned_node_concerns_no_service_and_another_address_of_it_concerns_all() {
    let node = |change: fn(&mut Node)| {
        let mut node = mk_node("worker-a", "10.0.0.21", "10.244.1.0/24");
        change(&mut node);
        Change::Node(Watched::Apply(Box::new(node)))
    };
    let cordoned = node(|node| node.spec.get_or_insert_default().unschedulable = Some(true));
    assert_eq!(concerned(two(), cordoned), names(&[]));
    let moved = node(|node| node.status = mk_node("worker-a", "10.0.0.99", "").status);
    assert_eq!(concerned(two(), moved), (None, true));
}

/// Every VIP but that of `echo` is the same object after a change.
fn assert_others_are_the_same(change: Change) {
    let mut world = two();
    let before = world.0.resolve(&settings()).unwrap();
    assert!(world.0.apply(change.clone()));
    let after = world.0.resolve(&settings()).unwrap();
    let other = ip("192.0.2.20");
    assert!(Arc::ptr_eq(&before.cluster.vips[&other], &after.cluster.vips[&other]), "{change:?}");
}

#[test]
fn a_vip_that_does_not_change_is_the_same_object_whatever_else_changes() {
    assert_others_are_the_same(slice(mk_slice("echo-1", "echo", Vec::new())));
    assert_others_are_the_same(service(mk_service("echo", "192.0.2.11")));
    assert_others_are_the_same(Change::Service(Watched::Delete(key("echo"))));
    // Everything is resolved again, and comes out as it was.
    let node = mk_node("worker-b", "10.0.0.22", "10.244.2.0/24");
    assert_others_are_the_same(Change::Node(Watched::Apply(Box::new(node))));
    // Another one asks for it, and does not get it.
    assert_others_are_the_same(service(mk_service("young", "192.0.2.20")));
}

#[test]
fn a_vip_that_changes_is_another_object_and_the_old_one_stays_as_it_was() {
    let mut world = two();
    let before = world.0.resolve(&settings()).unwrap();
    world.0.apply(slice(mk_slice("echo-1", "echo", Vec::new())));
    let after = world.0.resolve(&settings()).unwrap();
    let endpoints = |resolved: &Resolved| resolved.cluster.vips[&ip(VIP)].endpoints.len();
    assert_eq!((endpoints(&before), endpoints(&after)), (1, 0));
}

#[test]
fn other_settings_concern_everything() {
    let mut world = two();
    world.0.resolve(&settings());
    let narrow = Settings {
        vip_ranges: vec![VipRange { net: "198.51.100.0/24".parse().unwrap(), namespaces: BTreeSet::new() }],
        ..settings()
    };
    assert!(world.0.resolve(&narrow).unwrap().cluster.vips.is_empty());
    assert_eq!(world.0.resolve(&settings()).unwrap().cluster.vips.len(), 2);
}

proptest! {
    /// Whatever comes in whatever order, and whenever somebody asks in between, what is resolved Service by Service is what would
    /// be resolved at once.
    #[test]
    fn what_is_resolved_one_by_one_is_what_is_resolved_at_once(
        changes in Just(events()).prop_shuffle(),
        asked in vec(any::<Pick>(), 0..8),
    ) {
        let asked: BTreeSet<usize> = asked.iter().map(|pick| pick.index(changes.len())).collect();
        let World(mut index) = World::new();
        for (at, change) in changes.into_iter().enumerate() {
            index.apply(change);
            if asked.contains(&at) {
                prop_assert_eq!(index.resolve(&settings()), Some(whole(&index, &settings())));
            }
        }
        prop_assert_eq!(index.resolve(&settings()), Some(whole(&index, &settings())));
    }
}
