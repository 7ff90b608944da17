//! Stored bucket maps: the last good one counts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::model::{BucketCount, Flows, ServiceRef, SharedMap};
use crate::state::stored::{MAP_KEY, encode, map_name};

/// UID of the Service of [`mk_service`].
fn uid() -> String {
    mk_service("echo", "192.0.2.10").metadata.uid.unwrap()
}

fn map(generation: u64) -> SharedMap {
    let flows = Flows { buckets: BucketCount::new(16).unwrap(), seed: 1 };
    SharedMap { generation, ..SharedMap::new(flows, &[]) }
}

fn stored(object: &str, text: String) -> ConfigMap {
    let mut metadata = meta(&map_name(&uid()));
    metadata.uid = Some(object.to_owned());
    metadata.namespace = Some("kube-service-tunnel".to_owned());
    ConfigMap { metadata, data: Some(BTreeMap::from([(MAP_KEY.to_owned(), text)])), ..ConfigMap::default() }
}

fn text(generation: u64) -> String {
    encode(&ServiceRef { namespace: "shop".into(), name: "echo".into(), uid: uid() }, &map(generation))
}

impl World {
    fn map(self, text: impl Into<String>) -> Self {
        self.map_in("first object", text)
    }

    fn map_in(mut self, object: &str, text: impl Into<String>) -> Self {
        self.0.apply(Change::Map(Watched::Apply(Box::new(stored(object, text.into())))));
        self
    }

    fn no_map(mut self) -> Self {
        let name = map_name(&uid());
        let key = ObjectKey { namespace: "kube-service-tunnel".to_owned(), name };
        self.0.apply(Change::Map(Watched::Delete(key)));
        self
    }

    fn generation(&self) -> Option<u64> {
        self.resolve().cluster.vips[&ip("192.0.2.10")].shared.as_ref().map(|map| map.generation)
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
fn a_map_is_forgotten_with_the_annotation_and_found_again_if_it_is_still_stored() {
    let mut bare = mk_service("echo", "192.0.2.10");
    bare.metadata.annotations = None;
    let annotated = || mk_service("echo", "192.0.2.10");
    let world = World::new().service(annotated()).map(text(3)).service(bare.clone()).no_map().service(annotated());
    assert_eq!(world.generation(), None, "the controller makes it anew");
    assert_eq!(world.map(text(1)).generation(), Some(1));
    let world = World::new().service(annotated()).map(text(3)).service(bare).service(annotated());
    assert_eq!(world.generation(), Some(3), "no controller has seen it: all nodes go on with what is stored");
}

#[test]
fn a_map_that_its_controller_deletes_does_not_come_back_with_an_annotation_that_was_faster() {
    let mut bare = mk_service("echo", "192.0.2.10");
    bare.metadata.annotations = None;
    let annotated = || mk_service("echo", "192.0.2.10");
    let mut world = World::new().service(annotated()).map(text(3)).service(bare).service(annotated()).no_map();
    assert_eq!(world.generation(), Some(3), "who has not deleted it cannot tell this from an accident");
    world.0.forget_map(&uid());
    assert_eq!(world.generation(), None, "the controller makes it anew");
}

#[test]
fn a_map_that_was_made_anew_holds_in_whatever_order_its_making_became_known() {
    let mut bare = mk_service("echo", "192.0.2.10");
    bare.metadata.annotations = None;
    let annotated = || mk_service("echo", "192.0.2.10");
    let start = || World::new().service(annotated()).map(text(3));
    let service_first = start().service(bare.clone()).service(annotated()).no_map().map_in("second object", text(1));
    let map_first = start().no_map().map_in("second object", text(1)).service(bare.clone()).service(annotated());
    let between = start().service(bare).no_map().map_in("second object", text(1)).service(annotated());
    for world in [service_first, map_first, between] {
        assert_eq!((world.generation(), world.resolve().cluster.problems.len()), (Some(1), 0));
    }
}
