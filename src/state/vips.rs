//! Which Service owns which VIP.
//!
//! A Service *claims* the good members of its annotation; of several claims on an address the oldest Service's holds,
//! whatever order the objects arrived in. A Service that is being deleted keeps its VIPs until it is gone: its pods
//! still serve.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::annotation;
use super::problems::{Limited, problem};
use super::records::ServiceRecord;
use super::reserved::{Holder, holders};
use super::settings::Settings;
use super::snapshot::{ObjectKey, Snapshot};
use crate::model::{Problem, Reason, ServiceRef};

/// VIPs that one Service can have. Each of them carries the list of endpoints, so without a limit one annotation could
/// exhaust the memory of every node.
pub(super) const MAX_VIPS: usize = 64;

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
    /// Members that an older Service has.
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
    grant(&mut claims, &holders(snapshot, &wanted), settings);
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
    for member in annotation::parse(text) {
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

/// Takes away what a Service wants and cannot have.
fn grant(claims: &mut [Claim<'_>], holders: &BTreeMap<IpAddr, Holder>, settings: &Settings) {
    let mut owners: BTreeMap<IpAddr, ServiceRef> = BTreeMap::new();
    for claim in claims {
        for address in std::mem::take(&mut claim.vips) {
            let subject = || subject(&claim.service, settings);
            if let Some((what, remedy)) = refusal(address, holders, settings) {
                claim.invalid.push(format!("{}: {address} {what}", subject()), &remedy);
            } else if let Some(owner) = owners.get(&address) {
                let what = format!("{}: {address} belongs to the older Service {owner}", subject());
                claim.conflicts.push(what, "use another address, or remove it there");
            } else {
                owners.insert(address, claim.service.clone());
                claim.vips.push(address);
            }
        }
    }
}

/// What is wrong with an address that is well written, and the remedy.
fn refusal(address: IpAddr, holders: &BTreeMap<IpAddr, Holder>, settings: &Settings) -> Option<(String, String)> {
    let allowed = &settings.vip_cidrs;
    if !allowed.is_empty() && !allowed.iter().any(|net| net.contains(&address)) {
        let nets: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let what = "is outside the networks that VIPs must be in".to_owned();
        return Some((what, format!("use an address of {}", nets.join(", "))));
    }
    let holder = holders.get(&address)?;
    Some((holder.to_string(), "use an address that nothing in the cluster has".to_owned()))
}

fn subject(service: &ServiceRef, settings: &Settings) -> String {
    format!("annotation {} of Service {service}", settings.annotation)
}
