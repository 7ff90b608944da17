//! PATCH: read, modify and write in one transaction.

use serde_json::{Value, json};

use super::{Target, Verbs, WriteOptions, adopt, shown};
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::object;
use crate::apiserver::patch::PatchKind;

/// A patch and how to read it.
#[derive(Debug, Clone)]
pub struct Patch {
    /// The format.
    pub kind: PatchKind,
    /// The body.
    pub body: Value,
}

impl Verbs {
    /// Patches an object. An apply patch creates what does not exist; the flag says so.
    pub fn patch(&self, target: &Target, patch: &Patch, options: WriteOptions) -> ApiResult<(Value, bool)> {
        self.store.write(|state| {
            let Some(old) = state.get(&target.key()) else {
                return match patch.kind {
                    PatchKind::Apply if !target.status => {
                        let mut body = patch.body.clone();
                        object::metadata(&mut body).insert("name".into(), json!(target.name));
                        self.create_in(state, target, body, options).map(|object| (object, true))
                    }
                    _ => Err(ApiError::not_found(target.resource, &target.name)),
                };
            };
            let old = shown(target.resource, old);
            let mut new = patch.kind.apply(&old, &patch.body)?;
            adopt(target, &mut new)?;
            if object::name(&new) != object::name(&old) {
                return Err(ApiError::BadRequest("metadata.name: Invalid value: field is immutable".into()));
            }
            self.replace(state, target, new, options).map(|object| (object, false))
        })
    }
}
