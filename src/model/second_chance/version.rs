//! Which version of the program a filter holds.

use std::fmt;

/// A hash of the program's object (FNV-1a, 64 bits). The kernel's own tag of a program will not do: it depends on the
/// kernel, and does not cover the layout of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(u64);

/// What the names of our filters begin with.
const PREFIX: &str = "kst-second-chance:";

impl Version {
    /// The version of an object.
    pub fn of(object: &[u8]) -> Version {
        let hash = object
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        Version(hash)
    }

    /// The version in the name of a filter; `None` if the filter was not made by an agent.
    pub fn of_filter(name: &str) -> Option<Version> {
        u64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok().map(Version)
    }
}

impl fmt::Display for Version {
    /// The name of a filter with this version.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_filter_carries_the_version() {
        assert_eq!(Version::of(b"").to_string(), "kst-second-chance:cbf29ce484222325");
        assert_eq!(Version::of_filter(&Version::of(b"a").to_string()), Some(Version::of(b"a")));
        assert_ne!(Version::of(b"a"), Version::of(b"b"));
        for foreign in ["", "second_chance.o:[classifier]", "kst-second-chance:", "kst-second-chance:x"] {
            assert_eq!(Version::of_filter(foreign), None, "{foreign}");
        }
    }
}
