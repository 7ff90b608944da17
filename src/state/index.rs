//! The synchronous state machine that watch events feed.
//!
//! It owns the records of every object and never the objects themselves: a Pod is kilobytes, its record a hundred
//! bytes. Each change marks the Services that it concerns, and [`Index::resolve`] resolves only these.

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::dirty::Dirty;
use super::key::ObjectKey;
use super::known_maps::KnownMaps;
use super::links::Links;
use super::records::{Annotations, MapRecord, Reduce};
use super::resolver::{Resolved, Resolver};
use super::settings::Settings;
use super::store::{Step, Stepped, Store};
use super::stored::News;
use super::stores::Stores;
use super::view::View;

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

/// All that is known of the cluster.
#[derive(Debug, Clone)]
pub struct Index {
    /// Which annotations are kept; fixed at construction.
    annotations: Annotations,
    /// The records, as the watches have them.
    pub(super) stores: Stores,
    /// How they hang together; updated with each of them.
    pub(super) links: Links,
    /// The newest map of each Service. Updated with stored maps, and with who asks for a VIP.
    pub(super) maps: KnownMaps,
    /// What a controller has not heard yet; `None` of a node.
    pub(super) news: Option<News>,
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
            news: None,
            dirty: Dirty::everything(),
            resolver: Resolver::default(),
        }
    }

    /// The same for a controller: it sees the reports of nodes, and no pods.
    pub fn of_controller(annotation: &str) -> Self {
        let stores = Stores { pods: Store::unwatched(), ..Stores::default() };
        Self { stores, maps: KnownMaps::of_controller(), news: Some(News::default()), ..Self::new(annotation) }
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
        for delta in &stepped.deltas {
            self.links.report_changed(delta);
            if let Some(news) = &mut self.news {
                news.reports.extend(delta.both().map(|record| record.node.clone()));
            }
        }
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
        if let Some(news) = self.news.as_mut().filter(|_| !stored.is_empty() || is_wanted) {
            news.maps.insert(uid.into());
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
        stores.reports.deltas().for_each(|delta| links.report_changed(&delta));
        let (annotations, maps, news) = (self.annotations.clone(), self.maps.clone(), self.news.clone());
        Self { annotations, stores, links, maps, news, dirty, resolver: Resolver::default() }
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
