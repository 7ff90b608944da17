//! Identities and numbers that must not be mistaken for each other.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::model::BucketCount;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// As the API writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $name(text.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// `metadata.uid` of a Service: one that is deleted and made anew is another one.
    ServiceUid
}
text_id! {
    /// Name of a Node object.
    NodeName
}

/// The number of a decision about a Service; a later decision has a greater one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    pub fn next(self) -> Generation {
        Generation(self.0.saturating_add(1))
    }

    /// Where the life of a map begins: the milliseconds since 1970 (UTC). A map is written more rarely than that, so every
    /// earlier life ended at a smaller number, as long as the controllers' clocks agree to within the earlier life.
    pub fn of_new_life(unix_ms: u64, later_than: Option<Generation>) -> Generation {
        Generation(unix_ms).max(later_than.map(Generation::next).unwrap_or_default())
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What of a packet is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashKey {
    /// Both addresses and, where the protocol has them, both ports.
    Ports,
    /// Both addresses only: `sessionAffinity: ClientIP`.
    Addresses,
}

/// How flows become buckets: the same on every node, or a flow would have two endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowHash {
    /// Number of buckets. Stays as it is for the life of a map.
    pub buckets: BucketCount,
    /// Seed of the hash. Stays as it is for the life of a map.
    pub seed: u32,
    /// What is hashed; follows the Service.
    pub key: HashKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_life_begins_after_everything_that_is_known() {
        assert_eq!(Generation::of_new_life(1000, None), Generation(1000));
        assert_eq!(Generation::of_new_life(1000, Some(Generation(17))), Generation(1000));
        assert_eq!(Generation::of_new_life(1000, Some(Generation(5000))), Generation(5001));
    }
}
