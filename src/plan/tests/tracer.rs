//! What becomes of a packet in a table of ours, rule by rule. It knows exactly the expressions that our rules have; any other is an
//! error of the test.

use std::net::IpAddr;

use super::support::ip;
use crate::model::BucketCount;
use crate::model::hash::{Flow, bucket};
use crate::plan::nft::{Chain, Table};

/// A packet as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    pub ports: (u16, u16),
    /// A TCP packet that opens a connection, or answers one that does.
    pub syn: bool,
    pub ack: bool,
    /// Device that it comes in by, and the kind of that device.
    pub iif: &'static str,
    pub kind: &'static str,
    /// Device that it leaves by, and its next hop.
    pub oif: &'static str,
    pub next_hop: Option<IpAddr>,
    pub mark: u32,
    /// The way back to its source leads by the device that it came in by.
    pub comes_back: bool,
    /// A UDP server that is bound to any address takes it.
    pub wildcard: bool,
    /// Of an ICMP error: source, destination, protocol and ports of the packet that it quotes.
    pub quoted: Option<(IpAddr, IpAddr, u8, (u16, u16))>,
}

impl Packet {
    /// TCP in the middle of a connection.
    pub fn tcp(src: &str, dst: &str) -> Packet {
        Packet {
            src: ip(src),
            dst: ip(dst),
            protocol: 6,
            ports: (30_000, 80),
            syn: false,
            ack: true,
            iif: "",
            kind: "",
            oif: "",
            next_hop: None,
            mark: 0,
            comes_back: true,
            wildcard: false,
            quoted: None,
        }
    }

    pub fn udp(src: &str, dst: &str, port: u16) -> Packet {
        Packet { protocol: 17, ports: (30_000, port), ..Packet::tcp(src, dst) }
    }

    /// An error that quotes this packet, from somebody on its way.
    pub fn error(self, from: &str) -> Packet {
        let protocol = if self.src.is_ipv4() { 1 } else { 58 };
        let quoted = Some((self.src, self.dst, self.protocol, self.ports));
        Packet { src: ip(from), dst: self.src, protocol, quoted, ..self }
    }

    pub fn by(self, iif: &'static str) -> Packet {
        let kind = if iif.starts_with("veth") { "veth" } else { "" };
        Packet { iif, kind, ..self }
    }

    pub fn to(self, oif: &'static str) -> Packet {
        Packet { oif, ..self }
    }
}

/// What a packet meets in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Reject,
}

/// What became of a packet.
#[derive(Debug, Clone)]
pub struct Traced {
    pub verdict: Verdict,
    /// The packet as the last rule has left it.
    pub packet: Packet,
    pub untracked: bool,
    /// Its destination, where that was rewritten.
    pub dnat: Option<IpAddr>,
    /// The largest segment that it announces, where that was rewritten.
    pub mss: Option<u32>,
    /// What the rules that matched are for.
    pub met: Vec<String>,
}

impl Traced {
    pub fn met(&self, why: &str) -> bool {
        self.met.iter().any(|met| met == why)
    }
}

/// What becomes of a packet at a hook.
pub fn trace(table: &Table, hook: &str, packet: Packet) -> Traced {
    let mut tracer = Tracer {
        table,
        traced: Traced { verdict: Verdict::Accept, packet, untracked: false, dnat: None, mss: None, met: Vec::new() },
    };
    let at_hook = |chain: &&Chain| chain.base.as_ref().is_some_and(|base| base.hook == hook);
    let mut chains: Vec<&Chain> = table.chains.values().filter(at_hook).collect();
    chains.sort_by_key(|chain| chain.base.as_ref().map(|base| base.priority));
    for chain in chains {
        // What is not tracked is not translated.
        if tracer.traced.untracked && chain.base.as_ref().is_some_and(|base| base.kind == "nat") {
            continue;
        }
        if let Next::Ends(verdict) = tracer.chain(chain)
            && verdict != Verdict::Accept
        {
            tracer.traced.verdict = verdict;
            break;
        }
    }
    tracer.traced
}

struct Tracer<'a> {
    table: &'a Table,
    traced: Traced,
}

/// Where a packet goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// At the next rule.
    Rule,
    /// Behind the rule that led to this chain.
    Returns,
    Ends(Verdict),
}

type Words<'a> = std::iter::Peekable<std::vec::IntoIter<&'a str>>;

