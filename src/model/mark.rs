//! The field of the fwmark that says which bucket a packet belongs to.
//!
//! ```text
//!  31        7   6          0      default field 0xff, up to 128 buckets
//! ┌──────────┬───┬───────────┐
//! │ others'  │ P │  bucket   │      P: PRESENT
//! └──────────┴───┴───────────┘
//! ```
//!
//! PRESENT tells bucket 0 from a packet that nobody marked. The nft rule writes the whole mark, not just the field: nft
//! cannot or two runtime values ("Right hand side of binary operation must be constant"), and VIP packets carry no foreign
//! mark that matters. Hence bits outside the field are zero in every packet that was marked here.

use std::fmt;

use super::bucket::{Bucket, BucketCount};

/// A run of adjacent bits of the 32-bit fwmark; the highest is PRESENT, the rest hold the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MarkField(u32);

/// A mask that cannot be the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarkFieldError {
    /// No bits.
    #[error("mark field 0x0 has no bits: use one run of 5 to 32 adjacent bits, such as 0xff")]
    Zero,
    /// A hole between two bits.
    #[error("mark field {0:#x} has a hole: its bits must be adjacent, such as 0xff or 0xff000000")]
    NotContiguous(u32),
    /// Not enough bits for that many buckets.
    #[error("mark field {mask:#x} has {have} bits: {buckets} buckets need {need} (bucket number, and 1 for PRESENT)")]
    TooSmall {
        /// The mask.
        mask: u32,
        /// Its bits.
        have: u32,
        /// The bits that are needed.
        need: u32,
        /// The buckets that need them.
        buckets: u32,
    },
}

impl MarkField {
    /// The low byte: enough for 128 buckets.
    pub const DEFAULT: MarkField = MarkField(0xff);

    /// Checks that the mask is one run of bits that holds `buckets`.
    ///
    /// # Errors
    /// When the mask is zero, has a hole, or is too small.
    pub fn new(mask: u32, buckets: BucketCount) -> Result<MarkField, MarkFieldError> {
        if mask == 0 {
            return Err(MarkFieldError::Zero);
        }
        let (have, need) = (mask.count_ones(), buckets.bits() + 1);
        if mask.leading_zeros() + have + mask.trailing_zeros() != u32::BITS {
            return Err(MarkFieldError::NotContiguous(mask));
        }
        if have < need {
            return Err(MarkFieldError::TooSmall { mask, have, need, buckets: buckets.get() });
        }
        Ok(MarkField(mask))
    }

    /// Every bit of the field.
    pub fn mask(self) -> u32 {
        self.0
    }

    /// Set in every packet of a VIP.
    pub fn present(self) -> u32 {
        1 << (u32::BITS - 1 - self.0.leading_zeros())
    }

    /// The mark of a packet to a VIP that only passes through this node on its way to an ingress node: it names no bucket, and
    /// is not that of a packet which nobody marked.
    pub fn transit(self) -> u32 {
        self.present() >> 1
    }

    /// Position of the field's lowest bit, 0…26.
    pub fn shift(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// The mark of a bucket's packets. The bucket is one of the count that the field was made for.
    pub fn mark(self, bucket: Bucket) -> u32 {
        let bits = bucket.number() << self.shift();
        debug_assert_eq!(bits & !(self.0 & !self.present()), 0, "bucket {bucket} is not in {self}");
        self.present() | bits
    }

    /// The bucket that a mark names; `None` without PRESENT.
    pub fn bucket_of(self, mark: u32) -> Option<Bucket> {
        let number = (mark & self.0 & !self.present()) >> self.shift();
        if mark & self.present() == 0 { None } else { Bucket::new(number) }
    }

    /// Whether somebody else's `fwmark value/mask` can match a packet that was marked here, by bits of this field.
    ///
    /// Such an ip rule ahead of the tree would take VIP packets away. A selector that looks only at other bits, or asks
    /// for a bit outside the field, or for PRESENT to be clear, is no obstacle.
    pub fn overlaps(self, value: u32, mask: u32) -> bool {
        let looks_at_the_field = mask & self.0 != 0;
        let wants_foreign_bits = value & mask & !self.0 != 0;
        let wants_unmarked = mask & self.present() != 0 && value & self.present() == 0;
        looks_at_the_field && !wants_foreign_bits && !wants_unmarked
    }

    /// The nft statements, to be joined by a blank within one rule, that hash `hash_expr` (see [`super::hash`]) into one
    /// of `buckets` and write the mark.
    ///
    /// `offset` adds PRESENT, which no bucket number carries into. A field above bit 0 takes a second statement. nft 1.0.6
    /// gives the same marks for `meta mark set jhash … offset 128 << 24`; two statements leave no doubt what is shifted.
    pub fn nft_statements(self, hash_expr: &str, buckets: BucketCount, seed: u32) -> Vec<String> {
        let offset = self.present() >> self.shift();
        let hash = format!("meta mark set jhash {hash_expr} mod {buckets} seed {seed:#x} offset {offset}");
        let shift = (self.shift() > 0).then(|| format!("meta mark set meta mark << {}", self.shift()));
        std::iter::once(hash).chain(shift).collect()
    }
}

impl fmt::Display for MarkField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(count: u32) -> BucketCount {
        BucketCount::new(count).unwrap()
    }

    fn field(mask: u32, count: u32) -> MarkField {
        MarkField::new(mask, buckets(count)).unwrap()
    }

