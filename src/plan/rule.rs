//! One ip rule (`ip rule`, rtnetlink's `RTM_NEWRULE`), as data that prints itself as `ip` takes it.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::Family;
use crate::model::names::ROUTE_PROTOCOL;

/// What a rule does with a packet that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleAction {
    /// Look the destination up in that routing table; without a route there the walk goes on with the next rule.
    Lookup(u32),
    /// Go on with the first rule of that priority, which must be higher than the rule's own (net/core/fib_rules.c). While
    /// there is none the rule matches nothing.
    Goto(u32),
    /// Nothing: a target for `Goto`.
    Nop,
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleAction::Lookup(table) => write!(f, "lookup {table}"),
            RuleAction::Goto(priority) => write!(f, "goto {priority}"),
            RuleAction::Nop => f.write_str("nop"),
        }
    }
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleSpec {
    /// Whose packets it sees.
    pub family: Family,
    /// Rules are walked from low to high priority.
    pub priority: u32,
    /// Value and mask that the packet's mark must match; `None` matches every packet.
    pub mark: Option<(u32, u32)>,
    /// What to do with a packet that matches.
    pub action: RuleAction,
}

impl RuleSpec {
    /// Whether a packet with this mark matches.
    pub fn matches(&self, mark: u32) -> bool {
        self.mark.is_none_or(|(value, mask)| (mark ^ value) & mask == 0)
    }
}

/// The tables that rules look into.
pub fn tables_of(rules: impl Iterator<Item = RuleSpec>) -> BTreeSet<u32> {
    let table = |rule: RuleSpec| match rule.action {
        RuleAction::Lookup(table) => Some(table),
        RuleAction::Goto(_) | RuleAction::Nop => None,
    };
    rules.filter_map(table).collect()
}

/// How the kernel walks rules for a packet (`fib_rules_lookup`, net/core/fib_rules.c).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Tables looked up, in order; the last one has a route, if any has.
    pub tables: Vec<u32>,
    /// Rules whose selector was compared.
    pub visited: usize,
}

/// Walks the rules of one family, given in the order of their priorities, with this mark. A table in which there is a
/// route ends the walk, others let it go on. A jump backwards, which the kernel refuses, is none here.
pub fn walk(rules: &[RuleSpec], mark: u32, with_route: impl Fn(u32) -> bool) -> Walk {
    let mut walk = Walk::default();
    let mut at = 0;
    while let Some(rule) = rules.get(at) {
        walk.visited += 1;
        at += 1;
        match rule.action {
            _ if !rule.matches(mark) => {}
            RuleAction::Nop => {}
            RuleAction::Goto(target) => {
                at = rules.iter().skip(at).position(|r| r.priority == target).map_or(at, |ahead| at + ahead);
            }
            RuleAction::Lookup(table) => {
                walk.tables.push(table);
                if with_route(table) {
                    return walk;
                }
            }
        }
    }
    walk
}

/// The arguments of `ip rule add`.
impl fmt::Display for RuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "priority {}", self.priority)?;
        if let Some((value, mask)) = self.mark {
            write!(f, " fwmark {value:#x}/{mask:#x}")?;
        }
        write!(f, " {} protocol {ROUTE_PROTOCOL}", self.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_prints_as_ip_takes_it() {
        let rule = |mark, action| RuleSpec { family: Family::V4, priority: 101, mark, action }.to_string();
        assert_eq!(rule(Some((0, 0x80)), RuleAction::Goto(261)), "priority 101 fwmark 0x0/0x80 goto 261 protocol 107");
        assert_eq!(
            rule(Some((0x85, 0xff)), RuleAction::Lookup(10005)),
            "priority 101 fwmark 0x85/0xff lookup 10005 protocol 107"
        );
        assert_eq!(rule(None, RuleAction::Nop), "priority 101 nop protocol 107");
    }

    #[test]
    fn a_rule_without_a_mark_matches_every_packet() {
        let rule = RuleSpec { family: Family::V4, priority: 1, mark: None, action: RuleAction::Nop };
        assert!(rule.matches(0) && rule.matches(u32::MAX));
    }
}
