//! What one Service asks for becomes VIPs, and problems.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::assignment::AssignmentFault;
use super::key::{Key, ObjectKey};
use super::problems::{problem, shown};
use super::settings::Settings;
use super::view::View;
use super::vips::{AskedFor, Claim, reference};
use crate::model::handover::Assignment;
use crate::model::{Mode, Problem, Reason, ServiceRef, Vip, parse_duration};

/// What follows from one Service.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Outcome {
    /// The VIPs that it gets.
    pub(super) vips: Vec<Arc<Vip>>,
    /// What was refused, and why.
    pub(super) problems: Vec<Problem>,
}

/// The value of the annotation about connection tracking.
const KEEP: &str = "keep";

impl View<'_> {
    /// Resolves one Service. All addresses that it asks for are known.
    pub(super) fn resolve(&self, key: &Key, asked: &AskedFor) -> Outcome {
        let Some(record) = self.stores.services.get(key) else { return Outcome::default() };
        let Some(text) = &record.vips else { return Outcome::default() };
        if record.external_name {
            let problem = external_name(&reference(key, record), self.settings);
            return Outcome { problems: vec![problem], ..Outcome::default() };
        }
        let claim = self.claim(key, record, text, asked);
        let mut outcome = Outcome { vips: Vec::new(), problems: self.newcomers(&claim, asked) };
        match mode(&claim, self.settings) {
            Ok(mode) => self.serve(key, &claim, mode, &mut outcome),
            Err(problem) => outcome.problems.push(problem),
        }
        outcome.problems.extend(claim.problems());
        outcome
    }

    /// Makes the VIPs of a Service.
    fn serve(&self, key: &ObjectKey, claim: &Claim<'_>, mode: Mode, outcome: &mut Outcome) {
        let (tracked, bad_conntrack) = tracked(claim, self.settings);
        let (drain_limit, bad_drain) = drain_limit(claim, self.settings);
        let problems = [bad_conntrack, bad_drain, self.map_problem(claim), not_enforced(claim)];
        outcome.problems.extend(problems.into_iter().flatten());
        if claim.vips.is_empty() {
            return;
        }
        let (endpoints, refused) = self.endpoints(&claim.service, key);
        outcome.problems.extend(refused);
        let vip = |address: &IpAddr| Vip {
            address: *address,
            service: claim.service.clone(),
            mode,
            client_ip_affinity: claim.record.client_ip_affinity,
            tracked,
            endpoints: endpoints.clone(),
            local_only: claim.record.local_only,
            drain_limit,
            map: self.map_of(&claim.service, *address),
            intent: None,
            holds: false,
        };
        outcome.vips = claim.vips.iter().map(|address| Arc::new(vip(address))).collect();
    }

    /// The map of a VIP. One that says nothing of this address is about others: the Service holds it only when the controller has
    /// written that.
    fn map_of(&self, service: &ServiceRef, address: IpAddr) -> Option<Arc<Assignment>> {
        let map = self.maps.get(&service.uid);
        map.filter(|map| map.vips.is_none() || map.holds(address).is_some()).cloned()
    }

    /// What is wrong with the Service's stored map. The newest one that could be read stays in use.
    fn map_problem(&self, claim: &Claim<'_>) -> Option<Problem> {
        let uid = claim.service.uid.as_str();
        let (key, record) = self.stores.maps.entry(self.links.maps(uid).last()?)?;
        let why = match &record.map {
            Err(AssignmentFault::Old) => return None,
            Err(fault) => fault.to_string(),
            Ok(map) => {
                let known = self.maps.get(uid).filter(|known| known.generation > map.generation)?;
                format!("it has generation {}, and {} was there already", map.generation, known.generation)
            }
        };
        let remedy = match record.may_be_replaced {
            true => "leave it to the controller, which writes it anew",
            false => "run the agents and controllers of that version, or delete the ConfigMap to begin anew",
        };
        let what = format!("bucket map {key} of Service {} is not used: {why}", claim.service);
        Some(problem(&claim.service, Reason::InvalidMap, what, remedy))
    }
}

/// A Service without endpoints.
fn external_name(service: &ServiceRef, settings: &Settings) -> Problem {
    let what = format!("Service {service} has type ExternalName, which has no endpoints");
    let remedy = format!("change its type, or remove the annotation {}", settings.annotation);
    problem(service, Reason::UnsupportedService, what, &remedy)
}

/// A Service with a mode that does not exist is left out rather than served in the default mode, which might be one
/// that its network drops. It keeps its claim: correcting a typing error must not find the VIP with somebody else.
fn mode(claim: &Claim<'_>, settings: &Settings) -> Result<Mode, Problem> {
    let Some(text) = &claim.record.mode else { return Ok(settings.default_mode) };
    text.trim().parse().map_err(|_| {
        let service = &claim.service;
        let annotation = settings.mode_annotation();
        let what = format!(
            "annotation {annotation} of Service {service}: {} is no mode, the Service is not served",
            shown(text)
        );
        let all: Vec<&str> = Mode::ALL.into_iter().map(Mode::as_str).collect();
        let remedy = format!("use one of {}, or remove the annotation for {}", all.join(", "), settings.default_mode);
        problem(service, Reason::InvalidMode, what, &remedy)
    })
}

/// Whether the Service's packets stay tracked. A value that means nothing changes nothing: the Service is served.
fn tracked(claim: &Claim<'_>, settings: &Settings) -> (bool, Option<Problem>) {
    match claim.record.conntrack.as_deref().map(str::trim) {
        None => (false, None),
        Some(KEEP) => (true, None),
        Some(text) => {
            let remedy = format!("write {KEEP}, or remove the annotation");
            (false, Some(invalid(claim, &settings.conntrack_annotation(), text, "means nothing", &remedy)))
        }
    }
}

/// For how long the Service's pods may keep connections. A value that means nothing is no limit.
fn drain_limit(claim: &Claim<'_>, settings: &Settings) -> (Option<Duration>, Option<Problem>) {
    let Some(text) = &claim.record.drain else { return (None, None) };
    match parse_duration(text.trim()) {
        Some(limit) => (Some(limit), None),
        None => {
            let remedy = "write seconds, or a number with s, m or h up to 24h; 0 moves connections at once";
            (None, Some(invalid(claim, &settings.drain_annotation(), text, "is no duration", remedy)))
        }
    }
}

/// An annotation whose value cannot be used; the Service is served without it.
fn invalid(claim: &Claim<'_>, annotation: &str, text: &str, why: &str, remedy: &str) -> Problem {
    let what = format!("annotation {annotation} of Service {}: {} {why}", claim.service, shown(text));
    problem(&claim.service, Reason::InvalidOption, what, remedy)
}

/// What the Service says about who may reach it, and what does not hold for its VIPs.
fn not_enforced(claim: &Claim<'_>) -> Option<Problem> {
    let fields = claim.record.not_enforced.join(" and ");
    let what = format!("Service {}: packets to its VIPs come from anywhere, whatever {fields} says", claim.service);
    let remedy = "limit them in the pods, by network policies, or on the routers";
    (!fields.is_empty() && !claim.vips.is_empty()).then(|| problem(&claim.service, Reason::NotEnforced, what, remedy))
}
