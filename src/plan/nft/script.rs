//! The difference between two tables as text for `nft -f -`, in four transactions.
//!
//! [`Scripts::prepare`] comes first: the table, its chains and guards, and VIPs that are withdrawn. [`Scripts::divert`] comes
//! when new routes and rules stand, before any route changes: from then on SYNs are refused. [`Scripts::enable`] comes when all
//! routes stand: it adds VIPs, and ends refusals. [`Scripts::finish`] comes last and removes what nothing needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::family::named;
use super::{Chain, Learning, ObservedChain, ObservedSet, ObservedTable, Set, Table, TableFamily};
use crate::model::Family;
use crate::plan::NFT_TABLE;

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

/// Four nft transactions; an empty string is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scripts {
    /// Before anything else.
    pub prepare: String,
    /// After what is new is in place, before anything that was there changes.
    pub divert: String,
    /// After everything that a VIP needs is in place.
    pub enable: String,
    /// After everything that is no longer needed is gone.
    pub finish: String,
}

/// What has to be run so that our table of a family, `observed`, becomes `desired`.
pub fn scripts(family: TableFamily, desired: Option<&Table>, observed: Option<&ObservedTable>) -> Scripts {
    let mut out = Scripts::default();
    let of = &format!("{family} {NFT_TABLE}");
    let Some(desired) = desired else {
        if let Some(observed) = observed {
            withdraw_unknown(&mut out.prepare, of, &BTreeMap::new(), observed);
            out.finish = format!("delete table {of}\n");
        }
        return out;
    };
    let empty = ObservedTable::default();
    let kept = match observed {
        Some(observed) if set_types_fit(desired, observed) => observed,
        Some(_) => {
            // A set cannot change its type: only a table made anew in the same transaction can.
            writeln_to(&mut out.prepare, format_args!("delete table {of}"));
            &empty
        }
        None => &empty,
    };
    if std::ptr::eq(kept, &empty) {
        writeln_to(&mut out.prepare, format_args!("add table {of}"));
    }
    withdraw_unknown(&mut out.prepare, of, &desired.sets, kept);
    for timeout in desired.timeouts.iter().filter(|timeout| !kept.timeouts.contains(&timeout.name())) {
        let (name, policy) = (timeout.name(), timeout.declaration());
        writeln_to(&mut out.prepare, format_args!("add ct timeout {of} {name} {{ {policy} }}"));
    }
    diff_sets(&mut out, of, &desired.sets, kept);
    // While a refusal or diversion ends, packets go on being refused or diverted until the routes have changed.
    let ended: Vec<_> =
        kept.sets.iter().filter(|(name, _)| diverts(name) && !desired.sets.contains_key(*name)).collect();
    for (name, set) in &ended {
        let keys = set.elements.iter().map(|e| key(e).to_owned()).collect();
        elements(&mut out.enable, of, "delete", name, &keys, true);
    }
    let target = if ended.is_empty() { &mut out.prepare } else { &mut out.enable };
    diff_chains((target, &mut out.finish), of, &desired.chains, kept);
    drop_unknown_sets(&mut out.finish, of, &desired.sets, kept);
    let wanted: BTreeSet<String> = desired.timeouts.iter().map(|timeout| timeout.name()).collect();
    for name in kept.timeouts.difference(&wanted) {
        writeln_to(&mut out.finish, format_args!("delete ct timeout {of} {name}"));
    }
    out
}

fn set_types_fit(desired: &Table, observed: &ObservedTable) -> bool {
    let fits = |set: &Set, old: &ObservedSet| old.kind == set.kind.as_str() && old.counted == set.counted;
    desired.sets.iter().all(|(name, set)| observed.sets.get(name).is_none_or(|old| fits(set, old)))
}

/// The switch of a family that has no VIP any more.
fn withdraw_unknown(script: &mut String, of: &str, desired: &BTreeMap<String, Set>, observed: &ObservedTable) {
    for (name, set) in observed.sets.iter().filter(|(name, _)| is_switch(name) && !desired.contains_key(*name)) {
        elements(script, of, "delete", name, &set.elements, true);
    }
}

