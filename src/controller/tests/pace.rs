//! When the controller writes, and when it wakes up.

use std::time::Duration;

use super::world::{Pod, UID, World, id};
use crate::state::assignment::map_name;

#[test]
fn balance_waits_for_a_second_and_a_crashed_owner_does_not() {
    let mut world = World::of("abc");
    world.add('d');
    assert_eq!(world.decide().len(), 1);
    world.wait_ms(100);
    world.add('e');
    assert_eq!(world.decide().len(), 0);
    assert_eq!(world.due.map(|due| due - world.now().moment.instant), Some(Duration::from_millis(900)));
    world.wait_ms(100);
    world.set('a', Pod::Crashed);
    assert_eq!(world.decide().len(), 1);
    assert_eq!(world.count('a'), 0);
    world.wait_ms(100);
    world.set('b', Pod::Crashed);
    assert_eq!(world.decide().len(), 1, "and another one");
    assert_eq!(world.count('b'), 0);
}

#[test]
fn newcomers_are_waited_for_and_those_that_never_stand_are_not() {
    let mut world = World::of("ab");
    world.wait_ms(2_000);
    world.add_unreported('c');
    assert_eq!(world.decide().len(), 0);
    world.wait_ms(500);
    world.add('d');
    assert_eq!(world.decide().len(), 0, "c may stand in a moment");
    world.set('a', Pod::Crashed);
    assert_eq!(world.decide().len(), 1, "who goes is not waited with");
    world.wait_ms(1_500);
    world.add('e');
    assert_eq!(world.decide().len(), 1, "c has had its second");
    assert_eq!(world.count('c'), 0);
}

#[test]
fn new_connections_are_taken_again_at_once() {
    let mut world = World::of("a");
    world.set('a', Pod::Crashed);
    world.decide();
    assert!(world.map().refuses_new && world.count('a') == 16, "what it has stays");
    world.wait_ms(100);
    world.set('a', Pod::Ready);
    world.decide();
    assert!(!world.map().refuses_new);
}

#[test]
fn one_write_at_a_time_and_none_that_rests_on_what_was_replaced() {
    let mut world = World::of("abc");
    world.set('a', Pod::Crashed);
    let first = world.look().remove(0);
    world.set('b', Pod::Crashed);
    assert_eq!(world.look(), [], "the first one is under way");
    world.store(first);
    world.wait_ms(50);
    assert_eq!(world.look(), [], "the watch has not shown it");
    world.show(&map_name(UID));
    assert_eq!(world.decide().len(), 1);
    assert_eq!(world.count('c'), 16);
}

#[test]
fn a_write_that_fails_is_tried_again_a_second_later() {
    let mut world = World::of("abc");
    world.set('a', Pod::Crashed);
    let first = world.look().remove(0);
    world.fail(first);
    assert_eq!(world.look(), []);
    assert_eq!(world.due.map(|due| due - world.now().moment.instant), Some(Duration::from_secs(1)));
    world.wait_ms(1000);
    world.decide();
    assert_eq!(world.count('a'), 0);
}

#[test]
fn it_wakes_up_for_a_fallen_tunnel_and_for_the_end_of_drains() {
    let mut world = World::of("ab");
    let wait = |world: &World| world.due.map(|due| (due - world.now().moment.instant).as_secs());
    // That the Service has got its VIP is told for ten minutes.
    world.run(600);
    world.look();
    assert_eq!(wait(&world), None);
    world.report('a', |report| report.pods.get_mut(&id('a')).unwrap().fallen = true);
    world.look();
    assert_eq!(wait(&world), Some(5));
    world.run(7);
    assert_eq!(world.count('a'), 0);
    world.wait_ms(2000);
    world.look();
    assert!(wait(&world).is_some_and(|seconds| seconds <= 30), "datagrams stay with it for 30 s");
}
