//! Desired and observed → plan: make before break.
//!
//! Order: announcements that end → nft guards and withdrawn VIPs → links → sysctls → filters → links up → addresses → labels
//! → nexthops → new routes → rules → refusals → changed routes → new VIPs → announcements; then removal in reverse. A packet
//! that is on its way always finds either the old way or the new one, and a process that dies between two steps leaves
//! something that the next diff understands.
//!
//! Only two trees of rules cannot stand at one place: jumps of one would lead into the other. While one is changed into the
//! other, packets to VIPs are dropped; TCP sends them again. Trees of the same marks at different places can stand side by side.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::desired::IdsByReference;
use super::filter::filter_step;
use super::nft::pause::{pause, resume};
use super::nft::script::{Scripts, scripts};
use super::nft::{NftOp, Table, TableFamily, seen};
use super::observed::ObservedRoute;
use super::rule::tables_of;
use super::saved::{add_maps, diff_sysctls};
use super::step::RouteWrite;
use crate::model::Family;

use super::{
    Address, Desired, Neighbour, Nexthop, Observed, Plan, RouteKey, RouteTarget, RuleAction, RuleSpec, Source, Step,
    Sysctl,
};

/// First id of our nexthop objects. Ours are recognised by their protocol; the block only keeps ids readable and away from
/// the small numbers that routing daemons use.
pub const NEXTHOP_BASE: u32 = 0x6b00_0000;

/// The steps that turn `observed` into `desired`. `remembered` are old sysctl values seen in our table earlier
/// (`saved::saved`), `link_prefix` tells which links are ours.
pub fn diff(desired: &Desired, observed: &Observed, remembered: &BTreeMap<Sysctl, u32>, link_prefix: &str) -> Plan {
    let mut links = diff_links(desired, observed, link_prefix);
    // A link that is deleted takes its addresses, nexthops and routes along: they are not there any more.
    let observed = &*without_links(observed, &links.replaced);
    let own: BTreeSet<&str> = desired.links.keys().map(String::as_str).collect();
    let sysctls = diff_sysctls(&desired.sysctls, observed, remembered, &own);
    let nft = diff_nft(desired, observed, &sysctls.keep);
    let mut nexthops = diff_nexthops(desired, observed);

    let mut withdrawn = observed.announcements();
    withdrawn.retain(|key| !desired.routes.contains_key(key));
    let mut plan = Plan::default();
    let reshaped = is_reshaped(desired, observed);
    if reshaped {
        push_nft(&mut plan, pause(&observed.nft.as_ref().and_then(seen::taken_in).unwrap_or_default()));
    }
    plan.steps.extend(withdrawn.iter().copied().map(Step::DelRoute));
    push_nft(&mut plan, nft.prepare);
    plan.steps.append(&mut links.make);
    plan.steps.extend(sysctls.set);
    // What comes in by a link that is up is judged from the first packet on.
    plan.steps.extend(missing_filters(desired, observed));
    plan.steps.append(&mut links.up);
    plan.steps.extend(missing_addresses(desired, observed));
    plan.steps.extend(missing_neighbours(desired, observed));
    plan.steps.extend(changed_labels(desired, observed));
    plan.steps.append(&mut nexthops.make);
    let routes = diff_routes(desired, observed, &nexthops);
    plan.steps.extend(routes.new);
    plan.steps.extend(missing_rules(desired, observed));
    push_nft(&mut plan, nft.divert);
    plan.steps.extend(routes.changed);
    push_nft(&mut plan, nft.enable);
    plan.steps.extend(routes.announced);
    plan.steps.extend(surplus_rules(desired, observed));
    if reshaped || observed.paused {
        push_nft(&mut plan, resume());
    }
    plan.steps.extend(surplus_routes(desired, observed, &withdrawn));
    plan.steps.extend(nexthops.remove);
    plan.steps.extend(surplus_labels(desired, observed));
    plan.steps.extend(surplus_neighbours(desired, observed));
    plan.steps.extend(surplus_addresses(desired, observed));
    plan.steps.extend(surplus_filters(desired, observed));
    plan.steps.append(&mut links.remove);
    plan.steps.extend(sysctls.restore);
    push_nft(&mut plan, nft.finish);
    plan
}

