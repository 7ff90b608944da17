//! What the program counts.

use std::fmt;

macro_rules! counts {
    ($($variant:ident = $text:literal, $doc:literal;)*) => {
        /// A kind of packet that the program counts. The order is that of `enum count` in the program.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Count { $(#[doc = $doc] $variant),* }

        impl Count {
            /// All kinds, in the order of their numbers.
            pub const ALL: [Count; [$(Count::$variant),*].len()] = [$(Count::$variant),*];

            /// The value of the metric's label.
            pub fn as_str(self) -> &'static str {
                match self { $(Count::$variant => $text),* }
            }
        }
    };
}

counts! {
    Received = "received", "A pod had passed it on; it is counted a second time as what became of it.";
    NoTunnel = "no_tunnel", "Came in without tunnel metadata: taken.";
    Unlisted = "unlisted", "No name in the list: taken.";
    Malformed = "malformed", "Not IP, or cut off: taken.";
    Opened = "opened", "Opens a TCP connection: taken.";
    Connection = "connection", "Of a TCP connection of this pod: taken.";
    HalfOpen = "half_open", "Goes on with a handshake of this pod: taken.";
    ForeignHalfOpen = "foreign_half_open", "Met a half-open connection, and belongs to another one.";
    Cookie = "cookie", "Ends a handshake that this pod opened with a cookie: taken.";
    Datagram = "datagram", "Not TCP, and without the bit for datagrams or of a connected socket: taken.";
    Passed = "passed", "Passed on to a former owner.";
    Fragment = "fragment", "Passed on as a later fragment; counted as passed on, too.";
    Completed = "completed", "Passed on with names that this node has added, the present owner first; counted as passed on, too.";
    AheadDropped = "ahead_dropped", "TCP with a name that this node does not know yet: dropped.";
    AheadTaken = "ahead_taken", "The same for other protocols: taken.";
    Retired = "retired", "Had a name that is no longer in use: next name.";
    OwnName = "own_name", "Had this pod's own name: next name.";
    NoAddress = "no_address", "Had a name without address in the family of the outer header: next name.";
    Exhausted = "exhausted", "No name of the list was left: taken.";
    Failed = "failed", "The kernel refused the new tunnel key: dropped.";
}

/// How many packets of each kind, all CPUs and all pods of the node together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u64; Count::ALL.len()]);

impl Counts {
    /// From the number of each kind.
    pub fn new(of: impl Fn(Count) -> u64) -> Counts {
        Counts(Count::ALL.map(of))
    }

    /// The packets of one kind.
    pub fn of(&self, kind: Count) -> u64 {
        self.0[kind as usize]
    }

    /// What has been counted since `earlier`. A replaced program begins at zero again.
    #[must_use]
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts::new(|kind| self.of(kind).saturating_sub(earlier.of(kind)))
    }
}

impl fmt::Display for Counts {
    /// `passed 3, received 1`: what is not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = Count::ALL.into_iter().filter(|kind| self.of(*kind) > 0);
        let texts: Vec<String> = some.map(|kind| format!("{} {}", kind.as_str(), self.of(kind))).collect();
        f.write_str(&texts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names in `enum count`, in lower case.
    fn program() -> Vec<String> {
        let source = include_str!("../../kernel/bpf/second_chance.bpf.c");
        let (_, rest) = source.split_once("enum count {\n").unwrap();
        let (body, _) = rest.split_once("    COUNTS,").unwrap();
        body.lines().map(|line| line.trim().split(',').next().unwrap().to_lowercase()).collect()
    }

    #[test]
    fn the_program_counts_in_the_same_order() {
        assert_eq!(Count::ALL.map(Count::as_str).to_vec(), program());
        assert!(Count::ALL.iter().enumerate().all(|(at, kind)| *kind as usize == at));
        assert_eq!(Count::ALL.map(Count::as_str).into_iter().collect::<BTreeSet<_>>().len(), Count::ALL.len());
    }

    #[test]
    fn what_was_counted_in_between_is_a_difference() {
        let earlier = Counts::new(|kind| u64::from(kind == Count::Passed) * 4);
        let later = Counts::new(|kind| u64::from(kind == Count::Passed) * 7 + u64::from(kind == Count::Opened));
        assert_eq!(later.since(&earlier).to_string(), "opened 1, passed 3");
        assert_eq!(earlier.since(&later), Counts::default());
    }
}
