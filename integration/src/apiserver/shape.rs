//! Makes an object look as if it had gone through the typed structs of a real API server.
//!
//! A real server decodes into Go structs and prints those: unknown fields vanish, a wrong type is an error, empty lists and
//! maps are not printed, and some fields are always printed, even when nobody set them. Clients depend on all four. The
//! Rust types of `k8s-openapi` do the decoding; this module makes up for where they differ from Go's encoder.

use k8s_openapi::serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::object;
use super::resource::Resource;

/// Maps that Go does not print when empty. Lists are dropped everywhere; other empty objects are structs and stay.
const MAPS: &[&str] = &[
    "labels",
    "annotations",
    "matchLabels",
    "nodeSelector",
    "selector",
    "data",
    "binaryData",
    "stringData",
    "limits",
    "requests",
    "capacity",
    "allocatable",
];

/// Maps of quantities, which clients may write as numbers.
const QUANTITIES: &[&str] = &["limits", "requests", "capacity", "allocatable"];

/// Stands for "no time" while a condition goes through a type that demands one.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// The round trip through one typed struct, for the table of resources.
pub fn typed<T: Serialize + DeserializeOwned>(object: Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object)?)
}

/// Decodes and prints `object` as `resource`. With `strict`, a field that the type does not have is an error.
pub fn normalise(resource: &Resource, object: Value, strict: bool) -> ApiResult<Value> {
    let mut input = object.clone();
    prepare(&mut input);
    let mut printed = (resource.round_trip)(input).map_err(|error| unreadable(resource, &error.to_string()))?;
    if strict {
        let mut unknown = Vec::new();
        unknown_fields(&object, &printed, "", &mut unknown);
        if !unknown.is_empty() {
            return Err(unreadable(resource, &format!("strict decoding error: {}", unknown.join(", "))));
        }
    }
    prune(&mut printed);
    always_printed(resource, &mut printed);
    Ok(printed)
}

/// What the type prints for an object in which nothing is set, as in a bookmark.
pub fn empty(resource: &Resource) -> Value {
    let mut object = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": {}});
    always_printed(resource, &mut object);
    if resource.kind == "Pod" {
        object["spec"] = json!({"containers": null});
    }
    object
}

fn unreadable(resource: &Resource, why: &str) -> ApiError {
    let (kind, version) = (resource.kind, resource.version);
    ApiError::BadRequest(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}

/// Rewrites what Go's decoder accepts and the Rust types do not.
fn prepare(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(prepare),
        Value::Object(map) => {
            for (field, inner) in map.iter_mut() {
                if QUANTITIES.contains(&field.as_str()) {
                    numbers_to_text(inner);
                }
                if field == "conditions" {
                    for condition in inner.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                        if condition.contains_key("type") {
                            object::set_default(condition, "lastTransitionTime", json!(NO_TIME));
                        }
                    }
                }
                prepare(inner);
            }
        }
        _ => {}
    }
}

fn numbers_to_text(quantities: &mut Value) {
    for quantity in quantities.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        if let Value::Number(number) = quantity {
            *quantity = json!(number.to_string());
        }
    }
}

