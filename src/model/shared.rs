//! The decision that all nodes share: which endpoint owns which bucket of a Service, and for which hash that was decided.
//!
//! One writer (the controller) continues it with [`SharedMap::next`]; everybody else follows it. Between a change of the
//! endpoints and the writer's next word, nodes must not each continue the map: they would see the changes in different
//! orders. So they only [`bridge`](SharedMap::bridge): the buckets of endpoints that take no new connections any more go to
//! the others of the map, each by itself; arrivals wait. That is a function of the map and of the endpoints, not of the
//! order in which they became known.

use std::collections::{BTreeMap, BTreeSet};

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

/// The bucket map of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMap {
    /// Grows with every decision, so that an old map that somebody puts back is recognised. From 1.
    pub generation: u64,
    /// What it was made for. It stays so for the life of the map, whatever flags a later version of the agent is given.
    pub flows: Flows,
    /// The owner of each bucket.
    pub owners: BucketMap,
    /// The endpoint that had the bucket before, while it is still there: it may have connections.
    pub previous: BTreeMap<Bucket, EndpointId>,
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
        let (present, eligible) = (present(endpoints), eligible(endpoints));
        let known: BTreeSet<EndpointId> = self.owners.counts().keys().map(|id| (*id).clone()).collect();
        let rest: BTreeSet<EndpointId> = known.intersection(&eligible).cloned().collect();
        let candidates = if rest.is_empty() { &eligible } else { &rest };
        let owner = |bucket| match self.owners.owner(bucket) {
            Some(owner) if eligible.contains(owner) => Some(owner.clone()),
            _ => favourite(bucket, candidates).cloned(),
        };
        let owners: BucketMap = self.flows.buckets.iter().map(owner).collect();
        let previous = self.previous_of(&owners, &present);
        SharedMap { generation: self.generation, flows: self.flows, owners, previous }
    }

    /// The writer's next map: balanced, with what arrivals take. `self` again where nothing has to change.
    ///
    /// Nobody who stays loses a bucket but to the balance. What nodes have bridged meanwhile stays as far as the balance
    /// allows, too.
    pub fn next(&self, endpoints: &[Endpoint]) -> SharedMap {
        let (present, eligible) = (present(endpoints), eligible(endpoints));
        let bridged = self.bridge(endpoints).owners;
        let owners = assign_by([&self.given_back(&eligible), &bridged], &eligible, self.flows.buckets);
        let mut previous = self.previous_of(&owners, &present);
        for bucket in self.flows.buckets.iter() {
            // The flows of this bucket had their second owner already, and the first has gone with his connections.
            let second = bridged.owner(bucket).filter(|id| Some(*id) != owners.owner(bucket));
            if let Some(second) = second.filter(|id| self.owners.owner(bucket) != Some(*id)) {
                previous.entry(bucket).or_insert_with(|| second.clone());
            }
        }
        let changed = owners != self.owners || previous != self.previous;
        SharedMap {
            generation: self.generation.saturating_add(u64::from(changed)),
            flows: self.flows,
            owners,
            previous,
        }
    }

    /// Who had each bucket before `owners`: the owner here if it was another one, else whoever had it before that.
    fn previous_of(&self, owners: &BucketMap, present: &BTreeSet<EndpointId>) -> BTreeMap<Bucket, EndpointId> {
        let before = |bucket| {
            let (old, new) = (self.owners.owner(bucket), owners.owner(bucket));
            let before = if old.is_some() && old != new { old } else { self.previous.get(&bucket) };
            before.filter(|id| present.contains(*id) && Some(*id) != new).cloned()
        };
        self.flows.buckets.iter().filter_map(|bucket| Some((bucket, before(bucket)?))).collect()
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
        for (bucket, before) in self.previous.iter().filter(|(_, id)| eligible.contains(*id)) {
            let spare = owners[bucket.index()].as_ref().is_none_or(|owner| count(&owners, owner) > most);
            if spare && count(&owners, before) < share {
                owners[bucket.index()] = Some(before.clone());
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
