//! What makes a recorded and a fresh document comparable, and how they differ if they still do.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Fields that controllers outside the double's scope write: pod networks of nodes.
pub const FOREIGN_FIELDS: &[&str] = &["managedFields", "podCIDR", "podCIDRs"];

/// The recorded server listened on 192.0.2.2:16443.
pub fn as_recorded(value: &mut Value, address: std::net::SocketAddr) {
    match value {
        Value::Object(map) => map.values_mut().for_each(|inner| as_recorded(inner, address)),
        Value::Array(items) => items.iter_mut().for_each(|inner| as_recorded(inner, address)),
        Value::String(text) => {
            *text = text.replace(&address.to_string(), "192.0.2.2:16443").replace("127.0.0.1", "192.0.2.2")
        }
        Value::Number(number) if number.as_u64() == Some(u64::from(address.port())) => *value = json!(16443),
        _ => {}
    }
}

/// Replaces what differs by nature. `field` is the name under which the value stands.
pub fn normal(value: &mut Value, field: &str) {
    match value {
        Value::Object(map) => {
            map.retain(|field, _| !FOREIGN_FIELDS.contains(&field.as_str()));
            // The recorded server had been restarted twice, and each time wrote the slice of its own Service.
            if map.get("name").is_some_and(|name| name == "kubernetes") {
                map.remove("generation");
            }
            if let Some(prefix) = map.get("generateName").cloned() {
                map["name"] = json!(format!("{}xxxxx", prefix.as_str().unwrap()));
            }
            map.iter_mut().for_each(|(field, inner)| normal(inner, field));
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|item| normal(item, field));
            // The real controllers order ports and, after a restart, slices by chance.
            if field == "ports" || (field == "items" && items.iter().any(|item| !item["addressType"].is_null())) {
                items.sort_by_key(|item| {
                    let name = if field == "ports" { &item["name"] } else { &item["metadata"]["generateName"] };
                    (name.to_string(), item["addressType"].to_string())
                });
            }
        }
        Value::String(text) => {
            if let Some(token) = token(field, text) {
                *text = token;
            }
        }
        Value::Number(_) if ["nodePort", "healthCheckNodePort"].contains(&field) => *value = json!("<port>"),
        _ => {}
    }
}

pub fn token(field: &str, text: &str) -> Option<String> {
    let recorded_now =
        text.len() == 20 && text.starts_with("20") && text.ends_with('Z') && !text.starts_with("2026-01-01");
    match field {
        "uid" | "resourceVersion" | "continue" | "description" | "message" if field != "message" => {
            Some(format!("<{field}>"))
        }
        "clusterIP" | "clusterIPs" if text.starts_with("10.96.") => Some("<ipv4>".into()),
        "clusterIPs" if text.starts_with("fd96::") => Some("<ipv6>".into()),
        "name" if text.starts_with("kube-api-access-") => Some("kube-api-access-xxxxx".into()),
        "message" if text.starts_with("too old resource version") => Some("too old resource version".into()),
        "message" if text.contains("Too large resource version:") => Some("Too large resource version".into()),
        _ if recorded_now => Some("<time>".into()),
        _ => None,
    }
}

/// The first places where two documents differ.
pub fn difference(expected: &Value, seen: &Value) -> String {
    fn walk(path: &str, expected: &Value, seen: &Value, out: &mut Vec<String>) {
        match (expected, seen) {
            (Value::Object(one), Value::Object(other)) => {
                let fields: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
                for field in fields {
                    walk(&format!("{path}/{field}"), &expected[field], &seen[field], out);
                }
            }
            (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
                for (index, (one, other)) in one.iter().zip(other).enumerate() {
                    walk(&format!("{path}/{index}"), one, other, out);
                }
            }
            _ if expected != seen => out.push(format!("{path}: expected {expected}, got {seen}")),
            _ => {}
        }
    }
    let mut differences = Vec::new();
    walk("", expected, seen, &mut differences);
    differences.truncate(6);
    differences.join("\n    ")
}

/// Cells with an age, and allocated addresses and ports among them.
pub fn blur_cells(body: &mut Value) {
    for row in body["rows"].as_array_mut().unwrap() {
        row["cells"][2] = json!("<ip>");
        row["cells"][5] = json!("<age>");
        let ports = row["cells"][4].as_str().unwrap();
        let without_node_ports: Vec<String> = ports
            .split(',')
            .map(|port| {
                let (number, protocol) = port.split_once('/').unwrap();
                format!("{}/{protocol}", number.split(':').next().unwrap())
            })
            .collect();
        row["cells"][4] = json!(without_node_ports.join(","));
    }
}
