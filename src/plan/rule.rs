//! One ip rule (`ip rule`, rtnetlink's `RTM_NEWRULE`), as data that prints itself as `ip` takes it.

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
