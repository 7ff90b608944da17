//! The synchronous state machine that watch events feed.
//!
//! It owns the records of every object and never the objects themselves: a Pod is kilobytes, its record a hundred
//! bytes. It decides nothing about VIPs; [`resolve`](super::resolve) does, from a snapshot.

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::records::{Annotations, NodeRecord, PodRecord, Reduce, ServiceRecord, SliceRecord};
use super::snapshot::{ObjectKey, Snapshot};
use super::store::{Step, Store};

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
        }
    }

    /// Takes one event and says whether [`Self::snapshot`] differs from before: a node's heartbeat, for one, changes
    /// nothing.
    pub fn apply(&mut self, change: Change) -> bool {
        let changed = match change {
            Change::Service(event) => reduce(event, &self.annotations).is_some_and(|s| self.services.step(s)),
            Change::EndpointSlice(event) => reduce(event, &self.annotations).is_some_and(|s| self.slices.step(s)),
            Change::Node(event) => reduce(event, &self.annotations).is_some_and(|s| self.nodes.step(s)),
            Change::Pod(event) => reduce(event, &self.annotations).is_some_and(|s| self.pods.step(s)),
        };
        changed && self.is_complete()
    }

    /// The cluster as it is known now; `None` until every kind was listed once.
    pub fn snapshot(&self) -> Option<Snapshot> {
        Some(Snapshot {
            services: self.services.current()?.clone(),
            slices: self.slices.current()?.clone(),
            nodes: self.nodes.current()?.clone(),
            pods: self.pods.current()?.clone(),
        })
    }

    /// Kinds whose first list is not complete yet: what the agent waits for.
    pub fn missing(&self) -> Vec<&'static str> {
        let known = [
            ("Service", self.services.current().is_some()),
            ("EndpointSlice", self.slices.current().is_some()),
            ("Node", self.nodes.current().is_some()),
            ("Pod", self.pods.current().is_some()),
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
