//! Pods that wait for the controller to give them a share: for a second that is as it should be, for longer nobody decides.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Cluster, Problem, Reason, ServiceRef, Vip};

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
    /// A new state of the cluster: the VIPs without a map, and the part with pods on this node; `stands` says of which pods, by UID, this node
    /// has reported that they are set up for a Service.
    pub(super) fn dispatched<'a>(
        &mut self,
        (unmapped, here): (impl Iterator<Item = &'a Vip>, &'a Cluster),
        stands: impl Fn(&str, &ServiceRef) -> bool,
        now: Instant,
    ) {
        let since = |service: &ServiceRef| self.services.get(service).map_or(now, |(_, since)| *since);
        // Of Services with a map only pods of this node can be known to stand.
        let waiting = unmapped
            .chain(here.vips().filter(|vip| vip.map.is_some()))
            .map(|vip| (&vip.service, vip.waiting(|uid| stands(uid, &vip.service))))
            .filter(|(_, count)| *count > 0);
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
            Problem { subject: service.into(), reason: Reason::NoController, note }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;
    use crate::plan::tests::support;

    /// A Service with a map of these pods, or none, and these pods that are there.
    fn cluster(in_map: Option<&[u8]>, there: &[u8]) -> Cluster {
        let endpoints = |all: &[u8]| all.iter().map(|n| support::endpoint(*n, "n1")).collect::<Vec<_>>();
        let vip = support::bare_vip("192.0.2.10", Mode::Gre, endpoints(there));
        let vip = match in_map {
            Some(all) => support::with_map(vip, &endpoints(all)),
            None => vip,
        };
        Cluster::of_vips([vip])
    }

    /// Dispatches such a Service, with all pods on this node and set up.
    fn look(waiting: &mut Waiting, in_map: Option<&[u8]>, there: &[u8], now: Instant) {
        let cluster = cluster(in_map, there);
        let unmapped = cluster.vips().filter(|vip| vip.map.is_none());
        waiting.dispatched((unmapped, &cluster), |_, _| true, now);
    }

    #[test]
    fn a_pod_that_waits_for_long_is_told_of_until_it_has_its_share() {
        let (start, mut waiting) = (Instant::now(), Waiting::default());
        let after = |seconds| start + Duration::from_secs(seconds);
        look(&mut waiting, Some(&[1]), &[1], start);
        assert_eq!(waiting.due(), None);
        look(&mut waiting, Some(&[1]), &[1, 2], start);
        assert_eq!(waiting.due(), Some(after(30)));
        look(&mut waiting, Some(&[1]), &[1, 2, 3], after(10));
        assert_eq!(waiting.due(), Some(after(30)), "more that wait do not put it off");
        waiting.ripen(after(29));
        assert_eq!(waiting.problems().count(), 0);
        waiting.ripen(after(30));
        let problem = waiting.problems().next().unwrap();
        assert!(problem.reason == Reason::NoController && problem.note.starts_with("2 ready pods"), "{}", problem.note);
        assert_eq!(waiting.due(), None);
        look(&mut waiting, Some(&[1, 2, 3]), &[1, 2, 3], after(40));
        assert_eq!(waiting.problems().count(), 0);
    }

    #[test]
    fn without_a_map_everybody_waits_and_with_one_only_who_stands() {
        let count = |cluster: Cluster, stands| cluster.vips().map(|vip| vip.waiting(|_| stands)).sum::<usize>();
        assert_eq!(count(cluster(None, &[1, 2]), false), 2);
        assert_eq!(count(cluster(Some(&[1]), &[1, 2]), false), 0, "the controller tells of it");
        assert_eq!(count(cluster(Some(&[1]), &[1, 2]), true), 1);
        assert_eq!(count(cluster(None, &[]), true), 0);
    }
}
