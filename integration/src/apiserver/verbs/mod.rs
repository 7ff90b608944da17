//! The verbs of the API, one file each: from a request that is already parsed to a change of the store or a refusal.
//!
//! HTTP, the in-process client and the controllers all come through [`Verbs`], so that an object made by a test has the
//! same defaults, versions and events as one made by a client.

mod create;
mod delete;
mod list;
mod patch;
mod update;

use std::sync::Arc;

use serde_json::{Value, json};

use super::admission::Ranges;
use super::error::{ApiError, ApiResult};
use super::events;
use super::object;
use super::policy::Judge;
use super::resource::Resource;
use super::store::{Key, State, Store};

pub use delete::DeleteOptions;
pub use list::{ListOptions, Page, invalid_options, unreadable_version};
pub use patch::Patch;

/// One object (or, without a name, a collection) that a request is about.
#[derive(Debug, Clone)]
pub struct Target {
    /// What kind of object.
    pub resource: &'static Resource,
    /// Absent for cluster-scoped objects and for lists over all namespaces.
    pub namespace: Option<String>,
    /// Empty for a collection.
    pub name: String,
    /// Whether the status subresource is meant.
    pub status: bool,
}

impl Target {
    /// A named object.
    pub fn object(resource: &'static Resource, namespace: &str, name: &str) -> Self {
        let namespace = resource.namespaced.then(|| namespace.to_owned());
        Self { resource, namespace, name: name.to_owned(), status: false }
    }

    /// The same object's status.
    #[must_use]
    pub fn status(mut self) -> Self {
        self.status = true;
        self
    }

    /// Where the object is stored.
    pub fn key(&self) -> Key {
        let namespace = self.namespace.clone().unwrap_or_default();
        Key { storage: self.resource.storage, namespace, name: self.name.clone() }
    }
}

/// What every write may say about itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions<'a> {
    /// Go through everything and store nothing.
    pub dry_run: bool,
    /// Unknown fields are errors (`fieldValidation=Strict`).
    pub strict: bool,
    /// Who admits what is written; absent within the process.
    pub judge: Option<Judge<'a>>,
}

impl WriteOptions<'_> {
    /// Refuses what must not be stored. `old` is the stored object of an update.
    fn admit(&self, resource: &Resource, new: &Value, old: Option<&Value>) -> ApiResult<()> {
        let old = old.map(|old| shown(resource, old));
        self.judge.map_or(Ok(()), |judge| judge.admit(resource, &shown(resource, new), old.as_ref()))
    }
}

/// The verbs over one store.
#[derive(Debug, Clone)]
pub struct Verbs {
    /// The objects.
    pub store: Arc<Store>,
    ranges: Arc<Ranges>,
}

impl Verbs {
    /// Verbs that allocate from `ranges`.
    pub fn new(store: Arc<Store>, ranges: Ranges) -> Self {
        Self { store, ranges: Arc::new(ranges) }
    }

    /// Reads one object.
    pub fn get(&self, target: &Target) -> ApiResult<Value> {
        self.store.read(|state| stored(state, target).map(|object| shown(target.resource, &object)))
    }
}

/// The stored object, or 404.
fn stored(state: &State, target: &Target) -> ApiResult<Arc<Value>> {
    let found = state.get(&target.key()).cloned();
    found.ok_or_else(|| ApiError::not_found(target.resource, &target.name))
}

/// A stored object in the form of the API version that was asked for.
pub fn shown(resource: &Resource, stored: &Value) -> Value {
    let mut object =
        if resource.group == "events.k8s.io" { events::from_storage(stored.clone()) } else { stored.clone() };
    object["kind"] = json!(resource.kind);
    object["apiVersion"] = json!(resource.api_version());
    object
}

/// The reverse of [`shown`].
fn to_stored(resource: &Resource, object: Value) -> Value {
    if resource.group == "events.k8s.io" { events::to_storage(object) } else { object }
}

/// Checks that a body is of the kind and in the namespace that the path says, and fills in what it leaves out.
fn adopt(target: &Target, body: &mut Value) -> ApiResult<()> {
    let resource = target.resource;
    if !body.is_object() {
        return Err(ApiError::BadRequest(format!(
            "the object provided is unrecognized (must be of type {})",
            resource.kind
        )));
    }
    let (version, kind) = (object::text(body, "/apiVersion").to_owned(), object::text(body, "/kind").to_owned());
    if !(kind.is_empty() || kind == resource.kind) || !(version.is_empty() || version == resource.api_version()) {
        let expected = format!("{}, Kind={}", resource.api_version(), resource.kind);
        let why = format!("the object provided is unrecognized: {version}, Kind={kind} is not {expected}");
        return Err(ApiError::BadRequest(why));
    }
    body["kind"] = json!(resource.kind);
    body["apiVersion"] = json!(resource.api_version());
    match (&target.namespace, object::namespace(body).to_owned()) {
        (Some(wanted), found) if found.is_empty() => {
            object::metadata(body).insert("namespace".into(), json!(wanted));
        }
        (Some(wanted), found) if *wanted != found => {
            let why = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::BadRequest(why.into()));
        }
        (None, _) => {
            object::metadata(body).remove("namespace");
        }
        _ => {}
    }
    Ok(())
}

/// A namespaced object needs its namespace, and one that is not being deleted.
fn check_namespace(state: &State, target: &Target) -> ApiResult<()> {
    let Some(namespace) = &target.namespace else { return Ok(()) };
    let key = Key { storage: "namespaces", namespace: String::new(), name: namespace.clone() };
    let Some(found) = state.get(&key) else {
        let resource = super::resource::by_plural("namespaces").ok_or(ApiError::NoSuchPath)?;
        return Err(ApiError::not_found(resource, namespace));
    };
    if !object::is_terminating(found) {
        return Ok(());
    }
    let plural = target.resource.plural;
    let message = format!(
        "{plural} \"{}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
        target.name
    );
    let cause = json!({"reason": "NamespaceTerminating", "field": "metadata.namespace",
        "message": format!("namespace {namespace} is being terminated")});
    Err(ApiError::Forbidden { message, details: json!({"name": target.name, "kind": plural, "causes": [cause]}) })
}
