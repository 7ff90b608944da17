//! What our tables have counted.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::family::named;
use super::script::VIPS;
use super::{Counter, ObservedTable};
use crate::model::Family;

/// Name of the set that counts what a pod answers.
pub(super) const SENT: &str = "sent";

/// Name of the set that counts the outer packets that a node makes, by endpoint.
pub(super) const ENDPOINTS: &str = "endpoints";

/// Name of the set that counts the outer packets that come to a node from others, by local endpoint.
pub(super) const PODS: &str = "pods";

/// What the rules that count are for, in the chains `postrouting` of a node and `prerouting` of a pod.
pub(super) const INTO_TUNNEL: &str = "into a tunnel, and the outer packet walks no rules";
pub(super) const INTO_LABEL: &str = "behind a label";
pub(super) const OUTER_LEAVES: &str = "outer packets leave";
pub(super) const OUTER_ARRIVES: &str = "outer packets arrive and need no entry";

/// Packets that a node has counted at the points that they pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// To each VIP, as they came in.
    pub taken_in: BTreeMap<IpAddr, u64>,
    /// To VIPs, as they left encapsulated.
    pub encapsulated: u64,
    /// Outer packets to each endpoint, as this node made them.
    pub made: BTreeMap<IpAddr, u64>,
    /// The same for all, as they left.
    pub left: u64,
    /// Outer packets of other nodes and pods, by the local endpoint that they are for.
    pub arrived: BTreeMap<IpAddr, u64>,
}

/// Packets that a pod has counted at the points that they pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodCounts {
    /// Outer packets, as they came in.
    pub arrived: u64,
    /// To VIPs, as they came out of a tunnel.
    pub delivered: u64,
}

/// What the table of a node has counted.
pub fn node_counts(table: &ObservedTable) -> NodeCounts {
    let packets = |set| counted(table, set).into_iter().map(|(of, counter)| (of, counter.packets)).collect();
    NodeCounts {
        taken_in: packets(VIPS),
        encapsulated: by_rules(table, "postrouting", &[INTO_TUNNEL, INTO_LABEL]),
        made: packets(ENDPOINTS),
        left: by_rules(table, "postrouting", &[OUTER_LEAVES]),
        arrived: packets(PODS),
    }
}

/// What the table of a pod has counted.
pub fn pod_counts(table: &ObservedTable) -> PodCounts {
    PodCounts { arrived: by_rules(table, "prerouting", &[OUTER_ARRIVES]), delivered: total(received(table).values()) }
}

fn by_rules(table: &ObservedTable, chain: &str, rules: &[&str]) -> u64 {
    let counters = table.chains.get(chain).into_iter().flat_map(|chain| &chain.counters);
    total(counters.filter(|(why, _)| rules.contains(&why.as_str())).map(|(_, counter)| counter))
}

/// Packets in all. Whoever restores a ruleset may set counters to any number.
fn total<'a>(counters: impl Iterator<Item = &'a Counter>) -> u64 {
    counters.fold(0, |sum, counter| sum.saturating_add(counter.packets))
}

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
