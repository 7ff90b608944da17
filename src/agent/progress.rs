//! How far this node is with the stored maps, so that others need not guess it.

use std::collections::BTreeMap;

use crate::model::{Cluster, Endpoint, EndpointId, Progress, SharedMap, Vip};

/// By UID of the Service, what this node has done of its stored map, as far as buckets drain from or to pods of it, or it is an
/// ingress node. `is_done` says of a pod whether it is as the map asks for, `follows` of the node itself. What was reported
/// `before` stays true while it is on the way to what comes next, or to fewer links: otherwise nodes would wait for each other
/// anew whenever one of them stops waiting.
pub fn progress(
    cluster: &Cluster,
    node: &str,
    before: &BTreeMap<String, Progress>,
    is_done: impl Fn(&str) -> bool,
    follows: bool,
) -> BTreeMap<String, Progress> {
    let is_ingress = cluster.nodes.get(node).is_some_and(|node| node.ingress);
    let mut all: BTreeMap<String, Progress> = BTreeMap::new();
    for vip in cluster.vips.values() {
        let Some(map) = vip.shared.as_ref().filter(|map| !map.previous.is_empty()) else { continue };
        let concerned: Vec<&Endpoint> = vip.endpoints.iter().filter(|e| e.node == node && drains(map, e)).collect();
        if concerned.is_empty() && !is_ingress {
            continue;
        }
        let was = before.get(&vip.service.uid).copied().unwrap_or_default();
        let since = |is_now: bool, was: u64| match is_now {
            true => map.generation,
            // An older map may have come back.
            false => Some(was).filter(|was| *was <= map.generation).unwrap_or_default(),
        };
        let is_done = !concerned.is_empty() && concerned.iter().all(|endpoint| is_done(&endpoint.pod_uid));
        let turning: Vec<bool> = concerned.iter().filter_map(|endpoint| turns(vip, endpoint)).collect();
        let now = Progress {
            entered: since(is_done && !turning.contains(&true), was.entered),
            prepared: since(is_done && turning.is_empty(), was.prepared),
            followed: since(
                is_ingress && follows && vip.staged.as_ref().is_none_or(|staged| staged.follows),
                was.followed,
            ),
        };
        // A Service has a VIP of each family.
        let least = |known: &mut Progress| {
            *known = Progress {
                entered: known.entered.min(now.entered),
                prepared: known.prepared.min(now.prepared),
                followed: known.followed.min(now.followed),
            };
        };
        all.entry(vip.service.uid.clone()).and_modify(least).or_insert(now);
    }
    all.retain(|_, progress| *progress != Progress::default());
    all
}

/// Whether the endpoint is about to pass on to another one than now, see [`Staged::turning`](crate::model::Staged::turning).
fn turns(vip: &Vip, endpoint: &Endpoint) -> Option<bool> {
    vip.staged.as_ref()?.turning.get(&EndpointId::from(endpoint.pod_uid.as_str())).copied()
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
    use std::slice::from_ref;
    use std::sync::Arc;

    use super::*;
    use crate::model::Mode;
    use crate::plan::tests::support::{cluster, draining_vip, endpoint, unprepared};

    const NOTHING: Progress = Progress { entered: 0, prepared: 0, followed: 0 };

    #[test]
    fn what_was_reported_stays_true_while_pods_are_on_their_way_to_what_comes_next() {
        let (old, new) = (endpoint(2, "n1"), endpoint(3, "n1"));
        let vip = draining_vip("192.0.2.1", Mode::Vxlan, vec![old.clone(), new], &[old]);
        let uid = vip.service.uid.clone();
        let cluster = cluster(vec![vip]);
        let now = |before: Option<u64>, done| {
            let at = |generation| Progress { entered: generation, prepared: generation, followed: 0 };
            let before = before.map(|generation| (uid.clone(), at(generation))).into_iter().collect();
            let now = progress(&cluster, "n1", &before, |_| done, false).get(&uid).copied().unwrap_or_default();
            assert_eq!(now.entered, now.prepared);
            now.entered
        };
        assert_eq!([now(None, false), now(None, true), now(Some(1), true)], [0, 2, 2]);
        assert_eq!([now(Some(1), false), now(Some(2), false)], [1, 2]);
        assert_eq!(now(Some(3), false), 0, "an older map has come back");
        assert!(progress(&cluster, "n2", &BTreeMap::new(), |_| true, false).is_empty());
    }

    #[test]
    fn who_turns_to_another_one_is_not_prepared_yet_and_who_waits_does_not_follow() {
        let (old, new) = (endpoint(2, "n1"), endpoint(3, "n2"));
        let vip = unprepared(draining_vip("192.0.2.1", Mode::Vxlan, vec![old.clone(), new], from_ref(&old)));
        let now = |turning: &str, enters, follows| {
            let mut staged = vip.staged.as_deref().unwrap().clone();
            staged.turning = [(EndpointId::from(turning), enters)].into();
            staged.follows = follows;
            let cluster = cluster(vec![Vip { staged: Some(Arc::new(staged)), ..vip.clone() }]);
            progress(&cluster, "n1", &BTreeMap::new(), |_| true, true).into_values().next().unwrap_or(NOTHING)
        };
        assert_eq!(now("another", true, true), Progress { entered: 2, prepared: 2, followed: 2 });
        assert_eq!(now(&old.pod_uid, false, false), Progress { entered: 2, prepared: 0, followed: 0 });
        assert_eq!(now(&old.pod_uid, true, true), Progress { entered: 0, prepared: 0, followed: 2 });
    }
}