/// Whether a tree of rules becomes one that cannot stand beside it: one of the jumps that are left over leads to where the new
/// tree stands, or asks for a bit that the new tree does not ask for.
fn is_reshaped(desired: &Desired, observed: &Observed) -> bool {
    let jump = |rule: &RuleSpec| match rule.action {
        RuleAction::Goto(target) => Some((rule.family, rule.mark, target)),
        RuleAction::Lookup(_) | RuleAction::Nop => None,
    };
    let wanted: Vec<_> = desired.rules.iter().filter_map(jump).collect();
    let stands = |family, priority| desired.rules.iter().any(|rule| rule.family == family && rule.priority == priority);
    let clashes = |rule: &RuleSpec| {
        let Some((family, mark, target)) = jump(rule) else { return false };
        // Version 0.1 sent packets without a mark past its tree; the new entry takes those with one.
        let is_entry = mark.is_some_and(|(value, _)| value == 0);
        let asked = |(of, bit, _): &(Family, Option<(u32, u32)>, u32)| *of == family && (*bit == mark || is_entry);
        wanted.iter().any(|(of, ..)| *of == family) && (stands(family, target) || !wanted.iter().any(asked))
    };
    let ours = observed.rules.iter().filter(|rule| rule.ours).filter_map(|rule| rule.spec);
    ours.filter(|rule| !desired.rules.contains(rule)).any(|rule| clashes(&rule))
}

/// Our tables as [`diff`] writes them, with what they remember.
pub fn tables(
    desired: &Desired,
    observed: &Observed,
    remembered: &BTreeMap<Sysctl, u32>,
    link_prefix: &str,
) -> BTreeMap<TableFamily, Table> {
    let observed = &*without_links(observed, &diff_links(desired, observed, link_prefix).replaced);
    let own: BTreeSet<&str> = desired.links.keys().map(String::as_str).collect();
    let keep = diff_sysctls(&desired.sysctls, observed, remembered, &own).keep;
    let inet = remembering(desired, &keep).map(|table| (TableFamily::Inet, table));
    desired.frames.clone().into_iter().chain(inet).collect()
}

fn remembering(desired: &Desired, keep: &BTreeMap<Sysctl, u32>) -> Option<Table> {
    desired.nft.clone().map(|mut table| {
        add_maps(&mut table, keep);
        table
    })
}

fn diff_nft(desired: &Desired, observed: &Observed, keep: &BTreeMap<Sysctl, u32>) -> Scripts {
    let table = remembering(desired, keep);
    let mut out = scripts(TableFamily::Inet, table.as_ref(), observed.nft.as_ref());
    for family in [TableFamily::Ip, TableFamily::Ip6, TableFamily::Netdev, TableFamily::Bridge] {
        let frames = scripts(family, desired.frames.get(&family), observed.frames.get(&family));
        out.prepare.extend(frames.prepare);
        out.divert.extend(frames.divert);
        out.enable.extend(frames.enable);
        out.finish.extend(frames.finish);
    }
    out
}

/// Two transactions with nothing in between become one.
fn push_nft(plan: &mut Plan, ops: Vec<NftOp>) {
    if ops.is_empty() {
        return;
    }
    match plan.steps.last_mut() {
        Some(Step::Nft(last)) => last.extend(ops),
        _ => plan.steps.push(Step::Nft(ops)),
    }
}

#[derive(Default)]
struct LinkDiff {
    make: Vec<Step>,
    up: Vec<Step>,
    remove: Vec<Step>,
    replaced: BTreeSet<String>,
}

fn diff_links(desired: &Desired, observed: &Observed, prefix: &str) -> LinkDiff {
    let mut out = LinkDiff::default();
    for (name, kind) in &desired.links {
        let old = observed.links.get(name);
        let fits = old.is_some_and(|o| o.kind.as_ref() == Some(kind));
        if !fits {
            // A link of a kind that we never make is somebody else's: the add then fails and says so.
            if old.is_some_and(|o| o.kind.is_some()) {
                out.make.push(Step::DelLink(name.clone()));
                out.replaced.insert(name.clone());
            }
            out.make.push(Step::AddLink(name.clone(), kind.clone()));
        }
        if !fits || old.is_some_and(|o| !o.up) {
            out.up.push(Step::LinkUp(name.clone()));
        }
    }
    let surplus = observed
        .links
        .iter()
        .filter(|(name, link)| name.starts_with(prefix) && link.kind.is_some() && !desired.links.contains_key(*name));
    out.remove = surplus.map(|(name, _)| Step::DelLink(name.clone())).collect();
    out
}

