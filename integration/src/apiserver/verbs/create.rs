//! POST: a new object.

use serde_json::{Value, json};

use super::{Target, Verbs, WriteOptions, adopt, check_namespace, shown, to_stored};
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::resource::{Generation, Resource};
use crate::apiserver::store::State;
use crate::apiserver::{admission, object, shape};

/// Metadata that only the server writes.
const SERVER_FIELDS: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "managedFields",
    "selfLink",
];

impl Verbs {
    /// Creates `body` in the collection `target`; the name comes from the body.
    pub fn create(&self, target: &Target, body: Value, options: WriteOptions) -> ApiResult<Value> {
        self.store.write(|state| self.create_in(state, target, body, options))
    }

    pub(super) fn create_in(
        &self,
        state: &mut State,
        target: &Target,
        mut body: Value,
        options: WriteOptions,
    ) -> ApiResult<Value> {
        let resource = target.resource;
        adopt(target, &mut body)?;
        name(&mut body);
        let mut target = target.clone();
        target.name = object::name(&body).to_owned();
        check_namespace(state, &target)?;
        if !object::text(&body, "/metadata/resourceVersion").is_empty() {
            return Err(ApiError::BadRequest("resourceVersion should not be set on objects to be created".into()));
        }
        let mut new = to_stored(resource, shape::normalise(resource, body, options.strict)?);
        born(resource, &mut new);
        admission::complete(resource, &mut new, None, state, &self.ranges);
        let mut new = shape_stored(resource, new)?;
        admission::validate_create(resource, &new, &self.ranges)?;
        options.admit(resource, &new, None)?;
        if state.get(&target.key()).is_some() {
            return Err(ApiError::AlreadyExists { resource, name: target.name });
        }
        if options.dry_run {
            object::set_revision(&mut new, 0);
            object::metadata(&mut new).remove("resourceVersion");
            return Ok(shown(resource, &new));
        }
        Ok(shown(resource, &state.put(target.key(), new)))
    }
}

/// Prints a stored object once more, since defaulting may have left empty parts.
pub(super) fn shape_stored(resource: &Resource, object: Value) -> ApiResult<Value> {
    let shown = shown(resource, &object);
    Ok(to_stored(resource, shape::normalise(resource, shown, false)?))
}

fn name(body: &mut Value) {
    let prefix = object::text(body, "/metadata/generateName").to_owned();
    if object::name(body).is_empty() && !prefix.is_empty() {
        let name = format!("{prefix}{}", object::new_suffix());
        object::metadata(body).insert("name".into(), json!(name));
    }
}

fn born(resource: &Resource, object: &mut Value) {
    let metadata = object::metadata(object);
    for field in SERVER_FIELDS {
        metadata.remove(*field);
    }
    metadata.insert("uid".into(), json!(object::new_uid()));
    metadata.insert("creationTimestamp".into(), json!(object::now()));
    if resource.generation != Generation::None {
        metadata.insert("generation".into(), json!(1));
    }
    // A kubelet registers its node with the status filled in; everybody else's status starts empty.
    if resource.status
        && resource.storage != "nodes"
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
}
