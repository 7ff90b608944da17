//! Owners that go are replaced at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Step, Why};
use crate::model::assign::weight;
use crate::model::handover::{Former, MOST_FORMER};
use crate::model::{Bucket, EndpointId};

impl Step<'_> {
    /// Gives every bucket whose owner may not own it to another endpoint.
    pub(super) fn replace_owners(&mut self) {
        self.map.refuses_new = self.eligible.is_empty();
        if self.eligible.is_empty() {
            self.keep_last_owners();
            return;
        }
        let (usable, mut free) = (self.usable_by_map(), Vec::new());
        for bucket in self.map.hash.buckets.iter() {
            match &self.map.holdings[bucket.index()].owner {
                Some(owner) if self.eligible.contains(owner) => {}
                // Nodes do the same by themselves when they do not hear of this in time. They go by what is stored.
                Some(_) => match self.before.stand_in(bucket, &usable).cloned() {
                    Some(stand_in) => {
                        self.give(bucket, &stand_in);
                        self.replaced = true;
                    }
                    None => free.push(bucket),
                },
                None => free.push(bucket),
            }
        }
        self.fill(&free);
    }

    /// Those among whom nodes choose: they do not know yet what reports have said since the last map.
    fn usable_by_map(&self) -> BTreeSet<EndpointId> {
        let is_known = |id: &&EndpointId| self.before.members.get(*id).is_some_and(|member| member.set_up);
        let known: BTreeSet<EndpointId> = self.eligible.iter().filter(is_known).cloned().collect();
        if known.is_empty() { self.eligible.clone() } else { known }
    }

    /// Nobody is eligible: owners stay while their pods are there, then the last of the former owners.
    fn keep_last_owners(&mut self) {
        for index in 0..self.map.holdings.len() {
            let is_gone = |id: &EndpointId| self.has_ended(id);
            let holding = &self.map.holdings[index];
            if !holding.owner.as_ref().is_some_and(is_gone) {
                continue;
            }
            let bucket = self.map.hash.buckets.iter().nth(index);
            match (holding.former.first().map(|former| former.endpoint.clone()), bucket) {
                (Some(former), Some(bucket)) => self.give(bucket, &former),
                _ => {
                    let holding = &mut self.map.holdings[index];
                    (holding.owner, holding.next) = (None, None);
                    (holding.generation, holding.planned) = (self.map.generation, false);
                }
            }
        }
    }

    /// Shares out free buckets: the endpoint that wants a bucket most gets it, within its share. Where connections of living
    /// pods are in a bucket, endpoints with the program come first.
    fn fill(&mut self, free: &[Bucket]) {
        let mut counts: BTreeMap<EndpointId, usize> = self
            .map
            .counts()
            .into_iter()
            .map(|(id, n)| (id.clone(), usize::try_from(n).unwrap_or(usize::MAX)))
            .collect();
        let eligible: Vec<EndpointId> = self.eligible.iter().cloned().collect();
        let share = self.map.holdings.len().div_ceil(eligible.len().max(1));
        let mut pairs: Vec<_> = free
            .iter()
            .flat_map(|bucket| {
                eligible.iter().map(|id| (self.loses(*bucket, id), Reverse(weight(id, *bucket)), id, *bucket))
            })
            .collect();
        pairs.sort_unstable();
        for (_, _, id, bucket) in pairs {
            let count = counts.entry(id.clone()).or_default();
            if *count < share && !self.moved.contains(&bucket) {
                *count += 1;
                self.give(bucket, id);
            }
        }
        // Others have more than their share: whoever has the fewest takes what is left.
        for bucket in free.iter().filter(|bucket| !self.moved.contains(bucket)).copied().collect::<Vec<_>>() {
            let fewest = eligible.iter().min_by_key(|id| counts.get(*id).copied().unwrap_or_default());
            if let Some(id) = fewest {
                *counts.entry(id.clone()).or_default() += 1;
                self.give(bucket, id);
            }
        }
    }

    /// Whether connections of living pods end if this endpoint takes the bucket.
    fn loses(&self, bucket: Bucket, taker: &EndpointId) -> bool {
        let holding = &self.map.holdings[bucket.index()];
        let is_shared = !holding.former.is_empty() || holding.owner.as_ref().is_some_and(|owner| self.drains(owner));
        is_shared && !self.has_program(taker)
    }

    /// Whether an owner that loses a bucket becomes a former owner of it.
    pub(super) fn drains(&self, owner: &EndpointId) -> bool {
        let may = self.inputs.limits.limit.is_none_or(|limit| !limit.is_zero());
        may && self.has_program(owner) && !self.has_ended(owner) && !self.reborn.contains(owner)
    }

    /// Moves a bucket. The owner before becomes the first of the former owners; of three, the one that held the bucket for the
    /// shortest time is given up.
    pub(super) fn give(&mut self, bucket: Bucket, taker: &EndpointId) {
        let (unix, generation) = (self.unix(), self.map.generation);
        let loser = self.map.holdings[bucket.index()].owner.clone().filter(|owner| owner != taker);
        let why = loser.as_ref().map(|loser| self.why(loser));
        let loser = loser.filter(|loser| self.drains(loser));
        let holding = &mut self.map.holdings[bucket.index()];
        let held_before = holding.former.iter().find(|f| f.endpoint == *taker).map_or(0, |former| former.held);
        holding.former.retain(|former| former.endpoint != *taker);
        if let (Some(endpoint), Some(why)) = (loser, why) {
            let held = holding.held(unix);
            holding.former.insert(0, Former { endpoint, generation, since: unix, held, why });
        }
        (holding.owner, holding.next) = (Some(taker.clone()), None);
        (holding.generation, holding.planned) = (generation, why == Some(Why::Balance));
        holding.since = unix.saturating_sub(held_before);
        self.moved.insert(bucket);
        self.give_up(bucket);
    }

    fn give_up(&mut self, bucket: Bucket) {
        let holding = &mut self.map.holdings[bucket.index()];
        while holding.former.len() > MOST_FORMER {
            // Of two that held it equally long, the one that lost it earlier.
            let shortest = holding.former.iter().enumerate().min_by_key(|(n, former)| (former.held, Reverse(*n)));
            let Some((index, _)) = shortest else { return };
            let former = holding.former.remove(index);
            self.waiting.given_up.push((bucket, former.endpoint));
        }
    }
}
