//! Nodes: their addresses, labels, and the ranges of their pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeAddress};

use super::{Annotations, Reduce, addresses};

/// Label with the operating system that the kubelet runs on.
const OS: &str = "kubernetes.io/os";

/// Label of nodes that are to get nothing from load balancers, whatever its value (KEP-1143).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What matters of a Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct NodeRecord {
    /// `metadata.uid`.
    pub uid: String,
    /// `status.addresses` of type `InternalIP`, in their order.
    pub internal: Vec<IpAddr>,
    /// All of `status.addresses` that are IP addresses.
    pub all: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// `spec.unschedulable`, or a label that keeps load balancers away from it.
    pub cordoned: bool,
    /// Condition `Ready`; also where nothing is said of it.
    pub ready: bool,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
}

impl NodeRecord {
    /// Its operating system, if its kubelet says so.
    pub fn os(&self) -> Option<&str> {
        self.labels.get(OS).map(String::as_str)
    }
}

fn is_excluded(node: &Node) -> bool {
    node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.is_none_or(|ready| ready.status == "True")
}

impl Reduce for NodeRecord {
    type Object = Node;

    fn reduce(node: &Node, _: &Annotations) -> Self {
        let listed: Vec<&NodeAddress> = node.status.iter().flat_map(|s| s.addresses.iter().flatten()).collect();
        let spec = node.spec.as_ref();
        let cidrs = spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten();
        // `podCIDR` repeats the first of `podCIDRs`, where the writer knows the list.
        let cidrs = cidrs.chain(spec.and_then(|s| s.pod_cidr.as_ref()));
        let mut pod_cidrs: Vec<IpNet> = cidrs.filter_map(|text| text.parse().ok()).collect();
        pod_cidrs.sort_unstable();
        pod_cidrs.dedup();
        Self {
            uid: node.metadata.uid.clone().unwrap_or_default(),
            internal: addresses(listed.iter().filter(|a| a.type_ == "InternalIP").map(|a| &a.address)),
            all: addresses(listed.iter().map(|a| &a.address)),
            pod_cidrs,
            cordoned: spec.and_then(|s| s.unschedulable) == Some(true) || is_excluded(node),
            ready: is_ready(node),
            labels: node.metadata.labels.clone().unwrap_or_default(),
        }
    }
}
