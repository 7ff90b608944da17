//! What the agent of a node knows and means to do.

use std::collections::BTreeSet;

use super::report::{DrainStatus, EndpointStatus, NodeStatus, ProblemStatus, Source, VipStatus};
use crate::model::config::MplsLabels;
use crate::model::{Bucket, Cluster, Drain, Endpoint, EndpointId, Flows, Mode, Problem, SharedMap, Vip};

/// A moment of the agent's knowledge.
#[derive(Debug, Clone)]
pub struct Known {
    /// Name of this node.
    pub node: String,
    /// What the cluster asks for, and how far this node has followed it.
    pub cluster: Cluster,
    /// How flows become buckets where no stored map says it.
    pub flows: Flows,
    /// Labels of mode mpls.
    pub labels: MplsLabels,
    /// Why the agent is not ready, a line each.
    pub unready: Vec<String>,
    /// What is not yet as it is to be, a line each.
    pub pending: Vec<String>,
    /// What users have been told.
    pub problems: BTreeSet<Problem>,
}

impl Known {
    /// The pods of this node that have a VIP.
    pub fn local_pods(&self) -> BTreeSet<EndpointId> {
        let endpoints = self.cluster.vips.values().flat_map(|vip| &vip.endpoints);
        endpoints.filter(|e| e.node == self.node).map(|e| e.pod_uid.as_str().into()).collect()
    }

    /// The same to be shown. What only kernels know (connections, `announced`, `withdrawn`) is left as it is by default.
    pub fn status(&self) -> NodeStatus {
        let me = self.cluster.nodes.get(&self.node);
        let ingress = self.cluster.nodes.values().filter(|node| node.ingress);
        let problem = |problem: &Problem| ProblemStatus {
            service: problem.service.to_string(),
            reason: problem.reason.as_str().to_owned(),
            note: problem.note.clone(),
        };
        NodeStatus {
            source: Source::Agent,
            node: Some(self.node.clone()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            ingress: me.is_some_and(|node| node.ingress),
            ingress_nodes: ingress.map(|node| node.name.clone()).collect(),
            cordoned: me.is_some_and(|node| node.cordoned),
            unready: self.unready.clone(),
            vips: self.cluster.vips.values().map(|vip| self.vip(vip)).collect(),
            pending: self.pending.clone(),
            problems: self.problems.iter().map(problem).collect(),
            ..NodeStatus::default()
        }
    }

    fn vip(&self, vip: &Vip) -> VipStatus {
        let map = vip.map_in_use(self.flows);
        let drain = |drain: &Drain| DrainStatus {
            endpoint: drain.endpoint.to_string(),
            since: Some(drain.since).filter(|_| drain.is_stored()),
            datagrams: drain.datagrams,
            connections: None,
        };
        let drains = map.previous.iter().map(|(bucket, drains)| (bucket.number(), drains.iter().map(drain).collect()));
        let first = |(bucket, drains): (&Bucket, &Vec<Drain>)| {
            Some((bucket.number(), vip.asked_first(*bucket, drains)?.to_string()))
        };
        let mut endpoints: Vec<EndpointStatus> =
            vip.endpoints.iter().map(|endpoint| self.endpoint(vip, endpoint, &map)).collect();
        endpoints.sort_by(|a, b| a.pod.cmp(&b.pod));
        VipStatus {
            address: vip.address,
            service: Some(vip.service.to_string()),
            mode: Some(vip.mode.to_string()),
            buckets: map.flows.buckets.get(),
            seed: map.flows.seed,
            client_ip_affinity: vip.client_ip_affinity,
            generation: vip.shared.as_ref().map(|shared| shared.generation),
            announced: false,
            endpoints,
            draining: drains.collect(),
            asked_first: map.previous.iter().filter_map(first).collect(),
        }
    }

    fn endpoint(&self, vip: &Vip, endpoint: &Endpoint, map: &SharedMap) -> EndpointStatus {
        let id = endpoint.pod_uid.as_str();
        let owns = |bucket: &Bucket| map.owners.owner(*bucket).is_some_and(|owner| owner.as_str() == id);
        EndpointStatus {
            id: id.to_owned(),
            pod: Some(format!("{}/{}", endpoint.namespace, endpoint.pod)),
            node: Some(endpoint.node.clone()),
            addresses: endpoint.addresses.iter().collect(),
            label: (vip.mode == Mode::Mpls).then(|| self.labels.of_pod(endpoint.addresses)),
            ready: Some(endpoint.eligible),
            buckets: map.flows.buckets.iter().filter(owns).map(Bucket::number).collect(),
            connections: None,
        }
    }
}
