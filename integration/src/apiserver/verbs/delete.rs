//! DELETE, of one object and of collections. Pods linger until somebody deletes them with grace 0, as their kubelet would.

use serde_json::{Value, json};

use super::{Target, Verbs, shown, stored};
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::object::{self, text};
use crate::apiserver::selector::Selection;
use crate::apiserver::store::{Key, State};

/// `metav1.DeleteOptions`; the propagation policy is accepted and ignored.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace: Option<i64>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub revision: Option<String>,
    /// Store nothing.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Delete at once.
    pub fn now() -> Self {
        Self { grace: Some(0), ..Self::default() }
    }

    /// Reads the body of a DELETE request.
    pub fn from_body(body: &Value) -> Self {
        let string = |pointer: &str| Some(text(body, pointer).to_owned()).filter(|value| !value.is_empty());
        Self {
            grace: body["gracePeriodSeconds"].as_i64(),
            uid: string("/preconditions/uid"),
            revision: string("/preconditions/resourceVersion"),
            dry_run: !object::list(body, "/dryRun").is_empty(),
        }
    }
}

/// What a DELETE came to.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// The object in its last, or for a graceful deletion its present, form.
    pub object: Value,
    /// Whether it is gone.
    pub gone: bool,
}

impl Verbs {
    /// Deletes one object.
    pub fn delete(&self, target: &Target, options: &DeleteOptions) -> ApiResult<Deleted> {
        self.store.write(|state| delete_in(state, target, options))
    }

    /// Deletes every selected object and returns them.
    pub fn delete_collection(
        &self,
        target: &Target,
        selection: &Selection,
        options: &DeleteOptions,
    ) -> ApiResult<Vec<Value>> {
        self.store.write(|state| {
            let resource = target.resource;
            let selected: Vec<Key> = state
                .all(resource.storage)
                .filter(|(_, object)| selection.matches(&shown(resource, object)))
                .map(|(key, _)| key.clone())
                .collect();
            let each = selected.into_iter().map(|key| {
                let one = Target {
                    namespace: target.namespace.as_ref().map(|_| key.namespace),
                    name: key.name,
                    ..target.clone()
                };
                delete_in(state, &one, options).map(|deleted| deleted.object)
            });
            each.collect()
        })
    }

    /// Removes an object whatever it waits for: for the controllers that have seen to it.
    pub fn remove(&self, key: &Key) {
        self.store.write(|state| state.remove(key));
    }
}

fn delete_in(state: &mut State, target: &Target, options: &DeleteOptions) -> ApiResult<Deleted> {
    let old = stored(state, target)?;
    check_preconditions(target, &old, options)?;
    if options.dry_run {
        return Ok(Deleted { object: shown(target.resource, &old), gone: true });
    }
    let mut new = (*old).clone();
    let changed = mark(target, &mut new, options);
    let waits = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() > 0
        || !object::list(&new, "/metadata/finalizers").is_empty()
        || !object::list(&new, "/spec/finalizers").is_empty();
    let key = target.key();
    // A pod's last breath is visible: one change to grace 0, then the deletion.
    if changed && (waits || target.resource.storage == "pods") {
        new = (*state.put(key.clone(), new)).clone();
    }
    if waits {
        return Ok(Deleted { object: shown(target.resource, &new), gone: false });
    }
    let last = state.remove(&key).ok_or_else(|| ApiError::not_found(target.resource, &target.name))?;
    Ok(Deleted { object: shown(target.resource, &last), gone: true })
}

/// Writes the deletion into the metadata; says whether that changed anything.
fn mark(target: &Target, object: &mut Value, options: &DeleteOptions) -> bool {
    let grace = grace_of(target, object, options);
    let previous = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if object::is_terminating(object) && previous.is_none_or(|previous| grace >= previous) {
        return false;
    }
    let first = !object::is_terminating(object);
    let generation = object["metadata"]["generation"].as_i64();
    let namespace = target.resource.storage == "namespaces";
    let metadata = object::metadata(object);
    metadata.insert("deletionTimestamp".into(), json!(object::after_seconds(grace)));
    if !namespace {
        metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    }
    if let Some(generation) = generation.filter(|_| first) {
        metadata.insert("generation".into(), json!(generation + 1));
    }
    if namespace {
        object["status"]["phase"] = json!("Terminating");
    }
    true
}

/// Only pods that were given to a node have a grace period.
fn grace_of(target: &Target, object: &Value, options: &DeleteOptions) -> i64 {
    let finished = ["Succeeded", "Failed"].contains(&text(object, "/status/phase"));
    if target.resource.storage != "pods" || text(object, "/spec/nodeName").is_empty() || finished {
        return 0;
    }
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    options.grace.or(own).unwrap_or(30).max(0)
}

fn check_preconditions(target: &Target, old: &Value, options: &DeleteOptions) -> ApiResult<()> {
    let checks = [
        ("UID", &options.uid, object::uid(old)),
        ("ResourceVersion", &options.revision, text(old, "/metadata/resourceVersion")),
    ];
    for (what, wanted, found) in checks {
        if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != found) {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
            return Err(ApiError::Conflict { resource: target.resource, name: target.name.clone(), why });
        }
    }
    Ok(())
}
