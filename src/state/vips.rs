//! Which Service owns which VIP.
//!
//! A Service *claims* the good members of its annotation. An address stays with the Service whose map holds it for as long as
//! that one claims it, whoever else wants it, in whatever way. Of several claims on an address that nobody holds the oldest
//! Service's prevails, whatever order the objects arrived in; the controller writes that into its map. A Service that is being
//! deleted keeps its VIPs until it is gone: its pods still serve.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use super::annotation::{self, BadMember};
use super::key::{Key, ObjectKey};
use super::problems::{Limited, problem};
use super::records::ServiceRecord;
use super::reserved::{Holder, holders};
use super::settings::Settings;
use super::view::View;
use crate::model::handover::Assignment;
use crate::model::{Problem, Reason, ServiceRef};

/// VIPs that one Service can have. Each of them carries the list of endpoints, so without a limit one annotation could
/// exhaust the memory of every node.
pub(super) const MAX_VIPS: usize = 16;

/// Bytes of an annotation that are read: [`MAX_VIPS`] of the longest addresses, with room to spare. The API takes 256 KiB.
pub(super) const MAX_TEXT: usize = 2048;

/// What becomes of a member of an annotation, before anybody else is asked.
enum Member {
    Wanted(IpAddr),
    /// One more than a Service may have.
    Beyond(IpAddr),
    Bad(BadMember),
}

/// The members of an annotation, each address once. One that is too long has none.
fn members(text: &str) -> Vec<Member> {
    let text = Some(text).filter(|text| text.len() <= MAX_TEXT);
    let mut seen = BTreeSet::new();
    let judge = |member| match member {
        Err(bad) => Some(Member::Bad(bad)),
        Ok(address) if !seen.insert(address) => None,
        Ok(address) if seen.len() <= MAX_VIPS => Some(Member::Wanted(address)),
        Ok(address) => Some(Member::Beyond(address)),
    };
    text.into_iter().flat_map(annotation::parse).filter_map(judge).collect()
}

/// The addresses that a Service asks for.
pub(super) fn wanted(record: &ServiceRecord) -> Vec<IpAddr> {
    let text = record.vips.as_ref().filter(|_| !record.external_name);
    let members = text.into_iter().flat_map(|text| members(text));
    let wanted = members.filter_map(|member| match member {
        Member::Wanted(address) => Some(address),
        Member::Beyond(_) | Member::Bad(_) => None,
    });
    wanted.collect()
}

/// What is known of an address that is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// Who has it already.
    holders: BTreeSet<Holder>,
    /// The Service that gets it, if any may have it, and since when that one holds it.
    owner: Option<(ServiceRef, Option<u64>)>,
}

/// What is known of addresses that are asked for.
pub(super) type AskedFor = BTreeMap<IpAddr, Asked>;

/// A Service that wants VIPs.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    /// The Service.
    pub(super) service: ServiceRef,
    /// Its record.
    pub(super) record: &'a ServiceRecord,
    /// The addresses that it gets, in the order in which it wrote them.
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

/// Why a Service may not have an address, whoever else asks for it.
#[derive(Debug)]
enum Refusal<'a> {
    /// It is in none of the networks for VIPs of the Service's namespace.
    Outside,
    /// Somebody has it.
    Held(&'a Holder),
}

