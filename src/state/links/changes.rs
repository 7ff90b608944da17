//! How links follow the changes of records, and which Services a change concerns.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Links, Source};
use crate::state::dirty::Dirty;
use crate::state::foreign::LINUX;
use crate::state::key::{Key, ObjectKey};
use crate::state::multimap::Multimap;
use crate::state::records::{
    EndpointRecord, MapRecord, NodeRecord, PodRecord, ReportRecord, ServiceCidrRecord, ServiceRecord, SliceRecord,
};
use crate::state::reserved::is_of_api_server;
use crate::state::store::Delta;
use crate::state::stores::Stores;
use crate::state::vips::wanted;

/// What becomes of a link.
#[derive(Debug, Clone, Copy)]
enum Link {
    Insert,
    Remove,
}

impl Link {
    fn apply<K: Ord, V: Ord>(self, map: &mut Multimap<K, V>, key: K, value: V) {
        match self {
            Link::Insert => map.insert(key, value),
            Link::Remove => map.remove(&key, &value),
        }
    }
}

impl Links {
    pub(in crate::state) fn service_changed(&mut self, delta: &Delta<ServiceRecord>, dirty: &mut Dirty) {
        self.relink(delta, Links::link_service);
        if delta.both().any(|record| record.vips.is_some()) {
            dirty.mark_service(&delta.key);
        }
        for record in delta.both() {
            self.mark_claims(wanted(record), dirty);
            self.mark_claims(record.addresses(), dirty);
        }
    }

    pub(in crate::state) fn slice_changed(&mut self, delta: &Delta<SliceRecord>, stores: &Stores, dirty: &mut Dirty) {
        self.relink(delta, Links::link_slice);
        for record in delta.both() {
            mark_service_of(&delta.key, record, stores, dirty);
            let addresses = slice_addresses(&delta.key, record);
            if addresses.clone().any(|address| self.is_node_address(address)) {
                dirty.mark_nodes();
            }
            self.mark_claims(addresses, dirty);
        }
    }

    pub(in crate::state) fn service_cidr_changed(&mut self, delta: &Delta<ServiceCidrRecord>, dirty: &mut Dirty) {
        self.relink(delta, Links::link_service_cidr);
        dirty.mark_all();
    }

    pub(in crate::state) fn node_changed(&mut self, delta: &Delta<NodeRecord>, dirty: &mut Dirty) {
        self.relink(delta, Links::link_node);
        let of_services = |node: &Arc<NodeRecord>| (node.all.clone(), node.pod_cidrs.clone(), other_system(node));
        match delta.old.as_ref().map(of_services) == delta.new.as_ref().map(of_services) {
            true => dirty.mark_nodes(),
            false => dirty.mark_all(),
        }
    }

    pub(in crate::state) fn pod_changed(&mut self, delta: &Delta<PodRecord>, stores: &Stores, dirty: &mut Dirty) {
        self.relink(delta, Links::link_pod);
        dirty.mark_pods();
        for record in delta.both() {
            for slice in self.mentions.get(record.uid.as_str()) {
                stores.slices.get(slice).into_iter().for_each(|record| mark_service_of(slice, record, stores, dirty));
            }
            self.mark_claims(record.addresses.iter().copied(), dirty);
        }
    }

    pub(in crate::state) fn map_changed(&mut self, delta: &Delta<MapRecord>, stores: &Stores, dirty: &mut Dirty) {
        self.relink(delta, Links::link_map);
        delta.both().for_each(|record| self.mark_owner(&record.service_uid, stores, dirty));
    }

    pub(in crate::state) fn report_changed(&mut self, delta: &Delta<ReportRecord>) {
        self.relink(delta, Links::link_report);
    }

    /// Marks the Service with this UID, and whoever claims an address that it claims.
    pub(in crate::state) fn mark_owner(&self, uid: &str, stores: &Stores, dirty: &mut Dirty) {
        for service in self.services.get(uid) {
            dirty.mark_service(service);
            let record = stores.services.get(service);
            record.into_iter().for_each(|record| self.mark_claims(wanted(record), dirty));
        }
    }

    fn mark_claims(&self, addresses: impl IntoIterator<Item = IpAddr>, dirty: &mut Dirty) {
        addresses.into_iter().for_each(|address| dirty.mark_services(self.claims.get(&address)));
    }

