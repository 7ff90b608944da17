//! The synchronous state machine that watch events feed.
//!
//! It owns the records of every object and never the objects themselves: a Pod is kilobytes, its record a hundred
//! bytes. It decides nothing about VIPs; [`resolve`](super::resolve) does, from a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::records::{
    Annotations, GoodMap, MapRecord, NodeRecord, PodRecord, Reduce, ReportRecord, ServiceRecord, SliceRecord,
};
use super::report::Drained;
use super::snapshot::{ObjectKey, Snapshot};
use super::store::{Step, Store};
use crate::model::{Bucket, Drain, SharedMap};

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
}

/// One event of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Services of all namespaces.
    Service(Watched<Service>),
    /// EndpointSlices of all namespaces.
    EndpointSlice(Watched<EndpointSlice>),
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
    /// The ConfigMap's `metadata.resourceVersion`.
    pub version: String,
    /// The map; `None` if it cannot be read.
    pub map: Option<Arc<SharedMap>>,
    /// The ConfigMap.
    pub key: ObjectKey,
}

/// All that is known of the cluster.
#[derive(Debug)]
pub struct Index {
    /// Which annotations are kept; fixed at construction.
    annotations: Annotations,
    /// Every Service; updated by [`Change::Service`].
    services: Store<ServiceRecord>,
    /// Every EndpointSlice; updated by [`Change::EndpointSlice`].
    slices: Store<SliceRecord>,
    /// Every Node; updated by [`Change::Node`].
    nodes: Store<NodeRecord>,
    /// Pods of the own node; updated by [`Change::Pod`].
    pods: Store<PodRecord>,
    /// Bucket maps; updated by [`Change::Map`].
    maps: Store<MapRecord>,
    /// Reports of nodes; updated by [`Change::Report`]. Nodes do without them: they only wait a little longer then.
    reports: Store<ReportRecord>,
    /// By UID of the Service, the last map that could be read. Updated with `maps`; a map that is damaged or deleted stays
    /// here until its Service is gone, because the kernel of every node is as it said ([`Index::forget_map`] apart).
    good_maps: Arc<BTreeMap<String, GoodMap>>,
}

impl Index {
    /// An index that knows nothing yet. `annotation` is [`Settings::annotation`](super::Settings::annotation).
    pub fn new(annotation: &str) -> Self {
        Self {
            annotations: Annotations::new(annotation),
            services: Store::default(),
            slices: Store::default(),
            nodes: Store::default(),
            pods: Store::default(),
            maps: Store::default(),
            reports: Store::unwatched(),
            good_maps: Arc::default(),
        }
    }

    /// The same for a controller: it sees no pods, but what nodes report.
    pub fn of_controller(annotation: &str) -> Self {
        Self { pods: Store::unwatched(), reports: Store::default(), ..Self::new(annotation) }
    }

    /// Takes one event and says whether [`Self::snapshot`] differs from before: a node's heartbeat, for one, changes
    /// nothing.
    pub fn apply(&mut self, change: Change) -> bool {
        let of_services = matches!(change, Change::Service(_));
        let of_maps = matches!(change, Change::Map(_));
        let changed = match change {
            Change::Service(event) => reduce(event, &self.annotations).is_some_and(|s| self.services.step(s)),
            Change::EndpointSlice(event) => reduce(event, &self.annotations).is_some_and(|s| self.slices.step(s)),
            Change::Node(event) => reduce(event, &self.annotations).is_some_and(|s| self.nodes.step(s)),
            Change::Pod(event) => reduce(event, &self.annotations).is_some_and(|s| self.pods.step(s)),
            Change::Report(event) => reduce(event, &self.annotations).is_some_and(|s| self.reports.step(s)),
            Change::Map(event) => reduce(event, &self.annotations).is_some_and(|s| self.maps.step(s)),
        };
        if changed && (of_maps || of_services) {
            self.refresh_good_maps();
        }
        changed && self.is_complete()
    }

