//! Flow → bucket, twice: as nft writes it, and as a twin in userland that gives the same number.
//!
//! The kernel's `jhash` expression (net/netfilter/nft_hash.c) concatenates its inputs in registers, hashes those bytes and
//! scales the result. Each input starts a 32-bit register of its own and is padded with zeros (`nft_payload_eval`), so a
//! port occupies two bytes of network order and two of zero. Both the seed and the modulus are fixed by configuration:
//! every ingress node has to come to the same bucket, and so has the twin, which answers "where would this flow go?".
//!
//! ICMP errors about a flow hash to the flow's bucket too: see `plan::icmp`.

use std::net::IpAddr;

use super::bucket::{Bucket, BucketCount};
use super::family::Family;

/// One flow towards a VIP, as it arrives at an ingress node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The client.
    pub src: IpAddr,
    /// The VIP, of the same family.
    pub dst: IpAddr,
    /// Source and destination port of TCP, UDP or SCTP; `None` for protocols without ports and for client-IP affinity.
    pub ports: Option<(u16, u16)>,
}

/// The bucket that nft's `jhash … mod buckets seed seed` finds for the flow, without the offset.
pub fn bucket(flow: &Flow, buckets: BucketCount, seed: u32) -> Bucket {
    buckets.scale(jhash(&registers(flow), seed))
}

/// What nft hashes for a packet of a VIP: the inputs of `jhash`, in the order of [`Flow`]. With `ports` the rule must match
/// a protocol that has them.
pub fn hash_expr(family: Family, ports: bool) -> &'static str {
    match (family, ports) {
        (Family::V4, true) => "ip saddr . ip daddr . th sport . th dport",
        (Family::V4, false) => "ip saddr . ip daddr",
        (Family::V6, true) => "ip6 saddr . ip6 daddr . th sport . th dport",
        (Family::V6, false) => "ip6 saddr . ip6 daddr",
    }
}

/// The bytes that the kernel's registers hold when it hashes the flow.
fn registers(flow: &Flow) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    for address in [flow.src, flow.dst] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    for port in flow.ports.into_iter().flat_map(|(src, dst)| [src, dst]) {
        bytes.extend(port.to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes
}

/// Bob Jenkins' lookup3 as in include/linux/jhash.h, over bytes.
///
/// Whole blocks are read in the host's byte order, as the kernel does; the rest is little-endian on every host.
pub(crate) fn jhash(key: &[u8], initval: u32) -> u32 {
    const JHASH_INITVAL: u32 = 0xdead_beef;
    // Keys are addresses and names: far below 4 GiB.
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut state = [JHASH_INITVAL.wrapping_add(length).wrapping_add(initval); 3];
    let mut rest = key;
    while let Some((block, tail)) = rest.split_first_chunk::<12>()
        && !tail.is_empty()
    {
        add(&mut state, block, u32::from_ne_bytes);
        mix(&mut state);
        rest = tail;
    }
    if !rest.is_empty() {
        let mut last = [0; 12];
        last[..rest.len()].copy_from_slice(rest);
        add(&mut state, &last, u32::from_le_bytes);
        finish(&mut state);
    }
    state[2]
}

fn add(state: &mut [u32; 3], block: &[u8; 12], read: fn([u8; 4]) -> u32) {
    let (words, _) = block.as_chunks::<4>();
    for (s, word) in state.iter_mut().zip(words) {
        *s = s.wrapping_add(read(*word));
    }
}

/// `__jhash_mix`.
fn mix([a, b, c]: &mut [u32; 3]) {
    *a = a.wrapping_sub(*c) ^ c.rotate_left(4);
    *c = c.wrapping_add(*b);
    *b = b.wrapping_sub(*a) ^ a.rotate_left(6);
    *a = a.wrapping_add(*c);
    *c = c.wrapping_sub(*b) ^ b.rotate_left(8);
    *b = b.wrapping_add(*a);
    *a = a.wrapping_sub(*c) ^ c.rotate_left(16);
    *c = c.wrapping_add(*b);
    *b = b.wrapping_sub(*a) ^ a.rotate_left(19);
    *a = a.wrapping_add(*c);
    *c = c.wrapping_sub(*b) ^ b.rotate_left(4);
    *b = b.wrapping_add(*a);
}

/// `__jhash_final`.
fn finish([a, b, c]: &mut [u32; 3]) {
    *c = (*c ^ *b).wrapping_sub(b.rotate_left(14));
    *a = (*a ^ *c).wrapping_sub(c.rotate_left(11));
    *b = (*b ^ *a).wrapping_sub(a.rotate_left(25));
    *c = (*c ^ *b).wrapping_sub(b.rotate_left(16));
    *a = (*a ^ *c).wrapping_sub(c.rotate_left(4));
    *b = (*b ^ *a).wrapping_sub(a.rotate_left(14));
    *c = (*c ^ *b).wrapping_sub(b.rotate_left(24));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(src: &str, dst: &str, ports: Option<(u16, u16)>) -> Flow {
        Flow { src: src.parse().unwrap(), dst: dst.parse().unwrap(), ports }
    }

    /// What the driver of Bob Jenkins' lookup3.c prints for `hashlittle`.
    #[test]
    fn jhash_agrees_with_the_published_vectors_of_lookup3() {
        assert_eq!(jhash(b"", 0), 0xdead_beef);
        assert_eq!(jhash(b"", 0xdead_beef), 0xbd5b_7dde);
        assert_eq!(jhash(b"Four score and seven years ago", 0), 0x1777_0551);
        assert_eq!(jhash(b"Four score and seven years ago", 1), 0xcd62_8161);
    }

    #[test]
    fn ports_take_two_bytes_of_a_register_of_their_own() {
        let registers = registers(&flow("192.0.2.1", "198.51.100.2", Some((0x1234, 80))));
        assert_eq!(registers, [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0, 0, 0, 80, 0, 0]);
    }

    #[test]
    fn a_flow_without_ports_is_hashed_on_its_addresses_alone() {
        assert_eq!(registers(&flow("192.0.2.1", "198.51.100.2", None)).len(), 8);
        assert_eq!(registers(&flow("2001:db8::1", "2001:db8::2", None)).len(), 32);
    }

    #[test]
    fn flows_spread_evenly_over_the_buckets() {
        let buckets = BucketCount::DEFAULT;
        let mut counts = vec![0; 64];
        for port in 0..6400 {
            counts[bucket(&flow("192.0.2.1", "198.51.100.2", Some((port, 443))), buckets, 1).index()] += 1;
        }
        assert!(counts.iter().all(|n| (60..140).contains(n)), "{counts:?}");
    }

    #[test]
    fn the_seed_and_every_part_of_the_flow_matter() {
        let buckets = BucketCount::new(128).unwrap();
        let of = |src, dst, ports, seed| bucket(&flow(src, dst, ports), buckets, seed);
        let base = of("192.0.2.1", "198.51.100.2", Some((1000, 80)), 1);
        for other in [
            of("192.0.2.2", "198.51.100.2", Some((1000, 80)), 1),
            of("192.0.2.1", "198.51.100.3", Some((1000, 80)), 1),
            of("192.0.2.1", "198.51.100.2", Some((1001, 80)), 1),
            of("192.0.2.1", "198.51.100.2", Some((1000, 81)), 1),
            of("192.0.2.1", "198.51.100.2", None, 1),
            of("192.0.2.1", "198.51.100.2", Some((1000, 80)), 2),
        ] {
            assert_ne!(base, other);
        }
    }
}