    fn bucket(number: u32) -> Bucket {
        Bucket::new(number).unwrap()
    }

    #[test]
    fn the_default_field_is_what_128_buckets_need() {
        assert_eq!(field(0xff, 128), MarkField::DEFAULT);
        assert_eq!(MarkField::DEFAULT.present(), 0x80);
        assert_eq!(MarkField::DEFAULT.mark(bucket(5)), 0x85);
        assert_eq!(MarkField::DEFAULT.mark(bucket(127)), 0xff);
    }

    #[test]
    fn a_field_may_start_above_bit_0() {
        let high = field(0xff00_0000, 64);
        assert_eq!((high.present(), high.shift()), (0x8000_0000, 24));
        assert_eq!(high.mark(bucket(5)), 0x8500_0000);
    }

    #[test]
    fn every_bucket_survives_the_way_into_the_mark_and_back() {
        for (mask, count) in [(0x7f, 64), (0xff, 16), (0x1f00, 16), (0xff, 128), (0xff00_0000, 128), (u32::MAX, 128)] {
            let field = field(mask, count);
            for bucket in buckets(count).iter() {
                let mark = field.mark(bucket);
                assert_eq!(field.bucket_of(mark), Some(bucket), "{field}");
                assert_eq!(field.bucket_of(mark | !mask), Some(bucket), "foreign bits do not matter: {field}");
                assert_eq!(mark & !mask, 0, "{field}");
            }
        }
    }

    #[test]
    fn a_mark_without_present_names_no_bucket() {
        assert_eq!(MarkField::DEFAULT.bucket_of(0), None);
        assert_eq!(MarkField::DEFAULT.bucket_of(0x7f), None);
        assert_eq!(MarkField::DEFAULT.bucket_of(0xffff_ff00), None);
    }

    #[test]
    fn packets_in_transit_carry_a_mark_without_a_bucket() {
        for field in [field(0x1f, 16), MarkField::DEFAULT, field(0xff00_0000, 64)] {
            assert_ne!(field.transit() & field.mask(), 0, "{field}");
            assert_eq!((field.transit() & !field.mask(), field.bucket_of(field.transit())), (0, None), "{field}");
        }
    }

    #[test]
    fn a_number_that_no_bucket_has_is_not_taken_for_one() {
        assert_eq!(field(0xffff, 128).bucket_of(0x8000 | 128), None);
    }

    #[test]
    fn bad_fields_are_refused_by_name() {
        let error = |mask, count| MarkField::new(mask, buckets(count)).unwrap_err().to_string();
        assert_eq!(error(0, 64), "mark field 0x0 has no bits: use one run of 5 to 32 adjacent bits, such as 0xff");
        assert_eq!(
            error(0xf0f0, 16),
            "mark field 0xf0f0 has a hole: its bits must be adjacent, such as 0xff or 0xff000000"
        );
        assert_eq!(
            error(0x7f, 128),
            "mark field 0x7f has 7 bits: 128 buckets need 8 (bucket number, and 1 for PRESENT)"
        );
        assert!(MarkField::new(0x0f, buckets(16)).is_err());
        assert!(MarkField::new(0x1f, buckets(16)).is_ok());
    }

    #[test]
    fn a_rule_overlaps_if_it_can_match_a_packet_marked_here() {
        let ours = MarkField::DEFAULT;
        for (who, value, mask) in
            [("AWS VPC CNI", 0x80, 0x80), ("a whole mark", 0x85, u32::MAX), ("low bits", 0x1, 0x1)]
        {
            assert!(ours.overlaps(value, mask), "{who}");
        }
        for (who, value, mask) in [
            ("no mark at all", 0, 0),
            ("Cilium", 0x200, 0xf00),
            ("portmap", 0x2000, 0x2000),
            ("kube-proxy", 0x4000, 0x4000),
            ("Calico", 0x10000, 0xffff_0000),
            ("Tailscale", 0x80000, 0xff_0000),
            ("TPROXY with a whole mark", 0x1, u32::MAX),
            ("a foreign bit besides ours", 0x180, 0x1ff),
            ("unmarked packets", 0, 0x80),
        ] {
            assert!(!ours.overlaps(value, mask), "{who}");
        }
    }

    #[test]
    fn overlap_agrees_with_trying_every_mark() {
        let field = field(0xfc, 16);
        for value in 0..=0x1ff {
            for mask in [0, 0x1, 0x80, 0x40, 0xc0, 0xff, 0xfc, 0x1ff, 0x100, 0x3] {
                let hit = (0..=0xff).any(|m| m & 0x80 != 0 && m & !0xfc == 0 && (m ^ value) & mask == 0);
                assert_eq!(field.overlaps(value, mask), hit && mask & 0xfc != 0, "{value:#x}/{mask:#x}");
            }
        }
    }

    #[test]
    fn the_hash_lands_in_the_field() {
        let expr = "ip saddr . ip daddr";
        assert_eq!(
            MarkField::DEFAULT.nft_statements(expr, buckets(64), 0xdead_beef),
            ["meta mark set jhash ip saddr . ip daddr mod 64 seed 0xdeadbeef offset 128"]
        );
        assert_eq!(
            field(0xff00_0000, 32).nft_statements(expr, buckets(32), 0),
            ["meta mark set jhash ip saddr . ip daddr mod 32 seed 0x0 offset 128", "meta mark set meta mark << 24"]
        );
    }
}
