//! How the two families are spelled in a table: the same rule twice, with other words.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Set, SetType};
use crate::model::Family;

/// The protocol's keyword.
pub(super) fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The family as `meta nfproto` names it.
pub(super) fn nfproto(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// The name of a set or chain that each family has one of.
pub(super) fn named(name: &str, family: Family) -> String {
    match family {
        Family::V4 => name.to_owned(),
        Family::V6 => format!("{name}6"),
    }
}

/// The addresses of a family.
pub(super) fn of_family(list: &BTreeSet<IpAddr>, family: Family) -> impl Iterator<Item = &IpAddr> {
    list.iter().filter(move |address| Family::of(**address) == family)
}

/// The addresses of a family as a set within a rule.
pub(super) fn inline(list: &BTreeSet<IpAddr>, family: Family) -> String {
    let list: Vec<String> = of_family(list, family).map(ToString::to_string).collect();
    format!("{{ {} }}", list.join(", "))
}

/// A set with the addresses of a family.
pub(super) fn addresses(list: &BTreeSet<IpAddr>, family: Family) -> Set {
    Set::new(SetType::Address(family), of_family(list, family))
}