fn without_links<'a>(observed: &'a Observed, gone: &BTreeSet<String>) -> Cow<'a, Observed> {
    if gone.is_empty() {
        return Cow::Borrowed(observed);
    }
    let mut out = observed.clone();
    out.links.retain(|name, _| !gone.contains(name));
    out.filters.retain(|dev, _| !gone.contains(dev));
    out.addresses.retain(|(a, _, _)| !gone.contains(&a.dev));
    out.neighbours.retain(|n, _| !gone.contains(&n.dev));
    out.sysctls.retain(|key, _| key.dev().is_none_or(|d| !gone.contains(d)));
    out.nexthops.retain(|_, nh| nh.spec.as_ref().is_none_or(|s| !gone.contains(s.dev())));
    let ids: BTreeSet<u32> = out.nexthops.keys().copied().collect();
    out.routes.retain(|_, route| !matches!(route, ObservedRoute::Nhid { id, .. } if !ids.contains(id)));
    Cow::Owned(out)
}

fn missing_filters(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let wanted = desired.filters.iter();
    wanted.filter_map(|(dev, program)| filter_step(dev, Some(*program), observed.filters.get(dev))).collect()
}

/// Of the links that stay: a link that is deleted takes its filter along.
fn surplus_filters(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let surplus = |dev: &String| desired.links.contains_key(dev) && !desired.filters.contains_key(dev);
    let found = observed.filters.iter().filter(|(dev, _)| surplus(dev));
    found.filter_map(|(dev, filter)| filter_step(dev, None, Some(filter))).collect()
}

fn missing_addresses(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let there: BTreeSet<&Address> = observed.addresses.iter().map(|(a, _, _)| a).collect();
    desired.addresses.iter().filter(|a| !there.contains(a)).cloned().map(Step::AddAddress).collect()
}

fn surplus_addresses(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let ours = observed.addresses.iter().filter(|(a, length, ours)| *ours && *length == Family::of(a.address).bits());
    ours.map(|(a, _, _)| a).filter(|a| !desired.addresses.contains(a)).cloned().map(Step::DelAddress).collect()
}

fn missing_neighbours(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let there = |n: &&Neighbour| observed.neighbours.get(*n).is_some_and(|old| old.ours);
    desired.neighbours.iter().filter(|n| !there(n)).cloned().map(Step::AddNeighbour).collect()
}

fn surplus_neighbours(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let ours = observed.neighbours.iter().filter(|(_, old)| old.ours).map(|(n, _)| n);
    ours.filter(|n| !desired.neighbours.contains(n)).cloned().map(Step::DelNeighbour).collect()
}

fn changed_labels(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let same = |label: &u32, route| observed.labels.get(label).is_some_and(|o| o.as_ref() == Some(route));
    let changed = desired.labels.iter().filter(|(label, route)| !same(label, route));
    changed.map(|(label, route)| Step::ReplaceLabel(*label, route.clone())).collect()
}

fn surplus_labels(desired: &Desired, observed: &Observed) -> Vec<Step> {
    observed.labels.keys().filter(|l| !desired.labels.contains_key(l)).map(|l| Step::DelLabel(*l)).collect()
}

#[derive(Default)]
struct NexthopDiff {
    /// Groups after their members.
    make: Vec<Step>,
    /// Groups before their members.
    remove: Vec<Step>,
    ids: BTreeMap<Nexthop, u32>,
    groups: BTreeMap<BTreeSet<String>, u32>,
    /// From here on no id is in use.
    free: u32,
}

/// The ids that the nexthop objects of `desired` have once [`diff`] is carried out, and one from which on nobody has any.
pub(super) fn nexthop_ids(desired: &Desired, observed: &Observed, link_prefix: &str) -> (BTreeMap<Nexthop, u32>, u32) {
    let observed = &*without_links(observed, &diff_links(desired, observed, link_prefix).replaced);
    let NexthopDiff { ids, free, .. } = diff_nexthops(desired, observed);
    (ids, free)
}

