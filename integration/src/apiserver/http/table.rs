//! The tables that `kubectl get` prints: columns and cells per kind. Other kinds get name and age.

use serde_json::{Value, json};

use super::accept::{Include, metadata_of};
use super::duration::{age, since};
use crate::apiserver::object::{list, name, string_map, text};
use crate::apiserver::resource::Resource;

/// Column name; with a `*` it is only shown by `-o wide`.
type Columns = &'static [&'static str];

fn columns(resource: &Resource) -> Columns {
    match resource.storage {
        "services" => &["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector*"],
        "pods" => {
            &["Name", "Ready", "Status", "Restarts", "Age", "IP*", "Node*", "Nominated Node*", "Readiness Gates*"]
        }
        "nodes" => &["Name", "Status", "Roles", "Age", "Version", "Internal-IP*", "External-IP*"],
        "namespaces" => &["Name", "Status", "Age"],
        "configmaps" => &["Name", "Data", "Age"],
        "secrets" => &["Name", "Type", "Data", "Age"],
        "leases" => &["Name", "Holder", "Age"],
        "endpointslices" => &["Name", "AddressType", "Ports", "Endpoints", "Age"],
        "servicecidrs" => &["Name", "CIDRs", "Age"],
        "networkpolicies" => &["Name", "Pod-Selector", "Age"],
        "events" => &["Last Seen", "Type", "Reason", "Object", "Message", "Name*"],
        _ => &["Name", "Age"],
    }
}

/// A `meta.k8s.io/v1` Table.
pub fn table(resource: &Resource, metadata: Value, rows: Vec<Value>, with_columns: bool) -> Value {
    let definitions: Vec<Value> = columns(resource).iter().map(|column| definition(column)).collect();
    let definitions = if with_columns { json!(definitions) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions,
        "rows": rows})
}

fn definition(column: &str) -> Value {
    let name = column.trim_end_matches('*');
    let format = if name == "Name" { "name" } else { "" };
    let kind = if ["Data", "Restarts"].contains(&name) { "integer" } else { "string" };
    json!({"name": name, "type": kind, "format": format, "description": name, "priority": i32::from(name != column)})
}

