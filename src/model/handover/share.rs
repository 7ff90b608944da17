//! Why an endpoint has fewer buckets than its share.

use std::collections::{BTreeMap, BTreeSet};

use super::endpoint::usable;
use super::{Assignment, Endpoint};
use crate::model::EndpointId;

/// An endpoint with fewer buckets than its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Short {
    /// The buckets that it has.
    pub has: u32,
    /// The least that it is entitled to.
    pub share: u32,
    /// Buckets that are announced to it: it gets them when the nodes of all that take part know of it.
    pub announced: u32,
    /// Former owners of the buckets that it could take: balance waits for their connections. Empty: the controller has still to
    /// decide.
    pub former: BTreeSet<EndpointId>,
}

impl Assignment {
    /// Of the endpoints that may own buckets those that have fewer than their share.
    pub fn short(&self, endpoints: &[Endpoint]) -> BTreeMap<EndpointId, Short> {
        let eligible = usable(endpoints, |e| self.members.get(&e.id).is_some_and(|member| member.set_up));
        let counts = self.counts();
        let count = |id: &EndpointId| counts.get(id).copied().unwrap_or_default();
        let owned: u32 = eligible.iter().map(count).sum();
        let share = owned.checked_div(u32::try_from(eligible.len()).unwrap_or(u32::MAX)).unwrap_or_default();
        let has_more = |id: &EndpointId| eligible.contains(id) && count(id) > share;
        let others = self.holdings.iter().filter(|holding| holding.owner.as_ref().is_some_and(has_more));
        let former: BTreeSet<EndpointId> =
            others.flat_map(|holding| &holding.former).map(|former| former.endpoint.clone()).collect();
        // Its own connections are in nobody's way: it may take such a bucket back.
        let others_of = |id: &EndpointId| former.iter().filter(|other| *other != id).cloned().collect();
        let announced = |id: &EndpointId| {
            let moves = self.moves().filter(|(_, next)| next.endpoint == *id);
            u32::try_from(moves.count()).unwrap_or(u32::MAX)
        };
        let short = eligible.iter().filter(|id| count(id) < share);
        short
            .map(|id| (id.clone(), Short { has: count(id), share, announced: announced(id), former: others_of(id) }))
            .collect()
    }
}
