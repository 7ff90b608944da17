//! The controller: it hears late, is away, and is replaced by another one that remembers nothing.

use super::world::{CONTROLLER, News, World, pod_id, pod_of};
use crate::model::handover::{Assignment, DrainLimits, Endpoint, HashKey, Inputs, MOST_FORMER, Waiting, Witness};
use std::time::Duration;

/// Between two writes, in milliseconds, unless an owner goes.
const PACE: u64 = 1_000;

#[derive(Default)]
pub(super) struct Controller {
    started: bool,
    endpoints: Vec<Endpoint>,
    witness: Witness,
    written: u64,
    pub waiting: Waiting,
}

impl World {
    /// What the controller does in a tick.
    pub(super) fn decide(&mut self) -> Result<(), String> {
        let (now, moment) = (self.now, self.moment());
        let news = self.mail[CONTROLLER].take(now);
        let lost = self.lost();
        let endpoints = self.shown_endpoints();
        let controller = &mut self.controller;
        if !controller.started {
            controller.started = true;
            controller.endpoints = endpoints;
            for (node, report) in &self.reports {
                controller.witness.hear(node, Some(report.clone()), moment.instant);
            }
            controller.witness.complete();
        }
        for news in news {
            match news {
                News::Endpoints(endpoints) => controller.endpoints = endpoints,
                News::Report(node, report) => controller.witness.hear(&node, Some(report), moment.instant),
                News::Map(_) => {}
            }
        }
        let inputs = Inputs {
            service: &self.service,
            endpoints: &controller.endpoints,
            witness: &controller.witness,
            lost: &lost,
            key: HashKey::Ports,
            limits: DrainLimits { limit: None, non_tcp: Duration::from_secs(5) },
            now: moment,
        };
        let (map, waiting) = self.map.next(&inputs);
        controller.waiting = waiting.clone();
        if map == self.map || (now < controller.written + PACE && !is_urgent(&self.map, &map)) {
            return Ok(());
        }
        check_decision(&self.map, &map, &waiting)?;
        controller.written = now;
        self.given_up.retain(|(bucket, pod)| map.holdings[bucket.index()].owner != Some(pod_id(*pod)));
        self.given_up.extend(waiting.given_up.iter().map(|(bucket, id)| (*bucket, pod_of(id))));
        let moved = map.iter().filter(|(_, holding)| holding.generation == map.generation);
        self.moves.extend(moved.map(|(bucket, holding)| (bucket, holding.generation, now)));
        self.map = map.clone();
        self.log.push(format!("{now} {}", shown(&map)));
        self.tell_all(&News::Map(map));
        Ok(())
    }
}

fn shown(map: &Assignment) -> String {
    let bucket = |holding: &super::super::Holding| {
        let former: Vec<String> = holding.former.iter().map(|f| f.endpoint.to_string()).collect();
        let owner = holding.owner.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{}{owner}({})", if holding.planned { "" } else { "!" }, former.join(","))
    };
    let all: Vec<String> = map.holdings.iter().map(bucket).collect();
    format!("map {}: {}", map.generation, all.join(" "))
}

/// Whether an owner that may not own its bucket loses it.
fn is_urgent(before: &Assignment, after: &Assignment) -> bool {
    let moved = before.holdings.iter().zip(&after.holdings).filter(|(old, new)| old.owner != new.owner);
    moved.into_iter().any(|(_, new)| !new.planned)
}

/// What holds for every decision.
fn check_decision(before: &Assignment, after: &Assignment, waiting: &Waiting) -> Result<(), String> {
    for (bucket, holding) in after.iter() {
        let old = &before.holdings[bucket.index()];
        let is_named = |id| after.members.contains_key(id);
        let all: Vec<_> = holding.owner.iter().chain(holding.former.iter().map(|former| &former.endpoint)).collect();
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        if holding.former.len() > MOST_FORMER || distinct.len() != all.len() || !all.into_iter().all(is_named) {
            return Err(format!("bucket {}: {holding:?}", bucket.number()));
        }
        let moved = holding.owner != old.owner;
        let given_up = waiting.given_up.iter().any(|(of, _)| *of == bucket);
        if moved && holding.planned && given_up {
            return Err(format!("bucket {}: balance gave somebody up: {old:?} {holding:?}", bucket.number()));
        }
    }
    let mut names: Vec<_> = after.members.values().map(|member| member.name).collect();
    names.sort();
    names.dedup();
    if names.len() == after.members.len() { Ok(()) } else { Err("two members have one name".to_owned()) }
}
