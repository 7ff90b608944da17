//! The decision that all nodes share: which endpoint owns which bucket of a Service, and for which hash that was decided.
//!
//! One writer (the controller) continues it with [`SharedMap::next`]; everybody else follows it. Between a change of the
//! endpoints and the writer's next word, nodes must not each continue the map: they would see the changes in different
//! orders. So they only [`bridge`](SharedMap::bridge): the buckets of endpoints that take no new connections any more go to
//! the others of the map, each by itself; arrivals wait. That is a function of the map and of the endpoints, not of the
//! order in which they became known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::assign::{assign, assign_by, favourite};
use super::{Bucket, BucketCount, BucketMap, Endpoint, EndpointId};

/// How flows become buckets: the same on every node, or a flow would have two endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flows {
    /// Number of buckets.
    pub buckets: BucketCount,
    /// Seed of the hash.
    pub seed: u32,
}

/// An endpoint that had a bucket before, and may still have its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// When its bucket went to another one, in seconds since 1970 (UTC).
    pub since: u64,
    /// The decision that the bucket went away with.
    pub generation: u64,
    /// What is no TCP still goes there, too: it cannot be told which of it belongs to whom.
    pub datagrams: bool,
}

impl Drain {
    /// Whether the writer knows of it. Of what nodes have bridged by themselves nobody reports anything.
    pub fn is_stored(&self) -> bool {
        self.since > 0
    }
}

/// Who passes on to whom in a bucket where these are asked one after the other.
pub(super) fn links(bucket: Bucket, way: &[&EndpointId]) -> impl Iterator<Item = ((Bucket, EndpointId), EndpointId)> {
    way.iter().zip(way.iter().skip(1)).map(move |(from, to)| ((bucket, (*from).clone()), (*to).clone()))
}

/// For how long buckets drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainRules {
    /// As long as the endpoint may have connections, if there is no limit; zero: not at all.
    pub limit: Option<Duration>,
    /// For how long what is no TCP stays with the endpoint.
    pub datagrams: Duration,
}

/// Endpoints that a bucket drains from at the same time: whoever has waited longest gives way.
const MOST_DRAINS: usize = 8;

/// The bucket map of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMap {
    /// Grows with every decision, so that an old map that somebody puts back is recognised. From 1.
    pub generation: u64,
    /// What it was made for. It stays so for the life of the map, whatever flags a later version of the agent is given.
    pub flows: Flows,
    /// The owner of each bucket.
    pub owners: BucketMap,
    /// Who had a bucket before, the first owner first, while they are still there; no bucket has an empty list. Packets
    /// that may belong to an open connection ask the owner, and then one after the other from the last to the first.
    pub previous: BTreeMap<Bucket, Vec<Drain>>,
}

impl SharedMap {
    /// A map without any history: a function of the endpoints alone.
    pub fn new(flows: Flows, endpoints: &[Endpoint]) -> SharedMap {
        let owners = assign(&BucketMap::empty(flows.buckets), &eligible(endpoints), flows.buckets);
        SharedMap { generation: 1, flows, owners, previous: BTreeMap::new() }
    }

    /// The map as a node uses it while the writer has not spoken about these endpoints. `endpoints` are all that there
    /// are, eligible or not.
    pub fn bridge(&self, endpoints: &[Endpoint]) -> SharedMap {
        self.bridge_unless(endpoints, |_| false)
    }

    /// The same, but who `keeps` its buckets although it takes no new connections does so while it is there.
    pub fn bridge_unless(&self, endpoints: &[Endpoint], keeps: impl Fn(&EndpointId) -> bool) -> SharedMap {
        let (present, eligible) = (present(endpoints), eligible(endpoints));
        let stays = |owner: &EndpointId| eligible.contains(owner) || present.contains(owner) && keeps(owner);
        let known: BTreeSet<EndpointId> = self.owners.counts().keys().map(|id| (*id).clone()).collect();
        let rest: BTreeSet<EndpointId> = known.intersection(&eligible).cloned().collect();
        let candidates = if rest.is_empty() { &eligible } else { &rest };
        let owner = |bucket| match self.owners.owner(bucket) {
            Some(owner) if stays(owner) => Some(owner.clone()),
            _ => favourite(bucket, candidates).cloned(),
        };
        let owners: BucketMap = self.flows.buckets.iter().map(owner).collect();
        let previous = self.draining(&owners, &BucketMap::empty(self.flows.buckets), &present, 0);
        SharedMap { generation: self.generation, flows: self.flows, owners, previous }
    }

    /// The writer's next map at `now` (seconds since 1970, UTC): balanced, with what arrivals take, without the drains
    /// that are over by `rules` or by what `is_over` says. `self` again where nothing has to change.
    ///
    /// Nobody who stays loses a bucket but to the balance. What nodes have bridged meanwhile stays as far as the balance
    /// allows, too.
    pub fn next(
        &self,
        endpoints: &[Endpoint],
        now: u64,
        rules: DrainRules,
        is_over: impl Fn(Bucket, &Drain) -> bool,
    ) -> SharedMap {
        let (present, eligible) = (present(endpoints), eligible(endpoints));
        let bridged = self.bridge(endpoints).owners;
        let owners = assign_by([&self.given_back(&eligible), &bridged], &eligible, self.flows.buckets);
        let mut previous = self.draining(&owners, &bridged, &present, now);
        let passed = |since: u64, limit: Duration| now >= since.saturating_add(limit.as_secs());
        for (bucket, drains) in &mut previous {
            for drain in drains.iter_mut() {
                drain.datagrams &= !passed(drain.since, rules.datagrams);
            }
            // Of datagrams nobody knows whether there are any left.
            drains.retain(|drain| {
                !rules.limit.is_some_and(|limit| passed(drain.since, limit))
                    && (drain.datagrams || !is_over(*bucket, drain))
            });
        }
        previous.retain(|_, drains| !drains.is_empty());
        let changed = owners != self.owners || previous != self.previous;
        SharedMap {
            generation: self.generation.saturating_add(u64::from(changed)),
            flows: self.flows,
            owners,
            previous,
        }
    }

