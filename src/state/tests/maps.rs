//! Stored bucket maps: the newest one that can be read counts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::model::handover::{Assignment, FlowHash, Generation, HashKey, ServiceUid};
use crate::model::{BucketCount, ServiceRef};
use crate::state::assignment::{MAP_KEY, encode, map_name};

/// UID of the Service of [`mk_service`].
fn uid() -> String {
    mk_service("echo", "192.0.2.10").metadata.uid.unwrap()
}

fn stored(text: String) -> ConfigMap {
    let mut metadata = meta(&map_name(&uid()));
    metadata.namespace = Some("kube-service-tunnel".to_owned());
    ConfigMap { metadata, data: Some(BTreeMap::from([(MAP_KEY.to_owned(), text)])), ..ConfigMap::default() }
}

fn text(generation: u64) -> String {
    let hash = FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 1, key: HashKey::Ports };
    let mut map = Assignment::begin(hash, &uid().as_str().into(), generation, None);
    map.vips = Some([(ip("192.0.2.10"), 1)].into());
    encode(&ServiceRef { namespace: "shop".into(), name: "echo".into(), uid: uid() }, &map)
}

/// A map of tunnel-router 0.1.
const OLD: &str = r#"{"version":1,"generation":17,"service":{"namespace":"shop","name":"echo","uid":"uid-echo"},"buckets":16,"seed":1,"endpoints":[],"owners":[]}"#;

impl World {
    fn map(self, text: impl Into<String>) -> Self {
        self.change(Change::Map(Watched::Apply(Box::new(stored(text.into())))))
    }

    fn no_map(self) -> Self {
        let name = map_name(&uid());
        let key = ObjectKey { namespace: "kube-service-tunnel".to_owned(), name };
        self.change(Change::Map(Watched::Delete(key)))
    }

    fn generation(&self) -> Option<u64> {
        self.resolve().cluster.vips[&ip("192.0.2.10")].map.as_ref().map(|map| map.generation.0)
    }

    fn superseded(&self) -> Vec<(ServiceUid, Generation)> {
        self.0.superseded().into_iter().collect()
    }
}

#[test]
fn a_vip_follows_the_newest_map_that_could_be_read() {
    let world = World::new().service(mk_service("echo", "192.0.2.10"));
    assert_eq!(world.generation(), None);
    let world = world.map(text(3));
    assert_eq!((world.generation(), world.resolve().cluster.problems.len()), (Some(3), 0));
    let world = world.map("garbage");
    assert_eq!(world.generation(), Some(3));
    assert_problem(&world.resolve(), Reason::InvalidMap, &["kube-service-tunnel/map-", "cannot be read", "controller"]);
    let world = world.map(text(2));
    assert_eq!(world.generation(), Some(3));
    assert_problem(&world.resolve(), Reason::InvalidMap, &["generation 2", "3 was there"]);
    let world = world.map(text(4));
    assert_eq!((world.generation(), world.resolve().cluster.problems.len()), (Some(4), 0));
    assert_eq!(world.no_map().generation(), Some(4), "somebody deleted it");
}

#[test]
fn of_two_maps_of_one_generation_the_stored_one_counts() {
    let world = World::new().service(mk_service("echo", "192.0.2.10")).map(text(3));
    let world = world.map(text(3).replacen("\"refusesNew\":false", "\"refusesNew\":true", 1));
    assert!(world.resolve().cluster.vips[&ip("192.0.2.10")].map.as_ref().unwrap().refuses_new);
}

#[test]
fn a_map_of_a_later_version_is_told_and_the_known_one_followed() {
    let world = World::new().service(mk_service("echo", "192.0.2.10")).map(text(3));
    let world = world.map(text(4).replacen("\"version\":2", "\"version\":3", 1));
    assert_eq!(world.generation(), Some(3));
    assert_problem(&world.resolve(), Reason::InvalidMap, &["version 3", "left as it is", "of that version"]);
}

#[test]
fn a_map_of_version_0_1_is_no_map_and_nothing_is_told() {
    let world = World::new().service(mk_service("echo", "192.0.2.10")).map(OLD);
    assert_eq!((world.generation(), world.resolve().cluster.problems.len()), (None, 0));
}

#[test]
fn an_earlier_decision_that_is_stored_again_is_told_apart() {
    let world = World::new().service(mk_service("echo", "192.0.2.10")).map(text(3));
    assert_eq!(world.superseded(), []);
    let world = world.map(text(2));
    assert_eq!(world.superseded(), [(uid().as_str().into(), Generation(3))]);
    let world = world.map("garbage");
    assert_eq!(world.superseded(), [], "what cannot be read is no decision");
    assert_eq!(world.map(text(2)).map(text(5)).superseded(), []);
}

#[test]
fn a_map_is_forgotten_with_the_annotation_unless_it_is_still_stored() {
    let mut bare = mk_service("echo", "192.0.2.10");
    bare.metadata.annotations = None;
    let annotated = || mk_service("echo", "192.0.2.10");
    let world = World::new().service(annotated()).map(text(3)).service(bare.clone()).no_map().service(annotated());
    assert_eq!(world.generation(), None, "the controller makes it anew");
    assert_eq!(world.map(text(4)).generation(), Some(4));
    let world = World::new().service(annotated()).map(text(3)).service(bare).service(annotated());
    assert_eq!(world.generation(), Some(3), "no controller has seen it: all nodes go on with what is stored");
}
