//! The addresses that a node knows pods by: which of them are new when VIPs change, and which nobody has any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::counts::{Counts, Moved};
use crate::model::Family;
use crate::plan::node::{RouteFact, Routes};

/// Addresses of pods that VIPs have, with the devices that lead there.
#[derive(Debug, Clone, Default)]
pub(super) struct PodAddresses {
    known: Counts<IpAddr>,
    /// How many addresses each device leads to, of those that matter.
    devices: BTreeMap<String, usize>,
}

impl PodAddresses {
    /// The addresses of the pods of some VIPs, of each VIP once. `device` names the device of a way that matters.
    pub fn of(
        vips: impl Iterator<Item = BTreeSet<IpAddr>>,
        routes: &Routes,
        device: impl Fn(&RouteFact) -> Option<&str>,
    ) -> PodAddresses {
        let mut addresses = PodAddresses::default();
        vips.for_each(|of_vip| addresses.known.add(of_vip));
        for device in addresses.known.keys().filter_map(|address| device(routes.get(address)?)) {
            *addresses.devices.entry(device.to_owned()).or_default() += 1;
        }
        addresses
    }

    /// Takes note of the addresses that VIPs had and have.
    pub fn note(&mut self, changed: impl Iterator<Item = (BTreeSet<IpAddr>, BTreeSet<IpAddr>)>) -> Moved<IpAddr> {
        self.known.note(changed)
    }

    /// Takes note of the device that leads to an address that is new, or led to one that is gone. Says whether it is the first or was the
    /// last behind it.
    pub fn led_by(&mut self, device: &str, is_new: bool) -> bool {
        let count = self.devices.entry(device.to_owned()).or_default();
        let before = std::mem::replace(count, if is_new { count.saturating_add(1) } else { count.saturating_sub(1) });
        before == 0 || *count == 0
    }

    /// All of them.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &IpAddr> {
        self.known.keys()
    }

    /// The families of the addresses.
    pub fn families(&self) -> BTreeSet<Family> {
        // IPv4 addresses come first.
        let mut keys = self.all();
        let (first, last) = (keys.next(), keys.next_back());
        first.into_iter().chain(last).map(|address| Family::of(*address)).collect()
    }
}
