//! The synchronous state machine that watch events feed.
//!
//! It owns the records of every object and never the objects themselves: a Pod is kilobytes, its record a hundred
//! bytes. Each change marks the Services that it concerns, and [`Index::resolve`] resolves only these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::assignment::AssignmentFault;
use super::dirty::Dirty;
use super::key::{Key, ObjectKey};
use super::known_maps::KnownMaps;
use super::links::Links;
use super::node_report::ReportFault;
use super::records::{Annotations, MapRecord, Reduce, ReportRecord};
use super::resolver::{Resolved, Resolver};
use super::settings::Settings;
use super::store::{Step, Stepped, Store};
use super::stores::Stores;
use super::view::View;
use crate::model::handover::{Assignment, Generation, NodeReport, ServiceUid};

/// One event of a watch, with the list that precedes it (and follows an expiry) as events, too.
#[derive(Debug, Clone, PartialEq)]
pub enum Watched<K> {
    /// A list begins. What is known stays in use until it is complete.
    Init,
    /// An object of the list.
    InitApply(Box<K>),
    /// An object of the list that could not be decoded: what is known of it stays.
    InitKeep(ObjectKey),
    /// The list is complete: it replaces all objects of the kind at once.
    InitDone,
    /// An object appeared or changed.
    Apply(Box<K>),
    /// An object is gone.
    Delete(ObjectKey),
    /// The server does not have the kind, or does not show it. What is known of it stays; else there is none of it.
    Absent,
}

/// One event of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Services of all namespaces.
    Service(Watched<Service>),
    /// EndpointSlices of all namespaces.
    EndpointSlice(Watched<EndpointSlice>),
    /// ServiceCIDRs, which not every server has.
    ServiceCidr(Watched<ServiceCIDR>),
    /// Nodes.
    Node(Watched<Node>),
    /// Pods of the own node.
    Pod(Watched<Pod>),
    /// ConfigMaps of the own namespace that are bucket maps.
    Map(Watched<ConfigMap>),
    /// ConfigMaps of the own namespace that are reports of nodes.
    Report(Watched<ConfigMap>),
}

/// A bucket map as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMap {
    /// The ConfigMap.
    pub key: ObjectKey,
    /// The ConfigMap's `metadata.resourceVersion`.
    pub version: String,
    /// The map, or why it is not used.
    pub map: Result<Arc<Assignment>, AssignmentFault>,
    /// Whether this code may write in its place, or delete it.
    pub may_be_replaced: bool,
}

/// A report as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReport {
    /// The ConfigMap.
    pub key: ObjectKey,
    /// The ConfigMap's `metadata.resourceVersion`.
    pub version: String,
    /// What it says, or why it says nothing.
    pub report: Result<Arc<NodeReport>, ReportFault>,
}

/// All that is known of the cluster.
#[derive(Debug, Clone)]
pub struct Index {
    /// Which annotations are kept; fixed at construction.
    annotations: Annotations,
    /// The records, as the watches have them.
    pub(super) stores: Stores,
    /// How they hang together; updated with each of them.
    links: Links,
    /// The newest map of each Service. Updated with stored maps, and with who asks for a VIP.
    maps: KnownMaps,
    /// What has changed since it was resolved.
    pub(super) dirty: Dirty,
    /// What was resolved last.
    resolver: Resolver,
}

impl Index {
    /// An index that knows nothing yet. `annotation` is [`Settings::annotation`].
    pub fn new(annotation: &str) -> Self {
        Self {
            annotations: Annotations::new(annotation),
            stores: Stores { reports: Store::unwatched(), ..Stores::default() },
            links: Links::default(),
            maps: KnownMaps::default(),
            dirty: Dirty::everything(),
            resolver: Resolver::default(),
        }
    }

    /// The same for a controller: it sees the reports of nodes, and no pods.
    pub fn of_controller(annotation: &str) -> Self {
        let stores = Stores { pods: Store::unwatched(), ..Stores::default() };
        Self { stores, maps: KnownMaps::of_controller(), ..Self::new(annotation) }
    }

