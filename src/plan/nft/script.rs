//! The difference between two tables as commands of nft, in four transactions.
//!
//! [`Scripts::prepare`] comes first: the table, its chains and guards, and VIPs that are withdrawn. [`Scripts::divert`] comes
//! when new routes and rules stand, before any route changes: from then on SYNs are refused. [`Scripts::enable`] comes when all
//! routes stand: it adds VIPs, and ends refusals. [`Scripts::finish`] comes last and removes what nothing needs any more.

use std::collections::{BTreeMap, BTreeSet};

use super::family::named;
use super::op::keys;
use super::{
    Chain, Elements, Learning, NftAction, NftOp, ObservedChain, ObservedSet, ObservedTable, Set, SetType, Table,
    TableFamily, TableName,
};
use crate::model::Family;

/// The set, one for each family, whose elements switch VIPs on and off.
pub const VIPS: &str = "vips";

/// The set, one for each family, of buckets that take no new connections.
pub const REFUSING: &str = "refusing";

fn is_switch(set: &str) -> bool {
    is_any(&[VIPS], set)
}

fn diverts(set: &str) -> bool {
    is_any(&[REFUSING], set)
}

fn is_any(names: &[&str], set: &str) -> bool {
    names.iter().any(|name| Family::ALL.into_iter().any(|family| named(name, family) == set))
}

/// Four nft transactions; one without commands is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scripts {
    /// Before anything else.
    pub prepare: Vec<NftOp>,
    /// After what is new is in place, before anything that was there changes.
    pub divert: Vec<NftOp>,
    /// After everything that a VIP needs is in place.
    pub enable: Vec<NftOp>,
    /// After everything that is no longer needed is gone.
    pub finish: Vec<NftOp>,
}

/// What is done to one table in one transaction.
#[derive(Default)]
struct Script(Vec<NftAction>);

impl Script {
    fn push(&mut self, action: NftAction) {
        self.0.push(action);
    }

    fn add(&mut self, set: &str, kind: SetType, elements: BTreeSet<String>) {
        if !elements.is_empty() {
            self.push(NftAction::AddElements(Elements { set: set.to_owned(), kind, elements }));
        }
    }

    fn delete(&mut self, set: &str, kind: SetType, elements: BTreeSet<String>) {
        if !elements.is_empty() {
            self.push(NftAction::DeleteElements(Elements { set: set.to_owned(), kind, elements }));
        }
    }
}

/// The transactions for one table.
#[derive(Default)]
struct Parts {
    prepare: Script,
    divert: Script,
    enable: Script,
    finish: Script,
}

/// What has to be run so that our table of a family, `observed`, becomes `desired`.
pub fn scripts(family: TableFamily, desired: Option<&Table>, observed: Option<&ObservedTable>) -> Scripts {
    let mut parts = Parts::default();
    match (desired, observed) {
        (Some(desired), observed) => change(&mut parts, desired, observed),
        (None, Some(observed)) => {
            withdraw_unknown(&mut parts.prepare, &BTreeMap::new(), observed);
            parts.finish.push(NftAction::DeleteTable);
        }
        (None, None) => {}
    }
    let ops = |script: Script| TableName::ours(family).ops(script.0);
    let Parts { prepare, divert, enable, finish } = parts;
    Scripts { prepare: ops(prepare), divert: ops(divert), enable: ops(enable), finish: ops(finish) }
}

fn change(out: &mut Parts, desired: &Table, observed: Option<&ObservedTable>) {
    let empty = ObservedTable::default();
    let kept = match observed {
        Some(observed) if set_types_fit(desired, observed) => observed,
        Some(_) => {
            // A set cannot change its type: only a table made anew in the same transaction can.
            out.prepare.push(NftAction::DeleteTable);
            &empty
        }
        None => &empty,
    };
    if std::ptr::eq(kept, &empty) {
        out.prepare.push(NftAction::AddTable);
    }
    withdraw_unknown(&mut out.prepare, &desired.sets, kept);
    for timeout in desired.timeouts.iter().filter(|timeout| !kept.timeouts.contains(&timeout.name())) {
        out.prepare.push(NftAction::AddTimeout(*timeout));
    }
    diff_sets(out, &desired.sets, kept);
    // While a refusal or diversion ends, packets go on being refused or diverted until the routes have changed.
    let ended: Vec<_> =
        kept.sets.iter().filter(|(name, _)| diverts(name) && !desired.sets.contains_key(*name)).collect();
    for (name, set) in &ended {
        if let Some(kind) = SetType::listed_as(&set.kind) {
            out.enable.delete(name, kind, keys(&set.elements));
        }
    }
    let target = if ended.is_empty() { &mut out.prepare } else { &mut out.enable };
    diff_chains((target, &mut out.finish), &desired.chains, kept);
    drop_unknown_sets(&mut out.finish, &desired.sets, kept);
    let wanted: BTreeSet<String> = desired.timeouts.iter().map(|timeout| timeout.name()).collect();
    for name in kept.timeouts.difference(&wanted) {
        out.finish.push(NftAction::DeleteTimeout(name.clone()));
    }
}