/// One row.
pub fn row(resource: &Resource, object: &Value, include: Include) -> Value {
    let mut row = json!({"cells": cells(resource, object)});
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = metadata_of(object),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

fn cells(resource: &Resource, object: &Value) -> Value {
    let own = name(object);
    match resource.storage {
        "services" => service(object),
        "pods" => pod(object),
        "nodes" => node(object),
        "namespaces" => json!([own, text(object, "/status/phase"), age(object)]),
        "configmaps" => json!([own, size(object, "data") + size(object, "binaryData"), age(object)]),
        "secrets" => json!([own, text(object, "/type"), size(object, "data"), age(object)]),
        "leases" => json!([own, text(object, "/spec/holderIdentity"), age(object)]),
        "endpointslices" => slice(object),
        "servicecidrs" => service_cidr(object),
        "networkpolicies" => json!([own, pairs(object, "/spec/podSelector/matchLabels"), age(object)]),
        "events" => event(object),
        _ => json!([own, age(object)]),
    }
}

fn service(object: &Value) -> Value {
    let ports: Vec<String> = list(object, "/spec/ports").iter().map(service_port).collect();
    let mut external: Vec<&str> =
        list(object, "/status/loadBalancer/ingress").iter().map(|point| text(point, "/ip")).collect();
    external.extend(list(object, "/spec/externalIPs").iter().filter_map(Value::as_str));
    let external = match (external.is_empty(), text(object, "/spec/type")) {
        (false, _) => external.join(","),
        (true, "LoadBalancer") => "<pending>".into(),
        (true, "ExternalName") => text(object, "/spec/externalName").to_owned(),
        (true, _) => "<none>".into(),
    };
    let cluster = or_none(text(object, "/spec/clusterIP").to_owned());
    json!([
        name(object),
        text(object, "/spec/type"),
        cluster,
        external,
        or_none(ports.join(",")),
        age(object),
        pairs(object, "/spec/selector")
    ])
}

fn service_port(port: &Value) -> String {
    let protocol = text(port, "/protocol");
    match port["nodePort"].as_u64() {
        Some(node_port) => format!("{}:{node_port}/{protocol}", port["port"]),
        None => format!("{}/{protocol}", port["port"]),
    }
}

fn pod(object: &Value) -> Value {
    let statuses = list(object, "/status/containerStatuses");
    let ready = statuses.iter().filter(|status| status["ready"] == true).count();
    let restarts: u64 = statuses.iter().filter_map(|status| status["restartCount"].as_u64()).sum();
    let state =
        if crate::apiserver::object::is_terminating(object) { "Terminating" } else { text(object, "/status/phase") };
    let gates = list(object, "/spec/readinessGates");
    let conditions = list(object, "/status/conditions");
    let open = gates.iter().filter(|gate| {
        conditions.iter().any(|condition| condition["type"] == gate["conditionType"] && condition["status"] == "True")
    });
    let gates = if gates.is_empty() { "<none>".into() } else { format!("{}/{}", open.count(), gates.len()) };
    json!([
        name(object),
        format!("{ready}/{}", list(object, "/spec/containers").len()),
        state,
        restarts,
        age(object),
        or_none(text(object, "/status/podIP").to_owned()),
        or_none(text(object, "/spec/nodeName").to_owned()),
        "<none>",
        gates
    ])
}

fn node(object: &Value) -> Value {
    let ready = list(object, "/status/conditions").iter().find(|condition| condition["type"] == "Ready");
    let mut state = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    let labels = string_map(object, "/metadata/labels");
    let roles: Vec<&str> = labels.keys().filter_map(|key| key.strip_prefix("node-role.kubernetes.io/")).collect();
    let address = |kind: &str| {
        let found = list(object, "/status/addresses").iter().find(|address| address["type"] == kind);
        or_none(found.map(|address| text(address, "/address").to_owned()).unwrap_or_default())
    };
    json!([
        name(object),
        state,
        or_none(roles.join(",")),
        age(object),
        text(object, "/status/nodeInfo/kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP")
    ])
}

fn slice(object: &Value) -> Value {
    let ports: Vec<String> = list(object, "/ports").iter().map(|port| port["port"].to_string()).collect();
    let mut addresses: Vec<&str> = list(object, "/endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "/addresses"))
        .filter_map(Value::as_str)
        .collect();
    let more = addresses.len().saturating_sub(3);
    addresses.truncate(3);
    let suffix = if more > 0 { format!(" + {more} more...") } else { String::new() };
    let unset = |text: String| if text.is_empty() { "<unset>".into() } else { text };
    json!([
        name(object),
        text(object, "/addressType"),
        unset(ports.join(",")),
        unset(addresses.join(",")) + &suffix,
        age(object)
    ])
}

fn service_cidr(object: &Value) -> Value {
    let nets: Vec<&str> = list(object, "/spec/cidrs").iter().filter_map(Value::as_str).collect();
    json!([name(object), nets.join(","), age(object)])
}

fn event(object: &Value) -> Value {
    let either = |one: &str, other: &str| {
        let first = text(object, one);
        if first.is_empty() { text(object, other).to_owned() } else { first.to_owned() }
    };
    let about = if object["involvedObject"].is_object() { "/involvedObject" } else { "/regarding" };
    let kind = text(object, &format!("{about}/kind")).to_lowercase();
    let about = format!("{kind}/{}", text(object, &format!("{about}/name")));
    let seen = ["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp", "/eventTime"];
    let seen = seen.iter().map(|pointer| text(object, pointer)).find(|time| !time.is_empty()).unwrap_or_default();
    json!([
        since(seen),
        text(object, "/type"),
        text(object, "/reason"),
        about,
        either("/message", "/note"),
        name(object)
    ])
}

fn size(object: &Value, field: &str) -> usize {
    object[field].as_object().map_or(0, serde_json::Map::len)
}

fn pairs(object: &Value, pointer: &str) -> String {
    let pairs: Vec<String> = string_map(object, pointer).iter().map(|(key, value)| format!("{key}={value}")).collect();
    or_none(pairs.join(","))
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".into() } else { text }
}
