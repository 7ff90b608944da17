//! Which pods pass packets on to which: counted where they leave and where they arrive, so that a loss in between is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::tables::{VIP_KEY, of_vip_key};

/// Size of a key of `pairs`: from, to (IPv4 as `::ffff:a.b.c.d`), and who has counted.
pub const PAIR_KEY: usize = 2 * VIP_KEY + 4;

/// From how many packets on it is told that a pod passes packets on to another: TCP sends what is lost again and again, for
/// minutes.
pub const TOLD: u64 = 20;

/// Two pods, by the addresses of the outer packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The pod that has passed packets on.
    pub from: IpAddr,
    /// The pod that they are for.
    pub to: IpAddr,
}

/// Packets by pair, as the program of one node has counted them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Where `from` is a pod of this node.
    pub passed: BTreeMap<Pair, u64>,
    /// Where `to` is a pod of this node.
    pub received: BTreeMap<Pair, u64>,
}

impl Pairs {
    /// Takes in an entry of `pairs`.
    pub fn add(&mut self, key: [u8; PAIR_KEY], packets: u64) {
        let (addresses, received) = key.split_at(2 * VIP_KEY);
        let [from, to] = [0, 1].map(|at| of_vip_key(addresses.as_chunks().0[at]));
        let of = if received == [0; 4] { &mut self.passed } else { &mut self.received };
        of.insert(Pair { from, to }, packets);
    }

    /// The pairs whose packets are worth telling of: [`TOLD`] have left, or any has arrived. Only those between `known` addresses.
    pub fn told(&self, known: &BTreeSet<IpAddr>) -> Forwarding {
        let told = |pairs: &BTreeMap<Pair, u64>, least: u64| {
            let is_known = |pair: &Pair| known.contains(&pair.from) && known.contains(&pair.to);
            pairs.iter().filter(|(pair, n)| **n >= least && is_known(pair)).map(|(pair, _)| *pair).collect()
        };
        Forwarding { passed: told(&self.passed, TOLD), received: told(&self.received, 1) }
    }
}

/// What a node tells of it: whether, not how much, so that it seldom changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Pods of this node have passed at least [`TOLD`] packets on.
    pub passed: BTreeSet<Pair>,
    /// Something has arrived in pods of this node.
    pub received: BTreeSet<Pair>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn key(from: [u8; 4], to: [u8; 4], received: u32) -> [u8; PAIR_KEY] {
        let mut key = [0; PAIR_KEY];
        key[..VIP_KEY].copy_from_slice(&super::super::tables::vip_key(IpAddr::from(from)));
        key[VIP_KEY..2 * VIP_KEY].copy_from_slice(&super::super::tables::vip_key(IpAddr::from(to)));
        key[2 * VIP_KEY..].copy_from_slice(&received.to_ne_bytes());
        key
    }

    #[test]
    fn what_left_and_what_arrived_are_told_apart() {
        let mut pairs = Pairs::default();
        pairs.add(key([10, 0, 0, 1], [10, 0, 0, 2], 0), 7);
        pairs.add(key([10, 0, 0, 3], [10, 0, 0, 1], 1), 9);
        assert_eq!(pairs.passed, BTreeMap::from([(Pair { from: ip("10.0.0.1"), to: ip("10.0.0.2") }, 7)]));
        assert_eq!(pairs.received, BTreeMap::from([(Pair { from: ip("10.0.0.3"), to: ip("10.0.0.1") }, 9)]));
    }

    #[test]
    fn a_node_tells_of_many_packets_that_left_and_of_any_that_arrived() {
        let mut pairs = Pairs::default();
        for (last, packets) in [(2, TOLD - 1), (3, TOLD), (9, TOLD)] {
            pairs.add(key([10, 0, 0, 1], [10, 0, 0, last], 0), packets);
            pairs.add(key([10, 0, 0, last], [10, 0, 0, 1], 1), 1);
        }
        let told = pairs.told(&["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(ip).into());
        let of = |pairs: &BTreeSet<Pair>| pairs.iter().map(|p| format!("{} {}", p.from, p.to)).collect::<Vec<_>>();
        assert_eq!(of(&told.passed), ["10.0.0.1 10.0.0.3"]);
        assert_eq!(of(&told.received), ["10.0.0.2 10.0.0.1", "10.0.0.3 10.0.0.1"]);
    }
}
