//! Services: defaults, families, and the fields that a network agent is strict about.

use serde_json::{Value, json};

use super::service_address::{Ranges, allocate};
use crate::apiserver::error::Cause;
use crate::apiserver::object::{self, child, set_default, text};
use crate::apiserver::store::State;

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// Adds defaults, cluster addresses and node ports.
pub fn complete(object: &mut Value, old: Option<&Value>, state: &State, ranges: &Ranges) {
    let spec = child(object, "spec");
    set_default(spec, "type", json!("ClusterIP"));
    set_default(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP" {
        set_default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    complete_ports(object);
    keep_addresses(object, old);
    if text(object, "/spec/type") != "ExternalName" {
        complete_policies(object);
        complete_families(object, ranges);
        allocate(object, state, ranges);
    }
    complete_ip_mode(object);
}

fn complete_ports(object: &mut Value) {
    let ports = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten();
    for port in ports.filter_map(Value::as_object_mut) {
        set_default(port, "protocol", json!("TCP"));
        let number = port.get("port").cloned().unwrap_or_default();
        if port.get("targetPort").is_none_or(|target| target == 0 || target == "") {
            port.insert("targetPort".into(), number);
        }
    }
}

/// An update that leaves the addresses out keeps them.
fn keep_addresses(object: &mut Value, old: Option<&Value>) {
    let Some(old) = old else { return };
    if text(object, "/spec/type") == "ExternalName" || text(old, "/spec/type") == "ExternalName" {
        return;
    }
    let spec = child(object, "spec");
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if let Some(value) = old["spec"].get(field) {
            set_default(spec, field, value.clone());
        }
    }
}

fn complete_policies(object: &mut Value) {
    let spec = child(object, "spec");
    set_default(spec, "internalTrafficPolicy", json!("Cluster"));
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if kind == "NodePort" || kind == "LoadBalancer" {
        set_default(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
}

fn complete_families(object: &mut Value, ranges: &Ranges) {
    let headless_without_selector =
        text(object, "/spec/clusterIP") == "None" && object.pointer("/spec/selector").is_none();
    let addresses = object::list(object, "/spec/clusterIPs").to_vec();
    let spec = child(object, "spec");
    let policy = match spec.get("ipFamilyPolicy").and_then(Value::as_str) {
        Some(policy) => policy.to_owned(),
        None if headless_without_selector => "RequireDualStack".to_owned(),
        None if spec.get("ipFamilies").and_then(Value::as_array).is_some_and(|all| all.len() == 2) => {
            "RequireDualStack".to_owned()
        }
        None => "SingleStack".to_owned(),
    };
    spec.insert("ipFamilyPolicy".into(), json!(policy));
    let mut families: Vec<String> = spec
        .get("ipFamilies")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    if families.is_empty() {
        families = addresses.iter().filter_map(Value::as_str).filter(|ip| *ip != "None").map(family).collect();
    }
    if families.is_empty() {
        families.push(ranges.primary().to_owned());
    }
    if policy == "SingleStack" {
        families.truncate(1);
    } else {
        // Nobody allocates addresses for a headless Service without selector: it may have what the cluster has not.
        let all =
            FAMILIES.iter().filter(|one| headless_without_selector || ranges.families.iter().any(|had| had == *one));
        families.extend(all.copied().find(|other| !families.iter().any(|family| family == other)).map(str::to_owned));
    }
    spec.insert("ipFamilies".into(), json!(families));
}

fn family(ip: &str) -> String {
    FAMILIES[usize::from(ip.contains(':'))].to_owned()
}

/// A load-balancer address without `ipMode` is a VIP.
fn complete_ip_mode(object: &mut Value) {
    if text(object, "/spec/type") != "LoadBalancer" {
        return;
    }
    let ingress = object.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut);
    for point in ingress.into_iter().flatten().filter_map(Value::as_object_mut) {
        if point.contains_key("ip") {
            set_default(point, "ipMode", json!("VIP"));
        }
    }
}

/// The faults of a Service.
pub fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let ports = object::list(object, "/spec/ports");
    let needs_ports = text(object, "/spec/type") != "ExternalName" && text(object, "/spec/clusterIP") != "None";
    if ports.is_empty() && needs_ports {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        causes.extend(validate_port(port, &format!("spec.ports[{index}]"), ports.len() > 1));
    }
    for (index, point) in object::list(object, "/status/loadBalancer/ingress").iter().enumerate() {
        let ip = text(point, "/ip");
        if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            let field = format!("status.loadBalancer.ingress[{index}].ip");
            causes.push(Cause::invalid(field, &format!("\"{ip}\""), why));
        }
    }
    causes
}

/// The faults of a Service on a cluster with these families.
pub fn validate_families(object: &Value, ranges: &Ranges) -> Vec<Cause> {
    let mut causes = Vec::new();
    let allocates = text(object, "/spec/type") != "ExternalName" && text(object, "/spec/clusterIP") != "None";
    if !allocates {
        return causes;
    }
    let policy = text(object, "/spec/ipFamilyPolicy");
    if policy == "RequireDualStack" && ranges.families.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &format!("\"{policy}\""), why));
    }
    for (index, family) in object::list(object, "/spec/ipFamilies").iter().filter_map(Value::as_str).enumerate() {
        if !ranges.families.iter().any(|had| had == family) {
            let why = "not configured on this cluster";
            causes.push(Cause::invalid(format!("spec.ipFamilies[{index}]"), &format!("\"{family}\""), why));
        }
    }
    causes
}

fn validate_port(port: &Value, path: &str, needs_name: bool) -> Vec<Cause> {
    const RANGE: &str = "must be between 1 and 65535, inclusive";
    let mut causes = Vec::new();
    if needs_name && text(port, "/name").is_empty() {
        causes.push(Cause::required(format!("{path}.name"), ""));
    }
    let in_range = |number: i64| (1..=65535).contains(&number);
    let number = port["port"].as_i64().unwrap_or_default();
    if !in_range(number) {
        causes.push(Cause::invalid(format!("{path}.port"), &number.to_string(), RANGE));
    }
    let protocol = text(port, "/protocol");
    if !["SCTP", "TCP", "UDP"].contains(&protocol) {
        causes.push(Cause::unsupported(format!("{path}.protocol"), protocol, &["SCTP", "TCP", "UDP"]));
    }
    if let Some(target) = port["targetPort"].as_i64().filter(|target| !in_range(*target)) {
        causes.push(Cause::invalid(format!("{path}.targetPort"), &target.to_string(), RANGE));
    }
    causes
}

/// What may not change.
pub fn validate_update(object: &Value, old: &Value) -> Vec<Cause> {
    const FINAL: &str = "may not change once set";
    let mut causes = Vec::new();
    let stays = |value: &Value| text(value, "/spec/type") != "ExternalName";
    let (before, after) = (text(old, "/spec/clusterIP"), text(object, "/spec/clusterIP"));
    if stays(object) && stays(old) && !before.is_empty() && before != after {
        causes.push(Cause::invalid("spec.clusterIPs[0]", &format!("[]string{{\"{after}\"}}"), FINAL));
    }
    let (before, after) = (text(old, "/spec/loadBalancerClass"), text(object, "/spec/loadBalancerClass"));
    let balances = |value: &Value| text(value, "/spec/type") == "LoadBalancer";
    if balances(object) && balances(old) && !before.is_empty() && before != after {
        causes.push(Cause::invalid("spec.loadBalancerClass", &format!("\"{after}\""), FINAL));
    }
    causes
}
