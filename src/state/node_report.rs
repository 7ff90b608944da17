//! How a node's report is stored: one ConfigMap per node in our own namespace, named after the node.
//!
//! ```yaml
//! metadata: { name: node-<NODE>, namespace: kube-service-tunnel, labels: { cmd.nu/tunnel-object: node-report } }
//! data:
//!   report.json: |
//!     { "version": 2, "node": "<NODE>",
//!       "pods": { "<UID>": {                    pods of this node that the agent has set up
//!         "addresses": ["10.244.1.5"],          of the network namespace
//!         "program": true,                      it can forward to former owners
//!         "fallen": false,                      its tunnel was up, and is not any more
//!         "lacks": ["<UID>"] } },               Services for which it is not set up; may be left out
//!       "over": [ {                             drains that are over: no connection for 15 s
//!         "service": "<UID>", "pod": "<UID>",
//!         "generation": 1790000000123,          the decision that took the buckets away
//!         "buckets": [0, 7] } ],
//!       "ended": ["<UID>"],                     pods that a map lists for this node, and that are gone
//!       "holds": { "<UID>": 1790000000123 },    Services of which this node holds a later decision than the stored one
//!       "knows": { "<UID>": 1790000000123 },    Services of its pods, and the decision up to which the pods know who is named and which
//!                                               moves are announced; an earlier version leaves it out
//!       "passed": [["10.244.1.5", "10.244.2.7"]],     a pod of this node has passed 20 packets or more on to the second one
//!       "received": [["10.244.3.2", "10.244.1.5"]] }  a pod of this node has received some from the first one
//! ```
//!
//! The form grows by keys, which older readers ignore. A report that cannot be read says nothing, and takes nothing away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::assignment::LAST_GENERATION;
use crate::model::handover::{Generation, NodeName, NodeReport, Over, ServiceUid, SetUp};
use crate::model::second_chance::{Forwarding, Pair};
use crate::model::{Addresses, Bucket, EndpointId};

/// Label of the ConfigMaps that are reports, and its value.
pub const REPORT_LABEL: (&str, &str) = ("cmd.nu/tunnel-object", "node-report");
/// The key of the report in the ConfigMap's data.
pub const REPORT_KEY: &str = "report.json";
/// The version that this code reads and writes.
pub const VERSION: u64 = 2;
/// That of tunnel-router 0.1.
const OLD_VERSION: u64 = 1;
const PREFIX: &str = "node-";

/// Name of the ConfigMap of a node.
pub fn report_name(node: &str) -> String {
    format!("{PREFIX}{node}")
}

/// The node whose ConfigMap has this name.
pub(super) fn node_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX).filter(|node| !node.is_empty())
}

/// Why a report is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportFault {
    /// There is nothing under the key.
    #[error("it has no {REPORT_KEY}")]
    Empty,
    /// Version 0.1 wrote it; its node replaces it.
    #[error("it has version {OLD_VERSION}, of tunnel-router 0.1, and its node replaces it")]
    Old,
    /// A later version wrote it.
    #[error(
        "it has version {0}, this is {VERSION}: a later version of tunnel-router wrote it, and it is left as it is"
    )]
    Later(u64),
    /// It is not in the form above.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// It says that it is another node's.
    #[error("it belongs to another node ({0})")]
    Foreign(String),
}

impl ReportFault {
    /// Whether it may be deleted when its node is gone.
    pub fn may_be_replaced(&self) -> bool {
        matches!(self, ReportFault::Old | ReportFault::Empty)
    }
}

#[derive(Serialize, Deserialize)]
struct Wire {
    version: u64,
    node: String,
    #[serde(default)]
    pods: BTreeMap<String, WirePod>,
    #[serde(default)]
    over: Vec<WireOver>,
    #[serde(default)]
    ended: Vec<String>,
    #[serde(default)]
    holds: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    knows: Option<BTreeMap<String, u64>>,
    #[serde(default)]
    passed: Vec<(IpAddr, IpAddr)>,
    #[serde(default)]
    received: Vec<(IpAddr, IpAddr)>,
}

