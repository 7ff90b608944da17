//! What a node sees of the whole cluster, and takes in for all of it: totals, whose number grows with nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::EligibleLabels;
use super::registry::gauge;
use crate::model::cluster::differing;
use crate::model::handover::{EndpointState, NextHop};
use crate::model::{Bucket, Cluster, Vip, Vips};
use crate::plan::nft::Counter as Counted;

/// Totals of one agent.
#[derive(Debug, Default)]
pub(super) struct Totals {
    vips: Family<EligibleLabels, Gauge>,
    endpoints: Family<EligibleLabels, Gauge>,
    /// What the two show.
    sum: Mutex<Sum>,
    moved: Counter,
    packets: Counter,
    bytes: Counter,
    /// The kernel's counters when they were last read, by VIP; `None` before the first reading.
    last: Mutex<Option<BTreeMap<IpAddr, Counted>>>,
}

impl Totals {
    pub(super) fn register(&self, r: &mut Registry) {
        let vips = "VIPs in the whole cluster, by whether one of their endpoints may get new connections";
        r.register("vips", vips, self.vips.clone());
        let endpoints = "Endpoints of VIPs in the whole cluster, by whether they may get new connections";
        r.register("endpoints", endpoints, self.endpoints.clone());
        r.register("buckets_moved", "Buckets that went from one endpoint to another", self.moved.clone());
        let packets = "Packets to VIPs that this node took in, from elsewhere or from itself, since the agent started";
        r.register("received_packets", packets, self.packets.clone());
        r.register("received_bytes", "Their bytes, IP headers included", self.bytes.clone());
    }

    /// A new state of the cluster was dispatched after `old`, which was the last one.
    pub(super) fn dispatched(&self, old: Option<&Cluster>, new: &Cluster) {
        let of = |family: &Family<EligibleLabels, Gauge>, eligible, count| {
            family.get_or_create(&EligibleLabels { eligible }).set(gauge(count));
        };
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = Vips::new();
        for (before, after) in differing(old.map_or(&nothing, |old| &old.vips), &new.vips) {
            before.into_iter().for_each(|vip| sum.subtract(Sum::of(vip)));
            after.into_iter().for_each(|vip| sum.add(Sum::of(vip)));
            let same = before.zip(after).filter(|(before, after)| before.service == after.service);
            self.moved.inc_by(same.map_or(0, |(before, after)| moved(before, after)));
        }
        of(&self.vips, "true", sum.served);
        of(&self.vips, "false", sum.vips - sum.served);
        of(&self.endpoints, "true", sum.ready);
        of(&self.endpoints, "false", sum.endpoints - sum.ready);
    }

    /// The kernel's counters, by VIP. They go with their VIP, and a total that falls would count as a restart: it grows by what has
    /// come since the last reading. What the first one finds was counted for an earlier agent.
    pub(super) fn received(&self, now: &BTreeMap<IpAddr, Counted>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref() {
            for (vip, counted) in now {
                let since = since(last.get(vip).copied().unwrap_or_default(), *counted);
                self.packets.inc_by(since.packets);
                self.bytes.inc_by(since.bytes);
            }
        }
        *last = Some(now.clone());
    }
}

/// Of all VIPs together.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    vips: usize,
    /// With an endpoint that may get new connections.
    served: usize,
    endpoints: usize,
    ready: usize,
}

impl Sum {
    fn of(vip: &Vip) -> Sum {
        let ready = ready(vip);
        Sum { vips: 1, served: usize::from(ready > 0), endpoints: vip.endpoints.len(), ready }
    }

    fn add(&mut self, other: Sum) {
        self.vips += other.vips;
        self.served += other.served;
        self.endpoints += other.endpoints;
        self.ready += other.ready;
    }

    fn subtract(&mut self, other: Sum) {
        self.vips = self.vips.saturating_sub(other.vips);
        self.served = self.served.saturating_sub(other.served);
        self.endpoints = self.endpoints.saturating_sub(other.endpoints);
        self.ready = self.ready.saturating_sub(other.ready);
    }
}

/// Endpoints that may get new connections.
pub(super) fn ready(vip: &Vip) -> usize {
    vip.endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Ready).count()
}

/// A counter that has become smaller was made anew.
fn since(last: Counted, now: Counted) -> Counted {
    match (now.packets.checked_sub(last.packets), now.bytes.checked_sub(last.bytes)) {
        (Some(packets), Some(bytes)) => Counted { packets, bytes },
        _ => now,
    }
}

/// Buckets that had an owner and have another now, or none.
fn moved(before: &Vip, after: &Vip) -> u64 {
    let (Some(before), Some(after)) = (&before.intent, &after.intent) else { return 0 };
    if Arc::ptr_eq(before, after) {
        return 0;
    }
    let stays =
        |(bucket, hop): (&Bucket, &NextHop)| after.next_hops.get(bucket).is_some_and(|now| now.owner == hop.owner);
    before.next_hops.iter().map(|hop| u64::from(!stays(hop))).sum()
}
