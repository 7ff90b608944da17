//! An nft table as data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::Family;
use crate::plan::icmp::quoted_map_type;

/// The family of a table: which packets its chains see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableFamily {
    /// IPv4 and IPv6 packets.
    Inet,
    /// IPv4 packets. Only 0.1 made tables of this family.
    Ip,
    /// IPv6 packets. Only 0.1 made tables of this family.
    Ip6,
    /// Frames as they come in by a device.
    Netdev,
    /// Frames that a bridge passes on.
    Bridge,
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TableFamily::Inet => "inet",
            TableFamily::Ip => "ip",
            TableFamily::Ip6 => "ip6",
            TableFamily::Netdev => "netdev",
            TableFamily::Bridge => "bridge",
        })
    }
}

/// The type of the keys of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetType {
    /// `ipv4_addr` or `ipv6_addr`
    Address(Family),
    /// The destination that an ICMP error quotes, as an integer, as the key of a map to addresses; see `plan::icmp`.
    QuotedToAddress(Family),
    /// `ether_addr`
    Ether,
    /// `ifname`
    Ifname,
    /// `ifname : mark`, a map used to remember numbers by device.
    IfnameToMark,
    /// An address and a mark: a VIP and one of its buckets.
    AddressMark(Family),
}

impl SetType {
    /// As nft lists it, where it does not list the expression of [`SetType::declaration`].
    pub fn as_str(self) -> &'static str {
        match self {
            SetType::Address(Family::V4) => "ipv4_addr",
            SetType::Address(Family::V6) => "ipv6_addr",
            SetType::QuotedToAddress(Family::V4) => "integer : ipv4_addr",
            SetType::QuotedToAddress(Family::V6) => "integer : ipv6_addr",
            SetType::Ether => "ether_addr",
            SetType::Ifname => "ifname",
            SetType::IfnameToMark => "ifname : mark",
            SetType::AddressMark(Family::V4) => "ipv4_addr . mark",
            SetType::AddressMark(Family::V6) => "ipv6_addr . mark",
        }
    }

    /// As nft takes it in a declaration: by an expression of that type. nft 1.0.6 crashes when it lists a set that a later
    /// nft has declared by the name of the type, and `nft` on the host may be older than the agent's image.
    pub fn declaration(self) -> String {
        let source = |family| match family {
            Family::V4 => "ip saddr",
            Family::V6 => "ip6 saddr",
        };
        match self {
            SetType::Address(family) => format!("typeof {}", source(family)),
            SetType::QuotedToAddress(family) => quoted_map_type(family),
            SetType::Ether => "typeof ether saddr".to_owned(),
            SetType::Ifname => "typeof iifname".to_owned(),
            SetType::IfnameToMark => "typeof iifname : meta mark".to_owned(),
            SetType::AddressMark(family) => format!("typeof {} . meta mark", source(family)),
        }
    }

    /// The nft keyword of the object: `set` or `map`.
    pub fn keyword(self) -> &'static str {
        match self {
            SetType::IfnameToMark | SetType::QuotedToAddress(_) => "map",
            _ => "set",
        }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = SetType> {
        let of = |family| [SetType::Address(family), SetType::QuotedToAddress(family), SetType::AddressMark(family)];
        Family::ALL.into_iter().flat_map(of).chain([SetType::Ether, SetType::Ifname, SetType::IfnameToMark])
    }

    /// The type that is listed like this.
    pub fn listed_as(text: &str) -> Option<SetType> {
        SetType::all().find(|kind| kind.as_str() == text)
    }

    /// Whether elements are names, which nft wants in quotes.
    pub fn is_quoted(self) -> bool {
        matches!(self, SetType::Ifname | SetType::IfnameToMark)
    }
}

/// Who else adds elements to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learning {
    /// Nobody.
    No,
    /// Rules do; what is not wanted is removed all the same.
    Replace,
    /// Rules do, and nothing is removed for now.
    Keep,
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Key type.
    pub kind: SetType,
    /// Whether each element counts the packets that match it.
    pub counted: bool,
    /// Whether rules add elements.
    pub learning: Learning,
    /// Elements as nft takes them, unquoted: `192.0.2.10`, `eth0`; for a map `eth0 : 1` with the number in decimal.
    pub elements: BTreeSet<String>,
}

impl Set {
    /// A set that does not count.
    pub fn new<T: ToString>(kind: SetType, elements: impl IntoIterator<Item = T>) -> Set {
        Set {
            kind,
            counted: false,
            learning: Learning::No,
            elements: elements.into_iter().map(|e| e.to_string()).collect(),
        }
    }

    /// The same set, counting.
    pub fn counted(self) -> Set {
        Set { counted: true, ..self }
    }

    /// The same set, to which rules add elements too.
    pub fn learning(self, learning: Learning) -> Set {
        Set { learning, ..self }
    }
}

/// Where a base chain is hooked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// `filter`, `route` or `nat`.
    pub kind: &'static str,
    /// `prerouting`, `forward`, `output`, …
    pub hook: &'static str,
    /// The device, for the hook `ingress`; the chain's name must say it too, because `nft -j` of 1.0.6 does not show it.
    pub device: Option<String>,
    /// Priority as a number; lower is earlier.
    pub priority: i32,
}

impl fmt::Display for BaseChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {} hook {}", self.kind, self.hook)?;
        if let Some(device) = &self.device {
            write!(f, " device \"{device}\"")?;
        }
        write!(f, " priority {}; policy accept;", self.priority)
    }
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

/// How long connection tracking remembers a UDP packet that has had one answer or none. What goes on for more than 2 s lives as
/// long as the node's own setting says (`nf_conntrack_udp_packet`, net/netfilter/nf_conntrack_proto_udp.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UdpTimeout {
    /// Whose packets.
    pub family: Family,
    /// The time, in seconds.
    pub seconds: u32,
}

impl UdpTimeout {
    /// The name of the object. It says everything, because the kernel changes no object of this kind.
    pub fn name(self) -> String {
        format!("udp_{}s_{}", self.seconds, self.l3proto())
    }

    fn l3proto(self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    /// The object as nft takes it. nft 1.0.6 knows no unit here.
    pub fn declaration(self) -> String {
        format!("protocol udp; l3proto {}; policy = {{ unreplied : {} }};", self.l3proto(), self.seconds)
    }
}

/// The desired table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Time limits of connection tracking that rules set.
    pub timeouts: BTreeSet<UdpTimeout>,
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
    /// How the first rule that hashes does it.
    pub hash: Option<ObservedHash>,
    /// What the rules have counted, by what they are for; those that count nothing are left out.
    pub counters: BTreeMap<String, Counter>,
}

/// `jhash … mod BUCKETS seed SEED`, as read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedHash {
    /// The modulus.
    pub buckets: u32,
    /// The seed; `None`: the kernel has drawn one.
    pub seed: Option<u32>,
}

/// What a counter has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
}

/// A set as read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedSet {
    /// `ipv4_addr`, `ifname`, or `ifname : mark` for a map.
    pub kind: String,
    /// Whether elements are made with a counter.
    pub counted: bool,
    /// What the elements have counted, by element.
    pub counters: BTreeMap<String, Counter>,
    /// Elements in the spelling of [`Set::elements`].
    pub elements: BTreeSet<String>,
}

/// The table as read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedTable {
    /// Names of time limits of connection tracking.
    pub timeouts: BTreeSet<String>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, ObservedSet>,
    /// Chains by name.
    pub chains: BTreeMap<String, ObservedChain>,
}
