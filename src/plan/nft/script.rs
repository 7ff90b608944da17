//! The difference between two tables as text for `nft -f -`, in three transactions.
//!
//! [`Scripts::prepare`] comes first: the table, its chains and guards, and VIPs that are withdrawn. [`Scripts::enable`] comes
//! when routes and rules stand: it adds VIPs. [`Scripts::finish`] comes last and removes what nothing needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::family::named;
use super::{Chain, Learning, ObservedChain, ObservedSet, ObservedTable, Set, SetType, Table, TableFamily};
use crate::model::Family;
use crate::plan::NFT_TABLE;

/// The set, one for each family, whose elements switch VIPs on and off.
pub const VIPS: &str = "vips";

fn is_switch(set: &str) -> bool {
    Family::ALL.into_iter().any(|family| named(VIPS, family) == set)
}

/// Three nft transactions; an empty string is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scripts {
    /// Before anything else.
    pub prepare: String,
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
    diff_sets(&mut out, of, &desired.sets, kept);
    diff_chains(&mut out, of, &desired.chains, kept);
    drop_unknown_sets(&mut out.finish, of, &desired.sets, kept);
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
        let plain = matches!(set.kind, SetType::Address(_) | SetType::Quoted(_) | SetType::Ether);
        let added = set.elements.difference(old).cloned().collect();
        let removed: BTreeSet<String> = match set.learning {
            Learning::Keep => BTreeSet::new(),
            Learning::No | Learning::Replace => old.difference(&set.elements).cloned().collect(),
        };
        if is_switch(name) {
            elements(&mut out.prepare, of, "delete", name, &removed, plain);
            elements(&mut out.enable, of, "add", name, &added, plain);
        } else if set.kind == SetType::IfnameToMark {
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

fn diff_chains(out: &mut Scripts, of: &str, desired: &BTreeMap<String, Chain>, observed: &ObservedTable) {
    let mut fill = Vec::new();
    for (name, chain) in desired {
        let old = observed.chains.get(name);
        if old.is_some_and(|o| !same_hook(chain, o)) {
            writeln_to(&mut out.prepare, format_args!("flush chain {of} {name}"));
            writeln_to(&mut out.prepare, format_args!("delete chain {of} {name}"));
        }
        if old.is_none_or(|o| !same_hook(chain, o)) {
            writeln_to(&mut out.prepare, format_args!("add chain {of} {name}{}", hook(chain)));
        } else if old.is_some_and(|o| same_rules(chain, o)) {
            continue;
        } else {
            writeln_to(&mut out.prepare, format_args!("flush chain {of} {name}"));
        }
        fill.push((name, chain));
    }
    // All chains exist before the first rule jumps to one.
    for (name, chain) in fill {
        for rule in &chain.rules {
            writeln_to(&mut out.prepare, format_args!("add rule {of} {name} {rule}"));
        }
    }
    let surplus = || observed.chains.keys().filter(|name| !desired.contains_key(*name));
    // A chain that another still jumps to cannot be deleted.
    for verb in ["flush", "delete"] {
        surplus().for_each(|name| writeln_to(&mut out.finish, format_args!("{verb} chain {of} {name}")));
    }
}

fn drop_unknown_sets(script: &mut String, of: &str, desired: &BTreeMap<String, Set>, observed: &ObservedTable) {
    for (name, set) in &observed.sets {
        if !desired.contains_key(name) {
            let keyword = if set.kind.contains(':') { "map" } else { "set" };
            writeln_to(script, format_args!("delete {keyword} {of} {name}"));
        }
    }
}

fn same_hook(chain: &Chain, observed: &ObservedChain) -> bool {
    match (&chain.base, &observed.base) {
        (None, None) => true,
        (Some(want), Some((kind, hook, priority))) => {
            want.kind == kind && want.hook == hook && want.priority == *priority
        }
        _ => false,
    }
}

fn same_rules(chain: &Chain, observed: &ObservedChain) -> bool {
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