    /// Takes one event and says whether anything that matters differs from before, once every kind was listed: a node's
    /// heartbeat changes nothing, for one, and neither does a Service that asks for no VIP.
    pub fn apply(&mut self, change: Change) -> bool {
        let is_first = match change {
            Change::Service(event) => self.service(event),
            Change::EndpointSlice(event) => self.slice(event),
            Change::ServiceCidr(event) => self.service_cidr(event),
            Change::Node(event) => self.node(event),
            Change::Pod(event) => self.pod(event),
            Change::Map(event) => self.map(event),
            Change::Report(event) => self.report(event),
        };
        (self.dirty.take_touched() || is_first) && self.is_complete()
    }

    fn service(&mut self, event: Watched<Service>) -> bool {
        let stepped = step(&mut self.stores.services, event, &self.annotations);
        for delta in &stepped.deltas {
            self.links.service_changed(delta, &mut self.dirty);
            delta.both().for_each(|record| self.refresh_map(&record.uid));
        }
        if stepped.is_first {
            // Until now every Service could have been one that asks.
            let stored: Vec<String> = self.links.with_maps().cloned().collect();
            stored.iter().for_each(|uid| self.refresh_map(uid));
        }
        stepped.is_first
    }

    fn slice(&mut self, event: Watched<EndpointSlice>) -> bool {
        let stepped = step(&mut self.stores.slices, event, &self.annotations);
        stepped.deltas.iter().for_each(|delta| self.links.slice_changed(delta, &self.stores, &mut self.dirty));
        stepped.is_first
    }

    fn service_cidr(&mut self, event: Watched<ServiceCIDR>) -> bool {
        let stepped = step(&mut self.stores.service_cidrs, event, &self.annotations);
        stepped.deltas.iter().for_each(|delta| self.links.service_cidr_changed(delta, &mut self.dirty));
        stepped.is_first
    }

    fn node(&mut self, event: Watched<Node>) -> bool {
        let stepped = step(&mut self.stores.nodes, event, &self.annotations);
        stepped.deltas.iter().for_each(|delta| self.links.node_changed(delta, &mut self.dirty));
        stepped.is_first
    }

    fn pod(&mut self, event: Watched<Pod>) -> bool {
        let stepped = step(&mut self.stores.pods, event, &self.annotations);
        stepped.deltas.iter().for_each(|delta| self.links.pod_changed(delta, &self.stores, &mut self.dirty));
        stepped.is_first
    }

    fn map(&mut self, event: Watched<ConfigMap>) -> bool {
        let stepped = step(&mut self.stores.maps, event, &self.annotations);
        for delta in &stepped.deltas {
            self.links.map_changed(delta, &self.stores, &mut self.dirty);
            delta.both().for_each(|record| self.refresh_map(&record.service_uid));
        }
        // The controller deletes maps that nobody asks for.
        stepped.is_first || !stepped.deltas.is_empty()
    }

    fn report(&mut self, event: Watched<ConfigMap>) -> bool {
        let stepped = step(&mut self.stores.reports, event, &self.annotations);
        stepped.is_first || !stepped.deltas.is_empty()
    }

    /// Looks again which map counts for the Service with this UID.
    fn refresh_map(&mut self, uid: &str) {
        let stored = self.links.maps(uid).iter().filter_map(|key| self.stores.maps.get(key));
        let stored: Vec<&MapRecord> = stored.map(|record| &**record).collect();
        let is_wanted = !self.stores.services.is_listed() || self.links.asks(uid);
        if self.maps.refresh(uid, is_wanted, &stored) {
            self.links.mark_owner(uid, &self.stores, &mut self.dirty);
        }
    }

    /// What the objects ask for now; `None` until every kind was listed once. Pure: the same objects and settings give the same
    /// answer on every node, at any time. A VIP that has not changed is the same object as last time.
    pub fn resolve(&mut self, settings: &Settings) -> Option<Resolved> {
        if !self.is_complete() {
            return None;
        }
        let dirty = std::mem::take(&mut self.dirty);
        let view = View { stores: &self.stores, links: &self.links, maps: &self.maps, settings };
        Some(self.resolver.resolve(view, dirty))
    }

    /// By UID of the Service, the newest map that could be read.
    pub fn assignments(&self) -> &BTreeMap<String, Arc<Assignment>> {
        self.maps.all()
    }

