//! Taking a lab away: processes, control groups, namespaces, claim, in that order, from whatever state it is in.
//!
//! Nothing is remembered about a lab that is not also visible from outside: namespaces are found by the prefix, processes
//! by the namespace they live in, control groups in the register. That way a lab of a process that was killed goes the
//! same way as one that is dropped.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::claim::{self, Claim};
use super::{cgroup, process, register};
use crate::netns::{self, Netns, NetnsId};

/// Removes everything that carries the claim's prefix and releases the claim. Goes on after an error, so that one stuck
/// object does not keep the others, and reports the first.
pub(super) fn remove(claim: &Claim) -> Result<()> {
    let names = names(claim.prefix())?;
    let ids: BTreeSet<NetnsId> = names.iter().filter_map(|name| Netns::open(name).ok()).map(|n| n.id()).collect();
    // Below the group with the lab's name a container runtime has made others.
    let groups = || register::sweep().and(cgroup::remove_everywhere(claim.prefix()));
    let mut result = process::kill_inhabitants(&ids).and_then(|()| groups());
    for name in &names {
        result = result.and(Netns::delete(name).map_err(Into::into));
    }
    result.and_then(|()| claim.release()).with_context(|| format!("remove lab {}", claim.prefix()))
}

/// Removes the labs of owners that died without cleaning up; says which.
pub(super) fn remove_stale() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for claim in claim::abandoned()? {
        remove(&claim)?;
        removed.push(claim.prefix().to_owned());
    }
    Ok(removed)
}

/// Names of the namespaces of one lab.
pub fn names(prefix: &str) -> Result<Vec<String>> {
    let mut names = netns::list().context("list network namespaces")?;
    names.retain(|name| claim::belongs_to(name, prefix));
    Ok(names)
}