/// Collects the paths that `input` sets and `printed` has lost.
pub(super) fn unknown_fields(input: &Value, printed: &Value, path: &str, unknown: &mut Vec<String>) {
    match (input, printed) {
        (Value::Object(input), Value::Object(printed)) => {
            for (field, value) in input.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
                match printed.get(field) {
                    Some(kept) => unknown_fields(value, kept, &path, unknown),
                    None => unknown.push(format!("unknown field \"{path}\"")),
                }
            }
        }
        (Value::Array(input), Value::Array(printed)) => {
            for (index, (value, kept)) in input.iter().zip(printed).enumerate() {
                unknown_fields(value, kept, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Drops empty lists, the empty maps of [`MAPS`], and nulls.
fn prune(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Object(map) => {
            map.retain(|field, inner| {
                prune(inner);
                match inner {
                    Value::Null => false,
                    Value::Array(items) => !items.is_empty(),
                    Value::Object(inner) => !(inner.is_empty() && MAPS.contains(&field.as_str())),
                    _ => true,
                }
            });
        }
        _ => {}
    }
}

/// Adds the fields that Go prints whether or not they are set.
fn always_printed(resource: &Resource, object: &mut Value) {
    let defaults = match (resource.group, resource.kind) {
        ("", "Service") => json!({"spec": {}, "status": {"loadBalancer": {}}}),
        ("", "Pod" | "Namespace") => json!({"spec": {}, "status": {}}),
        ("", "Node") => empty_node(),
        ("", "Event") => json!({"involvedObject": {}, "source": {}, "firstTimestamp": null, "lastTimestamp": null,
            "eventTime": null, "reportingComponent": "", "reportingInstance": ""}),
        (_, "Event") => json!({"regarding": {}, "deprecatedSource": {}, "deprecatedFirstTimestamp": null,
            "deprecatedLastTimestamp": null, "eventTime": null}),
        (_, "EndpointSlice") => json!({"addressType": "", "endpoints": null, "ports": null}),
        (_, "Lease") => json!({"spec": {}}),
        (_, "ServiceCIDR") => json!({"spec": {}, "status": {}}),
        (_, "NetworkPolicy") => json!({"spec": {"podSelector": {}}}),
        _ => json!({}),
    };
    object::fill(object, &defaults);
    match resource.kind {
        "Service" | "ServiceCIDR" => {
            conditions(object, &json!({"lastTransitionTime": null, "reason": "", "message": ""}))
        }
        "Namespace" => conditions(object, &json!({"lastTransitionTime": null})),
        "Node" => conditions(object, &json!({"lastHeartbeatTime": null, "lastTransitionTime": null})),
        "Pod" => {
            conditions(object, &json!({"lastProbeTime": null, "lastTransitionTime": null}));
            each(object, "/spec/containers", &json!({"resources": {}}));
            each(object, "/status/containerStatuses", &json!({"state": {}, "lastState": {}}));
        }
        "EndpointSlice" => each(object, "/endpoints", &json!({"conditions": {}})),
        _ => {}
    }
}

fn conditions(object: &mut Value, defaults: &Value) {
    for condition in object.pointer_mut("/status/conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if condition["lastTransitionTime"] == NO_TIME {
            condition["lastTransitionTime"] = Value::Null;
        }
        object::fill(condition, defaults);
    }
}

fn each(object: &mut Value, pointer: &str, defaults: &Value) {
    for item in object.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten() {
        object::fill(item, defaults);
    }
}

fn empty_node() -> Value {
    json!({"spec": {}, "status": {
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": {"machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
            "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "",
            "architecture": ""}}})
}

#[cfg(test)]
mod tests {
    use super::super::resource::by_plural;
    use super::*;

    fn normal(plural: &str, object: Value) -> ApiResult<Value> {
        normalise(by_plural(plural).unwrap(), object, false)
    }

    #[test]
    fn unknown_fields_and_empty_collections_vanish() {
        let service = json!({"metadata": {"name": "x", "annotations": {}}, "spec": {"bogus": 1, "ports": []}});
        let printed = normal("services", service).unwrap();
        assert_eq!(printed["metadata"], json!({"name": "x"}));
        assert_eq!(printed["spec"], json!({}));
    }

    #[test]
    fn a_wrong_type_is_a_bad_request() {
        let error = normal("services", json!({"spec": {"ports": "none"}})).unwrap_err();
        assert_eq!(error.code(), 400);
        assert!(error.to_string().starts_with("Service in version \"v1\" cannot be handled as a Service"), "{error}");
    }

    #[test]
    fn strict_names_the_unknown_field() {
        let service = json!({"metadata": {}, "spec": {"ports": [{"port": 1, "prot": "TCP"}]}});
        let error = normalise(by_plural("services").unwrap(), service, true).unwrap_err();
        assert!(error.to_string().contains("unknown field \"spec.ports[0].prot\""), "{error}");
    }

    #[test]
    fn a_condition_without_time_is_printed_with_null() {
        let printed = normal("services", json!({"status": {"conditions": [{"type": "A", "status": "True"}]}})).unwrap();
        let expected =
            json!([{"type": "A", "status": "True", "lastTransitionTime": null, "reason": "", "message": ""}]);
        assert_eq!(printed["status"]["conditions"], expected);
    }

    #[test]
    fn quantities_may_be_numbers() {
        let printed = normal("nodes", json!({"status": {"capacity": {"cpu": 2}}})).unwrap();
        assert_eq!(printed["status"]["capacity"]["cpu"], "2");
    }

    #[test]
    fn a_network_policy_rule_that_allows_everything_stays() {
        let policy = json!({"metadata": {}, "spec": {"podSelector": {}, "ingress": [{}]}});
        let policy = normalise(super::super::resource::by_plural("networkpolicies").unwrap(), policy, false).unwrap();
        assert_eq!(policy["spec"], json!({"podSelector": {}, "ingress": [{}]}));
    }
}
