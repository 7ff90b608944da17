//! What sysctls were before we changed them.
//!
//! The old values are kept in maps of our own nft table (`saved_rp_filter { type ifname : mark }`): in the kernel, in the
//! very namespace they belong to, written in a transaction before the sysctl is touched and gone with the namespace. A file
//! would outlive the namespace and be found by the next one that gets the same inode number.

use std::collections::{BTreeMap, BTreeSet};

use super::nft::{ObservedTable, Set, SetType, Table};
use super::{Observed, Step, Sysctl, SysctlWant};

/// Key under which a sysctl of the whole namespace is kept: no device can have this name (`dev_valid_name`).
const WHOLE_NAMESPACE: &str = ".";

/// Prefix of the maps' names.
pub const PREFIX: &str = "saved_";

/// The values that our table remembers.
pub fn saved(table: Option<&ObservedTable>) -> BTreeMap<Sysctl, u32> {
    let mut out = BTreeMap::new();
    for (map, set) in table.iter().flat_map(|t| &t.sets) {
        let Some(name) = map.strip_prefix(PREFIX) else { continue };
        for element in &set.elements {
            if let Some((dev, value)) = element.split_once(" : ")
                && let (Some(key), Ok(value)) = (Sysctl::from_name(name, dev), value.parse())
            {
                out.insert(key, value);
            }
        }
    }
    out
}

/// How the sysctls of one namespace have to change.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SysctlDiff {
    /// What the table must remember while the writes are made and afterwards.
    pub keep: BTreeMap<Sysctl, u32>,
    /// Values to write before traffic is let in.
    pub set: Vec<Step>,
    /// Values to put back once nothing needs ours.
    pub restore: Vec<Step>,
}

/// Compares what is wanted with what is there. `remembered` is what an earlier look at the table showed: it stands in when
/// somebody has deleted the table since. Devices in `own_links` come and go with us: there is nothing to put back.
pub fn diff_sysctls(
    wanted: &BTreeMap<Sysctl, SysctlWant>,
    observed: &Observed,
    remembered: &BTreeMap<Sysctl, u32>,
    own_links: &BTreeSet<&str>,
) -> SysctlDiff {
    let in_table = saved(observed.nft.as_ref());
    let old = |key: &Sysctl| in_table.get(key).or_else(|| remembered.get(key)).copied();
    let mut out = SysctlDiff::default();
    for (key, want) in wanted {
        let own = key.dev().is_some_and(|d| own_links.contains(d));
        if key.dev().is_some_and(|d| !own && !observed.links.contains_key(d)) {
            continue;
        }
        let current = observed.sysctls.get(key).copied();
        let fits = current.is_some_and(|v| want.accepts(v));
        if !own && let Some(value) = old(key).or(current.filter(|_| !fits)) {
            out.keep.insert(key.clone(), value);
        }
        if !fits {
            out.set.push(Step::SetSysctl(key.clone(), want.value()));
        }
    }
    let mut known = remembered.clone();
    known.extend(in_table);
    for (key, value) in known.into_iter().filter(|(k, _)| !wanted.contains_key(k)) {
        let Some(current) = observed.sysctls.get(&key).copied() else { continue };
        if let Some(value) = put_back(&key, value, current, observed) {
            out.restore.push(Step::SetSysctl(key, value));
        }
    }
    out
}

/// The value to write back, or none if there is nothing to do or somebody else has changed it since.
fn put_back(key: &Sysctl, old: u32, current: u32, observed: &Observed) -> Option<u32> {
    let ours = match key {
        Sysctl::RpFilter(_) | Sysctl::ArpAnnounce(_) => current == 2,
        Sysctl::ArpIgnore(_) | Sysctl::MplsInput(_) => current == 1,
        Sysctl::DisableIpv6(_) => current == 0,
        Sysctl::PlatformLabels => true,
    };
    // Lowering platform_labels deletes every MPLS route above it (net/mpls/af_mpls.c, resize_platform_label_table).
    let floor = match key {
        Sysctl::PlatformLabels => observed.foreign_labels.last().map_or(0, |l| l + 1),
        _ => 0,
    };
    let value = old.max(floor);
    (ours && value != current).then_some(value)
}

/// Adds the maps that remember `keep` to a table.
pub fn add_maps(table: &mut Table, keep: &BTreeMap<Sysctl, u32>) {
    for (key, value) in keep {
        let set = table
            .sets
            .entry(format!("{PREFIX}{}", key.name()))
            .or_insert_with(|| Set::new::<String>(SetType::IfnameToMark, []));
        set.elements.insert(format!("{} : {value}", key.dev().unwrap_or(WHOLE_NAMESPACE)));
    }
}
