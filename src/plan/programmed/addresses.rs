//! The addresses that a node knows pods by: which of them are new when VIPs change, and which nobody has any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Family, Vip};
use crate::plan::node::{RouteFact, Routes};

/// Addresses of pods, with what is known of the ways there.
#[derive(Debug, Clone)]
pub(super) struct PodAddresses {
    /// How many VIPs have a pod with the address.
    vips: BTreeMap<IpAddr, usize>,
    /// How many addresses are reached by gateways behind a device.
    behind: BTreeMap<String, usize>,
}

/// What some changes of VIPs make of the addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Nobody had them before.
    pub new: BTreeSet<IpAddr>,
    /// Nobody has them any more.
    pub gone: BTreeSet<IpAddr>,
}

impl PodAddresses {
    /// The addresses of the pods of these VIPs.
    pub fn of<'a>(vips: impl Iterator<Item = &'a Vip>, routes: &Routes) -> PodAddresses {
        let mut known = PodAddresses { vips: BTreeMap::new(), behind: BTreeMap::new() };
        for address in vips.flat_map(addresses) {
            *known.vips.entry(address).or_default() += 1;
        }
        for device in known.vips.keys().filter_map(|address| device(routes.get(address)?)) {
            *known.behind.entry(device.to_owned()).or_default() += 1;
        }
        known
    }

    /// Takes note of VIPs as they were and as they are.
    pub fn note(&mut self, changed: &[(Arc<Vip>, Arc<Vip>)]) -> Moved {
        let mut before: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (old, new) in changed {
            let (old, new) = (addresses(old), addresses(new));
            for (address, is_new) in old.symmetric_difference(&new).map(|address| (*address, new.contains(address))) {
                let count = self.vips.entry(address).or_default();
                before.entry(address).or_insert(*count);
                *count = if is_new { count.saturating_add(1) } else { count.saturating_sub(1) };
            }
        }
        let mut moved = Moved::default();
        for (address, before) in before {
            let is_gone = self.vips.get(&address) == Some(&0);
            if is_gone {
                self.vips.remove(&address);
            }
            match (before, is_gone) {
                (0, false) => drop(moved.new.insert(address)),
                (1.., true) => drop(moved.gone.insert(address)),
                _ => {}
            }
        }
        moved
    }

    /// Takes note of how an address is reached that is new, or of how one was that is gone. Says whether it is the first or was the last
    /// behind its device.
    pub fn reached(&mut self, fact: &RouteFact, is_new: bool) -> bool {
        let Some(device) = device(fact) else { return false };
        let count = self.behind.entry(device.to_owned()).or_default();
        let before = std::mem::replace(count, if is_new { count.saturating_add(1) } else { count.saturating_sub(1) });
        before == 0 || *count == 0
    }

    /// The families of the addresses.
    pub fn families(&self) -> BTreeSet<Family> {
        let (first, last) = (self.vips.first_key_value(), self.vips.last_key_value());
        // IPv4 addresses come first.
        first.into_iter().chain(last).map(|(address, _)| Family::of(*address)).collect()
    }
}

/// The device of an address that is not on-link.
fn device(fact: &RouteFact) -> Option<&str> {
    fact.gateway.is_some().then_some(fact.dev.as_str())
}

/// The addresses of all pods of a VIP.
fn addresses(vip: &Vip) -> BTreeSet<IpAddr> {
    vip.pods().into_iter().flat_map(|pod| pod.addresses.iter()).collect()
}
