//! Which Service owns which VIP.
//!
//! A Service *claims* the good members of its annotation. An address stays with the Service whose map holds it for as long as
//! that one claims it, whoever else wants it, in whatever way. Of several claims on an address that nobody holds the oldest
//! Service's prevails, whatever order the objects arrived in; the controller writes that into its map. A Service that is being
//! deleted keeps its VIPs until it is gone: its pods still serve.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::annotation;
use super::problems::{Limited, problem};
use super::records::ServiceRecord;
use super::reserved::{Holder, Holders, holders};
use super::settings::Settings;
use super::snapshot::{ObjectKey, Snapshot};
use crate::model::handover::Assignment;
use crate::model::{Problem, Reason, ServiceRef};

/// VIPs that one Service can have. Each of them carries the list of endpoints, so without a limit one annotation could
/// exhaust the memory of every node.
pub(super) const MAX_VIPS: usize = 16;

/// Bytes of an annotation that are read: [`MAX_VIPS`] of the longest addresses, with room to spare. The API takes 256 KiB.
pub(super) const MAX_TEXT: usize = 2048;

/// A Service that wants VIPs.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    /// The Service.
    pub(super) service: ServiceRef,
    /// Its record.
    pub(super) record: &'a ServiceRecord,
    /// The addresses that it gets, in the order in which it wrote them. First those it wants, then what [`grant`]
    /// leaves.
    pub(super) vips: Vec<IpAddr>,
    /// Members that were refused.
    invalid: Limited,
    /// Members that another Service has.
    conflicts: Limited,
}

impl Claim<'_> {
    /// What has to be said about it.
    pub(super) fn problems(self) -> impl Iterator<Item = Problem> {
        self.invalid.finish("VIPs").into_iter().chain(self.conflicts.finish("VIPs"))
    }
}

/// Every annotated Service with the VIPs that it owns, oldest first; and the Services that cannot have any.
pub(super) fn claims<'a>(snapshot: &'a Snapshot, settings: &Settings) -> (Vec<Claim<'a>>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut claims = Vec::new();
    for (key, record) in snapshot.services.iter() {
        let Some(text) = &record.vips else { continue };
        let service = reference(key, record);
        if record.external_name {
            problems.push(external_name(&service, settings));
        } else {
            claims.push(claim(service, record, text, settings));
        }
    }
    claims.sort_by(|a, b| age(a).cmp(&age(b)));
    let wanted: BTreeSet<IpAddr> = claims.iter().flat_map(|c| c.vips.iter().copied()).collect();
    let holders = holders(snapshot, &wanted);
    claims.iter_mut().for_each(|claim| refuse(claim, &holders, snapshot, settings));
    grant(&mut claims, snapshot, settings);
    problems.extend(newcomers(&claims, &holders, snapshot));
    (claims, problems)
}

fn reference(key: &ObjectKey, record: &ServiceRecord) -> ServiceRef {
    ServiceRef { namespace: key.namespace.clone(), name: key.name.clone(), uid: record.uid.clone() }
}

/// Smaller is older. A Service without a creation time is no older than any other.
fn age<'a>(claim: &'a Claim<'_>) -> impl Ord + use<'a> {
    (claim.record.created.is_none(), claim.record.created, &claim.service.uid, &claim.service)
}

fn external_name(service: &ServiceRef, settings: &Settings) -> Problem {
    let what = format!("Service {service} has type ExternalName, which has no endpoints");
    let remedy = format!("change its type, or remove the annotation {}", settings.annotation);
    problem(service, Reason::UnsupportedService, what, &remedy)
}

fn claim<'a>(service: ServiceRef, record: &'a ServiceRecord, text: &str, settings: &Settings) -> Claim<'a> {
    let mut invalid = Limited::new(&service, Reason::InvalidVip);
    let mut vips = Vec::new();
    let mut seen = BTreeSet::new();
    let text = Some(text).filter(|text| text.len() <= MAX_TEXT);
    if text.is_none() {
        let what = format!("{} has more than {MAX_TEXT} bytes", subject(&service, settings));
        invalid.push(what, &format!("list at most {MAX_VIPS} VIPs"));
    }
    for member in text.into_iter().flat_map(annotation::parse) {
        match member {
            Ok(address) if !seen.insert(address) => {}
            Ok(address) if vips.len() < MAX_VIPS => vips.push(address),
            Ok(address) => {
                let what = format!(
                    "{}: {address} is beyond the {MAX_VIPS} VIPs that a Service may have",
                    subject(&service, settings)
                );
                invalid.push(what, "spread the VIPs over several Services");
            }
            Err(bad) => invalid.push(format!("{}: {bad}", subject(&service, settings)), bad.remedy()),
        }
    }
    let conflicts = Limited::new(&service, Reason::VipConflict);
    Claim { service, record, vips, invalid, conflicts }
}

