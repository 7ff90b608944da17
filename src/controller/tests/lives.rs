//! Maps and reports that vanish, come back or are damaged; controllers that remember nothing.

use super::world::{BEGIN, Pod, UID, World, id};
use crate::model::Reason;
use crate::model::handover::Generation;
use crate::state::assignment::map_name;
use crate::state::node_report::report_name;

/// A map of tunnel-router 0.1.
const OLD: &str = r#"{"version":1,"generation":17,"service":{"namespace":"shop","name":"echo","uid":"uid-echo"},"buckets":16,"seed":1,"endpoints":[],"owners":[]}"#;

#[test]
fn pods_that_are_set_up_share_the_buckets_of_the_first_map() {
    let world = World::of("abcd");
    assert_eq!(['a', 'b', 'c', 'd'].map(|pod| world.count(pod)), [4; 4]);
    assert!(world.map().generation > Generation(BEGIN));
    assert_eq!((world.map().hash.seed, world.map().drain_non_tcp), (7, 30));
}

#[test]
fn nothing_is_decided_before_the_first_list_of_reports() {
    let mut world = World::of("abcd");
    let before = world.text();
    world.restart();
    world.unlist('a');
    world.settle();
    assert_eq!(world.text(), before);
    world.list_reports();
    world.settle();
    assert_eq!((world.count('a'), world.count('b') > 4), (0, true));
}

#[test]
fn nothing_moves_when_every_report_is_deleted() {
    let mut world = World::of("abcd");
    let before = world.text();
    "abcd".chars().for_each(|pod| world.delete(&report_name(&format!("n{pod}"))));
    world.run(100);
    assert_eq!(world.text(), before);
    world.restart();
    world.list_reports();
    world.run(100);
    assert_eq!(world.text(), before, "nor does another controller move anything");
}

