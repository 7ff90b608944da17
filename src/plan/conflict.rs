//! What on a node would defeat us silently, found before anything is written: the agent refuses to start and names it.

use std::collections::BTreeSet;

use super::tree::{sources_table, tree_block};
use super::{LinkKind, Observed, Settings};
use crate::model::{Family, Mode};

/// A clash with something that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A routing table of our block holds somebody else's routes.
    #[error(
        "routing table {table} holds {routes} route(s) that are not ours, and our block is {first}–{last}: choose another block with --table-base"
    )]
    Table {
        /// The table.
        table: u32,
        /// How many foreign routes it holds.
        routes: usize,
        /// First table of our block.
        first: u32,
        /// Last table of our block.
        last: u32,
    },
    /// A foreign rule ahead of ours catches packets that carry our mark.
    #[error(
        "ip rule {priority} (fwmark {value:#x}/{mask:#x}) is not ours, comes before ours (from {ours}) and looks at bits of our mark field {field:#x}: choose another field with --mark-field or a smaller --rule-priority"
    )]
    Rule {
        /// Priority of the foreign rule.
        priority: u32,
        /// Its mark.
        value: u32,
        /// Its mask.
        mask: u32,
        /// Our first priority.
        ours: u32,
        /// Our field.
        field: u32,
    },
    /// A foreign rule stands where ours must stand.
    #[error(
        "ip rule {priority} is not ours and stands where ours must stand ({first}–{last}): choose another place with --rule-priority"
    )]
    RulePriority {
        /// Priority of the foreign rule.
        priority: u32,
        /// First priority of ours there.
        first: u32,
        /// Last priority of ours there.
        last: u32,
    },
    /// A link has the name that ours must have, but is of another kind.
    #[error("link {name} exists and is not ours (kind {kind}): remove it or choose another prefix with --link-prefix")]
    LinkName {
        /// Name of the link.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// Only one external GRE device can exist in a namespace.
    #[error(
        "link {name} already takes all GRE packets (type gre external), and the kernel allows one: remove it or use --mode vxlan"
    )]
    ExternalGre {
        /// Name of the other device.
        name: String,
    },
    /// Another VXLAN-GPE device listens on our port.
    #[error("link {name} already uses UDP port {port} for VXLAN: choose another port with --vxlan-port")]
    VxlanPort {
        /// Name of the other device.
        name: String,
        /// The port.
        port: u16,
    },
}

/// Everything that stands in the way on this node, for the given modes.
pub fn conflicts(observed: &Observed, settings: &Settings, modes: &BTreeSet<Mode>) -> Vec<Conflict> {
    let mut out = tables(observed, settings);
    out.extend(rules(observed, settings));
    for mode in modes {
        // Which clusters need GRE over IPv6 is not known yet; the link's own error names the other owner.
        out.extend(links(observed, settings, (*mode, Family::V4)));
    }
    out
}

fn tables(observed: &Observed, settings: &Settings) -> Vec<Conflict> {
    let first = settings.table_base;
    let last = sources_table(settings.most_buckets(), first);
    let block = observed.foreign_routes.range(first..=last);
    block.map(|(table, routes)| Conflict::Table { table: *table, routes: *routes, first, last }).collect()
}

/// Rules of others that clash with ours. They may come at any time.
pub fn rules(observed: &Observed, settings: &Settings) -> Vec<Conflict> {
    let first = settings.rule_priority;
    let tree = tree_block(settings.most_buckets(), first);
    let field = settings.mark.mask();
    let mut out = Vec::new();
    for rule in observed.rules.iter().filter(|r| !r.ours) {
        let priority = rule.priority;
        if let Some(block) = [first..=first + 1, tree.clone()].into_iter().find(|block| block.contains(&priority)) {
            out.push(Conflict::RulePriority { priority, first: *block.start(), last: *block.end() });
        } else if let Some((value, mask)) = rule.mark.filter(|_| priority < first)
            && settings.mark.overlaps(value, mask)
        {
            out.push(Conflict::Rule { priority, value, mask, ours: first, field });
        }
    }
    out
}

fn links(observed: &Observed, settings: &Settings, (mode, outer): (Mode, Family)) -> Vec<Conflict> {
    let wanted = match mode {
        Mode::Gre => LinkKind::GreExternal(outer),
        Mode::Vxlan => LinkKind::VxlanGpe { port: settings.vxlan_port },
        Mode::Mpls => return Vec::new(),
    };
    let Some(own) = settings.link(mode, outer) else { return Vec::new() };
    let mut out = Vec::new();
    for (name, link) in &observed.links {
        if *name == own && link.kind.is_none() {
            let kind = link.kind_name.clone().unwrap_or_else(|| "none".to_owned());
            out.push(Conflict::LinkName { name: name.clone(), kind });
        } else if *name != own && link.kind.as_ref() == Some(&wanted) {
            out.push(match wanted {
                LinkKind::VxlanGpe { port } => Conflict::VxlanPort { name: name.clone(), port },
                _ => Conflict::ExternalGre { name: name.clone() },
            });
        }
    }
    out
}