impl View<'_> {
    /// Who has an address that is asked for, and who gets it.
    pub(super) fn asked(&self, address: IpAddr) -> Asked {
        let holders = holders(address, self.links, self.stores);
        let claimants = self.links.claimants(address).iter().filter_map(|key| self.stores.services.entry(key));
        let candidates = claimants.filter_map(|(key, record)| {
            let since = self.held_since(&record.uid, address);
            self.refusal(address, key, since.is_some(), &holders).is_none().then(|| (since, Reverse(age(key, record))))
        });
        // The one that got it last; of several, and where nobody holds it, the oldest.
        let owner = candidates
            .max()
            .and_then(|(since, Reverse((.., key)))| Some((reference(key, self.stores.services.get(key)?), since)));
        Asked { holders, owner }
    }

    /// What an annotated Service gets. All addresses that it asks for are known.
    pub(super) fn claim<'r>(&self, key: &Key, record: &'r ServiceRecord, text: &str, asked: &AskedFor) -> Claim<'r> {
        let service = reference(key, record);
        let subject = subject(&service, self.settings);
        let (invalid, conflicts) =
            (Limited::new(&service, Reason::InvalidVip), Limited::new(&service, Reason::VipConflict));
        let mut claim = Claim { service, record, vips: Vec::new(), invalid, conflicts };
        if text.len() > MAX_TEXT {
            let what = format!("{subject} has more than {MAX_TEXT} bytes");
            claim.invalid.push(what, &format!("list at most {MAX_VIPS} VIPs"));
        }
        let mut wanted = Vec::new();
        for member in members(text) {
            match member {
                Member::Wanted(address) => wanted.push(address),
                Member::Beyond(address) => {
                    let what = format!("{subject}: {address} is beyond the {MAX_VIPS} VIPs that a Service may have");
                    claim.invalid.push(what, "spread the VIPs over several Services");
                }
                Member::Bad(bad) => claim.invalid.push(format!("{subject}: {bad}"), bad.remedy()),
            }
        }
        for (address, asked) in wanted.into_iter().filter_map(|address| Some((address, asked.get(&address)?))) {
            self.grant(address, asked, key, &mut claim);
        }
        claim
    }

    /// Gives a Service an address that it asks for, or says why not.
    fn grant(&self, address: IpAddr, asked: &Asked, key: &Key, claim: &mut Claim<'_>) {
        let subject = subject(&claim.service, self.settings);
        let is_held = self.held_since(&claim.service.uid, address).is_some();
        if let Some(refusal) = self.refusal(address, key, is_held, &asked.holders) {
            let (what, remedy) = self.in_words(&refusal, &key.namespace);
            claim.invalid.push(format!("{subject}: {address} {what}"), &remedy);
            return;
        }
        match &asked.owner {
            Some((owner, since)) if *owner != claim.service => {
                let why = if since.is_some() { "is held by" } else { "belongs to the older" };
                let what = format!("{subject}: {address} {why} Service {owner}");
                claim.conflicts.push(what, "use another address, or remove it there");
            }
            _ => claim.vips.push(address),
        }
    }

    /// Since when the map of a Service holds an address. A map that was written before that was stored holds whatever its Service
    /// asks for.
    fn held_since(&self, uid: &str, address: IpAddr) -> Option<u64> {
        let since = |map: &Assignment| if map.vips.is_none() { Some(0) } else { map.holds(address) };
        self.maps.get(uid).and_then(|map| since(map))
    }

    /// What is wrong with an address that is well written.
    fn refusal<'h>(
        &self,
        address: IpAddr,
        service: &ObjectKey,
        is_held: bool,
        holders: &'h BTreeSet<Holder>,
    ) -> Option<Refusal<'h>> {
        let ranges = &self.settings.vip_ranges;
        if !ranges.is_empty() && !ranges.iter().any(|range| range.admits(address, &service.namespace)) {
            return Some(Refusal::Outside);
        }
        let is_own = |holder: &Holder| holder.service() == Some(service);
        holders.iter().find(|holder| !is_own(holder) && (!is_held || holder.prevails())).map(Refusal::Held)
    }

    /// A refusal and its remedy.
    fn in_words(&self, refusal: &Refusal<'_>, namespace: &str) -> (String, String) {
        if let Refusal::Held(holder) = refusal {
            return (holder.to_string(), "use an address that nothing in the cluster has".to_owned());
        }
        let ranges = self.settings.vip_ranges.iter().filter(|range| range.is_for(namespace));
        let nets: Vec<String> = ranges.map(|range| range.net.to_string()).collect();
        let remedy = match nets.is_empty() {
            true => "there are none; ask for one in --vip-cidrs".to_owned(),
            false => format!("use an address of {}", nets.join(", ")),
        };
        (format!("is outside the networks that VIPs of namespace {namespace} must be in"), remedy)
    }

    /// Whoever claims the address of a VIP in another way than by the annotation: the VIP stays, and they are told.
    pub(super) fn newcomers(&self, claim: &Claim<'_>, asked: &AskedFor) -> Vec<Problem> {
        let holders = |vip: &IpAddr| asked.get(vip).map(|asked| &asked.holders).into_iter().flatten();
        let all = claim.vips.iter().flat_map(|vip| holders(vip).map(move |holder| (vip, holder)));
        let mut out = Vec::new();
        for (vip, holder) in all.filter(|(_, holder)| !holder.prevails()) {
            let service = holder.service().and_then(|key| Some(reference(key, self.stores.services.get(key)?)));
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
        out
    }
}

/// A Service by name and UID.
pub(super) fn reference(key: &ObjectKey, record: &ServiceRecord) -> ServiceRef {
    ServiceRef { namespace: key.namespace.clone(), name: key.name.clone(), uid: record.uid.clone() }
}

/// Smaller is older. A Service without a creation time is no older than any other. The last field is the key.
fn age<'a>(key: &'a Key, record: &'a ServiceRecord) -> (bool, Option<Timestamp>, &'a str, &'a Key) {
    (record.created.is_none(), record.created, &record.uid, key)
}

fn subject(service: &ServiceRef, settings: &Settings) -> String {
    format!("annotation {} of Service {service}", settings.annotation)
}
