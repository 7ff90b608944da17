//! The synchronous state machine that watch events feed.
//!
//! It owns the records of every object and never the objects themselves: a Pod is kilobytes, its record a hundred
//! bytes. It decides nothing about VIPs; [`resolve`](super::resolve) does, from a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::assignment::AssignmentFault;
use super::node_report::ReportFault;
use super::records::{
    Annotations, MapRecord, NodeRecord, PodRecord, Reduce, ReportRecord, ServiceCidrRecord, ServiceRecord, SliceRecord,
};
use super::snapshot::{ObjectKey, Snapshot};
use super::store::{Step, Store};
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
#[derive(Debug)]
pub struct Index {
    /// Which annotations are kept; fixed at construction.
    annotations: Annotations,
    /// Every Service; updated by [`Change::Service`].
    services: Store<ServiceRecord>,
    /// Every EndpointSlice; updated by [`Change::EndpointSlice`].
    slices: Store<SliceRecord>,
    /// Every ServiceCIDR; updated by [`Change::ServiceCidr`].
    service_cidrs: Store<ServiceCidrRecord>,
    /// Every Node; updated by [`Change::Node`].
    nodes: Store<NodeRecord>,
    /// Pods of the own node; updated by [`Change::Pod`].
    pods: Store<PodRecord>,
    /// Bucket maps; updated by [`Change::Map`].
    maps: Store<MapRecord>,
    /// Reports of nodes; updated by [`Change::Report`]. Only a controller watches them.
    reports: Store<ReportRecord>,
    /// By UID of the Service, the newest map that could be read. Updated with `maps` and `services`. A map that is damaged,
    /// deleted or replaced by an older one stays here until its Service is gone or asks for no VIP: nodes go on as it says.
    assignments: Arc<BTreeMap<String, Arc<Assignment>>>,
    /// It is a controller's.
    decides: bool,
    /// By UID of the Service, the version of a map that was stored when the Service asked for no VIP. The controller deletes it: should
    /// the Service ask again before that is seen, it is not taken up again. Nodes go on as it says.
    retired: BTreeMap<String, String>,
}

impl Index {
    /// An index that knows nothing yet. `annotation` is [`Settings::annotation`](super::Settings::annotation).
    pub fn new(annotation: &str) -> Self {
        Self {
            annotations: Annotations::new(annotation),
            services: Store::default(),
            slices: Store::default(),
            service_cidrs: Store::default(),
            nodes: Store::default(),
            pods: Store::default(),
            maps: Store::default(),
            reports: Store::unwatched(),
            assignments: Arc::default(),
            decides: false,
            retired: BTreeMap::new(),
        }
    }

    /// The same for a controller: it sees the reports of nodes, and no pods.
    pub fn of_controller(annotation: &str) -> Self {
        Self { pods: Store::unwatched(), reports: Store::default(), decides: true, ..Self::new(annotation) }
    }

    /// Takes one event and says whether anything that matters differs from before, once every kind was listed: a node's
    /// heartbeat, for one, changes nothing.
    pub fn apply(&mut self, change: Change) -> bool {
        let of_services = matches!(change, Change::Service(_));
        let of_maps = matches!(change, Change::Map(_));
        let changed = match change {
            Change::Service(event) => reduce(event, &self.annotations).is_some_and(|s| self.services.step(s)),
            Change::EndpointSlice(event) => reduce(event, &self.annotations).is_some_and(|s| self.slices.step(s)),
            Change::ServiceCidr(event) => reduce(event, &self.annotations).is_some_and(|s| self.service_cidrs.step(s)),
            Change::Node(event) => reduce(event, &self.annotations).is_some_and(|s| self.nodes.step(s)),
            Change::Pod(event) => reduce(event, &self.annotations).is_some_and(|s| self.pods.step(s)),
            Change::Report(event) => reduce(event, &self.annotations).is_some_and(|s| self.reports.step(s)),
            Change::Map(event) => reduce(event, &self.annotations).is_some_and(|s| self.maps.step(s)),
        };
        if changed && (of_maps || of_services) {
            self.refresh_assignments();
        }
        changed && self.is_complete()
    }

    /// Takes in what is stored and not older, and forgets the maps of Services that are gone or ask for no VIP any more.
    fn refresh_assignments(&mut self) {
        let asking: Option<BTreeSet<&str>> = self.services.current().map(|services| {
            services.values().filter(|service| service.vips.is_some()).map(|service| service.uid.as_str()).collect()
        });
        let wanted = |uid: &str| asking.as_ref().is_none_or(|uids| uids.contains(uid));
        let is_news = |uid: &str, map: &Assignment| {
            let known = self.assignments.get(uid);
            known.is_none_or(|known| **known != *map && map.generation >= known.generation)
        };
        let readable = self.readable_maps().filter(|(uid, map)| wanted(uid) && is_news(uid, map));
        let new: Vec<(String, Arc<Assignment>)> =
            readable.map(|(uid, map)| (uid.to_owned(), Arc::clone(map))).collect();
        let gone: Vec<String> = self.assignments.keys().filter(|uid| !wanted(uid)).cloned().collect();
        if self.decides {
            let records = self.maps.current().into_iter().flat_map(|maps| maps.values());
            let unwanted = records.filter(|record| !wanted(&record.service_uid));
            let unwanted = unwanted.map(|record| (record.service_uid.clone(), record.version.clone())).collect();
            self.retire(unwanted);
        }
        if !new.is_empty() || !gone.is_empty() {
            let known = Arc::make_mut(&mut self.assignments);
            known.retain(|uid, _| !gone.contains(uid));
            known.extend(new);
        }
    }

