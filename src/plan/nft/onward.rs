//! The tables by which a pod passes packets on: those of connections that it does not have, in buckets that it has lost.
//!
//! ```text
//! prerouting   out of a tunnel, TCP that opens no connection, or an ICMP error about TCP: stray
//! stray        without an open connection here: onward
//! onward       hash the flow as ingress nodes do, and send it to the pod that comes next
//! ```
//!
//! One table of family ip, one of ip6: tables of both families (inet) take no `dup`. They stand before our own table of
//! inet, which would count what is passed on. `dup` looks up what stands for the next pod and encapsulates as that route says;
//! no forwarding has to be enabled in the pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::family::{inline, ip};
use super::form::Form;
use super::node::{about_frames, base};
use super::script::ONWARD;
use super::{Chain, Rule, Set, SetType, Table, TableFamily};
use crate::model::{Family, Flows, MarkField};

/// Just before [`super::pod`].
const BEFORE_RAW: i32 = -301;

/// What a pod passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnwardTable {
    /// Name of the node that configured the pod.
    pub node: String,
    /// Where VIP packets come in, as nft matches it.
    pub entrances: Vec<String>,
    /// Field of the fwmark, for the buckets' numbers.
    pub mark: MarkField,
    /// For a VIP and a bucket's mark, what stands for the next pod.
    pub next: BTreeMap<(IpAddr, u32), IpAddr>,
    /// The VIPs, by how their flows become buckets, and whether by addresses only.
    pub hashed: BTreeMap<(Flows, bool), BTreeSet<IpAddr>>,
}

impl OnwardTable {
    /// The tables as data.
    pub fn tables(&self) -> BTreeMap<TableFamily, Table> {
        let families: BTreeSet<Family> = self.hashed.values().flatten().map(|vip| Family::of(*vip)).collect();
        families.into_iter().map(|family| (of(family), self.table(family))).collect()
    }

    fn table(&self, family: Family) -> Table {
        let of_family = self.next.iter().filter(|((vip, _), _)| Family::of(*vip) == family);
        let elements = of_family.map(|((vip, mark), next)| format!("{vip} . {mark} : {next}"));
        let map = Set::new(SetType::AddressMarkToAddress(family), elements);
        let mut chains = BTreeMap::from([
            ("about".to_owned(), about_frames(&self.node)),
            ("prerouting".to_owned(), self.prerouting(family)),
        ]);
        for form in Form::BOTH {
            chains.insert(form.named("stray"), stray(&form.named("onward")));
            chains.insert(form.named("onward"), self.onward(family, form));
        }
        Table { sets: BTreeMap::from([(ONWARD.to_owned(), map)]), chains }
    }

    fn prerouting(&self, family: Family) -> Chain {
        let vips = inline(&self.hashed.values().flatten().copied().collect(), family);
        let rule = |(from, form): (&String, Form)| {
            let text = format!(
                "{from} {} daddr {vips} {} goto {}",
                ip(family),
                form.of_open_connection(family),
                form.named("stray")
            );
            Rule::new("may belong to another pod", text)
        };
        let rules = self.entrances.iter().flat_map(|from| Form::BOTH.map(|form| (from, form))).map(rule);
        base("filter", "prerouting", BEFORE_RAW, rules.collect())
    }

    fn onward(&self, family: Family, form: Form) -> Chain {
        let mut rules = Vec::new();
        for ((flows, affinity), vips) in &self.hashed {
            if vips.iter().all(|vip| Family::of(*vip) != family) {
                continue;
            }
            let what = form.hash_expr(family, !affinity);
            let set = self.mark.nft_statements(what, flows.buckets, flows.seed).join(" ");
            rules.push(Rule::new("its bucket", format!("{} daddr {} {set}", ip(family), inline(vips, family))));
        }
        let ip = ip(family);
        let ttl = match family {
            Family::V4 => "ip ttl",
            Family::V6 => "ip6 hoplimit",
        };
        // dup does not look at the TTL that it lowers, and two pods may send a packet to and fro while they disagree.
        let dup = format!("{ttl} > 1 dup to {ip} daddr . meta mark map @{ONWARD} drop");
        rules.push(Rule::new("ask the next pod", dup));
        rules.push(Rule::new("this pod's own bucket", "meta mark set 0"));
        Chain { base: None, rules }
    }
}

/// The family of the table for packets of a family.
fn of(family: Family) -> TableFamily {
    match family {
        Family::V4 => TableFamily::Ip,
        Family::V6 => TableFamily::Ip6,
    }
}

/// Sends on what belongs to no connection of this pod. `wildcard` means nothing for a connection that is only just being
/// opened, or has been closed; `transparent` does (`nft_socket_eval`, net/netfilter/nft_socket.c).
fn stray(onward: &str) -> Chain {
    let rules = vec![
        Rule::new("an open connection", "socket wildcard 0 return"),
        Rule::new("only a listener", format!("socket wildcard 1 goto {onward}")),
        Rule::new("being opened or closed", "socket transparent 0 return"),
        Rule::new("being opened or closed", "socket transparent 1 return"),
        Rule::new("no socket at all", format!("goto {onward}")),
    ];
    Chain { base: None, rules }
}
