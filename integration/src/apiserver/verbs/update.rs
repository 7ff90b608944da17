//! PUT, and the second half of PATCH: from the object as it should be to the next stored version.

use serde_json::{Value, json};

use super::create::shape_stored;
use super::{Target, Verbs, WriteOptions, adopt, shown, stored, to_stored};
use crate::apiserver::error::{ApiError, ApiResult, Cause};
use crate::apiserver::resource::{Generation, Resource};
use crate::apiserver::store::State;
use crate::apiserver::{admission, object, shape};

/// Metadata that an update cannot change.
const KEPT: &[&str] =
    &["name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"];

impl Verbs {
    /// Replaces an object, or creates it where the kind allows that. The flag says whether it was created.
    pub fn update(&self, target: &Target, mut body: Value, options: WriteOptions) -> ApiResult<(Value, bool)> {
        self.store.write(|state| {
            adopt(target, &mut body)?;
            let found = object::name(&body).to_owned();
            if found != target.name {
                let why =
                    format!("the name of the object ({found}) does not match the name on the URL ({})", target.name);
                return Err(ApiError::BadRequest(why));
            }
            if state.get(&target.key()).is_none() && target.resource.create_on_update && !target.status {
                object::metadata(&mut body).remove("resourceVersion");
                return self.create_in(state, target, body, options).map(|object| (object, true));
            }
            self.replace(state, target, body, options).map(|object| (object, false))
        })
    }

    /// Stores `body` as the next version of an existing object.
    pub(super) fn replace(
        &self,
        state: &mut State,
        target: &Target,
        body: Value,
        options: WriteOptions,
    ) -> ApiResult<Value> {
        let resource = target.resource;
        let old = stored(state, target)?;
        check_identity(target, &body, &old)?;
        let mut new = to_stored(resource, shape::normalise(resource, body, options.strict)?);
        keep(&mut new, &old);
        split_status(target, &mut new, &old);
        admission::complete(resource, &mut new, Some(&old), state, &self.ranges);
        let mut new = shape_stored(resource, new)?;
        object::set_revision(&mut new, object::revision(&old));
        admission::validate_update(resource, &new, &old, &self.ranges)?;
        options.admit(resource, &new, Some(&old))?;
        if new == *old || options.dry_run {
            return Ok(shown(resource, &new));
        }
        raise_generation(resource, &mut new, &old);
        if is_finished(&new) {
            return Ok(shown(resource, &state.remove(&target.key()).unwrap_or(new)));
        }
        Ok(shown(resource, &state.put(target.key(), new)))
    }
}

/// The optimistic lock: version and uid, where given, must be those of the stored object.
fn check_identity(target: &Target, body: &Value, old: &Value) -> ApiResult<()> {
    let resource = target.resource;
    let uid = object::uid(body);
    if !uid.is_empty() && uid != object::uid(old) {
        let found = object::uid(old);
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
        return Err(ApiError::Conflict { resource, name: target.name.clone(), why });
    }
    let version = object::text(body, "/metadata/resourceVersion");
    if version.is_empty() && !resource.unconditional_update {
        let cause = Cause::invalid("metadata.resourceVersion", "0", "must be specified for an update");
        return admission::refuse(resource, body, vec![cause]);
    }
    if !version.is_empty() && version != object::text(old, "/metadata/resourceVersion") {
        return Err(ApiError::stale(resource, &target.name));
    }
    Ok(())
}

fn keep(new: &mut Value, old: &Value) {
    let metadata = object::metadata(new);
    for field in KEPT {
        match old["metadata"].get(*field) {
            Some(value) => metadata.insert((*field).to_owned(), value.clone()),
            None => metadata.remove(*field),
        };
    }
    for field in ["managedFields", "selfLink"] {
        metadata.remove(field);
    }
}

/// The main resource does not write status, the status subresource nothing but status and metadata.
fn split_status(target: &Target, new: &mut Value, old: &Value) {
    if !target.resource.status {
        return;
    }
    let Value::Object(map) = new else { return };
    let foreign: Vec<String> = map
        .keys()
        .chain(old.as_object().into_iter().flat_map(|old| old.keys()))
        .filter(|field| *field != "metadata" && (*field == "status") != target.status)
        .cloned()
        .collect();
    for field in foreign {
        match old.get(&field) {
            Some(value) => map.insert(field, value.clone()),
            None => map.remove(&field),
        };
    }
}

fn raise_generation(resource: &Resource, new: &mut Value, old: &Value) {
    let changed = match resource.generation {
        Generation::None => false,
        Generation::Spec => new["spec"] != old["spec"],
        Generation::Content => {
            let content = |object: &Value| {
                let mut content = object.clone();
                content["metadata"] = json!({});
                content
            };
            content(new) != content(old) || object::labels(new) != object::labels(old)
        }
    };
    if changed {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
        object::metadata(new).insert("generation".into(), json!(generation));
    }
}

/// Whether an object that is being deleted waits for nothing any more. Pods wait for their kubelet, namespaces for their
/// content.
fn is_finished(object: &Value) -> bool {
    let waits = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() > 0
        || !object::list(object, "/metadata/finalizers").is_empty()
        || !object::list(object, "/spec/finalizers").is_empty();
    object::is_terminating(object) && !waits
}
