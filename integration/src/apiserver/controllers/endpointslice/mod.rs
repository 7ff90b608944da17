//! Keeps the EndpointSlices of every Service that has a selector.
//!
//! Which Services are affected follows from the changes; for each of them [`desired`] says which endpoints there should be,
//! [`reconcile`] how the present slices become that, and the steps go through the ordinary verbs one by one: a dual-stack
//! change is two writes, never one.

mod desired;
mod reconcile;
mod trigger;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::apiserver::object::{self, text};
use crate::apiserver::resource::by_plural;
use crate::apiserver::store::{Change, Key, State};
use crate::apiserver::verbs::{DeleteOptions, Target, Verbs, WriteOptions};
use reconcile::Step;
use trigger::TriggerTimes;

/// The label with the name of the Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label of the slices that this controller may touch.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Its value.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Namespace and name of a Service.
type ServiceKey = (String, String);

/// The controller and what it remembers between changes.
#[derive(Debug, Default)]
pub struct Controller {
    triggers: BTreeMap<ServiceKey, TriggerTimes>,
}

/// What one Service's slices follow from.
struct Inputs {
    service: Option<Arc<Value>>,
    pods: Vec<Arc<Value>>,
    nodes: BTreeMap<String, Arc<Value>>,
    slices: Vec<Arc<Value>>,
}

impl Controller {
    /// Brings the slices up to date after `changes`, or all of them when it is not known what changed.
    pub fn sync(&mut self, verbs: &Verbs, changes: Option<&[Change]>) {
        let affected = verbs.store.read(|state| match changes {
            Some(changes) => changes.iter().flat_map(|change| affected_by(state, change)).collect(),
            None => all_services(state),
        });
        for service in affected {
            self.sync_service(verbs, &service);
        }
    }

    fn sync_service(&mut self, verbs: &Verbs, key: &ServiceKey) {
        let inputs = verbs.store.read(|state| gather(state, key));
        let steps = match &inputs.service {
            None => {
                self.triggers.remove(key);
                inputs.slices.iter().map(|slice| Step::Delete(object::name(slice).to_owned())).collect()
            }
            Some(service) if !desired::has_endpoints(service) => Vec::new(),
            Some(service) => {
                let time = self.triggers.entry(key.clone()).or_default().observe(service, &inputs.pods);
                let sets = desired::desired(service, &inputs.pods, &inputs.nodes);
                reconcile::reconcile(service, &sets, &inputs.slices, time.as_deref())
            }
        };
        for step in steps {
            take(verbs, &key.0, step);
        }
    }
}

/// Carries out one step. Somebody else may have been faster; the change that they made comes round again.
fn take(verbs: &Verbs, namespace: &str, step: Step) {
    let Some(resource) = by_plural("endpointslices") else { return };
    let options = WriteOptions::default();
    let result = match step {
        Step::Create(slice) => verbs.create(&Target::object(resource, namespace, ""), slice, options).map(drop),
        Step::Update(slice) => {
            verbs.update(&Target::object(resource, namespace, object::name(&slice)), slice.clone(), options).map(drop)
        }
        Step::Delete(name) => {
            verbs.delete(&Target::object(resource, namespace, &name), &DeleteOptions::default()).map(drop)
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, namespace, "endpoint slice not written");
    }
}

fn gather(state: &State, (namespace, name): &ServiceKey) -> Inputs {
    let service_key = Key { storage: "services", namespace: namespace.clone(), name: name.clone() };
    let service = state.get(&service_key).cloned();
    let all = |storage| {
        state.all(storage).filter(|(key, _)| key.namespace == *namespace).map(|(_, object)| Arc::clone(object))
    };
    let pods = match &service {
        Some(service) => all("pods").filter(|pod| desired::selects(service, pod)).collect(),
        None => Vec::new(),
    };
    let slices = all("endpointslices").filter(|slice| service_of(slice) == Some(name.as_str())).collect();
    let nodes = state.all("nodes").map(|(key, node)| (key.name.clone(), Arc::clone(node))).collect();
    Inputs { service, pods, nodes, slices }
}

/// The Service that a slice of ours belongs to.
fn service_of(slice: &Value) -> Option<&str> {
    let labels = &slice["metadata"]["labels"];
    labels[SERVICE_NAME].as_str().filter(|_| labels[MANAGED_BY] == MANAGER)
}

fn affected_by(state: &State, change: &Change) -> BTreeSet<ServiceKey> {
    let versions = || [&change.before, &change.after].into_iter().flatten();
    let key = |name: &str| (change.key.namespace.clone(), name.to_owned());
    match change.key.storage {
        "services" => BTreeSet::from([key(&change.key.name)]),
        "endpointslices" => versions().filter_map(|slice| service_of(slice)).map(key).collect(),
        "pods" => {
            let here = state.all("services").filter(|(service, _)| service.namespace == change.key.namespace);
            here.filter(|(_, service)| versions().any(|pod| desired::selects(service, pod)))
                .map(|(service, _)| key(&service.name))
                .collect()
        }
        "nodes" => {
            let zone = |node: &Option<Arc<Value>>| node.as_ref().map(|node| text(node, desired::ZONE).to_owned());
            if zone(&change.before) == zone(&change.after) { BTreeSet::new() } else { all_services(state) }
        }
        _ => BTreeSet::new(),
    }
}

fn all_services(state: &State) -> BTreeSet<ServiceKey> {
    state.all("services").map(|(key, _)| (key.namespace.clone(), key.name.clone())).collect()
}
