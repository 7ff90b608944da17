//! The table that drops packets to VIPs while the ip rules are changed into a tree of another shape.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::family::{inline, ip, of_family};
use crate::model::Family;
use crate::plan::PAUSED_TABLE;

/// Drops packets to these VIPs, from outside and from this node. What an earlier pause has left is replaced.
pub fn pause(vips: &BTreeSet<IpAddr>) -> String {
    let table = format!("table inet {PAUSED_TABLE}");
    let mut script = format!("add {table}\ndelete {table}\nadd {table}\n");
    for hook in ["prerouting", "output"] {
        let of = format!("inet {PAUSED_TABLE} {hook}");
        script.push_str(&format!("add chain {of} {{ type filter hook {hook} priority -301 ; }}\n"));
        let families = Family::ALL.into_iter().filter(|family| of_family(vips, *family).next().is_some());
        script.extend(families.map(|f| format!("add rule {of} {} daddr {} drop\n", ip(f), inline(vips, f))));
    }
    script
}

/// Ends it.
pub fn resume() -> String {
    format!("delete table inet {PAUSED_TABLE}\n")
}
