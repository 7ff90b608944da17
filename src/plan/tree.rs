//! Mark → table: a binary tree of `goto` rules over the bits of the bucket's number.
//!
//! A list of one rule per bucket costs every packet half the list; the tree costs log2 of it. Rules can only jump
//! forwards, and one that does not match falls through to the next, so the tree is written in preorder: at each node one
//! rule jumps to the upper half if the bit is set, and right behind it stands the lower half.
//!
//! ```text
//!   101  fwmark 0x80/0x80  goto 32869 ─┐    packets to VIPs
//!   102  fwmark 0x0/0xff   lookup the table of sources
//!   …    rules of others, main, default │
//! 32869  fwmark 0x88/0x88  goto ──┐   ◄─┘    bucket 8…15
//! 32870  fwmark 0x84/0x84  goto ─┐│          bucket 4…7
//!   …                            ││
//!        fwmark 0x80/0xff  lookup bucket 0
//!        fwmark 0x81/0xff  lookup bucket 1
//!   …                            ◄┘
//!   END  fwmark 0x80/0x80  lookup main
//! ```
//!
//! - Packets without a mark of ours skip nothing of others: the tree stands behind the kernel's own rules, and only its entry
//!   before theirs. A foreign rule between them works as if we were not there.
//! - Bits outside our field do not count. nft writes the whole mark, but Calico adds bits of its own to packets that are on their way.
//!   So a packet of others with our bit PRESENT takes the tree, too, and ends at `main`.
//! - The last level are pairs: comparing both leaves costs 1.5 rules on average, a jump to one of two costs 2.
//! - A leaf compares the whole field. A table without a route lets the walk go on, and then no other leaf may match.
//! - The last rule is for look-ups of others with the packet's mark: the reverse path filter's where `src_valid_mark` is set, and
//!   those of ICMP errors where `fwmark_reflect` is.
//! - Rules are to be added from the last to the first: until its target exists a jump matches nothing.

use std::ops::RangeInclusive;

use super::rule::{RuleAction, RuleSpec};
use crate::model::{Bucket, BucketCount, Family, MarkField};

/// How far the tree stands behind its entry: behind the rules for `main` (32766) and `default` (32767), wherever the entry is.
const BEHIND: u32 = 32768;

/// The kernel's table for everything (`RT_TABLE_MAIN`).
const MAIN: u32 = 254;

/// Every rule of the tree, in the order of their priorities: its entry at `first_priority`, all others from
/// [`tree_priority`] on. Each family has a tree of its own, with the same priorities and tables.
///
/// Bucket b's routes are in table `table_base + b`. The caller has checked that priorities and tables fit (see
/// `model::config`).
pub fn rule_tree(
    family: Family,
    mark: MarkField,
    buckets: BucketCount,
    first_priority: u32,
    table_base: u32,
) -> Vec<RuleSpec> {
    let first = tree_priority(first_priority);
    let ours = Some((mark.present(), mark.present()));
    let mut tree = Tree { family, mark, table_base, rules: Vec::new() };
    tree.push(first_priority, ours, RuleAction::Goto(first));
    tree.subtree(first, 0, buckets.get());
    tree.push(first + slots(buckets.get()), ours, RuleAction::Lookup(MAIN));
    tree.rules
}

/// The first priority of the tree whose entry has this one.
pub fn tree_priority(first_priority: u32) -> u32 {
    first_priority + BEHIND
}

/// The priorities of the tree behind its entry.
pub fn tree_block(buckets: BucketCount, first_priority: u32) -> RangeInclusive<u32> {
    let first = tree_priority(first_priority);
    first..=first + slots(buckets.get())
}

/// The table with the routes of the bucket.
pub fn table(table_base: u32, bucket: Bucket) -> u32 {
    table_base + bucket.number()
}

/// The table that says which devices a VIP may be a source on; the last one that we claim.
pub fn sources_table(buckets: BucketCount, table_base: u32) -> u32 {
    table_base + buckets.tables()
}

/// The rule that leads to [`sources_table`], behind the tree's entry: for packets that carry no mark of ours. IPv6 has no
/// reverse path filter.
pub fn sources_rule(mark: MarkField, first_priority: u32, table: u32) -> RuleSpec {
    RuleSpec {
        family: Family::V4,
        priority: first_priority + 1,
        mark: Some((0, mark.mask())),
        action: RuleAction::Lookup(table),
    }
}

/// Buckets of one last node.
const LEAVES: u32 = 2;

/// Priorities that the subtree of `width` buckets takes: one for each jump, one for each bucket.
fn slots(width: u32) -> u32 {
    width / LEAVES - 1 + width
}

struct Tree {
    family: Family,
    mark: MarkField,
    table_base: u32,
    rules: Vec<RuleSpec>,
}

impl Tree {
    fn push(&mut self, priority: u32, mark: Option<(u32, u32)>, action: RuleAction) {
        self.rules.push(RuleSpec { family: self.family, priority, mark, action });
    }

    /// The rules for the `width` buckets from `first` on.
    fn subtree(&mut self, priority: u32, first: u32, width: u32) {
        if width == LEAVES {
            for (priority, bucket) in (priority..).zip((first..first + width).filter_map(Bucket::new)) {
                let mark = (self.mark.mark(bucket), self.mark.mask());
                self.push(priority, Some(mark), RuleAction::Lookup(table(self.table_base, bucket)));
            }
            return;
        }
        let half = width / 2;
        let upper = priority + 1 + slots(half);
        let bit = self.mark.present() | half << self.mark.shift();
        self.push(priority, Some((bit, bit)), RuleAction::Goto(upper));
        self.subtree(priority + 1, first, half);
        self.subtree(upper, first + half, half);
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