#[derive(Serialize, Deserialize)]
struct WirePod {
    addresses: Vec<IpAddr>,
    #[serde(default)]
    program: bool,
    #[serde(default)]
    fallen: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lacks: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct WireOver {
    service: String,
    pod: String,
    generation: u64,
    buckets: Vec<u32>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// The value of [`REPORT_KEY`].
pub fn encode(node: &NodeName, report: &NodeReport) -> String {
    let mut groups: BTreeMap<(&ServiceUid, &EndpointId, Generation), Vec<u32>> = BTreeMap::new();
    for over in &report.over {
        groups.entry((&over.service, &over.pod, over.generation)).or_default().push(over.bucket.number());
    }
    let over = |((service, pod, generation), buckets): ((&ServiceUid, &EndpointId, Generation), Vec<u32>)| WireOver {
        service: service.to_string(),
        pod: pod.to_string(),
        generation: generation.0,
        buckets,
    };
    let pod = |(id, pod): (&EndpointId, &SetUp)| {
        let addresses = pod.addresses.iter().collect();
        let lacks = pod.lacks.iter().map(ToString::to_string).collect();
        (id.to_string(), WirePod { addresses, program: pod.program, fallen: pod.fallen, lacks })
    };
    let generation = |(service, generation): (&ServiceUid, &Generation)| (service.to_string(), generation.0);
    let pairs = |pairs: &BTreeSet<Pair>| pairs.iter().map(|pair| (pair.from, pair.to)).collect();
    let wire = Wire {
        version: VERSION,
        node: node.to_string(),
        pods: report.pods.iter().map(pod).collect(),
        over: groups.into_iter().map(over).collect(),
        ended: report.ended.iter().map(ToString::to_string).collect(),
        holds: report.holds.iter().map(generation).collect(),
        knows: report.knows.as_ref().map(|knows| knows.iter().map(generation).collect()),
        passed: pairs(&report.forwarding.passed),
        received: pairs(&report.forwarding.received),
    };
    serde_json::to_string(&wire).unwrap_or_default()
}

/// Reads the value of [`REPORT_KEY`] in the ConfigMap of the node with this name.
///
/// # Errors
/// Why it says nothing.
pub fn decode(text: Option<&str>, node: &str) -> Result<NodeReport, ReportFault> {
    let text = text.ok_or(ReportFault::Empty)?;
    let malformed = |error: serde_json::Error| ReportFault::Malformed(error.to_string());
    let Versioned { version } = serde_json::from_str(text).map_err(malformed)?;
    match version {
        VERSION => {}
        OLD_VERSION => return Err(ReportFault::Old),
        other => return Err(ReportFault::Later(other)),
    }
    let wire: Wire = serde_json::from_str(text).map_err(malformed)?;
    if wire.node != node {
        return Err(ReportFault::Foreign(wire.node));
    }
    let pod = |(id, pod): (String, WirePod)| {
        let addresses = Addresses::first_of(&pod.addresses);
        let lacks = pod.lacks.iter().map(|service| ServiceUid::from(service.as_str())).collect();
        (EndpointId::from(id.as_str()), SetUp { addresses, program: pod.program, fallen: pod.fallen, lacks })
    };
    let over = |over: WireOver| {
        let (service, pod) = (ServiceUid::from(over.service.as_str()), EndpointId::from(over.pod.as_str()));
        let generation = Generation(over.generation);
        let buckets = over.buckets.into_iter().filter_map(Bucket::new);
        buckets.map(move |bucket| Over { service: service.clone(), pod: pod.clone(), generation, bucket })
    };
    let decision = |(service, generation): (String, u64)| (ServiceUid::from(service.as_str()), Generation(generation));
    let pairs = |pairs: Vec<(IpAddr, IpAddr)>| pairs.into_iter().map(|(from, to)| Pair { from, to }).collect();
    Ok(NodeReport {
        pods: wire.pods.into_iter().map(pod).collect(),
        over: wire.over.into_iter().flat_map(over).collect(),
        ended: wire.ended.iter().map(|id| EndpointId::from(id.as_str())).collect(),
        // The controller's next decision follows the greatest of these.
        holds: wire.holds.into_iter().filter(|(_, held)| *held <= LAST_GENERATION).map(decision).collect(),
        knows: wire.knows.map(|knows| knows.into_iter().map(decision).collect()),
        forwarding: Forwarding { passed: pairs(wire.passed), received: pairs(wire.received) },
    })
}

#[cfg(test)]
#[path = "tests/node_report.rs"]
mod tests;
