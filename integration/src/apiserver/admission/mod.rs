//! What the server adds to an object and what it refuses, per kind.
//!
//! [`complete`] runs after decoding and before validation, for creations and updates alike; it must be idempotent. The
//! `validate_*` functions report every fault at once, as the real server does. Kinds without an arm have neither.

mod names;
mod pod;
mod service;
mod service_address;
mod simple;

use serde_json::Value;

use super::error::{ApiError, ApiResult, Cause};
use super::object;
use super::resource::Resource;
use super::store::State;

pub use service_address::Ranges;

/// Adds defaults and allocates addresses and ports. `old` is the stored object of an update.
pub fn complete(resource: &Resource, object: &mut Value, old: Option<&Value>, state: &State, ranges: &Ranges) {
    match resource.storage {
        "services" => service::complete(object, old, state, ranges),
        "pods" => pod::complete(object, old),
        "nodes" => simple::complete_node(object, old),
        "namespaces" => simple::complete_namespace(object, old),
        "secrets" => simple::complete_secret(object),
        _ => {}
    }
}

/// Refuses an object that must not be created.
pub fn validate_create(resource: &Resource, object: &Value, ranges: &Ranges) -> ApiResult<()> {
    let mut causes = names::check(resource, object::name(object));
    causes.extend(validate(resource, object, ranges));
    refuse(resource, object, causes)
}

/// Refuses an update that must not happen.
pub fn validate_update(resource: &Resource, object: &Value, old: &Value, ranges: &Ranges) -> ApiResult<()> {
    let mut causes = validate(resource, object, ranges);
    if resource.storage == "services" {
        causes.extend(service::validate_update(object, old));
    }
    refuse(resource, object, causes)
}

fn validate(resource: &Resource, object: &Value, ranges: &Ranges) -> Vec<Cause> {
    match resource.storage {
        "services" => [service::validate(object), service::validate_families(object, ranges)].concat(),
        "pods" => pod::validate(object),
        "events" => simple::validate_event(resource, object),
        "leases" => simple::validate_lease(object),
        "endpointslices" => simple::validate_slice(object),
        _ => Vec::new(),
    }
}

/// The error about `causes`, if there are any.
pub fn refuse(resource: &Resource, object: &Value, causes: Vec<Cause>) -> ApiResult<()> {
    if causes.is_empty() {
        return Ok(());
    }
    // Both kinds of Event are validated as the core kind, so the message has no group.
    let group = if resource.storage == "events" { "" } else { resource.group };
    Err(ApiError::Invalid { kind: resource.kind, group, name: object::name(object).to_owned(), causes })
}
