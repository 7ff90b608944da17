//! What tests ask of a stored map.

use tunnel_router::model::EndpointId;
use tunnel_router::model::handover::{Assignment, Endpoint, EndpointState};
use tunnel_router::state::assignment::{MAP_KEY, decode, map_name};

use super::NAMESPACE;
use crate::apiserver::Objects;

/// The stored map of the Service with this UID, as it is now.
pub fn stored(store: &Objects, uid: &str) -> Option<Assignment> {
    let object = store.get("configmaps", NAMESPACE, &map_name(uid)).ok()?;
    decode(object["data"][MAP_KEY].as_str(), uid).ok().map(|stored| stored.map)
}

/// How many buckets have former owners.
pub fn drains(map: &Assignment) -> usize {
    map.holdings.iter().filter(|holding| !holding.former.is_empty()).count()
}

/// Whether the numbers of buckets that owners have differ by at most one.
pub fn is_balanced(map: &Assignment) -> bool {
    let counts = map.counts();
    counts.values().max().zip(counts.values().min()).is_some_and(|(most, least)| most - least <= 1)
}

/// Whether each of these ready pods owns a bucket, or waits until connections of others have ended: balance takes those from nobody.
pub fn own_or_wait(map: &Assignment, pods: &[EndpointId]) -> bool {
    let endpoint = |id: &EndpointId| {
        let member = map.members.get(id)?;
        let (node, addresses) = (member.node.clone(), member.addresses);
        Some(Endpoint { id: id.clone(), node, addresses, state: EndpointState::Ready })
    };
    let short = map.short(&pods.iter().filter_map(endpoint).collect::<Vec<_>>());
    let waits = |id| short.get(id).is_some_and(|short| short.announced == 0 && !short.former.is_empty());
    let counts = map.counts();
    pods.iter().all(|id| counts.contains_key(id) || waits(id))
}

/// The owner of each bucket.
pub fn owners(map: &Assignment) -> Vec<Option<&EndpointId>> {
    map.holdings.iter().map(|holding| holding.owner.as_ref()).collect()
}

/// Whether the endpoint has been the owner of a bucket before, and may have its connections.
pub fn is_former(map: &Assignment, uid: &str) -> bool {
    map.holdings.iter().flat_map(|holding| &holding.former).any(|former| former.endpoint.as_str() == uid)
}
