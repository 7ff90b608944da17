//! Node objects that go, and come back.

use super::world::{Pod, World, id, node_name};
use crate::model::handover::Former;
use crate::state::node_report::report_name;

#[test]
fn a_node_that_is_registered_again_within_a_minute_loses_nothing() {
    let mut world = World::of("abc");
    let before = world.text();
    for _ in 0..3 {
        world.no_node('a');
        world.run(55);
        world.node('a');
        world.run(5);
    }
    assert_eq!(world.text(), before);
    assert!(world.is_stored(&report_name(&node_name('a'))));
}

#[test]
fn after_a_minute_without_its_node_an_unlisted_pod_is_lost() {
    let mut world = World::of("abc");
    world.set('a', Pod::Crashed);
    world.settle();
    world.unlist('a');
    world.settle();
    world.no_node('a');
    let is_a = |former: &&Former| former.endpoint == id('a');
    let formers = |world: &World| world.map().holdings.iter().flat_map(|h| &h.former).filter(is_a).count();
    let before = formers(&world);
    assert!(before > 0, "it may have connections");
    world.run(60);
    assert_eq!((formers(&world), world.is_stored(&report_name("na"))), (before, true));
    world.run(5);
    assert_eq!((formers(&world), world.is_stored(&report_name("na"))), (0, false));
}

#[test]
fn pods_that_slices_list_are_not_lost_with_their_node_object() {
    let mut world = World::of("abc");
    let before = world.owners();
    world.no_node('a');
    world.run(100);
    assert_eq!(world.owners(), before);
    assert!(!world.is_stored(&report_name("na")), "whoever is there reports again");
}

#[test]
fn a_report_of_a_later_version_stays_also_without_its_node() {
    let mut world = World::of("abc");
    world.put(&report_name("na"), "report.json", r#"{"version":3}"#);
    world.put(&report_name("nb"), "report.json", r#"{"version":1,"node":"nb","drained":[]}"#);
    ['a', 'b'].iter().for_each(|pod| world.no_node(*pod));
    world.run(100);
    assert!(world.is_stored(&report_name("na")) && !world.is_stored(&report_name("nb")));
}
