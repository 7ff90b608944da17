//! The lab's things as Kubernetes objects.

use serde_json::{Value, json};

use crate::lab::{Node, PodSpec};

/// A Node as its kubelet would report it.
pub fn node(node: &Node) -> Value {
    let (network, length) = node.pod_cidr();
    let cidr = format!("{network}/{length}");
    let mut labels = json!({ "kubernetes.io/hostname": node.name() });
    if node.is_ingress() {
        labels["node"] = json!("tunnel");
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": node.name(), "labels": labels },
        "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
        "status": {
            "addresses": [
                { "type": "InternalIP", "address": node.address().to_string() },
                { "type": "Hostname", "address": node.name() },
            ],
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
        },
    })
}

/// A Pod that is about to start.
pub fn pod(spec: &PodSpec, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": spec.name, "namespace": spec.namespace, "labels": { "app": app } },
        "spec": { "nodeName": spec.node, "containers": [{ "name": "echo", "image": "echo" }] },
    })
}

/// The status of a running, ready Pod.
pub fn running(ip: &str) -> Value {
    json!({ "status": {
        "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    } })
}

/// A Service with the seed's port, by both protocols.
pub fn service(name: &str, app: &str, annotations: &[(&str, &str)]) -> Value {
    let annotations: Value =
        annotations.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect::<serde_json::Map<_, _>>().into();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default", "annotations": annotations },
        "spec": {
            "selector": { "app": app },
            "ports": [
                { "name": "tcp", "protocol": "TCP", "port": 12345 },
                { "name": "udp", "protocol": "UDP", "port": 12345 },
            ],
        },
    })
}