impl Tracer<'_> {
    fn chain(&mut self, chain: &Chain) -> Next {
        for rule in &chain.rules {
            let words: Vec<&str> = rule.text.split_whitespace().collect();
            match self.rule(&mut words.into_iter().peekable(), &rule.text, &rule.why) {
                Next::Rule => {}
                next => return next,
            }
        }
        Next::Returns
    }

    fn rule(&mut self, words: &mut Words<'_>, text: &str, why: &str) -> Next {
        while let Some(word) = words.next() {
            if let Some(next) = self.statement(word, words, why) {
                match next {
                    Next::Rule => continue,
                    next => return next,
                }
            }
            match self.matches(word, words) {
                Some(true) => {}
                Some(false) => return Next::Rule,
                None => panic!("no test knows {word:?} in: {text}"),
            }
        }
        self.traced.met.push(why.to_owned());
        Next::Rule
    }

    /// What a statement does; nothing if the word begins none.
    fn statement(&mut self, word: &str, words: &mut Words<'_>, why: &str) -> Option<Next> {
        let mut ends = |next| {
            self.traced.met.push(why.to_owned());
            Some(next)
        };
        match word {
            "counter" => Some(Next::Rule),
            "drop" => ends(Next::Ends(Verdict::Drop)),
            "accept" => ends(Next::Ends(Verdict::Accept)),
            "return" => ends(Next::Returns),
            "reject" => {
                words.by_ref().for_each(drop);
                ends(Next::Ends(Verdict::Reject))
            }
            "notrack" => {
                self.traced.untracked = true;
                Some(Next::Rule)
            }
            "jump" | "goto" => {
                self.traced.met.push(why.to_owned());
                let table = self.table;
                match self.chain(&table.chains[words.next().expect("a chain")]) {
                    Next::Returns if word == "jump" => Some(Next::Rule),
                    next => Some(next),
                }
            }
            "dnat" => {
                let words = [words.next(), words.next(), words.next()].map(|word| word.expect("ip to ADDRESS"));
                self.traced.dnat = Some(ip(words[2]));
                Some(Next::Rule)
            }
            "meta" if words.clone().take(2).eq(["mark", "set"]) => {
                words.next();
                words.next();
                self.traced.packet.mark = self.mark(words);
                Some(Next::Rule)
            }
            "ct" if words.peek() == Some(&"timeout") => {
                let name = words.nth(2).expect("timeout set NAME").trim_matches('"').to_owned();
                assert!(self.table.timeouts.iter().any(|timeout| timeout.name() == name), "{name}");
                Some(Next::Rule)
            }
            "tcp" if words.peek() == Some(&"option") => {
                // `option maxseg size set N`
                self.traced.mss = words.nth(4).and_then(|number| number.parse().ok());
                Some(Next::Rule)
            }
            _ => None,
        }
    }

    /// The value that a mark is set to: a number, or `jhash FIELDS mod BUCKETS seed SEED offset OFFSET`.
    fn mark(&self, words: &mut Words<'_>) -> u32 {
        let first = words.next().expect("a value");
        if first != "jhash" {
            return number(first);
        }
        let fields: Vec<&str> = words.by_ref().take_while(|word| *word != "mod").filter(|word| *word != ".").collect();
        let buckets = BucketCount::new(number(words.next().expect("a modulus"))).unwrap();
        let [_, seed, _, offset] = [(); 4].map(|()| words.next().expect("seed SEED offset OFFSET"));
        let Packet { src, dst, ports, quoted, .. } = self.traced.packet;
        let flow = match (fields.join(" ").as_str(), quoted) {
            ("ip saddr ip daddr" | "ip6 saddr ip6 daddr", _) => Flow { src, dst, ports: None },
            ("ip saddr ip daddr th sport th dport" | "ip6 saddr ip6 daddr th sport th dport", _) => {
                Flow { src, dst, ports: Some(ports) }
            }
            ("@th,192,32 @th,160,32" | "@th,256,128 @th,128,128", Some((src, dst, ..))) => {
                Flow { src: dst, dst: src, ports: None }
            }
            (
                "@th,192,32 @th,160,32 @th,240,16 @th,224,16" | "@th,256,128 @th,128,128 @th,400,16 @th,384,16",
                Some((src, dst, _, (from, to))),
            ) => Flow { src: dst, dst: src, ports: Some((to, from)) },
            (other, _) => panic!("no test knows the hash of {other}"),
        };
        bucket(&flow, buckets, number(seed)).number() + number(offset)
    }

    /// Whether the packet is what an expression asks for; nothing if the word begins none.
    fn matches(&mut self, word: &str, words: &mut Words<'_>) -> Option<bool> {
        let packet = self.traced.packet;
        let of_family = |keyword: &str| (keyword == "ip") == packet.src.is_ipv4();
        Some(match word {
            "iifname" => self.compare(words, packet.iif),
            "oifname" => self.compare(words, packet.oif),
            "meta" if words.peek() == Some(&"mark") => {
                words.next();
                let wanted = number(words.next()?);
                packet.mark == wanted
            }
            "meta" => match words.next()? {
                "l4proto" => self.compare(words, &packet.protocol.to_string()),
                "nfproto" => self.compare(words, if packet.src.is_ipv4() { "ipv4" } else { "ipv6" }),
                "iifkind" => self.compare(words, packet.kind),
                _ => return None,
            },
            "ip" | "ip6" => {
                let address = match words.next()? {
                    "saddr" => packet.src,
                    "daddr" => packet.dst,
                    _ => return None,
                };
                match *words.peek()? {
                    // `set FIELD map @MAP`: what the map does not have ends the rule.
                    "set" => return Some(of_family(word) && self.rewrite_source(words)),
                    "." => {
                        let [_, _, _, set] = [(); 4].map(|()| words.next().expect(". meta mark @SET"));
                        of_family(word) && self.has(set, &format!("{address} . {}", packet.mark))
                    }
                    _ => self.compare(words, &address.to_string()) && of_family(word),
                }
            }
            "udp" if words.next()? == "dport" => {
                self.compare(words, &packet.ports.1.to_string()) && packet.protocol == 17
            }
            "tcp" if words.next()? == "flags" => {
                // `& (syn | OTHER) == syn`
                let [_, _, _, other, _, _] = [(); 6].map(|()| words.next().expect("& (syn | OTHER) == syn"));
                let other = match other {
                    "ack)" => packet.ack,
                    "rst)" => false,
                    _ => return None,
                };
                packet.protocol == 6 && packet.syn && !other
            }
            "socket" => {
                assert_eq!((words.next(), words.next()), (Some("wildcard"), Some("1")));
                packet.wildcard
            }
            "rt" => {
                let ([family, _], none) = ([(); 2].map(|()| words.next().expect("FAMILY nexthop")), String::new());
                let next_hop = packet.next_hop.map_or(none, |next_hop| next_hop.to_string());
                self.compare(words, &next_hop) && of_family(family)
            }
            "fib" => match [(); 5].map(|()| words.next().unwrap_or_default()) {
                ["saddr", ".", "iif", "oif", "missing"] => !packet.comes_back,
                ["daddr", ".", "iif", "oif", "exists"] => packet.iif == packet.oif,
                _ => return None,
            },
            "icmp" | "icmpv6" if words.next()? == "type" => {
                let is_error = packet.quoted.is_some();
                is_error && of_family(if word == "icmp" { "ip" } else { "ip6" }) && {
                    values(words).contains(&"time-exceeded".to_owned())
                }
            }
            // The quoted header has no options.
            "@th,64,8" => self.compare(words, "0x45"),
            "@th,136,8" | "@th,112,8" => {
                let protocol = packet.quoted.map(|(_, _, protocol, _)| protocol.to_string()).unwrap_or_default();
                self.compare(words, &protocol)
            }
            _ => return None,
        })
    }

    /// `[!=] @SET`, `[!=] VALUE` or `[!=] { VALUE, … }`.
    fn compare(&self, words: &mut Words<'_>, value: &str) -> bool {
        let differs = words.next_if_eq(&"!=").is_some();
        let is_in = match words.peek() {
            Some(set) if set.starts_with('@') => self.has(words.next().unwrap_or_default(), value),
            _ => values(words).iter().any(|wanted| match wanted.strip_suffix('*') {
                Some(prefix) => value.starts_with(prefix),
                None => wanted == value,
            }),
        };
        is_in != differs
    }

    fn has(&self, set: &str, element: &str) -> bool {
        self.table.sets[set.trim_start_matches('@')].elements.contains(element)
    }

    /// `set @th,… map @MAP`: the source becomes the quoted destination, if the map has it.
    fn rewrite_source(&mut self, words: &mut Words<'_>) -> bool {
        let [_, _, _, map] = [(); 4].map(|()| words.next().expect("set FIELD map @MAP"));
        let Some((_, quoted, ..)) = self.traced.packet.quoted else { return false };
        let elements = &self.table.sets[map.trim_start_matches('@')].elements;
        let has = elements.iter().any(|element| element.ends_with(&format!(" : {quoted}")));
        if has {
            self.traced.packet.src = quoted;
        }
        has
    }
}

/// One value, or all between braces.
fn values(words: &mut Words<'_>) -> Vec<String> {
    let first = words.next().expect("a value");
    if first != "{" {
        return vec![first.trim_matches('"').to_owned()];
    }
    words.by_ref().take_while(|word| *word != "}").map(|word| word.trim_matches([',', '"']).to_owned()).collect()
}

fn number(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}
