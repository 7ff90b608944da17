//! Open connections of pods, by the bucket that ingress nodes hash them into.
//!
//! Ingress nodes know nothing of connections; the pods' own sockets are what there is to count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::report::{EndpointStatus, NodeStatus};
use crate::kernel::Connection;
use crate::model::handover::{FlowHash, HashKey};
use crate::model::hash::bucket;
use crate::model::{Bucket, Flow};

/// Writes into a status how many connections its endpoints have; `of` knows those of the pods of this node.
pub fn count<'a>(status: &mut NodeStatus, of: impl Fn(&EndpointStatus) -> Option<&'a [Connection]>) {
    for vip in &mut status.vips {
        let Some(hash) = vip.hash() else { continue };
        let address = BTreeSet::from([vip.address]);
        for endpoint in &mut vip.endpoints {
            let Some(open) = of(endpoint) else { continue };
            let counts = by_bucket(open, &address, hash);
            endpoint.connections = Some(counts.values().sum());
            for (bucket, drains) in &mut vip.draining {
                let here = Bucket::new(*bucket).and_then(|bucket| counts.get(&bucket)).copied().unwrap_or(0);
                drains.iter_mut().filter(|d| d.endpoint == endpoint.id).for_each(|d| d.connections = Some(here));
            }
        }
    }
}

/// The buckets of these VIPs that connections are in, with their number.
pub fn by_bucket(connections: &[Connection], vips: &BTreeSet<IpAddr>, hash: FlowHash) -> BTreeMap<Bucket, usize> {
    let mut counts = BTreeMap::new();
    for Connection { local, peer } in connections.iter().filter(|c| vips.contains(&c.local.ip())) {
        let ports = (hash.key == HashKey::Ports).then_some((peer.port(), local.port()));
        let flow = Flow { src: peer.ip(), dst: local.ip(), ports };
        *counts.entry(bucket(&flow, hash.buckets, hash.seed)).or_default() += 1;
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
        let count = |all: &[Connection], key| {
            let hash = FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 7, key };
            by_bucket(all, &["192.0.2.10".parse().unwrap()].into(), hash)
        };
        let all: Vec<Connection> = (2000..2100).map(|port| connection("192.0.2.10", port)).collect();
        let counts = count(&all, HashKey::Ports);
        assert_eq!(counts.values().sum::<usize>(), 100);
        assert!(counts.len() > 10, "{counts:?}");
        assert_eq!(count(&all, HashKey::Addresses).len(), 1);
        assert!(count(&[connection("192.0.2.11", 2000)], HashKey::Ports).is_empty());
    }
}
