//! The rule tree in a kernel: every rule is accepted, and `ip route get` ends in the table of the mark's bucket.

use std::fmt::Write;

use crate::named::Netns;
use tunnel_router::model::{self, BucketCount, MarkField};
use tunnel_router::plan::rule_tree;
use tunnel_router::plan::tree::table;

const FIRST: u32 = 101;
const TABLES: u32 = 10_000;

/// One address family, as `ip` wants to be told about it.
struct Family {
    family: model::Family,
    option: &'static str,
    vip: &'static str,
    setup: &'static str,
}

const V4: Family = Family {
    family: model::Family::V4,
    option: "-4",
    vip: "192.0.2.1",
    setup: "addr add 10.0.0.1/24 dev kst-a\nroute add default via 10.0.0.2\n",
};
const V6: Family = Family {
    family: model::Family::V6,
    option: "-6",
    vip: "2001:db8::1",
    setup: "addr add fd00::1/64 dev kst-a nodad\nroute add default via fd00::2\n",
};

/// A namespace with the tree, and a route to the VIP in every table.
fn netns_with_tree(test: &str, family: &Family, field: MarkField, buckets: BucketCount) -> Netns {
    let netns = Netns::new(test);
    netns.ip("link add kst-a type veth peer name kst-b\nlink set kst-a up\nlink set kst-b up\n");
    let mut batch = String::from(family.setup);
    for table in TABLES..TABLES + buckets.tables() {
        writeln!(batch, "route add {} dev kst-a table {table}", family.vip).unwrap();
    }
    for rule in rule_tree(family.family, field, buckets, FIRST, TABLES).iter().rev() {
        writeln!(batch, "rule add {rule}").unwrap();
    }
    netns.run(&format!("ip {} -batch -", family.option), &batch);
    netns
}

/// The table that each mark leads to; `None`: beyond the tree.
fn tables_of(netns: &Netns, family: &Family, marks: &[u32]) -> Vec<Option<u32>> {
    let questions: String = marks.iter().map(|mark| format!("route get {} mark {mark:#x}\n", family.vip)).collect();
    let answers = netns.run(&format!("ip {} -oneline -batch -", family.option), &questions);
    let table = |line: &str| line.split_once(" table ")?.1.split_whitespace().next()?.parse().ok();
    let routes = answers.lines().filter(|line| line.contains(family.vip));
    let tables: Vec<Option<u32>> = routes.map(|line| table(line).filter(|t| *t >= TABLES)).collect();
    assert_eq!(tables.len(), marks.len(), "{answers}");
    tables
}

fn check(test: &str, family: &Family, mask: u32, count: u32) {
    let buckets = BucketCount::new(count).unwrap();
    let field = MarkField::new(mask, buckets).unwrap();
    let netns = netns_with_tree(test, family, field, buckets);

    let listed = netns.run(&format!("ip {} rule list", family.option), "");
    assert!(!listed.contains("unresolved"), "{listed}");

    let foreign = 0x0001_0000 & !mask;
    let mut marks = vec![0, field.transit(), foreign];
    let mut expected = vec![None; marks.len()];
    for bucket in buckets.iter() {
        marks.extend([field.mark(bucket), field.mark(bucket) | foreign]);
        expected.extend([Some(table(TABLES, bucket)); 2]);
    }
    assert_eq!(tables_of(&netns, family, &marks), expected);
}

#[test]
fn the_kernel_sends_each_mark_to_the_table_of_its_bucket() {
    check("tree64", &V4, 0x7f, 64);
}

#[test]
fn the_largest_tree_in_a_high_field_does_too() {
    check("tree128", &V4, 0xff00_0000, 128);
}

#[test]
fn so_does_the_tree_of_ipv6() {
    check("tree-v6", &V6, 0x3f, 16);
}

#[test]
fn rules_of_others_behind_the_entry_serve_packets_of_others_only() {
    let buckets = BucketCount::new(16).unwrap();
    let field = MarkField::new(0x1f, buckets).unwrap();
    let netns = netns_with_tree("tree-others", &V4, field, buckets);
    netns.ip(&format!("route add {} dev kst-a table 60000\nrule add priority 150 lookup 60000\n", V4.vip));

    let bucket = buckets.iter().next().unwrap();
    let found = tables_of(&netns, &V4, &[0, field.mark(bucket)]);
    assert_eq!(found, [Some(60_000), Some(table(TABLES, bucket))]);
}

/// As the reverse path filter asks where `src_valid_mark` is set.
#[test]
fn what_a_buckets_table_does_not_know_is_looked_up_in_main() {
    let buckets = BucketCount::new(16).unwrap();
    let field = MarkField::new(0x1f, buckets).unwrap();
    let netns = netns_with_tree("tree-main", &V4, field, buckets);

    let mark = field.mark(buckets.iter().next().unwrap());
    let answer = netns.run(&format!("ip -4 route get 203.0.113.1 mark {mark:#x}"), "");
    assert!(answer.contains("via 10.0.0.2"), "{answer}");
}
