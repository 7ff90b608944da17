//! The kinds that need only a few lines: Node, Namespace, Secret, Event, Lease, EndpointSlice.

use serde_json::{Value, json};

use super::names;
use crate::apiserver::error::Cause;
use crate::apiserver::object::{self, child, set_default, text};
use crate::apiserver::resource::Resource;

/// A node starts with the taint that its controller removes once it is ready.
pub fn complete_node(object: &mut Value, old: Option<&Value>) {
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    if old.is_some() {
        return;
    }
    let mut taints = object::list(object, "/spec/taints").to_vec();
    if !taints.iter().any(|taint| taint["key"] == NOT_READY) {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
    child(object, "spec").insert("taints".into(), json!(taints));
}

/// A namespace has a finalizer, a phase and a label with its own name.
pub fn complete_namespace(object: &mut Value, old: Option<&Value>) {
    let name = object::name(object).to_owned();
    if old.is_none() {
        child(object, "spec").insert("finalizers".into(), json!(["kubernetes"]));
        object["status"] = json!({"phase": "Active"});
    }
    if !object::metadata(object).get("labels").is_some_and(Value::is_object) {
        object::metadata(object).insert("labels".into(), json!({}));
    }
    object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
}

/// A secret has a type.
pub fn complete_secret(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        set_default(map, "type", json!("Opaque"));
    }
}

/// The faults of an Event in its stored form. The newer API demands more.
pub fn validate_event(resource: &Resource, object: &Value) -> Vec<Cause> {
    let new_api = resource.group == "events.k8s.io";
    let mut causes = Vec::new();
    let about = text(object, "/involvedObject/namespace");
    let here = object::namespace(object);
    if about != here && !(about.is_empty() && here == "default") {
        let shown = format!("\"{about}\"");
        causes.push(Cause::invalid("involvedObject.namespace", &shown, "does not match event.namespace"));
    }
    let timed = !object["eventTime"].is_null();
    if new_api && !timed {
        causes.push(Cause::required("eventTime", ""));
    }
    if new_api || timed {
        let field = if new_api { "reportingController" } else { "reportingComponent" };
        let controller = text(object, "/reportingComponent");
        if controller.is_empty() {
            causes.push(Cause::required(field, ""));
        }
        causes.extend(names::check_qualified(field, controller));
        for field in ["reportingInstance", "action", "reason"] {
            if text(object, &format!("/{field}")).is_empty() {
                causes.push(Cause::required(field, ""));
            }
        }
    }
    let kind = text(object, "/type");
    if new_api && !["Normal", "Warning"].contains(&kind) {
        causes.push(Cause::invalid("type", "\"\"", &format!("has invalid value: {kind}")));
    }
    causes
}

/// The faults of a Lease.
pub fn validate_lease(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (field, least, why) in [
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ] {
        if let Some(number) = object["spec"][field].as_i64().filter(|number| *number < least) {
            causes.push(Cause::invalid(format!("spec.{field}"), &number.to_string(), why));
        }
    }
    causes
}

/// The faults of an EndpointSlice.
pub fn validate_slice(object: &Value) -> Vec<Cause> {
    let kinds = ["FQDN", "IPv4", "IPv6"];
    match text(object, "/addressType") {
        "" => vec![Cause::required("addressType", "")],
        kind if !kinds.contains(&kind) => vec![Cause::unsupported("addressType", kind, &kinds)],
        _ => Vec::new(),
    }
}