    /// Takes in what is stored and newer, and forgets the maps of Services that are gone or do not ask for a VIP any more.
    fn refresh_good_maps(&mut self) {
        let asking: Option<BTreeSet<&str>> = self.services.current().map(|services| {
            services.values().filter(|service| service.vips.is_some()).map(|service| service.uid.as_str()).collect()
        });
        let wanted = |uid: &str| asking.as_ref().is_none_or(|uids| uids.contains(uid));
        let newer = |uid: &str, map: &GoodMap| {
            self.good_maps.get(uid).is_none_or(|known| known != map && !map.is_older_than(known))
        };
        let records = self.maps.current().into_iter().flat_map(|maps| maps.values());
        let good = records.filter_map(|record| Some((record.service_uid.clone(), record.good()?)));
        let new: Vec<(String, GoodMap)> = good.filter(|(uid, map)| wanted(uid) && newer(uid, map)).collect();
        let gone: Vec<String> = self.good_maps.keys().filter(|uid| !wanted(uid)).cloned().collect();
        if !new.is_empty() || !gone.is_empty() {
            let known = Arc::make_mut(&mut self.good_maps);
            known.retain(|uid, _| !gone.contains(uid));
            known.extend(new);
        }
    }

    /// Forgets the map of a Service whose ConfigMap the caller has deleted: a Service that asks for a VIP again meanwhile
    /// does not bring it back.
    pub fn forget_map(&mut self, service_uid: &str) {
        if self.good_maps.contains_key(service_uid) {
            Arc::make_mut(&mut self.good_maps).remove(service_uid);
        }
    }

    /// UIDs of the Services that ask for VIPs, whether they get them or not.
    pub fn services_with_annotation(&self) -> BTreeSet<String> {
        let services = self.services.current().into_iter().flat_map(|services| services.values());
        services.filter(|service| service.vips.is_some()).map(|service| service.uid.clone()).collect()
    }

    /// Whether the node of a pod has reported that it has no connections left in a bucket of a Service which it lost with
    /// this drain.
    pub fn is_drained(&self, service_uid: &str, bucket: Bucket, drain: &Drain) -> bool {
        let drained = Drained {
            service: service_uid.to_owned(),
            pod: drain.endpoint.clone(),
            generation: drain.generation,
            bucket,
        };
        let mut reports = self.reports.current().into_iter().flat_map(|reports| reports.values());
        reports.any(|record| record.report.drained.contains(&drained))
    }

    /// Reports of nodes that are not there any more, with their versions.
    pub fn orphaned_reports(&self) -> Vec<(ObjectKey, String)> {
        let Some(nodes) = self.nodes.current() else { return Vec::new() };
        let is_node = |name: &str| nodes.contains_key(&ObjectKey { namespace: String::new(), name: name.to_owned() });
        let reports = self.reports.current().into_iter().flat_map(|reports| reports.iter());
        let orphaned = reports.filter(|(_, report)| !is_node(&report.node));
        orphaned.map(|(key, report)| (key.clone(), report.version.clone())).collect()
    }

    /// Every ConfigMap that says it is a bucket map and has the name of one, by UID of the Service.
    pub fn stored_maps(&self) -> BTreeMap<String, StoredMap> {
        let maps = self.maps.current().into_iter().flat_map(|maps| maps.iter());
        let stored = |(key, record): (&ObjectKey, &Arc<MapRecord>)| {
            let map = record.map.as_ref().ok().cloned();
            (record.service_uid.clone(), StoredMap { version: record.version.clone(), map, key: key.clone() })
        };
        maps.filter(|(_, record)| !record.service_uid.is_empty()).map(stored).collect()
    }

    /// The cluster as it is known now; `None` until every kind was listed once.
    pub fn snapshot(&self) -> Option<Snapshot> {
        Some(Snapshot {
            services: self.services.current()?.clone(),
            slices: self.slices.current()?.clone(),
            nodes: self.nodes.current()?.clone(),
            pods: self.pods.current()?.clone(),
            maps: self.maps.current()?.clone(),
            reports: self.reports.current()?.clone(),
            good_maps: self.good_maps.clone(),
        })
    }

    /// Kinds whose first list is not complete yet: what the agent waits for.
    pub fn missing(&self) -> Vec<&'static str> {
        let known = [
            ("Service", self.services.current().is_some()),
            ("EndpointSlice", self.slices.current().is_some()),
            ("Node", self.nodes.current().is_some()),
            ("Pod", self.pods.current().is_some()),
            ("ConfigMap", self.maps.current().is_some() && self.reports.current().is_some()),
        ];
        known.into_iter().filter(|(_, known)| !known).map(|(kind, _)| kind).collect()
    }

    fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }
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
    })
}