#[test]
fn nothing_moves_when_reports_cannot_be_read() {
    let mut world = World::of("abcd");
    let before = world.text();
    for (node, text) in [("na", "garbage"), ("nb", r#"{"version":3}"#), ("nc", r#"{"version":2,"node":"na"}"#)] {
        world.put(&report_name(node), "report.json", text);
    }
    world.run(100);
    assert_eq!(world.text(), before);
}

#[test]
fn a_map_of_the_far_future_stops_nobody() {
    let mut world = World::of("ab");
    world.set('a', Pod::Crashed);
    world.decide();
    let text = world.text();
    let (before, rest) = text.split_once("\"at\":").unwrap();
    let (_, after) = rest.split_once(',').unwrap();
    world.put_map(&format!("{before}\"at\":{},{after}", u64::MAX));
    world.run(3);
    assert_eq!((world.count('a'), world.count('b')), (0, 16));
}

#[test]
fn a_deleted_map_comes_back_as_it_was() {
    let mut world = World::of("abcd");
    let before = world.text();
    world.delete(&map_name(UID));
    world.settle();
    assert_eq!(world.text(), before);
}

#[test]
fn a_damaged_or_foreign_map_is_replaced_by_what_it_was() {
    let mut world = World::of("abcd");
    let before = world.text();
    for text in ["garbage", "{}", &before.replacen(UID, "uid-other", 1)] {
        world.put_map(text);
        world.settle();
        assert_eq!(world.text(), before);
    }
}

#[test]
fn a_new_life_begins_later_where_nobody_knows_the_map() {
    for text in [None, Some("garbage")] {
        let mut world = World::of("abcd");
        let before = world.map();
        world.run(3);
        match text {
            None => world.delete(&map_name(UID)),
            Some(text) => world.put_map(text),
        }
        world.restart();
        world.list_reports();
        world.settle();
        assert!(world.map().generation > before.generation);
        assert_ne!(world.map().last_name, before.last_name, "other names");
        assert_eq!(['a', 'b', 'c', 'd'].map(|pod| world.count(pod)), [4; 4]);
    }
}

#[test]
fn a_restored_backup_gives_way_to_what_the_controller_knows() {
    let mut world = World::of("abc");
    let backup = world.text();
    world.set('a', Pod::Crashed);
    world.settle();
    let before = world.text();
    world.put_map(&backup);
    world.settle();
    assert_eq!(world.text(), before);
}

#[test]
fn a_backup_that_nodes_refuse_begins_a_life_beyond_what_they_hold() {
    let mut world = World::of("abc");
    let (backup, saved) = (world.text(), world.map());
    // Decisions of a controller whose clock was ahead of this one's.
    let lost = Generation(BEGIN + 3_600_000);
    world.put_map(&backup);
    world.restart();
    world.list_reports();
    world.settle();
    assert_eq!(world.text(), backup, "nobody has said that there was anything else");
    world.report('b', |report| report.holds = [(UID.into(), lost)].into());
    world.settle();
    assert!(world.map().generation > lost);
    let owners: Vec<_> = saved.holdings.iter().map(|holding| holding.owner.clone()).collect();
    assert_eq!(world.owners(), owners, "the same owners");
    assert!(saved.members.iter().all(|(id, member)| world.map().members[id].name != member.name), "other names");
    let again = world.text();
    world.run(10);
    assert_eq!(world.text(), again, "once");
}

#[test]
fn a_map_of_version_0_1_is_replaced() {
    let mut world = World::without_reports("ab");
    world.put_map(OLD);
    world.list_reports();
    world.settle();
    assert_eq!([world.count('a'), world.count('b')], [8, 8]);
    assert_eq!(world.told(Reason::InvalidMap).len(), 0);
}

#[test]
fn a_map_of_a_later_version_is_neither_overwritten_nor_deleted() {
    let current = World::of("abc").text();
    for (from, to) in [("\"version\":2", "\"version\":3"), ("\"revision\":2", "\"revision\":3")] {
        let later = current.replacen(from, to, 1);
        let mut world = World::without_reports("abc");
        world.put_map(&later);
        world.list_reports();
        world.unlist('a');
        world.settle();
        assert_eq!(world.text(), later);
        assert!(world.told(Reason::InvalidMap)[0].contains("later version"));
        world.serve("");
        world.settle();
        assert_eq!(world.text(), later, "although its Service asks for nothing");
    }
}

#[test]
fn a_map_goes_with_the_annotation_and_begins_anew_with_it() {
    let mut world = World::of("ab");
    let before = world.map();
    world.serve("");
    world.settle();
    assert!(!world.is_stored(&map_name(UID)));
    world.serve("192.0.2.10");
    world.settle();
    assert!(world.map().generation > before.generation);
}

#[test]
fn a_service_with_vips_of_both_families_has_one_map() {
    let mut world = World::of("ab");
    let before = world.owners();
    world.serve("192.0.2.10,2001:db8::10");
    assert_eq!(world.decide(), [map_name(UID)]);
    assert_eq!((world.owners(), world.decide().len()), (before, 0));
    world.run(2);
    world.add('c');
    assert_eq!(world.decide(), [map_name(UID)]);
}

#[test]
fn a_former_owner_leaves_when_its_node_says_that_nobody_is_connected() {
    let mut world = World::of("ab");
    world.add('c');
    world.settle();
    let former = |world: &World| world.map().holdings.iter().map(|holding| holding.former.len()).sum::<usize>();
    assert_eq!((former(&world), world.count('c')), (5, 5));
    world.run(30);
    world.quiet('a');
    world.quiet('b');
    world.settle();
    assert_eq!(former(&world), 0);
    assert!(world.map().members.contains_key(&id('a')));
}

#[test]
fn a_map_says_which_vips_the_service_holds_and_since_when() {
    let mut world = World::of("ab");
    let holds = |world: &World| {
        world.map().vips.unwrap().into_iter().map(|(vip, at)| (vip.to_string(), at)).collect::<Vec<_>>()
    };
    let [(first, since)] = &holds(&world)[..] else { panic!("{:?}", world.map().vips) };
    let (first, since, owners) = (first.clone(), *since, world.owners());
    world.run(10);
    world.serve("192.0.2.10,192.0.2.11");
    world.run(1);
    let now = holds(&world);
    assert_eq!((now[0].clone(), now[1].0.as_str(), now[1].1 > since), ((first, since), "192.0.2.11", true));
    assert_eq!(world.owners(), owners, "nothing moves for it");
    world.run(1);
    assert!(world.told(Reason::VipAssigned).iter().any(|note| note.contains("Service shop/echo holds 192.0.2.11")));
    world.serve("192.0.2.11");
    world.run(1);
    assert_eq!(holds(&world), [now[1].clone()]);
}

#[test]
fn a_map_begins_anew_although_its_deletion_is_seen_after_the_service_asks_again() {
    begins_anew(|_| {});
    // The last write is seen after the Service has given its annotation up.
    begins_anew(|world| world.put_map(&world.text()));
}

fn begins_anew(meanwhile: fn(&mut World)) {
    let mut world = World::of("ab");
    world.add('c');
    world.settle();
    let began = |world: &World| world.map().holdings.iter().map(|holding| holding.since).min();
    let before = began(&world);
    world.serve("");
    meanwhile(&mut world);
    for decision in world.look() {
        world.store(decision);
    }
    assert!(!world.is_stored(&map_name(UID)));
    world.serve("192.0.2.10");
    let too_early = world.look();
    too_early.into_iter().for_each(|decision| world.fail(decision));
    world.show(&map_name(UID));
    world.wait_ms(1000);
    world.settle();
    assert!(began(&world) > before, "no bucket is held since the life before");
}