fn set_types_fit(desired: &Table, observed: &ObservedTable) -> bool {
    let fits = |set: &Set, old: &ObservedSet| old.kind == set.kind.as_str() && old.counted == set.counted;
    desired.sets.iter().all(|(name, set)| observed.sets.get(name).is_none_or(|old| fits(set, old)))
}

/// The switch of a family that has no VIP any more.
fn withdraw_unknown(script: &mut Script, desired: &BTreeMap<String, Set>, observed: &ObservedTable) {
    for (name, set) in observed.sets.iter().filter(|(name, _)| is_switch(name) && !desired.contains_key(*name)) {
        if let Some(kind) = SetType::listed_as(&set.kind) {
            script.delete(name, kind, set.elements.clone());
        }
    }
}

fn diff_sets(out: &mut Parts, desired: &BTreeMap<String, Set>, observed: &ObservedTable) {
    let none = BTreeSet::new();
    for (name, set) in desired {
        let kind = set.kind;
        let old = observed.sets.get(name).map(|o| &o.elements);
        if old.is_none() {
            let learns = set.learning != Learning::No;
            out.prepare.push(NftAction::AddSet { name: name.clone(), kind, counted: set.counted, learns });
        }
        let old = old.unwrap_or(&none);
        let added: BTreeSet<String> = set.elements.difference(old).cloned().collect();
        let removed: BTreeSet<String> = match set.learning {
            Learning::Keep => BTreeSet::new(),
            Learning::No | Learning::Replace => old.difference(&set.elements).cloned().collect(),
        };
        if is_switch(name) {
            out.prepare.delete(name, kind, removed);
            out.enable.add(name, kind, added);
        } else if diverts(name) {
            let (gone, new) = (keys(&removed), keys(&added));
            out.divert.delete(name, kind, gone.intersection(&new).cloned().collect());
            out.divert.add(name, kind, added);
            out.enable.delete(name, kind, gone.difference(&new).cloned().collect());
        } else if kind.keyword() == "map" {
            // A map's value cannot be changed in place, and both sides of the change must be one transaction.
            let (gone, changed) = (keys(&removed), keys(&added));
            let target = if gone.is_disjoint(&changed) { &mut out.finish } else { &mut out.prepare };
            target.delete(name, kind, gone);
            out.prepare.add(name, kind, added);
        } else {
            out.prepare.add(name, kind, added);
            out.finish.delete(name, kind, removed);
        }
    }
}

fn diff_chains(
    (script, finish): (&mut Script, &mut Script),
    desired: &BTreeMap<String, Chain>,
    observed: &ObservedTable,
) {
    let mut fill = Vec::new();
    for (name, chain) in desired {
        let old = observed.chains.get(name);
        if old.is_some_and(|o| !same_hook(chain, o)) {
            script.push(NftAction::FlushChain(name.clone()));
            script.push(NftAction::DeleteChain(name.clone()));
        }
        if old.is_none_or(|o| !same_hook(chain, o)) {
            script.push(NftAction::AddChain { name: name.clone(), base: chain.base.clone() });
        } else if old.is_some_and(|o| same_rules(chain, o)) {
            continue;
        } else {
            script.push(NftAction::FlushChain(name.clone()));
        }
        fill.push((name, chain));
    }
    // All chains exist before the first rule jumps to one.
    for (name, chain) in fill {
        for rule in &chain.rules {
            script.push(NftAction::AddRule { chain: name.clone(), rule: rule.clone() });
        }
    }
    let surplus = || observed.chains.keys().filter(|name| !desired.contains_key(*name)).cloned();
    // A chain that another still jumps to cannot be deleted.
    surplus().map(NftAction::FlushChain).for_each(|action| finish.push(action));
    surplus().map(NftAction::DeleteChain).for_each(|action| finish.push(action));
}

fn drop_unknown_sets(script: &mut Script, desired: &BTreeMap<String, Set>, observed: &ObservedTable) {
    for (name, set) in observed.sets.iter().filter(|(name, _)| !desired.contains_key(*name)) {
        script.push(NftAction::DeleteSet { name: name.clone(), is_map: set.kind.contains(" : ") });
    }
}

pub(super) fn same_hook(chain: &Chain, observed: &ObservedChain) -> bool {
    match (&chain.base, &observed.base) {
        (None, None) => true,
        (Some(want), Some((kind, hook, priority))) => {
            want.kind == kind && want.hook == hook && want.priority == *priority
        }
        _ => false,
    }
}

pub(super) fn same_rules(chain: &Chain, observed: &ObservedChain) -> bool {
    chain.rules.len() == observed.comments.len()
        && chain.rules.iter().zip(&observed.comments).all(|(rule, comment)| rule.comment() == *comment)
}
