//! The server from within the process: the same verbs as over HTTP, for tests that set the stage.
//!
//! Objects are anything that serialises to a Kubernetes object with `apiVersion` and `kind`: `serde_json::json!` values or
//! the types of `k8s-openapi`. Kinds are named by their plural (`"services"`). Nothing done here is in the journal.

use serde::Serialize;
use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::object;
use super::patch::PatchKind;
use super::resource::{self, Resource};
use super::selector::Selection;
use super::store::State;
use super::verbs::{DeleteOptions, ListOptions, Patch, Target, Verbs, WriteOptions};

/// Direct access to the objects of a server.
#[derive(Debug, Clone)]
pub struct Objects {
    pub(super) verbs: Verbs,
}

impl Objects {
    /// Creates an object. A status in it is dropped, as over HTTP; see [`Objects::create_with_status`].
    pub fn create(&self, object: impl Serialize) -> ApiResult<Value> {
        let (target, body) = of_object(object)?;
        self.verbs.create(&target, body, WriteOptions::default())
    }

    /// Creates an object and then writes its status, which are two versions.
    pub fn create_with_status(&self, object: impl Serialize) -> ApiResult<Value> {
        let (mut target, body) = of_object(object)?;
        let status = serde_json::json!({"status": body["status"]});
        let created = self.verbs.create(&target, body, WriteOptions::default())?;
        object::name(&created).clone_into(&mut target.name);
        let patch = Patch { kind: PatchKind::Merge, body: status };
        self.verbs.patch(&target.status(), &patch, WriteOptions::default()).map(|(object, _)| object)
    }

    /// Reads an object; `namespace` is ignored for cluster-scoped kinds.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> ApiResult<Value> {
        self.verbs.get(&Target::object(find(plural)?, namespace, name))
    }

    /// All objects of a kind, in all namespaces.
    pub fn list(&self, plural: &str) -> ApiResult<Vec<Value>> {
        let page = self.verbs.list(find(plural)?, &Selection::default(), &ListOptions::default());
        page.map(|page| page.items)
    }

    /// Replaces an object; a resourceVersion in it is checked.
    pub fn update(&self, object: impl Serialize) -> ApiResult<Value> {
        let (mut target, body) = of_object(object)?;
        object::name(&body).clone_into(&mut target.name);
        self.verbs.update(&target, body, WriteOptions::default()).map(|(object, _)| object)
    }

    /// Merge-patches an object, except for its status.
    pub fn patch(&self, plural: &str, namespace: &str, name: &str, patch: Value) -> ApiResult<Value> {
        self.merge(Target::object(find(plural)?, namespace, name), patch)
    }

    /// Merge-patches the status subresource; the patch begins at the root (`{"status": …}`).
    pub fn patch_status(&self, plural: &str, namespace: &str, name: &str, patch: Value) -> ApiResult<Value> {
        self.merge(Target::object(find(plural)?, namespace, name).status(), patch)
    }

    /// Deletes as a user does: a pod that runs on a node stays, terminating.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> ApiResult<Value> {
        let target = Target::object(find(plural)?, namespace, name);
        self.verbs.delete(&target, &DeleteOptions::default()).map(|deleted| deleted.object)
    }

    /// Deletes as a kubelet does once the pod has stopped: with grace period 0.
    pub fn delete_now(&self, plural: &str, namespace: &str, name: &str) -> ApiResult<Value> {
        let target = Target::object(find(plural)?, namespace, name);
        self.verbs.delete(&target, &DeleteOptions::now()).map(|deleted| deleted.object)
    }

    /// The latest version of the whole store.
    pub fn revision(&self) -> u64 {
        self.verbs.store.read(State::revision)
    }

    /// Whether any object of these kinds has changed since a version, as far as is known.
    pub fn has_changed(&self, plurals: &[&str], since: u64) -> bool {
        let is_of = |storage: &str| plurals.iter().any(|p| find(p).is_ok_and(|resource| resource.storage == storage));
        let changed =
            |state: &State| since < state.compacted() || state.since(since).any(|change| is_of(change.key.storage));
        self.verbs.store.read(changed)
    }

    /// Waits until `look` finds something. It is asked now and after every change of any object.
    pub async fn wait_for<T>(&self, mut look: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let mut changed = self.verbs.store.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(found) = look(self) {
                return Some(found);
            }
            changed.changed().await.ok()?;
        }
    }

    fn merge(&self, target: Target, body: Value) -> ApiResult<Value> {
        let patch = Patch { kind: PatchKind::Merge, body };
        self.verbs.patch(&target, &patch, WriteOptions::default()).map(|(object, _)| object)
    }
}

fn find(plural: &str) -> ApiResult<&'static Resource> {
    resource::by_plural(plural).ok_or(ApiError::NoSuchPath)
}

fn of_object(object: impl Serialize) -> ApiResult<(Target, Value)> {
    let body = serde_json::to_value(object).map_err(|error| ApiError::BadRequest(error.to_string()))?;
    let (version, kind) = (object::text(&body, "/apiVersion"), object::text(&body, "/kind"));
    let resource = resource::by_kind(version, kind).ok_or(ApiError::NoSuchPath)?;
    let namespace = Some(object::namespace(&body)).filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    Ok((Target::object(resource, namespace, ""), body))
}