/// Takes away what a Service may not have, whoever else wants it.
fn refuse(claim: &mut Claim<'_>, holders: &Holders, snapshot: &Snapshot, settings: &Settings) {
    let map = snapshot.assignments.get(&claim.service.uid);
    for address in std::mem::take(&mut claim.vips) {
        let is_held = map.is_some_and(|map| held_since(map, address).is_some());
        match refusal(address, claim, is_held, holders, settings) {
            Some((what, remedy)) => {
                let subject = subject(&claim.service, settings);
                claim.invalid.push(format!("{subject}: {address} {what}"), &remedy);
            }
            None => claim.vips.push(address),
        }
    }
}

/// Takes away what another Service has: the one that holds the address by its map, else the oldest that wants it.
fn grant(claims: &mut [Claim<'_>], snapshot: &Snapshot, settings: &Settings) {
    let mut owners = held(claims, snapshot);
    for claim in claims {
        for address in std::mem::take(&mut claim.vips) {
            let owner = owners.entry(address).or_insert_with(|| (claim.service.clone(), None));
            if owner.0 == claim.service {
                claim.vips.push(address);
                continue;
            }
            let subject = subject(&claim.service, settings);
            let (why, owner) = match owner {
                (owner, Some(_)) => ("is held by", owner),
                (owner, None) => ("belongs to the older", owner),
            };
            let what = format!("{subject}: {address} {why} Service {owner}");
            claim.conflicts.push(what, "use another address, or remove it there");
        }
    }
}

/// Who holds which of the addresses that are wanted, and since when: of several the one that got it last, then the older one.
fn held(claims: &[Claim<'_>], snapshot: &Snapshot) -> BTreeMap<IpAddr, (ServiceRef, Option<u64>)> {
    let mut held: BTreeMap<IpAddr, (ServiceRef, Option<u64>)> = BTreeMap::new();
    for claim in claims {
        let Some(map) = snapshot.assignments.get(&claim.service.uid) else { continue };
        for address in &claim.vips {
            let since = held_since(map, *address);
            if since.is_some() && held.get(address).is_none_or(|(_, other)| since > *other) {
                held.insert(*address, (claim.service.clone(), since));
            }
        }
    }
    held
}

/// Since when a map holds an address. A map that was written before that was stored holds whatever its Service asks for.
fn held_since(map: &Assignment, address: IpAddr) -> Option<u64> {
    if map.vips.is_none() { Some(0) } else { map.holds(address) }
}

/// What is wrong with an address that is well written, and the remedy.
fn refusal(
    address: IpAddr,
    claim: &Claim<'_>,
    is_held: bool,
    holders: &Holders,
    settings: &Settings,
) -> Option<(String, String)> {
    let namespace = &claim.service.namespace;
    if !settings.vip_ranges.is_empty() && !settings.vip_ranges.iter().any(|range| range.admits(address, namespace)) {
        let nets: Vec<String> =
            settings.vip_ranges.iter().filter(|r| r.is_for(namespace)).map(|r| r.net.to_string()).collect();
        let what = format!("is outside the networks that VIPs of namespace {namespace} must be in");
        let remedy = match nets.is_empty() {
            true => "there are none; ask for one in --vip-cidrs".to_owned(),
            false => format!("use an address of {}", nets.join(", ")),
        };
        return Some((what, remedy));
    }
    let own = |holder: &Holder| holder.service().is_some_and(|key| is(&claim.service, key));
    let counts = |holder: &&Holder| !own(holder) && (!is_held || holder.prevails());
    let holder = holders.get(&address)?.iter().find(counts)?;
    Some((holder.to_string(), "use an address that nothing in the cluster has".to_owned()))
}

fn is(service: &ServiceRef, key: &ObjectKey) -> bool {
    service.namespace == key.namespace && service.name == key.name
}

/// Whoever claims the address of a VIP in another way than by the annotation: the VIP stays, and they are told.
fn newcomers(claims: &[Claim<'_>], holders: &Holders, snapshot: &Snapshot) -> Vec<Problem> {
    let mut out = Vec::new();
    for claim in claims {
        let all =
            claim.vips.iter().flat_map(|vip| holders.get(vip).into_iter().flatten().map(move |holder| (vip, holder)));
        for (vip, holder) in all.filter(|(_, holder)| !holder.prevails()) {
            let service = holder.service().and_then(|key| Some(reference(key, snapshot.services.get(key)?)));
            let Some(other) = service else {
                let what = format!("{vip}, a VIP of Service {}, {holder}; it stays a VIP", claim.service);
                out.push(problem(&claim.service, Reason::VipConflict, what, "see who wrote that EndpointSlice"));
                continue;
            };
            if other != claim.service {
                let what = format!("{vip} {holder}, and a VIP of Service {}, which keeps it", claim.service);
                out.push(problem(&other, Reason::VipConflict, what, "use another address"));
            }
        }
    }
    out
}

fn subject(service: &ServiceRef, settings: &Settings) -> String {
    format!("annotation {} of Service {service}", settings.annotation)
}
