//! What this node's pods are prepared for, so that ingress nodes need not guess it.

use std::collections::BTreeMap;

use crate::model::{Cluster, Endpoint, SharedMap};

/// By UID of the Service, the generation of its stored map, if buckets drain from or to pods of this node and `is_done` says of
/// each such pod that it is as the map asks for. What was reported `before` stays true while pods are on their way to what comes
/// next, or to fewer links: otherwise nodes would wait for each other anew whenever one of them stops waiting.
pub fn prepared(
    cluster: &Cluster,
    node: &str,
    before: &BTreeMap<String, u64>,
    is_done: impl Fn(&str) -> bool,
) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for vip in cluster.vips.values() {
        let Some(map) = &vip.shared else { continue };
        let mut concerned = vip.endpoints.iter().filter(|e| e.node == node && drains(map, e)).peekable();
        if concerned.peek().is_none() {
            continue;
        }
        let uid = &vip.service.uid;
        let is_now = concerned.all(|endpoint| is_done(&endpoint.pod_uid)).then_some(map.generation);
        let was = before.get(uid).copied().filter(|generation| *generation <= map.generation);
        all.extend(is_now.or(was).map(|generation| (uid.clone(), generation)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;
    use crate::plan::tests::support::{cluster, draining_vip, endpoint};

    #[test]
    fn what_was_reported_stays_true_while_pods_are_on_their_way_to_what_comes_next() {
        let (old, new) = (endpoint(2, "n1"), endpoint(3, "n1"));
        let vip = draining_vip("192.0.2.1", Mode::Vxlan, vec![old.clone(), new], &[old]);
        let uid = vip.service.uid.clone();
        let cluster = cluster(vec![vip]);
        let now = |before: Option<u64>, done| {
            let before = before.map(|generation| (uid.clone(), generation)).into_iter().collect();
            prepared(&cluster, "n1", &before, |_| done).get(&uid).copied()
        };
        assert_eq!([now(None, false), now(None, true), now(Some(1), true)], [None, Some(2), Some(2)]);
        assert_eq!([now(Some(1), false), now(Some(2), false)], [Some(1), Some(2)]);
        assert_eq!(now(Some(3), false), None, "an older map has come back");
        assert!(prepared(&cluster, "n2", &BTreeMap::new(), |_| true).is_empty());
    }
}
