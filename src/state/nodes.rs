//! The nodes, as the data path sees them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::foreign::LINUX;
use super::records::NodeRecord;
use super::reserved::has_pod_with;
use super::view::View;
use crate::model::{Addresses, Node};

impl View<'_> {
    /// Every node by name.
    pub(super) fn nodes(&self) -> BTreeMap<String, Node> {
        // The first step of many upgrades is to cordon all nodes, and their VIPs must not go off the air for it.
        let serves = |record: &NodeRecord| self.is_ingress(record) && record.ready && !record.cordoned;
        let others_serve = self.stores.nodes.iter().any(|(_, record)| serves(record));
        let nodes = self.stores.nodes.iter().map(|(key, record)| {
            let (name, ingress) = (key.name.clone(), self.is_ingress(record));
            let (uid, cordoned) = (record.uid.clone(), record.cordoned && others_serve);
            let node = Node { name, uid, addresses: self.own_addresses(record), ingress, cordoned };
            (key.name.clone(), node)
        });
        nodes.collect()
    }

    fn is_ingress(&self, record: &NodeRecord) -> bool {
        let selector = self.settings.ingress_nodes.as_ref();
        selector.is_none_or(|selector| selector.matches(&record.labels)) && record.os().is_none_or(|os| os == LINUX)
    }

    /// The addresses of a node, without those of its pods, which some clouds list as well (kubernetes/cloud-provider-aws#656). The
    /// first of each family is its own, also where pods on the host's network have it.
    fn own_addresses(&self, record: &NodeRecord) -> Vec<IpAddr> {
        let first = Addresses::first_of(&record.internal);
        let is_own = |address: &IpAddr| first.iter().any(|own| own == *address) || !self.is_pod_address(*address);
        record.internal.iter().copied().filter(is_own).collect()
    }

    fn is_pod_address(&self, address: IpAddr) -> bool {
        let slices = self.links.slices_with(address).filter_map(|key| self.stores.slices.get(key));
        slices.into_iter().any(|slice| has_pod_with(address, slice))
    }
}
