//! What the table of a node, as read back, does with packets of a VIP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::family::named;
use super::node::{hashed_by, refused};
use super::script::{REFUSING, VIPS};
use super::{ObservedHash, ObservedTable};
use crate::model::handover::{FlowHash, HashKey};
use crate::model::{BucketCount, Family};

/// The VIPs that the node takes in; `None` if it is no ingress node.
pub fn taken_in(table: &ObservedTable) -> Option<BTreeSet<IpAddr>> {
    let sets = || Family::ALL.into_iter().filter_map(|family| table.sets.get(&named(VIPS, family)));
    sets().next()?;
    Some(sets().flat_map(|set| &set.elements).filter_map(|vip| vip.parse().ok()).collect())
}

/// How the flows of a VIP become buckets; `None` if no rule that we would write hashes them.
pub fn flows(table: &ObservedTable, vip: IpAddr) -> Option<FlowHash> {
    let chain = |name: &str| table.chains.get(&named(name, Family::of(vip)))?.hash;
    let keys = [HashKey::Ports, HashKey::Addresses];
    let hashes = table.chains.values().filter_map(|chain| chain.hash);
    let mut all = hashes.flat_map(|hash| keys.into_iter().filter_map(move |key| usable(hash, key)));
    let own = all.find(|flows| contains(table, &hashed_by("vips", *flows), vip, &vip.to_string()));
    match own {
        Some(flows) => usable(chain(&hashed_by("vip", flows))?, flows.key),
        None => usable(chain("vip")?, HashKey::Ports),
    }
}

fn usable(hash: ObservedHash, key: HashKey) -> Option<FlowHash> {
    Some(FlowHash { buckets: BucketCount::new(hash.buckets).ok()?, seed: hash.seed?, key })
}

/// Whether packets of a VIP with this mark that open a connection are answered with a reset.
pub fn refuses(table: &ObservedTable, vip: IpAddr, mark: u32) -> bool {
    contains(table, REFUSING, vip, &refused(vip, mark))
}

fn contains(table: &ObservedTable, set: &str, vip: IpAddr, element: &str) -> bool {
    table.sets.get(&named(set, Family::of(vip))).is_some_and(|set| set.elements.contains(element))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::nft::{ObservedChain, ObservedSet};

    #[test]
    fn a_vip_is_hashed_by_the_chain_of_the_set_that_lists_it() {
        let (one, other, key) = ("192.0.2.10", "2001:db8::10", HashKey::Addresses);
        let own = FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 7, key };
        let chain = |name: String, buckets, seed| {
            let hash = Some(ObservedHash { buckets, seed: Some(seed) });
            (name, ObservedChain { hash, ..ObservedChain::default() })
        };
        let listed = ObservedSet { elements: [other.to_owned()].into(), ..ObservedSet::default() };
        let table = ObservedTable {
            sets: [(named(&hashed_by("vips", own), Family::V6), listed)].into(),
            chains: [
                chain("vip".to_owned(), 64, 1),
                chain("vip6".to_owned(), 64, 1),
                chain(named(&hashed_by("vip", own), Family::V6), 16, 7),
            ]
            .into(),
            ..ObservedTable::default()
        };
        let default = FlowHash { buckets: BucketCount::DEFAULT, seed: 1, key: HashKey::Ports };
        assert_eq!([one, other].map(|vip| flows(&table, vip.parse().unwrap())), [Some(default), Some(own)]);
    }

    #[test]
    fn a_bucket_refuses_syns_if_its_mark_is_listed_with_the_vip() {
        let vip: IpAddr = "192.0.2.10".parse().unwrap();
        let listed = ObservedSet { elements: [refused(vip, 0x85)].into(), ..ObservedSet::default() };
        let table = ObservedTable { sets: [(REFUSING.to_owned(), listed)].into(), ..ObservedTable::default() };
        assert!(refuses(&table, vip, 0x85) && !refuses(&table, vip, 0x86));
    }
}
