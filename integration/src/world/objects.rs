//! The lab's things as Kubernetes objects.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use tunnel_router::model::handover::{NodeName, NodeReport};
use tunnel_router::state::node_report::{REPORT_KEY, REPORT_LABEL, encode, report_name};

use super::NAMESPACE;
use crate::lab::{Node, PodSpec};

/// A Node as its kubelet would report it.
pub fn node(node: &Node) -> Value {
    let cidrs: Vec<String> = node.pod_cidrs().iter().map(|(network, length)| format!("{network}/{length}")).collect();
    let mut addresses: Vec<Value> =
        node.addresses().iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
    addresses.push(json!({ "type": "Hostname", "address": node.name() }));
    let mut labels = json!({ "kubernetes.io/hostname": node.name() });
    if node.is_ingress() {
        labels["node"] = json!("tunnel");
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": node.name(), "labels": labels },
        "spec": { "podCIDR": cidrs.first(), "podCIDRs": cidrs },
        "status": {
            "addresses": addresses,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
        },
    })
}

/// A node that takes no traffic in, of which there is nothing but this.
pub fn worker(name: &str, address: Ipv4Addr, pods: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": { "podCIDR": pods, "podCIDRs": [pods] },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name }],
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
        },
    })
}

/// What the agent of a node stores as its report.
pub fn report(node: &str, report: &NodeReport) -> Value {
    let (label, value) = REPORT_LABEL;
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": report_name(node), "namespace": NAMESPACE, "labels": { label: value } },
        "data": { REPORT_KEY: encode(&NodeName::from(node), report) },
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

/// The status of a running, ready Pod with these addresses.
pub fn running(ips: &[IpAddr]) -> Value {
    let all: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({ "status": {
        "phase": "Running", "podIP": ips.first(), "podIPs": all,
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
