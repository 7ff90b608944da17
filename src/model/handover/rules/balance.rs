//! Buckets that move so that everybody has a share: as far as that costs nobody a connection.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Step;
use crate::model::assign::weight;
use crate::model::handover::{EndpointState, MOST_FORMER, Next, NodeName};
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
            return self.keep_announced();
        }
        let (mut blocked, mut moves) = (Vec::new(), BTreeMap::new());
        while let Some(taker) = self.taker(&counts, &blocked) {
            match self.best_bucket(&taker, &counts, &moves) {
                Some((bucket, giver)) => {
                    moves.insert(bucket, taker.clone());
                    counts.entry(taker).and_modify(|n| *n += 1);
                    counts.entry(giver).and_modify(|n| *n -= 1);
                }
                None => blocked.push(taker),
            }
        }
        self.announce(&moves);
        let idle = counts.values().filter(|n| **n == 0).count();
        let room = self.map.holdings.len().saturating_sub(counts.len() - idle);
        self.waiting.no_bucket = idle.saturating_sub(room);
        self.waiting.balance = blocked.into_iter().collect();
        self.again = !self.waiting.balance.is_empty() && !self.moved.is_empty();
    }

    /// Moves that are announced, and may be made later.
    fn keep_announced(&mut self) {
        for holding in &mut self.map.holdings {
            let may = |id: &EndpointId| self.eligible.contains(id) && holding.owner.as_ref() != Some(id);
            let goes = holding.owner.as_ref().is_none_or(|owner| !self.eligible.contains(owner));
            if goes || !holding.next.as_ref().is_some_and(|next| may(&next.endpoint)) {
                holding.next = None;
            }
        }
    }

    /// Makes the moves of which the nodes of all that take part know, and announces the others.
    fn announce(&mut self, moves: &BTreeMap<Bucket, EndpointId>) {
        for (bucket, holding) in self.map.hash.buckets.iter().zip(&mut self.map.holdings) {
            let announced = holding.next.take().filter(|next| moves.get(&bucket) == Some(&next.endpoint));
            let new = || Some(Next { endpoint: moves.get(&bucket)?.clone(), generation: self.map.generation });
            holding.next = announced.or_else(new);
        }
        for (bucket, taker) in moves {
            let unheard = self.unheard(*bucket);
            if unheard.is_empty() {
                self.give(*bucket, taker);
            } else {
                self.waiting.unheard.entry(taker.clone()).or_default().extend(unheard);
            }
        }
    }

    /// The nodes that have to know of an announced move and have not said so: those of the owner and of the taker, and of former
    /// owners, to whom the taker will pass packets on. A former owner that is not ready may be dead: nobody waits for its node.
    fn unheard(&self, bucket: Bucket) -> Vec<NodeName> {
        let holding = &self.map.holdings[bucket.index()];
        let Some(next) = &holding.next else { return Vec::new() };
        let is_dead = |id: &&EndpointId| self.endpoints.get(*id).is_some_and(|e| e.state == EndpointState::NotReady);
        let former = holding.former.iter().map(|former| &former.endpoint).filter(|id| !is_dead(id));
        let all = holding.owner.iter().chain([&next.endpoint]).chain(former);
        let listed = |id: &EndpointId| self.endpoints.get(id).map(|endpoint| &endpoint.node);
        let nodes = all.filter_map(|id| listed(id).or_else(|| Some(&self.map.members.get(id)?.node)));
        nodes.filter(|node| self.map.known_to(node) < next.generation).cloned().collect()
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

    /// The bucket that a taker gets, and from whom: of those that have more than their share, one that is announced already,
    /// with the fewest former owners, and the one held for the shortest time. An endpoint that would own none gets one of anybody
    /// that has two.
    fn best_bucket(
        &self,
        taker: &EndpointId,
        counts: &BTreeMap<EndpointId, usize>,
        moves: &BTreeMap<Bucket, EndpointId>,
    ) -> Option<(Bucket, EndpointId)> {
        let (least, most) = self.share(counts);
        let has = counts.get(taker).copied().unwrap_or_default();
        let gives = |n: usize| n > most || (n > least && has < least);
        let offer = |bucket: Bucket| {
            let holding = &self.map.holdings[bucket.index()];
            let owner = holding.owner.as_ref()?;
            let count = *counts.get(owner)?;
            // The taker itself may be a former owner: then it leaves a place.
            let former = holding.former.iter().filter(|former| former.endpoint != *taker).count();
            let may = (gives(count) || has == 0 && count > 1) && former < MOST_FORMER;
            let may = may && !self.moved.contains(&bucket) && !moves.contains_key(&bucket);
            let is_announced = holding.next.as_ref().is_some_and(|next| next.endpoint == *taker);
            let order = (
                !gives(count),
                !is_announced,
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