fn diff_sets(out: &mut Scripts, of: &str, desired: &BTreeMap<String, Set>, observed: &ObservedTable) {
    let none = BTreeSet::new();
    for (name, set) in desired {
        let old = observed.sets.get(name).map(|o| &o.elements);
        if old.is_none() {
            let (keyword, kind) = (set.kind.keyword(), set.kind.declaration());
            let counter = if set.counted { " counter;" } else { "" };
            let dynamic = if set.learning == Learning::No { "" } else { " size 65535; flags dynamic;" };
            writeln_to(&mut out.prepare, format_args!("add {keyword} {of} {name} {{ {kind};{counter}{dynamic} }}"));
        }
        let old = old.unwrap_or(&none);
        let plain = !set.kind.is_quoted();
        let is_map = set.kind.keyword() == "map";
        let added = set.elements.difference(old).cloned().collect();
        let removed: BTreeSet<String> = match set.learning {
            Learning::Keep => BTreeSet::new(),
            Learning::No | Learning::Replace => old.difference(&set.elements).cloned().collect(),
        };
        if is_switch(name) {
            elements(&mut out.prepare, of, "delete", name, &removed, plain);
            elements(&mut out.enable, of, "add", name, &added, plain);
        } else if diverts(name) {
            let keys =
                |elements: &BTreeSet<String>| elements.iter().map(|e| key(e).to_owned()).collect::<BTreeSet<_>>();
            let (gone, new) = (keys(&removed), keys(&added));
            let replaced = gone.intersection(&new).cloned().collect();
            elements(&mut out.divert, of, "delete", name, &replaced, plain);
            elements(&mut out.divert, of, "add", name, &added, plain);
            elements(&mut out.enable, of, "delete", name, &gone.difference(&new).cloned().collect(), plain);
        } else if is_map {
            // A map's value cannot be changed in place, and both sides of the change must be one transaction.
            let keys = removed.iter().map(|e| key(e).to_owned()).collect();
            let changed: BTreeSet<&str> = added.iter().map(|e| key(e)).collect();
            let target =
                if removed.iter().any(|e| changed.contains(key(e))) { &mut out.prepare } else { &mut out.finish };
            elements(target, of, "delete", name, &keys, plain);
            elements(&mut out.prepare, of, "add", name, &added, plain);
        } else {
            elements(&mut out.prepare, of, "add", name, &added, plain);
            elements(&mut out.finish, of, "delete", name, &removed, plain);
        }
    }
}

fn key(element: &str) -> &str {
    element.split(" : ").next().unwrap_or(element)
}

fn diff_chains(
    (script, finish): (&mut String, &mut String),
    of: &str,
    desired: &BTreeMap<String, Chain>,
    observed: &ObservedTable,
) {
    let mut fill = Vec::new();
    for (name, chain) in desired {
        let old = observed.chains.get(name);
        if old.is_some_and(|o| !same_hook(chain, o)) {
            writeln_to(script, format_args!("flush chain {of} {name}"));
            writeln_to(script, format_args!("delete chain {of} {name}"));
        }
        if old.is_none_or(|o| !same_hook(chain, o)) {
            writeln_to(script, format_args!("add chain {of} {name}{}", hook(chain)));
        } else if old.is_some_and(|o| same_rules(chain, o)) {
            continue;
        } else {
            writeln_to(script, format_args!("flush chain {of} {name}"));
        }
        fill.push((name, chain));
    }
    // All chains exist before the first rule jumps to one.
    for (name, chain) in fill {
        for rule in &chain.rules {
            writeln_to(script, format_args!("add rule {of} {name} {rule}"));
        }
    }
    let surplus = || observed.chains.keys().filter(|name| !desired.contains_key(*name));
    // A chain that another still jumps to cannot be deleted.
    for verb in ["flush", "delete"] {
        surplus().for_each(|name| writeln_to(finish, format_args!("{verb} chain {of} {name}")));
    }
}

fn drop_unknown_sets(script: &mut String, of: &str, desired: &BTreeMap<String, Set>, observed: &ObservedTable) {
    for (name, set) in &observed.sets {
        if !desired.contains_key(name) {
            let keyword = if set.kind.contains(" : ") { "map" } else { "set" };
            writeln_to(script, format_args!("delete {keyword} {of} {name}"));
        }
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

fn hook(chain: &Chain) -> String {
    chain.base.as_ref().map_or_else(String::new, |b| {
        let device = b.device.as_ref().map_or_else(String::new, |dev| format!(" device \"{dev}\""));
        format!(" {{ type {} hook {}{device} priority {}; policy accept; }}", b.kind, b.hook, b.priority)
    })
}

fn elements(script: &mut String, of: &str, verb: &str, set: &str, elements: &BTreeSet<String>, plain: bool) {
    if elements.is_empty() {
        return;
    }
    let list: Vec<String> = elements.iter().map(|e| if plain { e.clone() } else { quoted(e) }).collect();
    writeln_to(script, format_args!("{verb} element {of} {set} {{ {} }}", list.join(", ")));
}

/// Device names are quoted (one may start with a digit or hold a dot), addresses and numbers are plain.
fn quoted(element: &str) -> String {
    match element.split_once(" : ") {
        Some((dev, value)) => format!("\"{dev}\" : {value}"),
        None => format!("\"{element}\""),
    }
}

fn writeln_to(script: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = script.write_fmt(format_args!("{line}\n"));
}
