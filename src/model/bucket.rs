//! Buckets: the slots that flows are hashed into.
//!
//! Every ingress node hashes a flow to the same bucket, and every bucket belongs to one endpoint at a time. The number of
//! buckets is a power of two, so that a tree over the bits of the mark finds one without a rule per bucket in the way.

use std::fmt;

/// Fewest buckets: below 16 two endpoints of a handful differ by too large a share of the traffic.
pub const MIN_BUCKETS: u32 = 16;
/// Most buckets: what 7 bits of the mark tell apart. With PRESENT they are the 8 bits of the default field.
pub const MAX_BUCKETS: u32 = 128;

/// The number of one bucket, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket(u8);

impl Bucket {
    /// The bucket of that number; `None` from [`MAX_BUCKETS`] on.
    pub fn new(number: u32) -> Option<Bucket> {
        u8::try_from(number).ok().filter(|n| u32::from(*n) < MAX_BUCKETS).map(Bucket)
    }

    /// The number, 0…127.
    pub fn number(self) -> u32 {
        u32::from(self.0)
    }

    /// The number as an index into a list with one element per bucket.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many buckets there are: a power of two from 16 to 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketCount(u8);

/// A number of buckets that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} buckets: must be a power of two from {MIN_BUCKETS} to {MAX_BUCKETS} (16, 32, 64 or 128)")]
pub struct BucketCountError(pub u32);

impl BucketCount {
    /// 64: a difference of at most 1/64 of the traffic between endpoints, and a mark field of 7 bits.
    pub const DEFAULT: BucketCount = BucketCount(64);

    /// Checks the range.
    ///
    /// # Errors
    /// Names the range when `count` is not 16, 32, 64 or 128.
    pub fn new(count: u32) -> Result<BucketCount, BucketCountError> {
        let usable = count.is_power_of_two() && (MIN_BUCKETS..=MAX_BUCKETS).contains(&count);
        u8::try_from(count).ok().filter(|_| usable).map(BucketCount).ok_or(BucketCountError(count))
    }

    /// The count, 16…128.
    pub fn get(self) -> u32 {
        u32::from(self.0)
    }

    /// Bits that hold a bucket's number, 4…7.
    pub fn bits(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// Every bucket, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Bucket> + ExactSizeIterator {
        (0..self.0).map(Bucket)
    }

    /// The bucket of a 32-bit hash, as the kernel scales it (`reciprocal_scale`, include/linux/math.h): the upper half of
    /// the product of hash and count.
    pub fn scale(self, hash: u32) -> Bucket {
        let product = u64::from(hash) * u64::from(self.0);
        // The count has 8 bits, so the upper half is one byte.
        let [_, _, _, _, scaled, ..] = product.to_le_bytes();
        Bucket(scaled)
    }

    /// Routing tables that the agent claims: one per bucket, and as many for those that version 0.1 had.
    pub fn tables(self) -> u32 {
        2 * self.get()
    }
}

impl Default for BucketCount {
    fn default() -> Self {
        BucketCount::DEFAULT
    }
}

impl fmt::Display for BucketCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_from_16_to_128_are_bucket_counts() {
        let accepted: Vec<u32> = (0..=1000).filter(|n| BucketCount::new(*n).is_ok()).collect();
        assert_eq!(accepted, [16, 32, 64, 128]);
        assert!(BucketCount::new(u32::MAX).is_err());
    }

    #[test]
    fn a_refused_count_names_itself_and_the_range() {
        assert_eq!(
            BucketCount::new(100).unwrap_err().to_string(),
            "100 buckets: must be a power of two from 16 to 128 (16, 32, 64 or 128)"
        );
    }

    #[test]
    fn the_bits_hold_exactly_every_bucket() {
        for count in [16, 32, 64, 128] {
            let buckets = BucketCount::new(count).unwrap();
            assert_eq!(1 << buckets.bits(), count);
            let numbers: Vec<u32> = buckets.iter().map(Bucket::number).collect();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn scaling_covers_the_range_and_stays_inside() {
        let scaled = |hash, count| BucketCount::new(count).unwrap().scale(hash).number();
        assert_eq!([scaled(0, 64), scaled(1 << 31, 64), scaled(u32::MAX, 64)], [0, 32, 63]);
        assert_eq!([scaled(u32::MAX >> 4, 16), scaled(1 << 28, 16), scaled(u32::MAX, 128)], [0, 1, 127]);
    }

    #[test]
    fn a_bucket_beyond_the_largest_count_does_not_exist() {
        assert_eq!(Bucket::new(127).map(Bucket::number), Some(127));
        assert_eq!(Bucket::new(128), None);
        assert_eq!(Bucket::new(u32::MAX), None);
    }
}