    /// What the old record says goes, what the new one says comes.
    fn relink<R>(&mut self, delta: &Delta<R>, link: fn(&mut Links, &Key, &R, Link)) {
        if let Some(old) = &delta.old {
            link(self, &delta.key, old, Link::Remove);
        }
        if let Some(new) = &delta.new {
            link(self, &delta.key, new, Link::Insert);
        }
    }

    fn link_service(&mut self, key: &Key, record: &ServiceRecord, link: Link) {
        if record.vips.is_some() {
            link.apply(&mut self.services, record.uid.clone(), key.clone());
        }
        wanted(record).into_iter().for_each(|address| link.apply(&mut self.claims, address, key.clone()));
        self.link_addresses(record.addresses(), &Source::Service(key.clone()), link);
    }

    fn link_slice(&mut self, key: &Key, record: &SliceRecord, link: Link) {
        if let Some(service) = service_of(key, record) {
            link.apply(&mut self.slices, service, key.clone());
        }
        for pod in record.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
            link.apply(&mut self.mentions, pod.uid.clone(), key.clone());
        }
        self.link_addresses(slice_addresses(key, record), &Source::Slice(key.clone()), link);
    }

    fn link_service_cidr(&mut self, key: &Key, record: &ServiceCidrRecord, link: Link) {
        self.link_nets(&record.nets, &Source::ServiceCidr(key.clone()), link);
    }

    fn link_node(&mut self, key: &Key, record: &NodeRecord, link: Link) {
        let source = Source::Node(key.clone());
        self.link_addresses(record.all.iter().copied(), &source, link);
        self.link_nets(&record.pod_cidrs, &source, link);
        match (other_system(record), link) {
            (Some(os), Link::Insert) => drop(self.other_systems.insert(key.name.clone(), os)),
            _ => drop(self.other_systems.remove(&key.name)),
        }
    }

    fn link_pod(&mut self, key: &Key, record: &PodRecord, link: Link) {
        link.apply(&mut self.pods, record.uid.clone(), key.clone());
        self.link_addresses(record.addresses.iter().copied(), &Source::Pod(key.clone()), link);
    }

    fn link_map(&mut self, key: &Key, record: &MapRecord, link: Link) {
        if !record.service_uid.is_empty() {
            link.apply(&mut self.maps, record.service_uid.clone(), key.clone());
        }
    }

    fn link_report(&mut self, key: &Key, record: &ReportRecord, link: Link) {
        if !record.node.is_empty() {
            link.apply(&mut self.reports, record.node.clone(), key.clone());
        }
    }

    fn link_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>, source: &Source, link: Link) {
        addresses.into_iter().for_each(|address| link.apply(&mut self.addresses, address, source.clone()));
    }

    fn link_nets(&mut self, nets: &[IpNet], source: &Source, link: Link) {
        for net in nets.iter().map(IpNet::trunc) {
            link.apply(&mut self.nets, net, source.clone());
            let link = if self.nets.get(&net).is_empty() { Link::Remove } else { Link::Insert };
            link.apply(&mut self.lengths, net.prefix_len(), net);
        }
    }
}

/// The operating system of a node, if it is none that agents run on.
fn other_system(node: &NodeRecord) -> Option<String> {
    node.os().filter(|os| *os != LINUX).map(ToOwned::to_owned)
}

/// The Service that a slice belongs to.
fn service_of(key: &ObjectKey, slice: &SliceRecord) -> Option<ObjectKey> {
    Some(ObjectKey { namespace: key.namespace.clone(), name: slice.service.clone()? })
}

/// Marks the Service of a slice, if it asks for VIPs.
fn mark_service_of(key: &ObjectKey, slice: &SliceRecord, stores: &Stores, dirty: &mut Dirty) {
    let service = service_of(key, slice).and_then(|service| stores.services.entry(&service));
    if let Some((service, _)) = service.filter(|(_, record)| record.vips.is_some()) {
        dirty.mark_service(service);
    }
}

/// Addresses of a slice that somebody has: those of pods, and those of the API server.
fn slice_addresses<'a>(key: &ObjectKey, slice: &'a SliceRecord) -> impl Iterator<Item = IpAddr> + Clone + use<'a> {
    let all = is_of_api_server(key, slice);
    let endpoints = slice.endpoints.iter().filter(move |endpoint| all || endpoint.pod.is_some());
    endpoints.filter_map(EndpointRecord::ip)
}
