//! The tree, walked as the kernel does.

use std::collections::BTreeSet;

use super::*;
use crate::plan::rule::{Walk, walk};

fn buckets(count: u32) -> BucketCount {
    BucketCount::new(count).unwrap()
}

/// Fields and counts: default, smallest, with spare bits, largest, at the top of the mark.
fn shapes() -> Vec<(MarkField, BucketCount)> {
    let shape = |(mask, count)| (MarkField::new(mask, buckets(count)).unwrap(), buckets(count));
    [(0xff, 64), (0x1f, 16), (0xff, 16), (0xff, 128), (0xff00_0000, 64), (0x7f00, 32)].map(shape).to_vec()
}

/// Every value of the field, alone and among foreign bits.
fn marks(field: MarkField) -> impl Iterator<Item = u32> {
    let own = (0..=field.mask() >> field.shift()).map(move |n| n << field.shift());
    own.flat_map(move |m| [m, m | !field.mask(), m | (0x5555_5555 & !field.mask())])
}

#[test]
fn every_mark_reaches_the_table_of_its_bucket_and_no_other() {
    for (field, count) in shapes() {
        let rules = rule_tree(Family::V4, field, count, 101, 10_000);
        let backwards = |r: &RuleSpec| matches!(r.action, RuleAction::Goto(target) if target <= r.priority);
        assert!(!rules.iter().any(backwards), "the kernel refuses them");
        for mark in marks(field) {
            let expected = count.iter().find(|b| field.mark(*b) == mark & field.mask()).map(|b| table(10_000, b));
            // No table has a route: even then no second table may be tried.
            assert_eq!(walk(&rules, mark, |_| false).tables, Vec::from_iter(expected), "{field} {mark:#x}");
        }
    }
}

#[test]
fn a_marked_packet_visits_at_most_two_rules_more_than_its_bucket_has_bits() {
    for (field, count) in shapes() {
        let rules = rule_tree(Family::V4, field, count, 101, 10_000);
        let costs: Vec<usize> = count.iter().map(|b| walk(&rules, field.mark(b), |_| true).visited).collect();
        let bits = usize::try_from(count.bits()).unwrap();
        assert_eq!(costs.iter().max(), Some(&(bits + 2)), "{count}");
        assert_eq!(costs.iter().sum::<usize>() * 2, costs.len() * (2 * bits + 3), "1.5 leaves on average: {count}");
    }
}

#[test]
fn packets_of_others_pass_by_after_one_rule_and_the_nop() {
    for (field, count) in shapes() {
        let rules = rule_tree(Family::V4, field, count, 101, 10_000);
        for mark in marks(field).filter(|m| m & field.present() == 0) {
            assert_eq!(walk(&rules, mark, |_| true), Walk { tables: vec![], visited: 2 }, "{field} {mark:#x}");
        }
    }
}

/// What version 0.1 has left must be all that an upgrade has to remove: a tree of another shape would need a pause.
#[test]
fn the_tree_of_version_0_1_had_these_rules_and_more() {
    for (field, count) in shapes() {
        let rules = rule_tree(Family::V4, field, count, 101, 10_000);
        let free = |rule: &&RuleSpec| matches!(rule.action, RuleAction::Lookup(_));
        let priorities: BTreeSet<u32> = rules.iter().map(|rule| rule.priority).collect();
        let reserved: BTreeSet<u32> = rules.iter().filter(free).map(|rule| rule.priority + LEAVES).collect();
        assert!(priorities.is_disjoint(&reserved));
        let claimed: BTreeSet<u32> = priorities.union(&reserved).copied().collect();
        assert_eq!(claimed, (101..101 + count.rule_slots()).collect());
        assert_eq!(sources_table(count, 10_000), 10_000 + count.tables());
    }
}

#[test]
fn the_smallest_tree_reads_as_documented() {
    let tree = rule_tree(Family::V4, MarkField::DEFAULT, buckets(16), 101, 10_000);
    let lines: Vec<String> = tree.iter().take(8).chain(tree.last()).map(RuleSpec::to_string).collect();
    assert_eq!(
        lines,
        [
            "priority 101 fwmark 0x0/0x80 goto 141 protocol 107",
            "priority 102 fwmark 0x88/0x88 goto 122 protocol 107",
            "priority 103 fwmark 0x84/0x84 goto 113 protocol 107",
            "priority 104 fwmark 0x82/0x82 goto 109 protocol 107",
            "priority 105 fwmark 0x80/0xff lookup 10000 protocol 107",
            "priority 106 fwmark 0x81/0xff lookup 10001 protocol 107",
            "priority 109 fwmark 0x82/0xff lookup 10002 protocol 107",
            "priority 110 fwmark 0x83/0xff lookup 10003 protocol 107",
            "priority 141 nop protocol 107",
        ]
    );
}
