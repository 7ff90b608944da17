//! What this node says about its pods, besides the drains that are over.

use std::collections::BTreeSet;

use crate::model::EndpointId;
use crate::state::Resolved;

/// Pods that a map names on this node, and that have ended: the API does not know them any more, or all their containers have
/// ended for good.
pub(super) fn ended(resolved: &Resolved, node: &str) -> BTreeSet<EndpointId> {
    let maps = resolved.cluster.vips.values().filter_map(|vip| vip.map.as_ref());
    let members = maps.flat_map(|map| &map.members).filter(|(_, member)| member.node.as_str() == node);
    let has_ended = |id: &EndpointId| resolved.local_pods.get(id.as_str()).is_none_or(|pod| pod.terminated);
    members.map(|(id, _)| id).filter(|id| has_ended(id)).cloned().collect()
}
