//! The pods of the own node: where to find the pod of a local endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::foreign::foreign_network;
use super::records::PodRecord;
use super::stores::Stores;

/// A pod of the own node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    /// `metadata.uid`.
    pub uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Its addresses; its netns must hold them.
    pub addresses: Vec<IpAddr>,
    /// It has no netns of its own.
    pub host_network: bool,
    /// All its containers have ended (phase `Succeeded` or `Failed`).
    pub terminated: bool,
    /// What its cgroup is named after, where that is not the UID: the hash of a static pod.
    pub config_hash: Option<String>,
    /// Ids of its running containers: when others appear, its netns may be another one.
    pub containers: BTreeSet<String>,
    /// Its network is known not to be one that the kernel of this node runs.
    pub foreign_network: bool,
}

/// Whoever creates a pod may annotate it: a hash that is the UID of another pod is not believed, nor one of a pod to which no
/// kubelet has given an address that its netns must hold.
fn config_hash(pod: &PodRecord, uids: &BTreeSet<&str>) -> Option<String> {
    pod.config_hash.clone().filter(|hash| !pod.addresses.is_empty() && !uids.contains(hash.as_str()))
}

/// The pods of the own node by UID.
pub(super) fn local_pods(stores: &Stores) -> BTreeMap<String, LocalPod> {
    let uids: BTreeSet<&str> = stores.pods.iter().map(|(_, record)| record.uid.as_str()).collect();
    let pods = stores.pods.iter().map(|(key, record)| {
        let pod = LocalPod {
            uid: record.uid.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            addresses: record.addresses.clone(),
            host_network: record.host_network,
            terminated: record.terminated,
            config_hash: config_hash(record, &uids),
            containers: record.containers.clone(),
            foreign_network: foreign_network(record).is_some(),
        };
        (record.uid.clone(), pod)
    });
    pods.collect()
}
