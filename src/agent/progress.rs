//! How far this node is with the stored maps, so that others need not guess it.

use std::collections::BTreeMap;

use crate::model::{Cluster, Endpoint, EndpointId, Progress, SharedMap, Staged};

/// By UID of the Service, what this node has done of its stored map, as far as buckets drain from or to pods of it, or it is an
/// ingress node. `is_done` says of a pod whether it is as the map asks for, `node_done` what the node itself was last made for.
/// What was reported `before` stays true while it is on the way to what comes next, or to fewer links: otherwise nodes would wait
/// for each other anew whenever one of them stops waiting.
pub fn progress(
    cluster: &Cluster,
    node: &str,
    before: &BTreeMap<String, Progress>,
    is_done: impl Fn(&str) -> bool,
    node_done: Option<&Cluster>,
) -> BTreeMap<String, Progress> {
    let is_ingress = cluster.nodes.get(node).is_some_and(|node| node.ingress);
    let mut all: BTreeMap<String, Progress> = BTreeMap::new();
    for vip in cluster.vips.values() {
        let Some(map) = vip.shared.as_ref().filter(|map| !map.previous.is_empty()) else { continue };
        let concerned: Vec<&Endpoint> = vip.endpoints.iter().filter(|e| e.node == node && drains(map, e)).collect();
        if concerned.is_empty() && !is_ingress {
            continue;
        }
        let are_done = !concerned.is_empty() && concerned.iter().all(|endpoint| is_done(&endpoint.pod_uid));
        let reached = |of: fn(&Staged) -> &BTreeMap<EndpointId, u64>| {
            let limits = vip.staged.as_deref().map(of);
            let limit = |e: &&Endpoint| limits?.get(&EndpointId::from(e.pod_uid.as_str())).copied();
            are_done.then(|| concerned.iter().filter_map(limit).min().unwrap_or(map.generation))
        };
        let made = node_done.filter(|_| is_ingress).and_then(|made| made.vips.get(&vip.address));
        let made = made.filter(|made| made.service.uid == vip.service.uid);
        let followed = made.and_then(|made| Some(made.staged.as_ref()?.followed));
        let was = before.get(&vip.service.uid).copied().unwrap_or_default();
        // An older map may have come back.
        let since = |now: Option<u64>, was: u64| {
            let was = Some(was).filter(|was| *was <= map.generation).unwrap_or_default();
            now.unwrap_or_default().clamp(was, map.generation)
        };
        let now = Progress {
            entered: since(reached(|staged| &staged.entering), was.entered),
            prepared: since(reached(|staged| &staged.turning), was.prepared),
            followed: since(followed, was.followed),
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
    use crate::model::{Mode, Vip};
    use crate::plan::tests::support::{cluster, draining_vip, endpoint, unprepared};

    #[test]
    fn what_was_reported_stays_true_while_pods_are_on_their_way_to_what_comes_next() {
        let (old, new) = (endpoint(2, "n1"), endpoint(3, "n1"));
        let vip = draining_vip("192.0.2.1", Mode::Vxlan, vec![old.clone(), new], &[old]);
        let uid = vip.service.uid.clone();
        let cluster = cluster(vec![vip]);
        let now = |before: Option<u64>, done| {
            let at = |generation| Progress { entered: generation, prepared: generation, followed: 0 };
            let before = before.map(|generation| (uid.clone(), at(generation))).into_iter().collect();
            let now = progress(&cluster, "n1", &before, |_| done, None).get(&uid).copied().unwrap_or_default();
            assert_eq!(now.entered, now.prepared);
            now.entered
        };
        assert_eq!([now(None, false), now(None, true), now(Some(1), true)], [0, 2, 2]);
        assert_eq!([now(Some(1), false), now(Some(2), false)], [1, 2]);
        assert_eq!(now(Some(3), false), 0, "an older map has come back");
        assert!(progress(&cluster, "n2", &BTreeMap::new(), |_| true, None).is_empty());
    }

    #[test]
    fn what_is_older_than_all_that_is_still_to_be_done_has_been_done() {
        let (old, new) = (endpoint(2, "n1"), endpoint(3, "n2"));
        let vip = unprepared(draining_vip("192.0.2.1", Mode::Vxlan, vec![old.clone(), new], from_ref(&old)));
        let mut map = vip.shared.as_deref().unwrap().clone();
        map.generation = 9;
        let vip = Vip { shared: Some(Arc::new(map)), ..vip };
        let now = |turning: &[(&str, u64)], entering: &[(&str, u64)], followed| {
            let mut staged = vip.staged.as_deref().unwrap().clone();
            let those =
                |all: &[(&str, u64)]| all.iter().map(|(id, reached)| (EndpointId::from(*id), *reached)).collect();
            (staged.turning, staged.entering, staged.followed) = (those(turning), those(entering), followed);
            let cluster = cluster(vec![Vip { staged: Some(Arc::new(staged)), ..vip.clone() }]);
            let [one] = progress(&cluster, "n1", &BTreeMap::new(), |_| true, Some(&cluster))
                .into_values()
                .collect::<Vec<_>>()[..]
            else {
                panic!("one Service")
            };
            [one.entered, one.prepared, one.followed]
        };
        assert_eq!(now(&[("another", 4)], &[("another", 4)], 9), [9, 9, 9]);
        assert_eq!(now(&[(&old.pod_uid, 7)], &[], 5), [9, 7, 5]);
        assert_eq!(now(&[(&old.pod_uid, 7)], &[(&old.pod_uid, 8)], 9), [8, 7, 9]);
    }
}
