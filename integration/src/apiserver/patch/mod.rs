//! The four patch formats, each a pure function from an object and a body to the patched object.

mod strategic;

use serde_json::Value;

use super::error::{ApiError, ApiResult};

/// How a patch body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Kubernetes' own: lists are merged by key.
    Strategic,
    /// Server-side apply, reduced to a merge: fields are set, never owned, and no apply conflicts arise.
    Apply,
}

impl PatchKind {
    /// The format that a `Content-Type` names.
    pub fn of_content_type(content_type: &str) -> ApiResult<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/json-patch+json" => Ok(Self::Json),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => Err(ApiError::UnsupportedMediaType(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, \
                 application/strategic-merge-patch+json; got {other}"
            ))),
        }
    }

    /// Reads the body. Clients write apply patches as JSON, which is YAML too; other YAML is refused.
    pub fn parse(self, body: &[u8]) -> ApiResult<Value> {
        let patch: Value = serde_json::from_slice(body).map_err(|error| match self {
            Self::Apply => ApiError::BadRequest(format!("error decoding YAML: only its JSON subset is read: {error}")),
            _ => ApiError::BadRequest(format!("error decoding patch: {error}")),
        })?;
        if (self == Self::Json) == patch.is_array() {
            return Ok(patch);
        }
        Err(ApiError::BadRequest("error decoding patch: json: cannot unmarshal into Go value".into()))
    }

    /// The patched object.
    pub fn apply(self, object: &Value, patch: &Value) -> ApiResult<Value> {
        let mut patched = object.clone();
        match self {
            Self::Merge => json_patch::merge(&mut patched, patch),
            Self::Json => {
                let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                    .map_err(|error| ApiError::BadRequest(format!("error decoding patch: {error}")))?;
                json_patch::patch(&mut patched, &operations).map_err(|_| ApiError::PatchFailed)?;
            }
            Self::Strategic | Self::Apply => strategic::merge(&mut patched, patch, ""),
        }
        Ok(patched)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failed_test_operation_is_unprocessable_and_changes_nothing() {
        let patch = json!([{"op": "test", "path": "/a", "value": 2}, {"op": "add", "path": "/b", "value": 1}]);
        let error = PatchKind::Json.apply(&json!({"a": 1}), &patch).unwrap_err();
        assert_eq!((error.code(), error.status()["details"].clone()), (422, json!({})));
    }

    #[test]
    fn merge_patches_delete_with_null() {
        let patched = PatchKind::Merge.apply(&json!({"a": 1, "b": 2}), &json!({"a": null, "c": 3})).unwrap();
        assert_eq!(patched, json!({"b": 2, "c": 3}));
    }

    #[test]
    fn content_types_select_the_format() {
        let kind = PatchKind::of_content_type("application/merge-patch+json; charset=utf-8").unwrap();
        assert_eq!(kind, PatchKind::Merge);
        assert_eq!(PatchKind::of_content_type("application/json").unwrap_err().code(), 415);
    }

    #[test]
    fn an_object_is_no_json_patch() {
        assert_eq!(PatchKind::Json.parse(b"{}").unwrap_err().code(), 400);
        assert_eq!(PatchKind::Merge.parse(b"[]").unwrap_err().code(), 400);
    }
}
