//! The form in which a node's state is shown: what `-o json` prints.
//!
//! Fields are only ever added; their names are a contract with scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::handover::{FlowHash, HashKey, Name, TunnelId};
use crate::model::{Bucket, BucketCount};

/// Who says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The running agent.
    Agent,
    /// The kernel alone: names of Services and pods are not in there.
    #[default]
    Kernel,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Who says it.
    pub source: Source,
    /// Name of the node, if anything of ours says it.
    pub node: Option<String>,
    /// Version of the agent.
    pub version: Option<String>,
    /// It takes packets of VIPs in.
    pub ingress: bool,
    /// All nodes that do, as far as the agent knows.
    pub ingress_nodes: Vec<String>,
    /// `kubectl cordon`: it announces nothing.
    pub cordoned: bool,
    /// `drain-node`: it announces nothing.
    pub withdrawn: bool,
    /// Any address may become a VIP, of whoever may annotate a Service: there is no `--vip-cidrs`.
    #[serde(default)]
    pub any_address: bool,
    /// Why the agent is not ready, a line each.
    pub unready: Vec<String>,
    /// The VIPs, by address.
    pub vips: Vec<VipStatus>,
    /// What is not yet as it is to be, or cannot be: node and pods with the last error, a line each.
    pub pending: Vec<String>,
    /// What users have been told about Services.
    pub problems: Vec<ProblemStatus>,
    /// What users have been told about this node, once for all Services.
    #[serde(default)]
    pub node_problems: Vec<NodeProblemStatus>,
    /// Where the kernel does something else than the agent means it to, a line each.
    pub differences: Vec<String>,
    /// What the program in the pods of this node has counted; `None` where none is loaded.
    #[serde(default)]
    pub second_chances: Option<SecondChanceStatus>,
}

/// The program that passes packets on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondChanceStatus {
    /// The kernel's id of the program.
    pub program: u32,
    /// Packets by what became of them, since it was loaded.
    pub packets: BTreeMap<String, u64>,
    /// Packets that pods of this node have passed on to others, or received from others, by the pods' addresses.
    #[serde(default)]
    pub pairs: Vec<PairStatus>,
}

/// What one pod passes on to another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairStatus {
    /// The pod that passes packets on.
    pub from: IpAddr,
    /// The pod that they are for.
    pub to: IpAddr,
    /// Packets that have left; `None` unless `from` is a pod of this node.
    pub passed: Option<u64>,
    /// Packets that have come; `None` unless `to` is a pod of this node.
    pub received: Option<u64>,
}

/// Something that a user has been told about a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemStatus {
    /// `namespace/name`
    pub service: String,
    /// As in the Event.
    pub reason: String,
    /// As in the Event.
    pub note: String,
}

/// Something that a user has been told about the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProblemStatus {
    /// As in the Event.
    pub reason: String,
    /// As in the Event.
    pub note: String,
}

/// One VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VipStatus {
    /// The address.
    pub address: IpAddr,
    /// `namespace/name` of its Service.
    pub service: Option<String>,
    /// `gre`, `mpls` or `vxlan`; `None` where nothing in the kernel shows it.
    pub mode: Option<String>,
    /// Number of buckets; 0 where this node hashes nothing.
    pub buckets: u32,
    /// Seed of the flow hash.
    pub seed: u32,
    /// `sessionAffinity: ClientIP`: the hash takes the addresses alone.
    pub client_ip_affinity: bool,
    /// The decision that is followed; `None` without a stored map.
    pub generation: Option<u64>,
    /// It is in the table of the routing daemon.
    pub announced: bool,
    /// The endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// New connections are refused: nobody may own a bucket, and the last owners keep what they have.
    #[serde(default)]
    pub refuses_new: bool,
    /// Who may have connections of a bucket besides its owner, in the order in which they are asked.
    pub draining: BTreeMap<u32, Vec<DrainStatus>>,
    /// Endpoints that have fewer buckets than their share.
    #[serde(default)]
    pub short: Vec<ShortStatus>,
    /// The id that packets of a bucket carry in the tunnel, where it is not 0: it names those who are asked.
    #[serde(default)]
    pub tunnel_ids: BTreeMap<u32, u32>,
}