    /// Takes up no more what is stored for Services that ask for no VIP, as long as it is there in this version.
    fn retire(&mut self, unwanted: Vec<(String, String)>) {
        let records = || self.maps.current().into_iter().flat_map(|maps| maps.values());
        let stored = |uid: &str| records().find(|record| record.service_uid == uid).map(|record| &record.version);
        let still = std::mem::take(&mut self.retired).into_iter().filter(|(uid, version)| stored(uid) == Some(version));
        self.retired = still.chain(unwanted).collect();
    }

    /// The stored maps that can be read, with the UIDs of their Services.
    fn readable_maps(&self) -> impl Iterator<Item = (&str, &Arc<Assignment>)> {
        let records = self.maps.current().into_iter().flat_map(|maps| maps.values());
        let records = records.filter(|record| self.retired.get(&record.service_uid) != Some(&record.version));
        records.filter_map(|record| Some((record.service_uid.as_str(), record.map.as_ref().ok()?)))
    }

    /// By UID of the Service, the newest map that could be read.
    pub fn assignments(&self) -> &BTreeMap<String, Arc<Assignment>> {
        &self.assignments
    }

    /// Services whose stored map is an earlier decision than the one that is known here, with the generation of that one:
    /// somebody has restored what was saved before.
    pub fn superseded(&self) -> BTreeMap<ServiceUid, Generation> {
        let later = self.readable_maps().filter_map(|(uid, stored)| {
            let known = self.assignments.get(uid)?.generation;
            (known > stored.generation).then(|| (ServiceUid::from(uid), known))
        });
        later.collect()
    }

    /// UIDs of the Services that ask for VIPs, whether they get them or not.
    pub fn services_with_annotation(&self) -> BTreeSet<String> {
        let services = self.services.current().into_iter().flat_map(|services| services.values());
        services.filter(|service| service.vips.is_some()).map(|service| service.uid.clone()).collect()
    }

    /// Names of the nodes that there are; `None` before the first list.
    pub fn node_names(&self) -> Option<BTreeSet<&str>> {
        Some(self.nodes.current()?.keys().map(|key| key.name.as_str()).collect())
    }

    /// The reports, by name of the node; `None` before the first list.
    pub fn stored_reports(&self) -> Option<BTreeMap<String, StoredReport>> {
        let stored = |(key, record): (&ObjectKey, &Arc<ReportRecord>)| {
            let (version, report) = (record.version.clone(), record.report.clone());
            (record.node.clone(), StoredReport { key: key.clone(), version, report })
        };
        let reports = self.reports.current()?.iter();
        Some(reports.filter(|(_, record)| !record.node.is_empty()).map(stored).collect())
    }

    /// Every ConfigMap that says it is a bucket map and has the name of one, by UID of the Service.
    pub fn stored_maps(&self) -> BTreeMap<String, StoredMap> {
        let maps = self.maps.current().into_iter().flat_map(|maps| maps.iter());
        let stored = |(key, record): (&ObjectKey, &Arc<MapRecord>)| {
            let (version, map) = (record.version.clone(), record.map.clone());
            let map = StoredMap { key: key.clone(), version, map, may_be_replaced: record.may_be_replaced };
            (record.service_uid.clone(), map)
        };
        maps.filter(|(_, record)| !record.service_uid.is_empty()).map(stored).collect()
    }

    /// The cluster as it is known now; `None` until every kind was listed once.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.reports.current()?;
        Some(Snapshot {
            services: self.services.current()?.clone(),
            slices: self.slices.current()?.clone(),
            service_cidrs: self.service_cidrs.current()?.clone(),
            nodes: self.nodes.current()?.clone(),
            pods: self.pods.current()?.clone(),
            maps: self.maps.current()?.clone(),
            assignments: self.assignments.clone(),
        })
    }

    /// Kinds whose first list is not complete yet: what the agent waits for.
    pub fn missing(&self) -> Vec<&'static str> {
        let known = [
            ("Service", self.services.current().is_some()),
            ("EndpointSlice", self.slices.current().is_some()),
            ("ServiceCIDR", self.service_cidrs.current().is_some()),
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
        Watched::Absent => Step::Absent,
    })
}
