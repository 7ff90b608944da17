use super::*;

fn apply(service: Service) -> Change {
    Change::Service(Watched::Apply(Box::new(service)))
}

fn init_apply(service: Service) -> Change {
    Change::Service(Watched::InitApply(Box::new(service)))
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { namespace: "shop".to_owned(), name: name.to_owned() }
}

#[test]
fn nothing_is_resolved_before_every_kind_was_listed() {
    let mut index = Index::new(ANNOTATION);
    let changes = World::empty();
    let last = changes.len() - 1;
    for (n, change) in changes.into_iter().enumerate() {
        assert_eq!(index.resolve(&settings()), None);
        assert_eq!(index.apply(change), n == last, "the last list completes what is known");
    }
    assert!(index.resolve(&settings()).is_some());
}

#[test]
fn the_kinds_that_are_waited_for_can_be_named() {
    let mut index = Index::new(ANNOTATION);
    assert_eq!(index.missing(), ["Service", "EndpointSlice", "ServiceCIDR", "Node", "Pod", "ConfigMap"]);
    index.apply(Change::Node(Watched::Init));
    index.apply(Change::Node(Watched::InitDone));
    assert_eq!(index.missing(), ["Service", "EndpointSlice", "ServiceCIDR", "Pod", "ConfigMap"]);
    assert!(World::new().0.missing().is_empty());
}

#[test]
fn a_change_before_the_first_list_is_no_substitute_for_it() {
    let mut index = Index::new(ANNOTATION);
    assert!(!index.apply(apply(mk_service("echo", "192.0.2.10"))));
    assert_eq!(index.missing().len(), 6);
}

#[test]
fn the_old_objects_stay_in_use_until_a_new_list_is_complete() {
    let mut world = World::new().service(mk_service("old", "192.0.2.10"));
    assert!(!world.0.apply(Change::Service(Watched::Init)));
    assert!(!world.0.apply(init_apply(mk_service("new", "192.0.2.11"))));
    assert_eq!(vips(&world.resolve()), ["192.0.2.10"]);
    assert!(world.0.apply(Change::Service(Watched::InitDone)));
    assert_eq!(vips(&world.resolve()), ["192.0.2.11"]);
}

#[test]
fn a_list_that_is_begun_again_starts_from_nothing() {
    let mut world = World::new();
    world.0.apply(Change::Service(Watched::Init));
    world.0.apply(init_apply(mk_service("half", "192.0.2.10")));
    world.0.apply(Change::Service(Watched::Init));
    world.0.apply(init_apply(mk_service("whole", "192.0.2.11")));
    world.0.apply(Change::Service(Watched::InitDone));
    assert_eq!(vips(&world.resolve()), ["192.0.2.11"]);
}

#[test]
fn a_list_that_says_nothing_new_changes_nothing() {
    let mut world = World::new().service(mk_service("echo", "192.0.2.10"));
    let before = world.resolve();
    world.0.apply(Change::Service(Watched::Init));
    world.0.apply(init_apply(mk_service("echo", "192.0.2.10")));
    assert!(!world.0.apply(Change::Service(Watched::InitDone)));
    assert_eq!(world.resolve(), before);
}

#[test]
fn the_end_of_a_list_that_never_began_deletes_nothing() {
    let mut world = World::new().service(mk_service("echo", "192.0.2.10"));
    assert!(!world.0.apply(Change::Service(Watched::InitDone)));
    assert_eq!(vips(&world.resolve()), ["192.0.2.10"]);
}

#[test]
fn an_object_that_cannot_be_decoded_in_a_new_list_keeps_its_last_state() {
    let mut world = World::new().service(mk_service("echo", "192.0.2.10"));
    world.0.apply(Change::Service(Watched::Init));
    world.0.apply(Change::Service(Watched::InitKeep(key("echo"))));
    world.0.apply(Change::Service(Watched::InitKeep(key("never-seen"))));
    world.0.apply(Change::Service(Watched::InitDone));
    assert_eq!(vips(&world.resolve()), ["192.0.2.10"]);
}

#[test]
fn changes_during_a_list_count_at_once_and_afterwards() {
    let mut world = World::new().service(mk_service("gone", "192.0.2.10"));
    world.0.apply(Change::Service(Watched::Init));
    world.0.apply(init_apply(mk_service("gone", "192.0.2.10")));
    assert!(world.0.apply(apply(mk_service("fresh", "192.0.2.11"))));
    assert!(world.0.apply(Change::Service(Watched::Delete(key("gone")))));
    assert_eq!(vips(&world.resolve()), ["192.0.2.11"]);
    world.0.apply(Change::Service(Watched::InitDone));
    assert_eq!(vips(&world.resolve()), ["192.0.2.11"]);
}

#[test]
fn a_deleted_object_is_gone_and_deleting_it_again_changes_nothing() {
    let mut world = World::new().service(mk_service("echo", "192.0.2.10"));
    assert!(world.0.apply(Change::Service(Watched::Delete(key("echo")))));
    assert!(!world.0.apply(Change::Service(Watched::Delete(key("echo")))));
    assert!(vips(&world.resolve()).is_empty());
}

#[test]
fn a_change_that_means_nothing_to_us_is_no_change() {
    let mut world = World::new().service(mk_service("echo", "192.0.2.10"));
    let mut service = annotated(mk_service("echo", "192.0.2.10"), "example.org/other", "x");
    service.metadata.resource_version = Some("2".to_owned());
    assert!(!world.0.apply(apply(service)));
    assert!(world.0.apply(apply(mk_service("echo", "192.0.2.11"))));
}

#[test]
fn what_was_resolved_does_not_change_with_the_index() {
    let world = World::new().service(mk_service("echo", "192.0.2.10"));
    let before = world.resolve();
    let world = world.service(mk_service("other", "192.0.2.11"));
    assert_eq!((vips(&before), vips(&world.resolve()).len()), (vec!["192.0.2.10".to_owned()], 2));
}

#[test]
fn an_object_without_a_name_is_ignored() {
    let mut world = World::new();
    let mut service = mk_service("echo", "192.0.2.10");
    service.metadata.name = None;
    assert!(!world.0.apply(apply(service)));
}

#[test]
fn a_kind_that_the_server_does_not_have_is_not_waited_for() {
    let mut index = Index::new(ANNOTATION);
    assert!(index.missing().contains(&"ServiceCIDR"));
    index.apply(Change::ServiceCidr(Watched::Absent));
    assert!(!index.missing().contains(&"ServiceCIDR"));
}

#[test]
fn what_is_known_of_a_kind_stays_when_the_server_no_longer_shows_it() {
    let mut world =
        World::new().service_cidr("kubernetes", &["192.0.2.0/24"]).service(mk_service("echo", "192.0.2.10"));
    assert!(!world.0.apply(Change::ServiceCidr(Watched::Absent)));
    assert!(vips(&world.resolve()).is_empty());
}
