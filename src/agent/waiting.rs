//! Pods that wait for the controller to give them a share: for a second that is as it should be, for longer nobody decides.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Cluster, Problem, Reason, ServiceRef};

/// Longer than another controller needs to step in (17 s).
const PATIENCE: Duration = Duration::from_secs(30);

/// Services with pods that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// How many pods wait, and since when any does; replaced by every dispatch, with the time kept.
    services: BTreeMap<ServiceRef, (usize, Instant)>,
    /// Those that have waited too long; added to by [`Waiting::ripen`].
    late: BTreeMap<ServiceRef, usize>,
}

impl Waiting {
    /// A new state of the cluster.
    pub(super) fn dispatched(&mut self, cluster: &Cluster, now: Instant) {
        let since = |service: &ServiceRef| self.services.get(service).map_or(now, |(_, since)| *since);
        let waiting = cluster.vips.values().map(|vip| (&vip.service, vip.waiting())).filter(|(_, count)| *count > 0);
        let services = waiting.map(|(service, count)| (service.clone(), (count, since(service)))).collect();
        self.services = services;
        self.late.retain(|service, count| match self.services.get(service) {
            Some((now, _)) => {
                *count = *now;
                true
            }
            None => false,
        });
    }

    /// When the next one has waited too long.
    pub(super) fn due(&self) -> Option<Instant> {
        let open = self.services.iter().filter(|(service, _)| !self.late.contains_key(*service));
        open.map(|(_, (_, since))| *since + PATIENCE).min()
    }

    /// Takes note of those that have waited too long.
    pub(super) fn ripen(&mut self, now: Instant) {
        let ripe = self.services.iter().filter(|(_, (_, since))| now >= *since + PATIENCE);
        self.late.extend(ripe.map(|(service, (count, _))| (service.clone(), *count)));
    }

    /// What users have to know.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.late.iter().map(|(service, count)| {
            let pods = if *count == 1 { "a ready pod gets".to_owned() } else { format!("{count} ready pods get") };
            let note = format!(
                "{pods} no traffic of Service {service}: no controller has given out shares for {} s; see why none leads \
                 (kubectl -n kube-service-tunnel get lease,pods)",
                PATIENCE.as_secs()
            );
            Problem { service: service.clone(), reason: Reason::NoController, note }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BucketCount, Endpoint, Flows, Mode, SharedMap, Vip};

    fn cluster(in_map: &[&str], there: &[&str]) -> Cluster {
        let endpoints = |uids: &[&str]| -> Vec<Endpoint> {
            let endpoint = |uid: &&str| Endpoint {
                pod_uid: (*uid).to_owned(),
                namespace: "default".into(),
                pod: (*uid).to_owned(),
                node: "n1".into(),
                addresses: std::net::Ipv4Addr::new(10, 244, 1, 2).into(),
                eligible: true,
                terminating: false,
                state: crate::model::handover::EndpointState::Ready,
            };
            uids.iter().map(endpoint).collect()
        };
        let flows = Flows { buckets: BucketCount::new(16).unwrap(), seed: 1 };
        let vip = Vip {
            address: std::net::Ipv4Addr::new(192, 0, 2, 10).into(),
            service: ServiceRef { namespace: "default".into(), name: "echo".into(), uid: "u".into() },
            mode: Mode::Gre,
            client_ip_affinity: false,
            tracked: false,
            endpoints: endpoints(there),
            local_only: false,
            drain_limit: None,
            shared: Some(SharedMap::new(flows, &endpoints(in_map)).into()),
            staged: None,
            map: None,
            intent: None,
        };
        Cluster { vips: [(vip.address, vip)].into(), ..Cluster::default() }
    }

    #[test]
    fn a_pod_that_waits_for_long_is_told_of_until_it_has_its_share() {
        let (start, mut waiting) = (Instant::now(), Waiting::default());
        let after = |seconds| start + Duration::from_secs(seconds);
        waiting.dispatched(&cluster(&["a"], &["a"]), start);
        assert_eq!(waiting.due(), None);
        waiting.dispatched(&cluster(&["a"], &["a", "b"]), start);
        assert_eq!(waiting.due(), Some(after(30)));
        waiting.dispatched(&cluster(&["a"], &["a", "b", "c"]), after(10));
        assert_eq!(waiting.due(), Some(after(30)), "more that wait do not put it off");
        waiting.ripen(after(29));
        assert_eq!(waiting.problems().count(), 0);
        waiting.ripen(after(30));
        let problem = waiting.problems().next().unwrap();
        assert!(problem.reason == Reason::NoController && problem.note.starts_with("2 ready pods"), "{}", problem.note);
        assert_eq!(waiting.due(), None);
        waiting.dispatched(&cluster(&["a", "b", "c"], &["a", "b", "c"]), after(40));
        assert_eq!(waiting.problems().count(), 0);
    }

    #[test]
    fn who_is_one_too_many_or_serves_because_nobody_else_is_left_does_not_wait() {
        let letters: Vec<String> = (0..20).map(|n| format!("pod-{n}")).collect();
        let all: Vec<&str> = letters.iter().map(String::as_str).collect();
        let count = |cluster: Cluster| cluster.vips.values().map(Vip::waiting).sum::<usize>();
        assert_eq!(count(cluster(&all[..16], &all)), 0, "16 buckets");
        assert_eq!(count(cluster(&["a"], &["b"])), 0);
    }
}