    /// When [`SharedMap::next`] has something to change although no endpoint has: seconds since 1970 (UTC).
    pub fn due(&self, rules: DrainRules) -> Option<u64> {
        let ends = self.previous.values().flatten().flat_map(|drain| {
            [rules.limit, drain.datagrams.then_some(rules.datagrams)]
                .map(|limit| Some(drain.since.saturating_add(limit?.as_secs())))
        });
        ends.flatten().min()
    }

    /// Who passes on to whom what belongs to none of its connections: the owner to the one before it, and so on to the first.
    pub fn onward(&self) -> BTreeMap<(Bucket, EndpointId), EndpointId> {
        self.previous.keys().flat_map(|bucket| links(*bucket, &self.way(*bucket)).collect::<Vec<_>>()).collect()
    }

    /// Who is asked for a connection, one after the other: the owner, and those who had the bucket before, the last one first.
    /// Thus nobody depends on somebody who had it before him.
    pub fn way(&self, bucket: Bucket) -> Vec<&EndpointId> {
        let drains = self.previous.get(&bucket).into_iter().flatten().rev();
        self.owners.owner(bucket).into_iter().chain(drains.map(|drain| &drain.endpoint)).collect()
    }

    /// Who drains under new `owners`: those who drained before, the owner here, and the one that nodes have used meanwhile.
    fn draining(
        &self,
        owners: &BucketMap,
        meanwhile: &BucketMap,
        present: &BTreeSet<EndpointId>,
        now: u64,
    ) -> BTreeMap<Bucket, Vec<Drain>> {
        let of_bucket = |bucket| {
            let new = owners.owner(bucket);
            let drains = |id: &EndpointId| present.contains(id) && Some(id) != new;
            // Who gets the bucket back leaves the row as if it were a ring, so that all others go on asking whom they asked.
            let known = self.previous.get(&bucket).map_or(&[][..], Vec::as_slice);
            let back = known.iter().position(|drain| Some(&drain.endpoint) == new).unwrap_or(0);
            let (before, after) = known.split_at(back);
            let mut list: Vec<Drain> = after.iter().filter(|drain| drains(&drain.endpoint)).cloned().collect();
            let left = [self.owners.owner(bucket), meanwhile.owner(bucket)];
            let generation = self.generation.saturating_add(1);
            for endpoint in left.into_iter().flatten().filter(|id| drains(id)) {
                if before.iter().chain(&list).all(|drain| drain.endpoint != *endpoint) {
                    let datagrams = list.is_empty();
                    list.push(Drain { endpoint: endpoint.clone(), since: now, generation, datagrams });
                }
            }
            list.extend(before.iter().filter(|drain| drains(&drain.endpoint)).cloned());
            // Whoever has stood in has got new connections: that it had none left before says nothing any more.
            let again = meanwhile.owner(bucket).filter(|id| Some(*id) != self.owners.owner(bucket));
            if let Some(drain) = list.iter_mut().find(|drain| Some(&drain.endpoint) == again) {
                (drain.since, drain.generation) = (now, generation);
            }
            while list.len() > MOST_DRAINS {
                let longest = list.iter().enumerate().min_by_key(|(_, drain)| drain.generation);
                longest.map(|(index, _)| index).map(|index| list.remove(index));
            }
            (bucket, list)
        };
        self.flows.buckets.iter().map(of_bucket).filter(|(_, list)| !list.is_empty()).collect()
    }

    /// The owners that are still eligible, and whoever has become eligible again in the place of those who have more than
    /// their share: there its connections are.
    fn given_back(&self, eligible: &BTreeSet<EndpointId>) -> BucketMap {
        let stays = |owner: &Option<EndpointId>| owner.clone().filter(|id| eligible.contains(id));
        let mut owners: Vec<Option<EndpointId>> = self.owners.owners().iter().map(stays).collect();
        let share = owners.len().checked_div(eligible.len()).unwrap_or(0);
        let most = owners.len().div_ceil(eligible.len().max(1));
        let count =
            |owners: &[Option<EndpointId>], id: &EndpointId| owners.iter().flatten().filter(|o| *o == id).count();
        let last = |drains: &'_ [Drain]| {
            let there = drains.iter().filter(|drain| eligible.contains(&drain.endpoint));
            there.max_by_key(|drain| drain.generation).map(|drain| drain.endpoint.clone())
        };
        for (bucket, before) in self.previous.iter().filter_map(|(bucket, drains)| Some((bucket, last(drains)?))) {
            let spare = owners[bucket.index()].as_ref().is_none_or(|owner| count(&owners, owner) > most);
            if spare && count(&owners, &before) < share {
                owners[bucket.index()] = Some(before);
            }
        }
        owners.into_iter().collect()
    }
}

fn present(endpoints: &[Endpoint]) -> BTreeSet<EndpointId> {
    endpoints.iter().map(|e| e.pod_uid.as_str().into()).collect()
}

fn eligible(endpoints: &[Endpoint]) -> BTreeSet<EndpointId> {
    endpoints.iter().filter(|e| e.eligible).map(|e| e.pod_uid.as_str().into()).collect()
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
