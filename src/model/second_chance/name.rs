//! The name of an endpoint in its Service's tunnel ids.

use std::fmt;

/// A number that the controller gives an endpoint, in its Service: 1 to 2047, ascending, and 1 again after 2047.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(u16);

/// A number that is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the name of an endpoint: names are 1 to {max}", max = Name::MAX)]
pub struct NameError(pub u32);

impl Name {
    /// How many names a Service has.
    pub const MAX: u16 = 2047;
    /// The first name of a Service.
    pub const FIRST: Name = Name(1);

    /// Checks the range.
    ///
    /// # Errors
    /// For 0 and for more than 2047.
    pub fn new(number: u32) -> Result<Name, NameError> {
        match u16::try_from(number) {
            Ok(small @ 1..=Self::MAX) => Ok(Name(small)),
            _ => Err(NameError(number)),
        }
    }

    /// Any name, from a number that is anything.
    pub fn of_hash(hash: u32) -> Name {
        let [low, high, ..] = hash.to_le_bytes();
        Name(u16::from_le_bytes([low, high]) % Name::MAX + 1)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The name that is given out after this one.
    pub fn next(self) -> Name {
        Name(self.0 % Self::MAX + 1)
    }

    /// Whether the name was given out after `last`: whether it is in the half of the ring that lies ahead of it.
    ///
    /// The program decides the same way, about a name that its tables do not have: a later one is news that this node has
    /// not heard yet, an earlier one is retired.
    pub fn is_later_than(self, last: Name) -> bool {
        let ahead = if self.0 > last.0 { self.0 - last.0 } else { self.0 + Self::MAX - last.0 };
        ahead <= Self::MAX / 2
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
    fn names_are_1_to_2047() {
        assert_eq!(Name::new(0), Err(NameError(0)));
        assert_eq!(Name::new(1), Ok(Name::FIRST));
        assert_eq!(Name::new(2047).map(Name::get), Ok(2047));
        assert_eq!(Name::new(2048), Err(NameError(2048)));
        assert_eq!(Name::new(65_537), Err(NameError(65_537)));
        assert!((0..5000).all(|hash| Name::new(Name::of_hash(hash).get().into()).is_ok()));
        assert_eq!(NameError(0).to_string(), "0 is not the name of an endpoint: names are 1 to 2047");
    }

    #[test]
    fn the_name_after_the_last_is_the_first() {
        assert_eq!(name(1).next(), name(2));
        assert_eq!(name(2046).next(), name(2047));
        assert_eq!(name(2047).next(), name(1));
    }

    #[test]
    fn later_is_the_half_of_the_ring_ahead_also_across_its_end() {
        for (candidate, last, later) in [
            (2, 1, true),
            (1, 1, false),
            (1, 2, false),
            (1, 2047, true),
            (2047, 1, false),
            (1024, 1, true),
            (1025, 1, false),
            (500, 2000, true),
            (2000, 500, false),
        ] {
            assert_eq!(name(candidate).is_later_than(name(last)), later, "{candidate} after {last}");
        }
    }

    #[test]
    fn of_two_names_exactly_one_is_later() {
        for a in 1..=2047 {
            for b in [1, 2, 700, 1023, 1024, 1025, 2046, 2047] {
                let (a, b) = (name(a), name(b));
                assert_eq!(a.is_later_than(b) || b.is_later_than(a), a != b, "{a} {b}");
                assert!(!(a.is_later_than(b) && b.is_later_than(a)), "{a} {b}");
            }
        }
    }
}
