//! Names of endpoints within their Service: 11 bits, so that two of them fit into a tunnel id.

use std::fmt;

/// The name of an endpoint within its Service, 1…2047. Names are given out ascending and wrapping, so that a node can tell a
/// name that it has not heard of yet from one that was retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(u16);

impl Name {
    /// The last name before they begin again at 1: 11 bits.
    pub const MAX: u16 = 2047;

    /// The name of that number; `None` for 0, which means nobody, and beyond [`Name::MAX`].
    pub fn new(number: u32) -> Option<Name> {
        u16::try_from(number).ok().filter(|n| (1..=Name::MAX).contains(n)).map(Name)
    }

    /// The number, 1…2047.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The name that is given out after this one.
    pub fn next(self) -> Name {
        if self.0 == Name::MAX { Name(1) } else { Name(self.0 + 1) }
    }

    /// Any name, from a number that is anything.
    pub(super) fn of_hash(hash: u32) -> Name {
        let [low, high, ..] = hash.to_le_bytes();
        Name(u16::from_le_bytes([low, high]) % Name::MAX + 1)
    }

    /// Whether this name is given out after `last`: at most half the circle (1,023 names) on from it.
    pub fn is_ahead_of(self, last: Name) -> bool {
        let distance = (self.0 + Name::MAX - last.0) % Name::MAX;
        (1..=Name::MAX / 2).contains(&distance)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> Name {
        Name::new(number).unwrap()
    }

    #[test]
    fn names_are_the_numbers_of_11_bits_but_zero() {
        let all: Vec<u32> = (0..5000).filter(|n| Name::new(*n).is_some()).collect();
        assert_eq!(all, (1..=2047).collect::<Vec<_>>());
        assert!((0..5000).all(|hash| Name::new(u32::from(Name::of_hash(hash).get())).is_some()));
    }

    #[test]
    fn after_the_last_name_comes_the_first() {
        assert_eq!(name(1).next(), name(2));
        assert_eq!(name(2047).next(), name(1));
    }

    #[test]
    fn every_other_name_is_either_ahead_or_behind() {
        for last in [1, 2, 1023, 1024, 1025, 2046, 2047].map(name) {
            assert!(!last.is_ahead_of(last));
            for other in (1..=2047).map(name).filter(|other| *other != last) {
                assert_ne!(other.is_ahead_of(last), last.is_ahead_of(other), "{other} and {last}");
            }
        }
        assert!(name(1).is_ahead_of(name(2047)) && name(1024).is_ahead_of(name(1)) && !name(1025).is_ahead_of(name(1)));
    }
}
