//! Pods of the own node: where the pod of a local endpoint is found.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::{Annotations, Reduce, addresses};

/// The kubelet gives a static pod's cgroup this hash; the UID of the pod in the API is its mirror's.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// What matters of a Pod of the own node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct PodRecord {
    /// `metadata.uid`.
    pub uid: String,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Phase `Succeeded` or `Failed`: its netns is gone, or soon will be.
    pub terminated: bool,
    /// Annotation `kubernetes.io/config.hash` of a static pod.
    pub config_hash: Option<String>,
    /// Ids of its running containers.
    pub containers: BTreeSet<String>,
    /// `spec.runtimeClassName`.
    pub runtime_class: Option<String>,
    /// `spec.os.name`.
    pub os: Option<String>,
}

impl Reduce for PodRecord {
    type Object = Pod;

    fn reduce(pod: &Pod, _: &Annotations) -> Self {
        let status = pod.status.as_ref();
        let listed: Vec<&String> =
            status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|a| &a.ip).collect();
        let phase = status.and_then(|s| s.phase.as_deref());
        let spec = pod.spec.as_ref();
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            // `podIP` repeats the first of `podIPs`, where the writer knows the list.
            addresses: match listed.is_empty() {
                false => addresses(listed),
                true => addresses(status.and_then(|s| s.pod_ip.as_ref())),
            },
            host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
            terminated: matches!(phase, Some("Succeeded" | "Failed")),
            config_hash: pod.metadata.annotations.as_ref().and_then(|all| all.get(CONFIG_HASH).cloned()),
            containers: status.map(running).unwrap_or_default(),
            runtime_class: spec.and_then(|s| s.runtime_class_name.clone()),
            os: spec.and_then(|s| s.os.as_ref()).map(|os| os.name.clone()),
        }
    }
}

fn running(status: &PodStatus) -> BTreeSet<String> {
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let runs = |container: &&ContainerStatus| container.state.as_ref().is_some_and(|state| state.running.is_some());
    all.filter(runs).filter_map(|container| container.container_id.clone()).collect()
}
