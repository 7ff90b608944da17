//! What is about single Services wherever they are served: shown by the controller that leads, once and not by every node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::{EndpointLabels, ServiceLabels};
use super::registry::gauge;
use super::totals::ready;
use crate::model::cluster::differing;
use crate::model::{Cluster, ServiceRef, Vip, Vips};

/// Series of single Services.
#[derive(Debug, Default)]
pub struct Services {
    endpoints: Family<EndpointLabels, Gauge>,
    moved: Family<ServiceLabels, Counter>,
    /// The VIPs that are shown: only what changed is written anew.
    shown: Mutex<Vips>,
}

/// What is shown of a VIP: its Service, its endpoints that may get new connections, and the others.
#[derive(Debug, PartialEq, Eq)]
struct Shown<'a> {
    vip: IpAddr,
    service: &'a ServiceRef,
    ready: usize,
    others: usize,
}

impl Shown<'_> {
    fn of(vip: &Vip) -> Shown<'_> {
        let ready = ready(vip);
        Shown { vip: vip.address, service: &vip.service, ready, others: vip.endpoints.len() - ready }
    }

    fn series(&self) -> [(EndpointLabels, usize); 2] {
        [("true", self.ready), ("false", self.others)]
            .map(|(eligible, count)| (EndpointLabels::new(self.vip, self.service, eligible), count))
    }
}

impl Services {
    pub(super) fn register(&self, r: &mut Registry) {
        let endpoints = "Endpoints of a VIP, by whether they may get new connections";
        r.register("vip_endpoints", endpoints, self.endpoints.clone());
        let moved = "Buckets of a Service that the controller has given from one endpoint to another";
        r.register("service_buckets_moved", moved, self.moved.clone());
    }

    /// What is known now; `None` of a controller that does not lead. A VIP that has not changed is the same object.
    pub fn led(&self, cluster: Option<&Cluster>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let none = Vips::new();
        let vips = cluster.map_or(&none, |cluster| &cluster.vips);
        let (mut is_new, mut left) = (false, BTreeSet::new());
        for (before, now) in differing(&shown, vips) {
            is_new = true;
            let (before, now) = (before.map(|vip| Shown::of(vip)), now.map(|vip| Shown::of(vip)));
            if before == now {
                continue;
            }
            left.extend(
                before.iter().map(|before| before.service).filter(|of| now.as_ref().map(|now| now.service) != Some(of)),
            );
            before.iter().flat_map(Shown::series).for_each(|(labels, _)| {
                self.endpoints.remove(&labels);
            });
            now.iter().flat_map(Shown::series).for_each(|(labels, count)| {
                self.endpoints.get_or_create(&labels).set(gauge(count));
            });
        }
        if !left.is_empty() {
            let served: BTreeSet<&ServiceRef> = vips.values().map(|vip| &vip.service).collect();
            for service in left.difference(&served) {
                self.moved.remove(&(*service).into());
            }
        }
        if is_new {
            *shown = vips.clone();
        }
    }

    /// A decision that moves so many buckets of a Service is stored.
    pub fn moved(&self, service: &ServiceRef, buckets: usize) {
        let buckets = u64::try_from(buckets).unwrap_or(u64::MAX);
        self.moved.get_or_create(&service.into()).inc_by(buckets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;
    use crate::plan::tests::support::{bare_vip, endpoint, unready};

    fn cluster(vips: &[(&str, usize)]) -> Cluster {
        let endpoints = |n| [endpoint(2, "n1"), unready(endpoint(3, "n2"))].into_iter().take(n).collect();
        let vips = vips.iter().map(|(address, n)| bare_vip(address, Mode::Gre, endpoints(*n)));
        Cluster::of_vips(vips)
    }

    fn samples(services: &Services) -> Vec<String> {
        let mut registry = Registry::default();
        services.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let mut lines: Vec<String> = text.lines().filter(|l| !l.starts_with('#')).map(ToOwned::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn endpoints_are_shown_while_the_controller_leads() {
        let services = Services::default();
        let line = |vip: &str, eligible, count| {
            let labels = format!("vip=\"{vip}\",namespace=\"default\",service=\"svc-{vip}\",eligible=\"{eligible}\"");
            format!("vip_endpoints{{{labels}}} {count}")
        };
        services.led(Some(&cluster(&[("192.0.2.1", 2), ("192.0.2.2", 1)])));
        let of_second = [line("192.0.2.2", "false", 0), line("192.0.2.2", "true", 1)];
        let of_first = [line("192.0.2.1", "false", 1), line("192.0.2.1", "true", 1)];
        assert_eq!(samples(&services), [of_first, of_second.clone()].concat());
        services.led(Some(&cluster(&[("192.0.2.2", 1)])));
        assert_eq!(samples(&services), of_second);
        services.led(None);
        assert_eq!(samples(&services), Vec::<String>::new());
    }

    #[test]
    fn moved_buckets_are_shown_until_their_service_has_no_vip() {
        let services = Services::default();
        let both = cluster(&[("192.0.2.1", 0), ("192.0.2.2", 0)]);
        services.led(Some(&both));
        both.vips.values().for_each(|vip| services.moved(&vip.service, 3));
        services.led(Some(&cluster(&[("192.0.2.2", 0)])));
        let moved: Vec<String> = samples(&services).into_iter().filter(|line| line.contains("moved")).collect();
        assert_eq!(moved, ["service_buckets_moved_total{namespace=\"default\",service=\"svc-192.0.2.2\"} 3"]);
    }
}
