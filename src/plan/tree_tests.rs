//! The tree, walked as the kernel does.

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
            let bucket = count.iter().find(|b| field.mark(*b) == mark & field.mask()).map(|b| table(10_000, b));
            let main = (mark & field.present() != 0).then_some(MAIN);
            // No table has a route: even then no second bucket's table may be tried.
            let expected: Vec<u32> = bucket.into_iter().chain(main).collect();
            assert_eq!(walk(&rules, mark, |_| false).tables, expected, "{field} {mark:#x}");
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
fn packets_of_others_skip_nothing_and_enter_no_table() {
    for (field, count) in shapes() {
        let rules = rule_tree(Family::V4, field, count, 101, 10_000);
        for mark in marks(field).filter(|m| m & field.present() == 0) {
            // The kernel's own rules stand behind the entry, and nearly all packets end there.
            assert_eq!(walk(&rules[..1], mark, |_| true), Walk { tables: vec![], visited: 1 }, "{field} {mark:#x}");
            assert!(walk(&rules, mark, |_| true).tables.is_empty(), "{field} {mark:#x}");
        }
    }
}

#[test]
fn the_tree_fills_its_block_behind_the_rules_of_the_kernel() {
    for (field, count) in shapes() {
        for entry in [1, 101, 32764] {
            let rules = rule_tree(Family::V4, field, count, entry, 10_000);
            let block = tree_block(count, entry);
            let places: Vec<u32> = rules.iter().map(|rule| rule.priority).collect();
            assert_eq!(places, [entry].into_iter().chain(block.clone()).collect::<Vec<_>>());
            assert!(*block.start() > 32767, "behind the rule for the table default");
        }
    }
}

#[test]
fn the_smallest_tree_reads_as_documented() {
    let tree = rule_tree(Family::V4, MarkField::DEFAULT, buckets(16), 101, 10_000);
    let lines: Vec<String> = tree.iter().take(8).chain(tree.last()).map(RuleSpec::to_string).collect();
    assert_eq!(
        lines,
        [
            "priority 101 fwmark 0x80/0x80 goto 32869 protocol 107",
            "priority 32869 fwmark 0x88/0x88 goto 32881 protocol 107",
            "priority 32870 fwmark 0x84/0x84 goto 32876 protocol 107",
            "priority 32871 fwmark 0x82/0x82 goto 32874 protocol 107",
            "priority 32872 fwmark 0x80/0xff lookup 10000 protocol 107",
            "priority 32873 fwmark 0x81/0xff lookup 10001 protocol 107",
            "priority 32874 fwmark 0x82/0xff lookup 10002 protocol 107",
            "priority 32875 fwmark 0x83/0xff lookup 10003 protocol 107",
            "priority 32892 fwmark 0x80/0x80 lookup 254 protocol 107",
        ]
    );
}
