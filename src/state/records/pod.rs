//! Pods of the own node: where the pod of a local endpoint is found.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::{Annotations, Reduce, addresses};

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
}

impl Reduce for PodRecord {
    type Object = Pod;

    fn reduce(pod: &Pod, _: &Annotations) -> Self {
        let status = pod.status.as_ref();
        let listed: Vec<&String> =
            status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|a| &a.ip).collect();
        let phase = status.and_then(|s| s.phase.as_deref());
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            // `podIP` repeats the first of `podIPs`, where the writer knows the list.
            addresses: match listed.is_empty() {
                false => addresses(listed),
                true => addresses(status.and_then(|s| s.pod_ip.as_ref())),
            },
            host_network: pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false),
            terminated: matches!(phase, Some("Succeeded" | "Failed")),
        }
    }
}
