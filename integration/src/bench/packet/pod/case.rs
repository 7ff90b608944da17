//! What there is to measure in a pod: what becomes of a packet, for one tunnel.

use std::fmt;

use tunnel_router::model::second_chance::Count;
use tunnel_router::model::{Family, Mode};

/// What becomes of a packet that comes to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Without the program: of a connection of the pod, taken.
    None,
    /// Without the program: opens a connection to a port where nobody listens, answered with a reset.
    NoneSyn,
    /// Of a connection of the pod, and the bucket has no former owner: taken.
    Steady,
    /// Of a connection of the pod, and the bucket drains: taken.
    Draining,
    /// Opens a connection to a port where nobody listens, and the bucket drains: answered with a reset.
    Syn,
    /// Of a connection of the former owner: passed on.
    PassedOn,
}

/// What pods and program do with one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// Segments that TCP of the pod receives.
    pub received: u64,
    /// Resets that it sends.
    pub resets: u64,
    /// Frames that leave the pod.
    pub sent: u64,
    /// What the program counts.
    pub count: Option<Count>,
}

impl Fate {
    const ALL: [Fate; 6] = [Fate::None, Fate::Steady, Fate::Draining, Fate::NoneSyn, Fate::Syn, Fate::PassedOn];

    /// Whether the pod has the program.
    pub fn has_program(self) -> bool {
        !matches!(self, Fate::None | Fate::NoneSyn)
    }

    /// Whether packets name a former owner of their bucket.
    pub fn names_former(self) -> bool {
        matches!(self, Fate::Draining | Fate::Syn | Fate::PassedOn)
    }

    /// Whether packets open a connection.
    pub fn opens(self) -> bool {
        matches!(self, Fate::NoneSyn | Fate::Syn)
    }

    /// What one packet does, if it meets this fate.
    pub fn effect(self) -> Effect {
        let taken = |count| Effect { received: 1, resets: 0, sent: 0, count };
        let reset = |count| Effect { received: 1, resets: 1, sent: 1, count };
        match self {
            Fate::None => taken(None),
            Fate::NoneSyn => reset(None),
            Fate::Steady => taken(Some(Count::Unlisted)),
            Fate::Draining => taken(Some(Count::Connection)),
            Fate::Syn => reset(Some(Count::Opened)),
            Fate::PassedOn => Effect { received: 0, resets: 0, sent: 1, count: Some(Count::Passed) },
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::None => "none",
            Fate::NoneSyn => "none-syn",
            Fate::Steady => "steady",
            Fate::Draining => "draining",
            Fate::Syn => "syn",
            Fate::PassedOn => "passed-on",
        })
    }
}

/// One measurement: VIP, client and tunnel are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodCase {
    /// How packets come to the pod: `gre` or `vxlan`.
    pub mode: Mode,
    /// Of all addresses.
    pub family: Family,
    /// What becomes of them.
    pub fate: Fate,
}

impl PodCase {
    /// Every case, those that others are compared with before those. MPLS is not among them: it carries no names.
    pub fn all() -> impl Iterator<Item = PodCase> {
        let tunnels = [Mode::Gre, Mode::Vxlan].into_iter().flat_map(|mode| Family::ALL.map(|family| (mode, family)));
        tunnels.flat_map(|(mode, family)| Fate::ALL.map(|fate| PodCase { mode, family, fate }))
    }

    /// The same without the program: an opened connection with another one, all others with a packet of a connection.
    pub fn reference(self) -> PodCase {
        PodCase { fate: if self.fate.opens() { Fate::NoneSyn } else { Fate::None }, ..self }
    }
}

impl fmt::Display for PodCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::V4 { "v4" } else { "v6" };
        write!(f, "pod-{}-{family}-{}", self.mode, self.fate)
    }
}
