//! When a pod of this node has no connection left in a bucket that it lost: looked at every few seconds, and reported.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::goals::pod_target;
use super::run::send_part;
use crate::inspect::connections::by_bucket;
use crate::kernel::{self, Connection, KernelError};
use crate::model::handover::{FlowHash, Generation, NodeReport, Over, ServiceUid};
use crate::model::{Bucket, Cluster, EndpointId};
use crate::netns::Netns;
use crate::reconcile::Places;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// For how long there must be no connection: an ingress node that has not heard of the change yet may still open one.
const QUIET: Duration = Duration::from_secs(15);

/// The buckets of one Service that one pod of this node lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draining {
    /// The Service.
    pub service: ServiceUid,
    /// The pod.
    pub pod: EndpointId,
    /// How flows become buckets.
    pub hash: FlowHash,
    /// The Service's VIPs.
    pub vips: BTreeSet<IpAddr>,
    /// The buckets, and the decisions by which it lost them.
    pub buckets: BTreeMap<Bucket, Generation>,
}

/// What drains from pods of a node, by what is stored: of stand-ins nobody has to be told.
pub fn draining(cluster: &Cluster, node: &str) -> Vec<Draining> {
    let mut found: BTreeMap<(&str, &EndpointId), Draining> = BTreeMap::new();
    for vip in cluster.vips() {
        let Some(map) = &vip.map else { continue };
        let is_here = |id: &EndpointId| map.members.get(id).is_some_and(|member| member.node.as_str() == node);
        let former = map.iter().flat_map(|(bucket, holding)| holding.former.iter().map(move |one| (bucket, one)));
        for (bucket, former) in former.filter(|(_, former)| is_here(&former.endpoint)) {
            let entry = found.entry((&vip.service.uid, &former.endpoint)).or_insert_with(|| Draining {
                service: vip.service.uid.as_str().into(),
                pod: former.endpoint.clone(),
                hash: map.hash,
                vips: BTreeSet::new(),
                buckets: BTreeMap::new(),
            });
            entry.vips.insert(vip.address);
            entry.buckets.insert(bucket, former.generation);
        }
    }
    found.into_values().collect()
}

/// The open connections of pods whose namespaces are known, and can be looked into.
pub(super) fn open_connections(pods: &BTreeSet<EndpointId>, places: &Places) -> BTreeMap<EndpointId, Vec<Connection>> {
    let places: BTreeMap<String, Netns> = places.all().into_iter().collect();
    let look = |pod: &EndpointId| {
        let found =
            places.get(&pod_target(pod.as_str()))?.run(kernel::connections).map_err(KernelError::from).flatten();
        let found = found.inspect_err(|error| debug!(%pod, %error, "cannot count its connections"));
        Some((pod.clone(), found.ok()?))
    };
    pods.iter().filter_map(look).collect()
}

/// Looks at what drains, and says in `report` what is over, until `shutdown`.
pub async fn watch_drains(
    mut draining: watch::Receiver<Vec<Draining>>,
    places: Places,
    report: watch::Sender<NodeReport>,
    shutdown: CancellationToken,
) {
    let mut quiet = Quiet::default();
    loop {
        let all = draining.borrow_and_update().clone();
        let pods: BTreeSet<EndpointId> = all.iter().map(|one| one.pod.clone()).collect();
        let places = places.clone();
        let open = tokio::task::spawn_blocking(move || open_connections(&pods, &places)).await.unwrap_or_default();
        let look = |one: Draining| {
            let counts = by_bucket(open.get(&one.pod)?, &one.vips, one.hash);
            Some((counts, one))
        };
        let seen: Vec<_> = all.into_iter().filter_map(look).collect();
        let now_over = quiet.look(&seen, Instant::now());
        if !now_over.is_subset(&report.borrow().over) {
            info!(buckets = now_over.len(), "drains are over, and reported until the controller knows");
        }
        send_part(&report, |report| &mut report.over, now_over);
        let idle = draining.borrow().is_empty();
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = draining.changed(), if idle => if changed.is_err() { return },
            () = tokio::time::sleep(INTERVAL), if !idle => {}
        }
    }
}

/// Since when there has been no connection.
#[derive(Debug, Default)]
struct Quiet(BTreeMap<Over, Instant>);

impl Quiet {
    /// Takes what was seen at `now`, and says which drains are over.
    fn look(&mut self, seen: &[(BTreeMap<Bucket, usize>, Draining)], now: Instant) -> BTreeSet<Over> {
        let mut still = BTreeMap::new();
        for (counts, one) in seen {
            for (bucket, generation) in one.buckets.iter().filter(|(bucket, _)| !counts.contains_key(bucket)) {
                let over = Over {
                    service: one.service.clone(),
                    pod: one.pod.clone(),
                    generation: *generation,
                    bucket: *bucket,
                };
                let since = self.0.get(&over).copied().unwrap_or(now);
                still.insert(over, since);
            }
        }
        self.0 = still;
        let over = self.0.iter().filter(|(_, since)| now.duration_since(**since) >= QUIET);
        over.map(|(over, _)| over.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BucketCount;
    use crate::model::handover::HashKey;

    fn draining(buckets: &[(u32, u64)]) -> Draining {
        let bucket = |(bucket, generation): &(u32, u64)| (Bucket::new(*bucket).unwrap(), Generation(*generation));
        Draining {
            service: "s".into(),
            pod: "p".into(),
            hash: FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 7, key: HashKey::Ports },
            vips: ["192.0.2.10".parse().unwrap()].into(),
            buckets: buckets.iter().map(bucket).collect(),
        }
    }

    #[test]
    fn a_drain_is_over_when_nobody_was_connected_for_a_while() {
        let (start, mut quiet) = (Instant::now(), Quiet::default());
        let (none, one) = (BTreeMap::new(), BTreeMap::from([(Bucket::new(3).unwrap(), 1)]));
        let drains = draining(&[(3, 2), (4, 2)]);
        let mut look = |counts: &BTreeMap<Bucket, usize>, drains: &Draining, seconds| {
            let over = quiet.look(&[(counts.clone(), drains.clone())], start + Duration::from_secs(seconds));
            over.iter().map(|over| (over.bucket.number(), over.generation.0)).collect::<Vec<_>>()
        };
        assert_eq!(look(&one, &drains, 0), []);
        assert_eq!(look(&one, &drains, 14), []);
        assert_eq!(look(&one, &drains, 15), [(4, 2)]);
        assert_eq!(look(&none, &drains, 20), [(4, 2)]);
        assert_eq!(look(&none, &draining(&[(3, 5), (4, 2)]), 36), [(4, 2)], "another decision counts anew");
        assert_eq!(look(&none, &draining(&[(3, 5)]), 51), [(3, 5)]);
        assert_eq!(look(&none, &draining(&[]), 60), []);
    }
}