/// A nexthop object keeps its id as long as its content is wanted, so that a restart changes nothing.
fn diff_nexthops(desired: &Desired, observed: &Observed) -> NexthopDiff {
    let wanted = desired.nexthops();
    let groups = desired.sources();
    let devices: BTreeSet<&String> = groups.iter().copied().flatten().collect();
    // The kernel makes no object for a device without carrier (`rtm_to_nh_config`, net/ipv4/nexthop.c), and takes those away
    // that there are. One such device does not hold up the rest. Devices of ours come with the plan.
    let usable = |dev: &str| desired.links.contains_key(dev) || observed.links.get(dev).is_some_and(|l| l.carrier);
    let mut out = NexthopDiff::default();
    let mut sources: BTreeMap<&String, u32> = BTreeMap::new();
    let mut surplus = Vec::new();
    let ours = || observed.nexthops.iter().filter(|(_, nh)| nh.ours);
    for (id, nexthop) in ours() {
        match (&nexthop.spec, &nexthop.source) {
            (Some(spec), _) if wanted.contains(spec) && !out.ids.contains_key(spec) => {
                out.ids.insert(spec.clone(), *id);
            }
            (_, Some(Source::Device(dev))) if devices.contains(dev) && !sources.contains_key(dev) => {
                sources.insert(dev, *id);
            }
            (_, Some(Source::Group(_))) => {}
            _ => surplus.push(Step::DelNexthop(*id)),
        }
    }
    let mut free = (NEXTHOP_BASE..).filter(|id| !observed.nexthops.contains_key(id));
    for nexthop in wanted.into_iter().filter(|nexthop| usable(nexthop.dev())) {
        if !out.ids.contains_key(nexthop)
            && let Some(id) = free.next()
        {
            out.make.push(Step::ReplaceNexthop(id, nexthop.clone()));
            out.ids.insert(nexthop.clone(), id);
        }
    }
    for dev in devices.into_iter().filter(|dev| usable(dev)) {
        if !sources.contains_key(dev)
            && let Some(id) = free.next()
        {
            out.make.push(Step::ReplaceSource(id, Source::Device(dev.clone())));
            sources.insert(dev, id);
        }
    }
    let mut members: BTreeMap<BTreeSet<u32>, Vec<&BTreeSet<String>>> = BTreeMap::new();
    for set in groups {
        members.entry(set.iter().filter_map(|dev| sources.get(dev).copied()).collect()).or_default().push(set);
    }
    // There is no group of none.
    members.remove(&BTreeSet::new());
    for (id, nexthop) in ours() {
        let Some(Source::Group(ids)) = &nexthop.source else { continue };
        match members.remove(ids) {
            Some(sets) => out.groups.extend(sets.into_iter().map(|set| (set.clone(), *id))),
            None => out.remove.push(Step::DelNexthop(*id)),
        }
    }
    for (ids, sets) in members {
        if let Some(id) = free.next() {
            out.make.push(Step::ReplaceSource(id, Source::Group(ids)));
            out.groups.extend(sets.into_iter().map(|set| (set.clone(), id)));
        }
    }
    out.remove.append(&mut surplus);
    let highest = observed.nexthops.last_key_value().map_or(0, |(id, _)| id.saturating_add(1));
    out.free = free.next().unwrap_or(u32::MAX).max(highest);
    out
}

#[derive(Default)]
struct RouteDiff {
    /// Routes that are not there.
    new: Vec<Step>,
    /// Routes that lead elsewhere.
    changed: Vec<Step>,
    /// Routes that are not there and that no rule leads to: a routing daemon is to see them.
    announced: Vec<Step>,
}

fn diff_routes(desired: &Desired, observed: &Observed, nexthops: &NexthopDiff) -> RouteDiff {
    let looked_into = tables_of(desired.rules.iter().copied());
    let (mut out, mut ids) = (RouteDiff::default(), IdsByReference::default());
    for (key, target) in &desired.routes {
        let way = match target {
            RouteTarget::Unreachable => None,
            RouteTarget::Devices(devices) => nexthops.groups.get(devices).map(|id| (RouteWrite::Group(*id), *id, None)),
            RouteTarget::Via { nexthop, mtu } => {
                let id = ids.of(nexthop, |nexthop| nexthops.ids.get(nexthop).copied());
                id.map(|id| (RouteWrite::Nhid { id, mtu: *mtu }, id, Some(*mtu)))
            }
        };
        let (write, want) = way.map_or((RouteWrite::Unreachable, ObservedRoute::Unreachable), |(write, id, mtu)| {
            (write, ObservedRoute::Nhid { id, mtu })
        });
        let steps = match observed.routes.get(key) {
            Some(there) if *there == want => continue,
            Some(_) => &mut out.changed,
            None if looked_into.contains(&key.table) => &mut out.new,
            None => &mut out.announced,
        };
        steps.push(Step::ReplaceRoute(*key, write));
    }
    out
}

fn surplus_routes(desired: &Desired, observed: &Observed, gone: &BTreeSet<RouteKey>) -> Vec<Step> {
    let surplus = observed.routes.keys().filter(|key| !desired.routes.contains_key(key) && !gone.contains(key));
    surplus.copied().map(Step::DelRoute).collect()
}

fn missing_rules(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let there: BTreeSet<_> = observed.rules.iter().filter(|r| r.ours).filter_map(|r| r.spec).collect();
    // The last one first: a goto matches nothing until its target exists.
    desired.rules.iter().rev().filter(|spec| !there.contains(spec)).copied().map(Step::AddRule).collect()
}

fn surplus_rules(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let ours = observed.rules.iter().filter(|r| r.ours).filter_map(|r| r.spec);
    ours.filter(|spec| !desired.rules.contains(spec)).map(Step::DelRule).collect()
}