/// An endpoint that has fewer buckets than its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShortStatus {
    /// [`EndpointStatus::id`] of the endpoint.
    pub endpoint: String,
    /// The least number of buckets that it is entitled to.
    pub share: u32,
    /// Buckets that it gets as soon as the nodes of all that take part know of it.
    #[serde(default)]
    pub announced: u32,
    /// Those whose open connections keep the buckets where they are. Empty: the controller has still to decide.
    pub former: Vec<String>,
}

/// One endpoint of a VIP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// The pod's UID; of what only the kernel knows, its address or its label.
    pub id: String,
    /// `namespace/name`
    pub pod: Option<String>,
    /// Node that it runs on.
    pub node: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The label by which nodes reach it in mode mpls.
    pub label: Option<u32>,
    /// `ready`, `not ready`, or `terminating`; `None` where the kernel cannot tell.
    pub state: Option<String>,
    /// Its name in tunnel ids, if the map names it.
    #[serde(default)]
    pub name: Option<u16>,
    /// Its node has said that its tunnel stands: it may own buckets while it is ready.
    #[serde(default)]
    pub set_up: bool,
    /// It can pass packets on to who had its buckets before.
    #[serde(default)]
    pub program: bool,
    /// Its buckets.
    pub buckets: BTreeSet<u32>,
    /// Open TCP connections to the VIP; `None` of pods on other nodes.
    pub connections: Option<usize>,
}

/// An endpoint that may have connections of a bucket which is another one's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    /// [`EndpointStatus::id`] of the endpoint.
    pub endpoint: String,
    /// Since when, in seconds since 1970 (UTC); `None` where the kernel cannot tell, or of a stand-in.
    pub since: Option<u64>,
    /// Why it lost the bucket.
    #[serde(default)]
    pub why: Option<String>,
    /// What is no TCP goes there, too.
    pub datagrams: bool,
    /// Its open TCP connections of this bucket; `None` of pods on other nodes.
    pub connections: Option<usize>,
}

impl VipStatus {
    /// How its flows become buckets.
    pub fn hash(&self) -> Option<FlowHash> {
        let key = if self.client_ip_affinity { HashKey::Addresses } else { HashKey::Ports };
        Some(FlowHash { buckets: BucketCount::new(self.buckets).ok()?, seed: self.seed, key })
    }

    /// The tunnel id of a bucket's packets.
    pub fn tunnel_id(&self, bucket: Bucket) -> TunnelId {
        TunnelId::from_bits(self.tunnel_ids.get(&bucket.number()).copied().unwrap_or_default())
    }

    /// Who has a bucket.
    pub fn owner(&self, bucket: u32) -> Option<&EndpointStatus> {
        self.endpoints.iter().find(|endpoint| endpoint.buckets.contains(&bucket))
    }

    /// The endpoint with this name in tunnel ids.
    pub fn named(&self, name: Name) -> Option<&EndpointStatus> {
        self.endpoints.iter().find(|endpoint| endpoint.named() == Some(name))
    }

    /// The endpoint with this id.
    pub fn endpoint(&self, id: &str) -> Option<&EndpointStatus> {
        self.endpoints.iter().find(|endpoint| endpoint.id == id)
    }
}

impl EndpointStatus {
    /// Its name in tunnel ids.
    pub fn named(&self) -> Option<Name> {
        self.name.and_then(|name| Name::new(name.into()).ok())
    }

    /// How it is called in text: the pod with its addresses, or what the kernel knows.
    pub fn name(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        match &self.pod {
            Some(pod) if addresses.is_empty() => pod.clone(),
            Some(pod) => format!("{pod} ({})", addresses.join(", ")),
            None => self.id.clone(),
        }
    }
}
