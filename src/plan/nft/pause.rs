//! The table that drops packets to VIPs while the ip rules are changed into a tree of another shape.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::family::{inline, ip, of_family};
use super::{BaseChain, NftAction, NftOp, Rule, TableFamily, TableName};
use crate::model::Family;
use crate::plan::PAUSED_TABLE;

const TABLE: TableName = TableName { family: TableFamily::Inet, name: PAUSED_TABLE };

/// Drops packets to these VIPs, from outside and from this node. What an earlier pause has left is replaced.
pub fn pause(vips: &BTreeSet<IpAddr>) -> Vec<NftOp> {
    let mut actions = vec![NftAction::AddTable, NftAction::DeleteTable, NftAction::AddTable];
    for hook in ["prerouting", "output"] {
        let base = BaseChain { kind: "filter", hook, device: None, priority: -301 };
        actions.push(NftAction::AddChain { name: hook.to_owned(), base: Some(base) });
        let families = Family::ALL.into_iter().filter(|family| of_family(vips, *family).next().is_some());
        actions.extend(families.map(|family| {
            let text = format!("{} daddr {} drop", ip(family), inline(vips, family));
            let rule = Rule::new("until the rules are changed", text);
            NftAction::AddRule { chain: hook.to_owned(), rule }
        }));
    }
    TABLE.ops(actions)
}

/// Ends it.
pub fn resume() -> Vec<NftOp> {
    TABLE.ops([NftAction::DeleteTable])
}
