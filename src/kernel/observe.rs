//! Reading a namespace back: everything of ours, and as much of the rest as decisions need.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::plan::filter::ObservedFilter;
use crate::plan::nft::{ObservedTable, TableFamily};
use crate::plan::{Observed, Sysctl};

use super::error::KernelError;
use super::netlink::Netlink;
use super::nft::Tables;
use super::{address, bpf, label, link, neighbour, nexthop, nft, route, rule, sysctl};

/// Name of the nft map that remembers the old values of the sysctls of one kind, without the kind.
const SAVED: &str = "saved_";

/// Reads the network namespace of the calling thread.
///
/// Sysctls are read if they are in `wanted_sysctls` or if our nft table remembers an old value of them; those that do not
/// exist are left out. Addresses on links whose name starts with `link_prefix` are ours, whatever their protocol number.
///
/// The parts are read one after the other, so that two of them may disagree when something changes meanwhile; the next
/// reconcile sees to it.
///
/// # Errors
/// [`KernelError::Read`] says what could not be read. Nothing is ever reported as empty because it could not be read;
/// only what this kernel cannot have at all (MPLS routes, nexthop objects) is.
pub fn observe<'a>(
    wanted_sysctls: impl Iterator<Item = &'a Sysctl>,
    link_prefix: &str,
) -> Result<Observed, KernelError> {
    observe_anew(wanted_sysctls, link_prefix, None)
}

/// The same where the nft tables of some generation are `known`. They are listed only if the ruleset has gone on since.
///
/// # Errors
/// As [`observe`].
pub fn observe_anew<'a>(
    wanted_sysctls: impl Iterator<Item = &'a Sysctl>,
    link_prefix: &str,
    known: Option<&Tables>,
) -> Result<Observed, KernelError> {
    let mut netlink = Netlink::route()?;
    let links = link::dump(&mut netlink).map_err(reading("links"))?;
    let names = link::names(&links);
    let filters = bpf::dump(&mut netlink, &links, link_prefix).map_err(reading("filters"))?;
    let addresses = address::dump(&mut netlink, &names, link_prefix).map_err(reading("addresses"))?;
    let nexthops = nexthop::dump(&mut netlink, &names).map_err(reading("nexthops"))?;
    let routes = route::dump(&mut netlink).map_err(reading("routes"))?;
    let name = |(address, index): (IpAddr, u32)| Some((address, names.get(&index)?.clone()));
    let (labels, foreign_labels) = label::dump(&mut netlink, &names).map_err(reading("MPLS routes"))?;
    let rules = rule::dump(&mut netlink).map_err(reading("rules"))?;
    let mpls = label::available();
    let neighbours =
        if mpls { neighbour::dump(&mut netlink, &names).map_err(reading("neighbours"))? } else { BTreeMap::new() };
    let Tables { tables: mut frames, generation: nft_generation, withdrawn, paused } =
        nft::list_all(known).map_err(reading("nft tables"))?;
    let nft = frames.remove(&TableFamily::Inet);
    let sysctls = read_sysctls(wanted_sysctls.cloned().chain(remembered(nft.as_ref())))?;
    Ok(Observed {
        links,
        filters,
        addresses,
        nexthops,
        routes: routes.ours,
        foreign_routes: routes.foreign,
        next_hops: routes.next_hops.into_iter().filter_map(name).collect(),
        labels,
        foreign_labels,
        rules,
        sysctls,
        neighbours,
        withdrawn,
        paused,
        nft_generation,
        nft,
        frames,
    })
}

/// What is attached to links of ours in the network namespace of the calling thread, by device. Nothing else is read.
///
/// # Errors
/// [`KernelError::Read`]
pub fn filters(link_prefix: &str) -> Result<BTreeMap<String, ObservedFilter>, KernelError> {
    let mut netlink = Netlink::route()?;
    let links = link::dump(&mut netlink).map_err(reading("links"))?;
    bpf::dump(&mut netlink, &links, link_prefix).map_err(reading("filters"))
}

fn reading(what: &'static str) -> impl Fn(KernelError) -> KernelError {
    move |source| KernelError::Read { what, source: Box::new(source) }
}

/// The present values of sysctls; those that do not exist are left out.
///
/// # Errors
/// [`KernelError::Sysctl`]
pub fn read_sysctls(keys: impl Iterator<Item = Sysctl>) -> Result<BTreeMap<Sysctl, u32>, KernelError> {
    let mut values = BTreeMap::new();
    for key in keys {
        if !values.contains_key(&key)
            && let Some(value) = sysctl::read(&key)?
        {
            values.insert(key, value);
        }
    }
    Ok(values)
}

/// The sysctls whose old values the table remembers: maps `saved_<kind>` with elements `dev : value`.
fn remembered(table: Option<&ObservedTable>) -> Vec<Sysctl> {
    let maps = table.into_iter().flat_map(|table| &table.sets);
    maps.filter_map(|(name, set)| Some((name.strip_prefix(SAVED)?, set)))
        .flat_map(|(kind, set)| set.elements.iter().map(move |element| (kind, element)))
        .filter_map(|(kind, element)| Sysctl::from_name(kind, element.split(" : ").next()?))
        .collect()
}
