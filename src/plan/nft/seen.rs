//! What the table of a node, as read back, does with packets of a VIP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::family::named;
use super::node::hashed_by;
use super::script::{DRAINING, DRAINING_DATAGRAMS, VIPS};
use super::{ObservedHash, ObservedTable};
use crate::model::{BucketCount, Family, Flows};

/// The VIPs that the node takes in; `None` if it is no ingress node.
pub fn taken_in(table: &ObservedTable) -> Option<BTreeSet<IpAddr>> {
    let sets = || Family::ALL.into_iter().filter_map(|family| table.sets.get(&named(VIPS, family)));
    sets().next()?;
    Some(sets().flat_map(|set| &set.elements).filter_map(|vip| vip.parse().ok()).collect())
}

/// Whether the flows of a VIP are hashed on their addresses alone.
pub fn has_affinity(table: &ObservedTable, vip: IpAddr) -> bool {
    contains(table, "affinity_vips", vip, &vip.to_string())
}

/// How the flows of a VIP become buckets; `None` if no rule that we would write hashes them.
pub fn flows(table: &ObservedTable, vip: IpAddr) -> Option<Flows> {
    let family = Family::of(vip);
    let hash = |chain: &str| table.chains.get(&named(chain, family))?.hash.and_then(usable);
    let mut all = table.chains.values().filter_map(|chain| chain.hash.and_then(usable));
    let own = all.find(|flows| contains(table, &hashed_by("vips", *flows), vip, &vip.to_string()));
    match own {
        Some(flows) => hash(&hashed_by("vip", flows)),
        None => hash("vip"),
    }
}

fn usable(hash: ObservedHash) -> Option<Flows> {
    Some(Flows { buckets: BucketCount::new(hash.buckets).ok()?, seed: hash.seed? })
}

/// Whether packets of a VIP with this mark, TCP that opens no connection or else datagrams, go to the endpoint that had
/// the bucket before.
pub fn diverts(table: &ObservedTable, vip: IpAddr, mark: u32, tcp: bool) -> bool {
    let set = if tcp { DRAINING } else { DRAINING_DATAGRAMS };
    contains(table, set, vip, &format!("{vip} . {mark}"))
}

fn contains(table: &ObservedTable, set: &str, vip: IpAddr, element: &str) -> bool {
    table.sets.get(&named(set, Family::of(vip))).is_some_and(|set| set.elements.contains(element))
}
