//! Which endpoints a Service should have: a pure function of the Service, its pods and their nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::apiserver::object::{self, text};

/// Where a node's zone stands.
pub const ZONE: &str = "/metadata/labels/topology.kubernetes.io~1zone";

/// Endpoints of one family that offer the same ports.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSet {
    /// IPv4 or IPv6.
    pub address_type: String,
    /// Ports as in a slice.
    pub ports: Vec<Value>,
    /// Endpoints as in a slice.
    pub endpoints: Vec<Value>,
}

/// Whether slices of this Service are the controller's business.
pub fn has_endpoints(service: &Value) -> bool {
    let selector = service["spec"]["selector"].as_object();
    selector.is_some_and(|selector| !selector.is_empty()) && text(service, "/spec/type") != "ExternalName"
}

/// Whether the Service selects the pod.
pub fn selects(service: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    let selector = service["spec"]["selector"].as_object();
    has_endpoints(service) && selector.is_some_and(|all| all.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// The endpoint sets of a Service. A family without endpoints has one empty set, which becomes a placeholder slice.
pub fn desired(service: &Value, pods: &[Arc<Value>], nodes: &BTreeMap<String, Arc<Value>>) -> Vec<EndpointSet> {
    let mut sets = Vec::new();
    for family in object::list(service, "/spec/ipFamilies").iter().filter_map(Value::as_str) {
        let mut of_family: Vec<EndpointSet> = Vec::new();
        for pod in pods.iter().filter(|pod| is_endpoint(service, pod, nodes)) {
            let Some(endpoint) = endpoint(service, pod, nodes, family) else { continue };
            let ports = ports(service, pod);
            match of_family.iter_mut().find(|set| set.ports == ports) {
                Some(set) => set.endpoints.push(endpoint),
                None => {
                    of_family.push(EndpointSet { address_type: family.to_owned(), ports, endpoints: vec![endpoint] });
                }
            }
        }
        if of_family.is_empty() {
            of_family.push(EndpointSet { address_type: family.to_owned(), ports: Vec::new(), endpoints: Vec::new() });
        }
        sets.extend(of_family);
    }
    sets
}

/// A pod counts from the moment it has an address until it has ended. Its node must exist, unless the Service publishes
/// whatever there is.
fn is_endpoint(service: &Value, pod: &Value, nodes: &BTreeMap<String, Arc<Value>>) -> bool {
    let ended = ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
    let addressed = !text(pod, "/status/podIP").is_empty() || !object::list(pod, "/status/podIPs").is_empty();
    addressed && !ended && (publishes_all(service) || nodes.contains_key(text(pod, "/spec/nodeName")))
}

fn publishes_all(service: &Value) -> bool {
    service["spec"]["publishNotReadyAddresses"] == true
}

fn endpoint(service: &Value, pod: &Value, nodes: &BTreeMap<String, Arc<Value>>, family: &str) -> Option<Value> {
    let mut addresses: Vec<&str> = object::list(pod, "/status/podIPs").iter().map(|ip| text(ip, "/ip")).collect();
    if addresses.is_empty() {
        addresses.push(text(pod, "/status/podIP"));
    }
    addresses.retain(|address| address.contains(':') == (family == "IPv6"));
    if addresses.is_empty() {
        return None;
    }
    let serving = is_ready(pod);
    let terminating = object::is_terminating(pod);
    let ready = publishes_all(service) || (serving && !terminating);
    let target =
        json!({"kind": "Pod", "namespace": object::namespace(pod), "name": object::name(pod), "uid": object::uid(pod)});
    let mut endpoint = json!({"addresses": addresses, "targetRef": target,
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating}});
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() {
        endpoint["nodeName"] = json!(node);
    }
    if let Some(zone) = nodes.get(node).map(|node| text(node, ZONE)).filter(|zone| !zone.is_empty()) {
        endpoint["zone"] = json!(zone);
    }
    let hostname = text(pod, "/spec/hostname");
    if !hostname.is_empty() && text(pod, "/spec/subdomain") == object::name(service) {
        endpoint["hostname"] = json!(hostname);
    }
    Some(endpoint)
}

fn is_ready(pod: &Value) -> bool {
    object::list(pod, "/status/conditions").iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// The Service's ports on this pod; a named target that the pod does not have is left out.
fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let mut ports = Vec::new();
    for port in object::list(service, "/spec/ports") {
        let protocol = text(port, "/protocol");
        let number = match &port["targetPort"] {
            Value::String(name) => container_port(pod, name, protocol),
            number => number.as_u64(),
        };
        let Some(number) = number else { continue };
        let mut resolved = json!({"name": text(port, "/name"), "protocol": protocol, "port": number});
        if let Some(application) = port.get("appProtocol") {
            resolved["appProtocol"] = application.clone();
        }
        ports.push(resolved);
    }
    ports
}

fn container_port(pod: &Value, name: &str, protocol: &str) -> Option<u64> {
    let containers = object::list(pod, "/spec/containers").iter();
    let mut all = containers.flat_map(|container| object::list(container, "/ports"));
    all.find(|port| port["name"] == name && port["protocol"] == protocol)?["containerPort"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(extra: Value) -> Value {
        let mut service = json!({"metadata": {"name": "echo", "namespace": "a"}, "spec": {"selector": {"app": "echo"},
            "ipFamilies": ["IPv4"], "ports": [{"name": "p", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}});
        json_patch::merge(&mut service, &extra);
        service
    }

    fn pod(name: &str, ready: &str, extra: Value) -> Arc<Value> {
        let mut pod = json!({"metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "echo"}},
            "spec": {"nodeName": "n1"}, "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "Ready", "status": ready}]}});
        json_patch::merge(&mut pod, &extra);
        Arc::new(pod)
    }

    fn nodes() -> BTreeMap<String, Arc<Value>> {
        BTreeMap::from([("n1".to_owned(), Arc::new(json!({"metadata": {"name": "n1"}})))])
    }

    fn conditions(service: &Value, pod: Arc<Value>) -> Value {
        desired(service, &[pod], &nodes())[0].endpoints[0]["conditions"].clone()
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let publish = service(json!({"spec": {"publishNotReadyAddresses": true}}));
        for (service, ready, extra, expected) in [
            (service(json!({})), "True", json!({}), [true, true, false]),
            (service(json!({})), "False", json!({}), [false, false, false]),
            (service(json!({})), "True", deleted.clone(), [false, true, true]),
            (service(json!({})), "False", deleted.clone(), [false, false, true]),
            (publish.clone(), "False", json!({}), [true, false, false]),
            (publish, "False", deleted, [true, false, true]),
        ] {
            let [ready_now, serving, terminating] = expected;
            let seen = conditions(&service, pod("x", ready, extra));
            assert_eq!(seen, json!({"ready": ready_now, "serving": serving, "terminating": terminating}));
        }
    }

    #[test]
    fn a_family_without_endpoints_has_an_empty_set() {
        let service = service(json!({"spec": {"ipFamilies": ["IPv4", "IPv6"]}}));
        let sets = desired(&service, &[pod("x", "True", json!({"status": {"podIPs": [{"ip": "fd00::1"}]}}))], &nodes());
        let seen: Vec<_> = sets.iter().map(|set| (set.address_type.as_str(), set.endpoints.len())).collect();
        assert_eq!(seen, [("IPv4", 0), ("IPv6", 1)]);
    }

    #[test]
    fn pods_without_address_node_or_life_are_no_endpoints() {
        for extra in [
            json!({"status": {"podIPs": null}}),
            json!({"status": {"phase": "Failed"}}),
            json!({"spec": {"nodeName": "gone"}}),
        ] {
            let sets = desired(&service(json!({})), &[pod("x", "True", extra.clone())], &nodes());
            assert!(sets[0].endpoints.is_empty(), "{extra}");
        }
    }

    #[test]
    fn pods_that_resolve_a_named_port_differently_are_different_sets() {
        let service = service(json!({"spec": {"ports": [{"name": "p", "targetPort": "web", "protocol": "TCP"}]}}));
        let with_port = |name: &str, number: u16| {
            let ports = json!([{"name": "web", "containerPort": number, "protocol": "TCP"}]);
            pod(name, "True", json!({"spec": {"containers": [{"ports": ports}]}}))
        };
        let sets = desired(&service, &[with_port("a", 1), with_port("b", 2), with_port("c", 1)], &nodes());
        let seen: Vec<_> = sets.iter().map(|set| (set.ports[0]["port"].clone(), set.endpoints.len())).collect();
        assert_eq!(seen, [(json!(1), 2), (json!(2), 1)]);
    }

    #[test]
    fn services_without_selector_are_left_alone() {
        assert!(!has_endpoints(&json!({"spec": {}})));
        assert!(!has_endpoints(&json!({"spec": {"selector": {"a": "b"}, "type": "ExternalName"}})));
    }
}
