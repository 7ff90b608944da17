//! What users are told.

use super::world::{Pod, World, address};
use crate::model::Reason::{ConnectionsGivenUp, ForwardingBlocked, NotSetUp, WaitingForBalance, WaitingForNodes};
use crate::model::second_chance::Pair;

#[test]
fn a_ready_pod_that_its_node_does_not_report_is_told_after_30_s() {
    let mut world = World::of("ab");
    world.add_unreported('c');
    world.run(30);
    assert_eq!(world.told(NotSetUp).len(), 0);
    assert!(world.due.is_some_and(|due| due <= world.now().moment.instant));
    world.run(1);
    let told = world.told(NotSetUp);
    assert!(told[0].contains("shop/echo") && told[0].contains("echo-c on node nc"), "{told:?}");
    world.report('c', |_| {});
    world.run(2);
    assert_eq!((world.told(NotSetUp).len(), world.count('c') > 0), (0, true));
}

#[test]
fn nodes_that_do_not_say_that_they_know_of_a_pod_are_told_after_30_s() {
    let mut world = World::of("ab");
    world.deaf = "b";
    world.add('c');
    world.run(30);
    assert_eq!(world.told(WaitingForNodes).len(), 0);
    world.run(2);
    let told = world.told(WaitingForNodes);
    assert!(told.len() == 1 && told[0].contains("echo-c, waiting for nb: see whether"), "{told:?}");
    world.deaf = "";
    world.run(3);
    assert_eq!((world.told(WaitingForNodes).len(), world.count('c')), (0, 5));
}

#[test]
fn pods_that_wait_for_their_share_are_told_after_30_s() {
    let mut world = World::of("a");
    for pod in ['b', 'c', 'd', 'e', 'f', 'g', 'h'] {
        world.add(pod);
        world.run(3);
    }
    world.run(31);
    let told = world.told(WaitingForBalance);
    assert!(told.len() == 1 && told[0].contains("echo-h") && told[0].contains("former owners"), "{told:?}");
    assert!(told[0].contains("end"), "{told:?}");
    for _ in 0..10 {
        "abcdefgh".chars().for_each(|pod| world.quiet(pod));
        world.run(2);
    }
    assert_eq!(world.told(WaitingForBalance).len(), 0);
}

#[test]
fn a_former_owner_that_is_given_up_is_told_once() {
    let mut world = World::of("abcde");
    let told = |world: &World| world.told(ConnectionsGivenUp).iter().map(ToString::to_string).collect::<Vec<_>>();
    // Whoever is left takes all, with the connections of the others.
    for pod in ['a', 'b', 'c', 'd'] {
        world.set(pod, Pod::Ends);
        world.run(2);
    }
    let first = told(&world);
    // Each of its own buckets: what is lost later is another Event.
    let numbers = |note: &String| {
        let (_, rest) = note.split_once(" in bucket").unwrap_or_default();
        rest.trim_start_matches('s').trim_start().chars().take_while(char::is_ascii_digit).count()
    };
    assert!(first.iter().all(|note| numbers(note) > 0 && note.contains("of Service shop/echo")), "{first:?}");
    assert!(!first.is_empty());
    world.run(60);
    assert_eq!(told(&world), first);
    world.run(600);
    assert_eq!(told(&world), [""; 0], "that was long ago");
}

#[test]
fn packets_that_are_passed_on_and_do_not_arrive_are_told_after_30_s() {
    let mut world = World::of("ab");
    world.set('a', Pod::Crashed);
    world.run(2);
    let pair = Pair { from: address('b'), to: address('a') };
    world.report('b', |report| report.forwarding.passed = [pair].into());
    world.run(30);
    assert_eq!(world.told(ForwardingBlocked).len(), 0);
    world.run(2);
    let told = world.told(ForwardingBlocked);
    assert!(
        told.len() == 1 && told[0].contains("from pod echo-b to pod echo-a") && told[0].contains("polic"),
        "{told:?}"
    );
    world.report('a', |report| report.forwarding.received = [pair].into());
    world.run(1);
    assert_eq!(world.told(ForwardingBlocked).len(), 0);
}

#[test]
fn nothing_is_told_of_pairs_whose_receiver_does_not_report() {
    let mut world = World::of("ab");
    world.set('a', Pod::Crashed);
    world.run(2);
    let pair = Pair { from: address('b'), to: address('a') };
    world.report('b', |report| report.forwarding.passed = [pair].into());
    world.delete("node-na");
    world.run(60);
    assert_eq!(world.told(ForwardingBlocked).len(), 0);
}