    /// Services whose stored map is an earlier decision than the one that is known here, with the generation of that one:
    /// somebody has restored what was saved before.
    pub fn superseded(&self) -> BTreeMap<ServiceUid, Generation> {
        self.maps.superseded().clone()
    }

    /// UIDs of the Services that ask for VIPs, whether they get them or not.
    pub fn services_with_annotation(&self) -> BTreeSet<String> {
        self.links.asking().cloned().collect()
    }

    /// Names of the nodes that there are; `None` before the first list.
    pub fn node_names(&self) -> Option<BTreeSet<&str>> {
        let names = self.stores.nodes.iter().map(|(key, _)| key.name.as_str());
        self.stores.nodes.is_listed().then(|| names.collect())
    }

    /// The reports, by name of the node; `None` before the first list.
    pub fn stored_reports(&self) -> Option<BTreeMap<String, StoredReport>> {
        let stored = |(key, record): (&Key, &Arc<ReportRecord>)| {
            let (version, report) = (record.version.clone(), record.report.clone());
            (record.node.clone(), StoredReport { key: ObjectKey::clone(key), version, report })
        };
        let reports = self.stores.reports.iter().filter(|(_, record)| !record.node.is_empty());
        self.stores.reports.is_listed().then(|| reports.map(stored).collect())
    }

    /// Every ConfigMap that says it is a bucket map and has the name of one, by UID of the Service.
    pub fn stored_maps(&self) -> BTreeMap<String, StoredMap> {
        let stored = |(key, record): (&Key, &Arc<MapRecord>)| {
            let (version, map) = (record.version.clone(), record.map.clone());
            let map = StoredMap { key: ObjectKey::clone(key), version, map, may_be_replaced: record.may_be_replaced };
            (record.service_uid.clone(), map)
        };
        self.stores.maps.iter().filter(|(_, record)| !record.service_uid.is_empty()).map(stored).collect()
    }

    /// Kinds whose first list is not complete yet: what the agent waits for.
    pub fn missing(&self) -> Vec<&'static str> {
        self.stores.missing()
    }

    fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    /// The same knowledge, as if nothing had ever been linked or resolved.
    #[cfg(test)]
    pub(super) fn anew(&self) -> Self {
        let (mut links, mut dirty) = (Links::default(), Dirty::everything());
        let stores = self.stores.clone();
        stores.services.deltas().for_each(|delta| links.service_changed(&delta, &mut dirty));
        stores.slices.deltas().for_each(|delta| links.slice_changed(&delta, &stores, &mut dirty));
        stores.service_cidrs.deltas().for_each(|delta| links.service_cidr_changed(&delta, &mut dirty));
        stores.nodes.deltas().for_each(|delta| links.node_changed(&delta, &mut dirty));
        stores.pods.deltas().for_each(|delta| links.pod_changed(&delta, &stores, &mut dirty));
        stores.maps.deltas().for_each(|delta| links.map_changed(&delta, &stores, &mut dirty));
        let (annotations, maps) = (self.annotations.clone(), self.maps.clone());
        Self { annotations, stores, links, maps, dirty, resolver: Resolver::default() }
    }
}

/// Takes an event of one kind.
fn step<R: Reduce + PartialEq>(
    store: &mut Store<R>,
    event: Watched<R::Object>,
    annotations: &Annotations,
) -> Stepped<R> {
    reduce(event, annotations).map(|step| store.step(step)).unwrap_or_default()
}

/// `None` for an object without a name, which no server sends.
fn reduce<R: Reduce>(event: Watched<R::Object>, annotations: &Annotations) -> Option<Step<R>> {
    Some(match event {
        Watched::Init => Step::Init,
        Watched::InitApply(object) => Step::InitApply(R::key(&object)?, R::reduce(&object, annotations)),
        Watched::InitKeep(key) => Step::InitKeep(key),
        Watched::InitDone => Step::InitDone,
        Watched::Apply(object) => Step::Apply(R::key(&object)?, R::reduce(&object, annotations)),
        Watched::Delete(key) => Step::Delete(key),
        Watched::Absent => Step::Absent,
    })
}
