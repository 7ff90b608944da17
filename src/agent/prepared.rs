//! What this node's pods are prepared for, so that ingress nodes need not guess it.

use std::collections::BTreeMap;

use crate::model::{Cluster, Endpoint, SharedMap};

/// By UID of the Service, the generation of its stored map, if buckets drain from or to pods of this node and `is_done` says of
/// each such pod that it is as the map asks for.
pub fn prepared(cluster: &Cluster, node: &str, is_done: impl Fn(&str) -> bool) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for vip in cluster.vips.values() {
        let Some(map) = &vip.shared else { continue };
        let mut concerned = vip.endpoints.iter().filter(|e| e.node == node && drains(map, e)).peekable();
        if concerned.peek().is_some() && concerned.all(|endpoint| is_done(&endpoint.pod_uid)) {
            all.insert(vip.service.uid.clone(), map.generation);
        }
    }
    all
}

/// Whether buckets drain from the endpoint, or to it.
fn drains(map: &SharedMap, endpoint: &Endpoint) -> bool {
    let uid = endpoint.pod_uid.as_str();
    map.previous.iter().any(|(bucket, drains)| {
        let owner = map.owners.owner(*bucket).is_some_and(|owner| owner.as_str() == uid);
        owner || drains.iter().any(|drain| drain.endpoint.as_str() == uid)
    })
}
