//! What the API server refuses, and how a refusal looks on the wire.
//!
//! Every variant is one shape of `metav1.Status` seen in recordings of a real API server; `Display` is the `message`. The
//! HTTP layer prints [`ApiError::status`]; in-process callers get the error itself.

use serde_json::{Value, json};
use thiserror::Error;

use super::journal::RequestInfo;
use super::resource::Resource;

/// Result of every verb.
pub type ApiResult<T> = Result<T, ApiError>;

/// One refused request.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ApiError {
    /// 404: no such object.
    #[error("{} \"{name}\" not found", qualified(resource))]
    NotFound {
        /// What kind of object.
        resource: &'static Resource,
        /// The missing name.
        name: String,
    },
    /// 404: no such path.
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    /// 409 at creation.
    #[error("{} \"{name}\" already exists", qualified(resource))]
    AlreadyExists {
        /// What kind of object.
        resource: &'static Resource,
        /// The name that is taken.
        name: String,
    },
    /// 409: optimistic lock or precondition.
    #[error("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(resource))]
    Conflict {
        /// What kind of object.
        resource: &'static Resource,
        /// Its name.
        name: String,
        /// What was violated.
        why: String,
    },
    /// 422: the object does not pass validation.
    #[error("{} \"{name}\" is invalid: {}", qualified_kind(kind, group), summary(causes))]
    Invalid {
        /// Kind in the message.
        kind: &'static str,
        /// Group of that kind, empty for core.
        group: &'static str,
        /// Name of the object, possibly invalid itself.
        name: String,
        /// What is wrong, field by field.
        causes: Vec<Cause>,
    },
    /// 422: a JSON patch that does not apply.
    #[error("the server rejected our request due to an error in our request")]
    PatchFailed,
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 401.
    #[error("Unauthorized")]
    Unauthorized,
    /// 403.
    #[error("{message}")]
    Forbidden {
        /// The whole sentence.
        message: String,
        /// `details` of the Status.
        details: Value,
    },
    /// 405.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// 410: the version is no longer held.
    #[error("{0}")]
    Expired(String),
    /// 415.
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// 500 without a reason, as for an unreadable resourceVersion of a watch.
    #[error("{0}")]
    Internal(String),
    /// 504: a version from the future.
    #[error("Timeout: Too large resource version: {requested}, current: {current}")]
    TooLargeVersion {
        /// The version that was asked for.
        requested: u64,
        /// The version the server has.
        current: u64,
    },
    /// Whatever a test wants the server to say.
    #[error("{message}")]
    Injected {
        /// HTTP status code.
        code: u16,
        /// `reason` of the Status.
        reason: String,
        /// `message` of the Status.
        message: String,
    },
}

/// One field of an invalid object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, …
    pub reason: &'static str,
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Cause {
    /// A value that is not allowed; `shown` is the value as Go prints it (strings quoted).
    pub fn invalid(field: impl Into<String>, shown: &str, why: &str) -> Self {
        Self { reason: "FieldValueInvalid", field: field.into(), message: format!("Invalid value: {shown}: {why}") }
    }

    /// A field that must be there.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// A field that must not be there.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {why}") }
    }

    /// A value outside an enumeration.
    pub fn unsupported(field: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|one| format!("\"{one}\"")).collect();
        let message = format!("Unsupported value: \"{value}\": supported values: {}", supported.join(", "));
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }
}

impl ApiError {
    /// 404 for an object.
    pub fn not_found(resource: &'static Resource, name: &str) -> Self {
        Self::NotFound { resource, name: name.to_owned() }
    }

    /// The optimistic lock failed.
    pub fn stale(resource: &'static Resource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::Conflict { resource, name: name.to_owned(), why: why.to_owned() }
    }

    /// 403 as RBAC words it.
    pub fn forbidden(resource: &Resource, request: &RequestInfo) -> Self {
        let RequestInfo { verb, namespace, name, subresource, .. } = request;
        let user = &request.user.name;
        let scope = match namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        let name = Some(name.as_str()).filter(|name| !name.is_empty());
        let object = name.map_or_else(String::new, |name| format!(" \"{name}\""));
        let below = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
        let message = format!(
            "{}{object} is forbidden: User \"{user}\" cannot {verb} resource \"{}{below}\" in API group \"{}\" {scope}",
            qualified(resource),
            resource.plural,
            resource.group
        );
        Self::Forbidden { message, details: details(resource, name) }
    }

    /// 403 as a ValidatingAdmissionPolicy words it.
    pub fn not_admitted(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", qualified(resource));
        let mut details = details(resource, Some(name));
        details["causes"] = json!([{ "message": why }]);
        Self::Forbidden { message, details }
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether an optimistic lock or precondition failed.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether the name is taken.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }

    /// HTTP status code.
    pub fn code(&self) -> u16 {
        self.wire().0
    }

    /// The `metav1.Status` document.
    pub fn status(&self) -> Value {
        let (code, reason, details) = self.wire();
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "code": code});
        if !reason.is_empty() {
            status["reason"] = json!(reason);
        }
        if let Some(details) = details {
            status["details"] = details;
        }
        status
    }

    /// Code, reason and details of the Status.
    fn wire(&self) -> (u16, &str, Option<Value>) {
        match self {
            Self::NotFound { resource, name } => (404, "NotFound", Some(details(resource, Some(name)))),
            Self::NoSuchPath => (404, "NotFound", Some(json!({}))),
            Self::AlreadyExists { resource, name } => (409, "AlreadyExists", Some(details(resource, Some(name)))),
            Self::Conflict { resource, name, .. } => (409, "Conflict", Some(details(resource, Some(name)))),
            Self::Invalid { kind, group, name, causes } => {
                (422, "Invalid", Some(invalid_details(kind, group, name, causes)))
            }
            Self::PatchFailed => (422, "Invalid", Some(json!({}))),
            Self::BadRequest(_) => (400, "BadRequest", None),
            Self::Unauthorized => (401, "Unauthorized", None),
            Self::Forbidden { details, .. } => (403, "Forbidden", Some(details.clone())),
            Self::MethodNotAllowed => (405, "MethodNotAllowed", Some(json!({}))),
            Self::Expired(_) => (410, "Expired", None),
            Self::UnsupportedMediaType(_) => (415, "UnsupportedMediaType", None),
            Self::Internal(_) => (500, "", None),
            Self::TooLargeVersion { .. } => (504, "Timeout", Some(too_large_details())),
            Self::Injected { code, reason, .. } => (*code, reason, None),
        }
    }
}

fn too_large_details() -> Value {
    let causes = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
    json!({"causes": causes, "retryAfterSeconds": 1})
}

fn details(resource: &Resource, name: Option<&str>) -> Value {
    let mut details = json!({"kind": resource.plural});
    if let Some(name) = name {
        details["name"] = json!(name);
    }
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    details
}

fn invalid_details(kind: &str, group: &str, name: &str, causes: &[Cause]) -> Value {
    let causes: Vec<Value> = causes
        .iter()
        .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
        .collect();
    let mut details = json!({"kind": kind, "causes": causes});
    if !name.is_empty() {
        details["name"] = json!(name);
    }
    if !group.is_empty() {
        details["group"] = json!(group);
    }
    details
}

fn qualified(resource: &Resource) -> String {
    qualified_kind(resource.plural, resource.group)
}

fn qualified_kind(kind: &str, group: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") }
}

fn summary(causes: &[Cause]) -> String {
    let all: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    if all.len() == 1 { all.concat() } else { format!("[{}]", all.join(", ")) }
}
