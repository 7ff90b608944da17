//! How records hang together: from an address, a pod, a UID to the objects that it concerns.
//!
//! Links follow each change of a record, and say which Services it concerns:
//!
//! | change of | concerns |
//! |---|---|
//! | a Service | itself; whoever claims an address that it claims or has |
//! | an EndpointSlice | its Service; whoever claims an address of its pods; nodes that list one |
//! | a Pod of the own node | Services whose slices mention it; whoever claims an address of it |
//! | a bucket map | its Service; whoever claims an address that it claims |
//! | a Node's addresses, pod ranges or operating system; a ServiceCIDR | everything: they are rare |
//!
//! What a record said before counts as well as what it says now: an address that is let go of concerns others, too.

mod changes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::key::{Key, ObjectKey};
use super::multimap::Multimap;

/// An object that has an address, or a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Node(Key),
    Service(Key),
    ServiceCidr(Key),
    Slice(Key),
    Pod(Key),
}

/// Where to look for what concerns a Service. What an object says of an address or pod stands in its record.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    /// Annotated Services, by the addresses that they ask for.
    claims: Multimap<IpAddr, Key>,
    /// Objects by the addresses that they have.
    addresses: Multimap<IpAddr, Source>,
    /// Objects by the networks that they give addresses from.
    nets: Multimap<IpNet, Source>,
    /// These networks by the length of their prefix.
    lengths: Multimap<u8, IpNet>,
    /// EndpointSlices by the Service that they belong to.
    slices: Multimap<ObjectKey, Key>,
    /// EndpointSlices by the UIDs of their pods.
    mentions: Multimap<Arc<str>, Key>,
    /// Annotated Services by UID.
    services: Multimap<String, Key>,
    /// Pods of the own node by UID.
    pods: Multimap<String, Key>,
    /// Bucket maps by the UID of their Service.
    maps: Multimap<String, Key>,
    /// Reports by name of the node.
    reports: Multimap<String, Key>,
    /// Operating systems of nodes that run another one than agents do, by name of the node.
    other_systems: BTreeMap<String, String>,
}

impl Links {
    /// Services that ask for an address, whether they may have it or not.
    pub(super) fn claimants(&self, address: IpAddr) -> &[Key] {
        self.claims.get(&address)
    }

    /// Objects whose records say that an address is theirs, or in a network of theirs.
    pub(super) fn sources(&self, address: IpAddr) -> impl Iterator<Item = &Source> {
        let nets = self.lengths.keys().filter_map(move |length| Some(IpNet::new(address, *length).ok()?.trunc()));
        self.addresses.get(&address).iter().chain(nets.flat_map(|net| self.nets.get(&net)))
    }

    /// Whether a node has an address.
    pub(super) fn is_node_address(&self, address: IpAddr) -> bool {
        self.addresses.get(&address).iter().any(|source| matches!(source, Source::Node(_)))
    }

    /// EndpointSlices that list an address of a pod.
    pub(super) fn slices_with(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        self.addresses.get(&address).iter().filter_map(|source| match source {
            Source::Slice(key) => Some(key),
            _ => None,
        })
    }

    /// EndpointSlices of a Service.
    pub(super) fn slices(&self, service: &ObjectKey) -> &[Key] {
        self.slices.get(service)
    }

    /// The pod of the own node with this UID.
    pub(super) fn pod(&self, uid: &str) -> Option<&Key> {
        self.pods.get(uid).last()
    }

    /// Bucket maps that are stored for a Service.
    pub(super) fn maps(&self, uid: &str) -> &[Key] {
        self.maps.get(uid)
    }

    /// UIDs of Services for which bucket maps are stored.
    pub(super) fn with_maps(&self) -> impl Iterator<Item = &String> {
        self.maps.keys()
    }

    /// Reports that are named after a node.
    pub(super) fn reports(&self, node: &str) -> &[Key] {
        self.reports.get(node)
    }

    /// Whether a Service with this UID asks for VIPs.
    pub(super) fn asks(&self, uid: &str) -> bool {
        !self.services.get(uid).is_empty()
    }

    /// The operating system of a node, if it is none that agents run on.
    pub(super) fn other_system(&self, node: &str) -> Option<&str> {
        self.other_systems.get(node).map(String::as_str)
    }
}
