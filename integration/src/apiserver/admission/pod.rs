//! Pods: the defaults that clients see. Nothing schedules or runs them; a test writes their status.

use serde_json::{Value, json};

use crate::apiserver::error::Cause;
use crate::apiserver::object::{self, child, set_default, text};

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Adds defaults and, at creation, the volume with the service-account token and the first status.
pub fn complete(object: &mut Value, old: Option<&Value>) {
    let host_network = object.pointer("/spec/hostNetwork") == Some(&json!(true));
    let spec = child(object, "spec");
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("serviceAccountName", json!("default")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
        ("priority", json!(0)),
        ("enableServiceLinks", json!(true)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
    ] {
        set_default(spec, field, value);
    }
    let account = spec["serviceAccountName"].clone();
    set_default(spec, "serviceAccount", account);
    for container in containers(object) {
        complete_container(container, host_network);
    }
    if old.is_none() {
        object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
        tolerate_unready_nodes(object);
        mount_token(object);
    }
}

fn containers(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    object.pointer_mut("/spec/containers").and_then(Value::as_array_mut).into_iter().flatten()
}

fn complete_container(container: &mut Value, host_network: bool) {
    let untagged_or_latest = {
        let image = text(container, "/image").rsplit('/').next().unwrap_or_default();
        image.ends_with(":latest") || !image.contains(':')
    };
    let Some(map) = container.as_object_mut() else { return };
    set_default(map, "resources", json!({}));
    set_default(map, "terminationMessagePath", json!("/dev/termination-log"));
    set_default(map, "terminationMessagePolicy", json!("File"));
    set_default(map, "imagePullPolicy", json!(if untagged_or_latest { "Always" } else { "IfNotPresent" }));
    let ports = map.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    for port in ports.filter_map(Value::as_object_mut) {
        set_default(port, "protocol", json!("TCP"));
        if host_network {
            let number = port.get("containerPort").cloned().unwrap_or_default();
            set_default(port, "hostPort", number);
        }
    }
}

fn tolerate_unready_nodes(object: &mut Value) {
    let mut tolerations = object::list(object, "/spec/tolerations").to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !tolerations.iter().any(|toleration| toleration["key"] == key) {
            let wait = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            tolerations.push(wait);
        }
    }
    child(object, "spec").insert("tolerations".into(), json!(tolerations));
}

fn mount_token(object: &mut Value) {
    if object.pointer("/spec/automountServiceAccountToken") == Some(&json!(false)) {
        return;
    }
    let name = format!("kube-api-access-{}", object::new_suffix());
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]);
    let mut volumes = object::list(object, "/spec/volumes").to_vec();
    volumes.push(json!({"name": name, "projected": {"sources": sources, "defaultMode": 420}}));
    child(object, "spec").insert("volumes".into(), json!(volumes));
    for container in containers(object) {
        let mut mounts = object::list(container, "/volumeMounts").to_vec();
        mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
        container["volumeMounts"] = json!(mounts);
    }
}

/// The faults of a Pod.
pub fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let containers = object::list(object, "/spec/containers");
    if containers.is_empty() {
        causes.push(Cause::required("spec.containers", ""));
    }
    for (index, container) in containers.iter().enumerate() {
        for field in ["name", "image"] {
            if text(container, &format!("/{field}")).is_empty() {
                causes.push(Cause::required(format!("spec.containers[{index}].{field}"), ""));
            }
        }
    }
    causes
}
