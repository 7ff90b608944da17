//! What an agent reports: one ConfigMap per node in the agents' own namespace, while there is anything to report.
//!
//! ```yaml
//! metadata: { name: node-<NODE>, namespace: kube-service-tunnel, labels: { cmd.nu/tunnel-object: node-report } }
//! data:
//!   report.json: |
//!     { "version": 1, "node": "<NODE>",
//!       "entered": { "<UID>": 17 },              the decision about a Service by which its pods of this node know whom to ask next
//!       "prepared": { "<UID>": 17 },             the one by which those ask him who have asked somebody else before
//!       "followed": { "<UID>": 17 },             the one that this node's packets follow, if it is an ingress node
//!       "drained": [                             pods of this node that have no connection left in buckets that they lost
//!         { "service": "<UID>", "pod": "<UID>",
//!           "generation": 17,                    the decision by which they lost them
//!           "buckets": [0, 7] } ] }
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{Bucket, EndpointId, Progress};

/// Label of the ConfigMaps that are reports, and its value.
pub const REPORT_LABEL: (&str, &str) = ("cmd.nu/tunnel-object", "node-report");
/// The key of the report in the ConfigMap's data.
pub const REPORT_KEY: &str = "report.json";
const VERSION: u64 = 1;

/// Name of the ConfigMap of a node.
pub fn report_name(node: &str) -> String {
    format!("node-{node}")
}

/// A drain that is over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Drained {
    /// UID of the Service.
    pub service: String,
    /// The pod.
    pub pod: EndpointId,
    /// See [`Drain::generation`](crate::model::Drain::generation).
    pub generation: u64,
    /// The bucket.
    pub bucket: Bucket,
}

/// What a node reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// The drains that are over.
    pub drained: BTreeSet<Drained>,
    /// By UID of the Service, how far this node is with its bucket map.
    pub progress: BTreeMap<String, Progress>,
}

impl NodeReport {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.drained.is_empty() && self.progress.is_empty()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    version: u64,
    node: String,
    /// Of agents that do not know it: as far as they are prepared.
    #[serde(default)]
    entered: Option<BTreeMap<String, u64>>,
    #[serde(default)]
    prepared: BTreeMap<String, u64>,
    #[serde(default)]
    followed: BTreeMap<String, u64>,
    drained: Vec<WireDrained>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireDrained {
    service: String,
    pod: String,
    generation: u64,
    buckets: Vec<u32>,
}

/// The value of [`REPORT_KEY`].
pub fn encode(node: &str, report: &NodeReport) -> String {
    let mut groups: BTreeMap<(&str, &str, u64), Vec<u32>> = BTreeMap::new();
    for drain in &report.drained {
        let group = groups.entry((&drain.service, drain.pod.as_str(), drain.generation)).or_default();
        group.push(drain.bucket.number());
    }
    let one = |((service, pod, generation), buckets): ((&str, &str, u64), Vec<u32>)| WireDrained {
        service: service.to_owned(),
        pod: pod.to_owned(),
        generation,
        buckets,
    };
    let generations = |of: fn(&Progress) -> u64| -> BTreeMap<String, u64> {
        let all = report.progress.iter().map(|(service, progress)| (service.clone(), of(progress)));
        all.filter(|(_, generation)| *generation > 0).collect()
    };
    let wire = Wire {
        version: VERSION,
        node: node.to_owned(),
        entered: Some(generations(|progress| progress.entered)),
        prepared: generations(|progress| progress.prepared),
        followed: generations(|progress| progress.followed),
        drained: groups.into_iter().map(one).collect(),
    };
    serde_json::to_string(&wire).unwrap_or_default()
}

/// Reads the value of [`REPORT_KEY`]: the node and what it says. What cannot be read says nothing: drains then end in
/// another way, and nodes wait no longer than without a report.
pub fn decode(text: Option<&str>) -> Option<(String, NodeReport)> {
    let wire: Wire = serde_json::from_str(text?).ok().filter(|wire: &Wire| wire.version == VERSION)?;
    let drained = wire.drained.into_iter().flat_map(|WireDrained { service, pod, generation, buckets }| {
        let pod = EndpointId::from(pod.as_str());
        let buckets = buckets.into_iter().filter_map(Bucket::new);
        buckets.map(move |bucket| Drained { service: service.clone(), pod: pod.clone(), generation, bucket })
    });
    let mut progress: BTreeMap<String, Progress> = BTreeMap::new();
    let mut take = |generations: BTreeMap<String, u64>, of: fn(&mut Progress) -> &mut u64| {
        generations.into_iter().for_each(|(service, one)| *of(progress.entry(service).or_default()) = one);
    };
    take(wire.entered.unwrap_or_else(|| wire.prepared.clone()), |progress| &mut progress.entered);
    take(wire.prepared, |progress| &mut progress.prepared);
    take(wire.followed, |progress| &mut progress.followed);
    Some((wire.node, NodeReport { drained: drained.collect(), progress }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_what_is_not_understood_says_nothing() {
        let drained = |generation, bucket| Drained {
            service: "s".into(),
            pod: "p".into(),
            generation,
            bucket: Bucket::new(bucket).unwrap(),
        };
        let all = BTreeSet::from([drained(3, 0), drained(3, 7), drained(4, 1)]);
        let of_s = Progress { entered: 5, prepared: 4, followed: 3 };
        let of_t = Progress { entered: 2, ..Progress::default() };
        let report = NodeReport { drained: all, progress: [("s".to_owned(), of_s), ("t".to_owned(), of_t)].into() };
        let text = encode("n1", &report);
        let expected = r#"{"version":1,"node":"n1","entered":{"s":5,"t":2},"prepared":{"s":4},"followed":{"s":3},"drained":[{"service":"s","pod":"p","generation":3,"buckets":[0,7]},{"service":"s","pod":"p","generation":4,"buckets":[1]}]}"#;
        assert_eq!(text, expected);
        assert_eq!(decode(Some(&text)), Some(("n1".to_owned(), report)));
        assert_eq!(decode(Some(&text.replace("\"version\":1", "\"version\":2"))), None);
        let of_older_agent = text.replace(r#""entered":{"s":5,"t":2},"#, "").replace(r#","followed":{"s":3}"#, "");
        let known = decode(Some(&of_older_agent)).unwrap().1.progress;
        assert_eq!(known, [("s".to_owned(), Progress { entered: 4, prepared: 4, followed: 0 })].into());
        assert!(decode(None).is_none() && decode(Some("{}")).is_none());
    }
}
