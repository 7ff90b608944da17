//! Buckets that move so that everybody has a share: as far as that costs nobody a connection.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Step;
use crate::model::assign::weight;
use crate::model::handover::MOST_FORMER;
use crate::model::{Bucket, EndpointId};

impl Step<'_> {
    /// Moves buckets from those that have most to those that have least, until their numbers differ by at most one, or no
    /// bucket can move. Where owners have just been replaced it waits for the next decision: one that leaves moves only its own
    /// buckets.
    pub(super) fn balance(&mut self) {
        let mut counts: BTreeMap<EndpointId, usize> = self.eligible.iter().map(|id| (id.clone(), 0)).collect();
        for owner in self.map.holdings.iter().filter_map(|holding| holding.owner.as_ref()) {
            counts.entry(owner.clone()).and_modify(|n| *n += 1);
        }
        if self.replaced {
            self.again = self.taker(&counts, &[]).is_some();
            return;
        }
        let mut blocked = Vec::new();
        while let Some(taker) = self.taker(&counts, &blocked) {
            match self.best_bucket(&taker, &counts) {
                Some((bucket, giver)) => {
                    self.give(bucket, &taker);
                    counts.entry(taker).and_modify(|n| *n += 1);
                    counts.entry(giver).and_modify(|n| *n -= 1);
                }
                None => blocked.push(taker),
            }
        }
        let idle = counts.values().filter(|n| **n == 0).count();
        let room = self.map.holdings.len().saturating_sub(counts.len() - idle);
        self.waiting.no_bucket = idle.saturating_sub(room);
        self.waiting.balance = blocked.into_iter().collect();
        self.again = !self.waiting.balance.is_empty() && !self.moved.is_empty();
    }

    /// The next endpoint that has less than its share. Those with the program come first: what is left for the others nobody
    /// else could take.
    fn taker(&self, counts: &BTreeMap<EndpointId, usize>, blocked: &[EndpointId]) -> Option<EndpointId> {
        let (least, most) = self.share(counts);
        let is_above = counts.values().any(|n| *n > most);
        let takes = |n: usize| n < least || (n == least && n < most && is_above);
        let open = counts.iter().filter(|(id, n)| takes(**n) && !blocked.contains(id));
        open.min_by_key(|(id, n)| (!self.has_program(id), **n)).map(|(id, _)| id.clone())
    }

    /// The numbers of buckets that endpoints have when they are balanced.
    fn share(&self, counts: &BTreeMap<EndpointId, usize>) -> (usize, usize) {
        let (owned, all): (usize, usize) = (counts.values().sum(), counts.len().max(1));
        (owned / all, owned.div_ceil(all))
    }

    /// The bucket that a taker gets, and from whom: of those that have more than their share, with the fewest former owners,
    /// and the one held for the shortest time. An endpoint that would own none gets one of anybody that has two.
    fn best_bucket(&self, taker: &EndpointId, counts: &BTreeMap<EndpointId, usize>) -> Option<(Bucket, EndpointId)> {
        let (least, most) = self.share(counts);
        let has = counts.get(taker).copied().unwrap_or_default();
        let gives = |n: usize| n > most || (n > least && has < least);
        let offer = |bucket: Bucket| {
            let holding = &self.map.holdings[bucket.index()];
            let owner = holding.owner.as_ref()?;
            let count = *counts.get(owner)?;
            // The taker itself may be a former owner: then it leaves a place.
            let former = holding.former.iter().filter(|former| former.endpoint != *taker).count();
            let may = (gives(count) || has == 0 && count > 1) && former < MOST_FORMER && !self.moved.contains(&bucket);
            let order = (
                !gives(count),
                former,
                !self.has_program(owner),
                Reverse(count),
                Reverse((holding.since, holding.generation)),
            );
            let order = (order, Reverse(weight(taker, bucket)));
            may.then(|| (order, bucket, owner.clone()))
        };
        let best = self.map.hash.buckets.iter().filter_map(offer).min();
        best.map(|(_, bucket, owner)| (bucket, owner))
    }
}
