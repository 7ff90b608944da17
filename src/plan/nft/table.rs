//! An nft table as data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The type of the keys of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetType {
    /// `ipv4_addr`
    Ipv4Addr,
    /// `ifname`
    Ifname,
    /// `ifname : mark`, a map used to remember numbers by device.
    IfnameToMark,
}

impl SetType {
    /// As nft spells it after `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            SetType::Ipv4Addr => "ipv4_addr",
            SetType::Ifname => "ifname",
            SetType::IfnameToMark => "ifname : mark",
        }
    }

    /// The nft keyword of the object: `set` or `map`.
    pub fn keyword(self) -> &'static str {
        match self {
            SetType::Ipv4Addr | SetType::Ifname => "set",
            SetType::IfnameToMark => "map",
        }
    }
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Key type.
    pub kind: SetType,
    /// Elements as nft takes them, unquoted: `192.0.2.10`, `eth0`; for a map `eth0 : 1` with the number in decimal.
    pub elements: BTreeSet<String>,
}

/// Where a base chain is hooked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// `filter`, `route` or `nat`.
    pub kind: &'static str,
    /// `prerouting`, `forward`, `output`, …
    pub hook: &'static str,
    /// Priority as a number; lower is earlier.
    pub priority: i32,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The rule's text, without comment.
    pub text: String,
    /// What it is for, in a few words; at most 110 bytes (a comment holds 127).
    pub why: String,
}

impl Rule {
    /// A rule from its text and its purpose.
    pub fn new(why: impl Into<String>, text: impl Into<String>) -> Self {
        Rule { text: text.into(), why: why.into() }
    }

    /// The comment that is stored with the rule: its purpose and a tag that changes with its text.
    pub fn comment(&self) -> String {
        // FNV-1a, 32 bits: a change detector, not a security measure.
        let tag = self.text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        format!("{} #{tag:08x}", self.why)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} comment \"{}\"", self.text, self.comment())
    }
}

/// A chain with its rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Set if it is hooked into the kernel, otherwise it is only jumped to.
    pub base: Option<BaseChain>,
    /// The rules in order.
    pub rules: Vec<Rule>,
}

/// The desired table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Sets and maps by name. The maps that remember sysctls are not in here: the diff keeps them.
    pub sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A chain as read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedChain {
    /// Kind, hook and priority, if it is a base chain.
    pub base: Option<(String, String, i32)>,
    /// Comments of the rules in order; a rule without one gives an empty string.
    pub comments: Vec<String>,
}

/// A set as read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedSet {
    /// `ipv4_addr`, `ifname`, or `ifname : mark` for a map.
    pub kind: String,
    /// Elements in the spelling of [`Set::elements`].
    pub elements: BTreeSet<String>,
}

/// The table as read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedTable {
    /// Sets and maps by name.
    pub sets: BTreeMap<String, ObservedSet>,
    /// Chains by name.
    pub chains: BTreeMap<String, ObservedChain>,
}
