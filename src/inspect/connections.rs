//! Open connections of pods, by the bucket that ingress nodes hash them into.
//!
//! Ingress nodes know nothing of connections; the pods' own sockets are what there is to count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::report::{EndpointStatus, NodeStatus};
use crate::kernel::Connection;
use crate::model::{Bucket, Flow, Flows, hash};

/// Writes into a status how many connections its endpoints have; `of` knows those of the pods of this node.
pub fn count<'a>(status: &mut NodeStatus, of: impl Fn(&EndpointStatus) -> Option<&'a [Connection]>) {
    for vip in &mut status.vips {
        let Some(flows) = vip.flows() else { continue };
        let (address, affinity) = (BTreeSet::from([vip.address]), vip.client_ip_affinity);
        for endpoint in &mut vip.endpoints {
            let Some(open) = of(endpoint) else { continue };
            let counts = by_bucket(open, &address, flows, affinity);
            endpoint.connections = Some(counts.values().sum());
            for (bucket, drains) in &mut vip.draining {
                let here = Bucket::new(*bucket).and_then(|bucket| counts.get(&bucket)).copied().unwrap_or(0);
                drains.iter_mut().filter(|d| d.endpoint == endpoint.id).for_each(|d| d.connections = Some(here));
            }
        }
    }
}

/// The buckets of these VIPs that connections are in, with their number.
pub fn by_bucket(
    connections: &[Connection],
    vips: &BTreeSet<IpAddr>,
    flows: Flows,
    affinity: bool,
) -> BTreeMap<Bucket, usize> {
    let mut counts = BTreeMap::new();
    for Connection { local, peer } in connections.iter().filter(|c| vips.contains(&c.local.ip())) {
        let ports = (!affinity).then_some((peer.port(), local.port()));
        let flow = Flow { src: peer.ip(), dst: local.ip(), ports };
        *counts.entry(hash::bucket(&flow, flows.buckets, flows.seed)).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BucketCount;

    #[test]
    fn connections_are_counted_by_bucket_as_ingress_nodes_hash_them() {
        let connection = |local: &str, port: u16| Connection {
            local: format!("{local}:80").parse().unwrap(),
            peer: format!("198.51.100.2:{port}").parse().unwrap(),
        };
        let flows = Flows { buckets: BucketCount::new(16).unwrap(), seed: 7 };
        let count =
            |all: &[Connection], affinity| by_bucket(all, &["192.0.2.10".parse().unwrap()].into(), flows, affinity);
        let all: Vec<Connection> = (2000..2100).map(|port| connection("192.0.2.10", port)).collect();
        let counts = count(&all, false);
        assert_eq!(counts.values().sum::<usize>(), 100);
        assert!(counts.len() > 10, "{counts:?}");
        assert_eq!(count(&all, true).len(), 1);
        assert!(count(&[connection("192.0.2.11", 2000)], false).is_empty());
    }
}
