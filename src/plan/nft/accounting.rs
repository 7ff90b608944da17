//! What our tables have counted.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::family::named;
use super::script::VIPS;
use super::{Counter, ObservedTable};
use crate::model::Family;

/// Name of the set that counts what a pod answers.
pub(super) const SENT: &str = "sent";

/// Packets to each VIP: on a node those that it took in, in a pod those that came out of a tunnel.
pub fn received(table: &ObservedTable) -> BTreeMap<IpAddr, Counter> {
    counted(table, VIPS)
}

/// Packets from each VIP, which only pods send.
pub fn sent(table: &ObservedTable) -> BTreeMap<IpAddr, Counter> {
    counted(table, SENT)
}

fn counted(table: &ObservedTable, set: &str) -> BTreeMap<IpAddr, Counter> {
    let sets = Family::ALL.into_iter().filter_map(|family| table.sets.get(&named(set, family)));
    let counters = sets.flat_map(|set| &set.counters);
    counters.filter_map(|(vip, counter)| Some((vip.parse().ok()?, *counter))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::nft::ObservedSet;

    #[test]
    fn both_families_are_counted_and_sets_of_other_names_are_not() {
        let set = |vip: &str, packets| ObservedSet {
            counters: BTreeMap::from([(vip.to_owned(), Counter { packets, bytes: 10 * packets })]),
            ..ObservedSet::default()
        };
        let sets = [("vips", "192.0.2.10", 1), ("vips6", "2001:db8::10", 2), ("sent", "192.0.2.10", 3)];
        let sets = sets.map(|(name, vip, packets)| (name.to_owned(), set(vip, packets)));
        let table = ObservedTable { sets: sets.into(), ..ObservedTable::default() };
        assert_eq!(received(&table).values().map(|c| c.packets).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(sent(&table)[&"192.0.2.10".parse::<IpAddr>().unwrap()], Counter { packets: 3, bytes: 30 });
    }
}
