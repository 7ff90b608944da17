//! Who has the buckets of a VIP, for a while after an owner has changed: the value of `present`.
//!
//! An ingress node that has not heard of the change sends packets to an earlier owner, and does not name the present one. The
//! first pod that meets such a packet adds it: so the pods' node keeps the hash of the flows together with the names.

use std::collections::BTreeMap;

use super::name::Name;
use crate::model::bucket::MAX_BUCKETS;
use crate::model::handover::{FlowHash, HashKey, MOST_FORMER};
use crate::model::{Bucket, BucketCount};

/// The most names of a bucket: the present owner, and its former owners.
pub const OWNERS: usize = MOST_FORMER + 1;
/// Size of the value of `present`: number of buckets, seed, whether only addresses are hashed, the names of each bucket.
pub const PRESENT_VALUE: usize = NUMBERS + MAX_BUCKETS as usize * ROW;

const NUMBERS: usize = 12;
const ROW: usize = OWNERS * 2;

/// The present owners of a VIP's buckets. At least one bucket has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    hash: FlowHash,
    owners: BTreeMap<Bucket, Vec<Name>>,
}

impl Present {
    /// Takes of each bucket the first three names; `None` if no bucket has any. Buckets that the hash does not have are left
    /// out.
    pub fn new(hash: FlowHash, owners: &BTreeMap<Bucket, Vec<Name>>) -> Option<Present> {
        let owners: BTreeMap<Bucket, Vec<Name>> = owners
            .iter()
            .filter(|(bucket, names)| bucket.number() < hash.buckets.get() && !names.is_empty())
            .map(|(bucket, names)| (*bucket, names.iter().copied().take(OWNERS).collect()))
            .collect();
        (!owners.is_empty()).then_some(Present { hash, owners })
    }

    /// How flows become buckets.
    pub fn hash(&self) -> FlowHash {
        self.hash
    }

    /// The present owner of a bucket first; nothing if it has not changed lately.
    pub fn names(&self, bucket: Bucket) -> &[Name] {
        self.owners.get(&bucket).map_or(&[], Vec::as_slice)
    }

    /// The value of `present`.
    pub fn encode(&self) -> [u8; PRESENT_VALUE] {
        let mut value = [0; PRESENT_VALUE];
        let addresses_only = u32::from(self.hash.key == HashKey::Addresses);
        let numbers = [self.hash.buckets.get(), self.hash.seed, addresses_only];
        let (head, rows) = value.split_at_mut(NUMBERS);
        for (field, number) in head.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
            *field = number.to_ne_bytes();
        }
        for (bucket, row) in self.hash.buckets.iter().zip(rows.as_chunks_mut::<ROW>().0) {
            for (field, name) in row.as_chunks_mut::<2>().0.iter_mut().zip(self.names(bucket)) {
                *field = name.get().to_ne_bytes();
            }
        }
        value
    }

    /// What a value of `present` says; `None` if an agent has not written it.
    pub fn decode(value: &[u8; PRESENT_VALUE]) -> Option<Present> {
        let (head, rows) = value.split_at(NUMBERS);
        let [buckets, seed, addresses_only] = [0, 1, 2].map(|at| u32::from_ne_bytes(head.as_chunks().0[at]));
        let key = if addresses_only == 0 { HashKey::Ports } else { HashKey::Addresses };
        let hash = FlowHash { buckets: BucketCount::new(buckets).ok()?, seed, key };
        let names = |row: &[u8; ROW]| {
            let numbers = row.as_chunks().0.iter().map(|number| u32::from(u16::from_ne_bytes(*number)));
            numbers.filter_map(|number| Name::new(number).ok()).collect::<Vec<_>>()
        };
        let owners = hash.buckets.iter().zip(rows.as_chunks().0).map(|(bucket, row)| (bucket, names(row)));
        Present::new(hash, &owners.collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: u32) -> Name {
        Name::new(number).unwrap()
    }

    fn hash(buckets: u32, key: HashKey) -> FlowHash {
        FlowHash { buckets: BucketCount::new(buckets).unwrap(), seed: 0x0102_0304, key }
    }

    fn owners(all: &[(u32, &[u32])]) -> BTreeMap<Bucket, Vec<Name>> {
        let names = |numbers: &[u32]| numbers.iter().map(|number| name(*number)).collect();
        all.iter().map(|(bucket, numbers)| (Bucket::new(*bucket).unwrap(), names(numbers))).collect()
    }

    #[test]
    fn the_value_has_the_layout_of_the_program() {
        let present = Present::new(hash(64, HashKey::Addresses), &owners(&[(0, &[1]), (63, &[2047, 3, 4])])).unwrap();
        let value = present.encode();
        assert_eq!(value.len(), 12 + 128 * 3 * 2);
        assert_eq!(value[..12], [64_u32, 0x0102_0304, 1].map(u32::to_ne_bytes).concat());
        assert_eq!(value[12..18], [1_u16, 0, 0].map(u16::to_ne_bytes).concat());
        assert_eq!(value[12 + 63 * 6..12 + 64 * 6], [2047_u16, 3, 4].map(u16::to_ne_bytes).concat());
        assert!(value[18..12 + 63 * 6].iter().chain(&value[12 + 64 * 6..]).all(|byte| *byte == 0));
        let ports = Present::new(hash(64, HashKey::Ports), &owners(&[(0, &[1])])).unwrap();
        assert_eq!(ports.encode()[8..12], [0; 4]);
    }

    #[test]
    fn where_no_owner_has_changed_there_is_no_value() {
        for none in [&[][..], &[(3, &[][..])], &[(64, &[1])]] {
            assert_eq!(Present::new(hash(64, HashKey::Ports), &owners(none)), None, "{none:?}");
        }
    }

    #[test]
    fn a_bucket_has_at_most_three_names_the_present_owner_first() {
        let present = Present::new(hash(16, HashKey::Ports), &owners(&[(3, &[9, 2, 5, 4])])).unwrap();
        assert_eq!(present.names(Bucket::new(3).unwrap()), [name(9), name(2), name(5)]);
        assert!(present.names(Bucket::new(4).unwrap()).is_empty());
    }

    #[test]
    fn a_value_that_no_agent_has_written_is_not_read() {
        assert_eq!(Present::decode(&[0; PRESENT_VALUE]), None);
        assert_eq!(Present::decode(&[0xff; PRESENT_VALUE]), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(
            buckets in prop::sample::select(vec![16_u32, 32, 64, 128]),
            seed: u32,
            by_ports: bool,
            all in proptest::collection::btree_map(0_u32..128, proptest::collection::vec(1_u32..2048, 0..5), 0..128),
        ) {
            let key = if by_ports { HashKey::Ports } else { HashKey::Addresses };
            let all: Vec<_> = all.iter().map(|(bucket, names)| (*bucket, names.as_slice())).collect();
            let present = Present::new(FlowHash { seed, ..hash(buckets, key) }, &owners(&all));
            prop_assert_eq!(present.as_ref().and_then(|present| Present::decode(&present.encode())), present);
        }
    }
}
