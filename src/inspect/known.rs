//! What the agent of a node knows and means to do.

use std::collections::BTreeSet;

use super::report::{
    DrainStatus, EndpointStatus, NodeProblemStatus, NodeStatus, PairStatus, ProblemStatus, SecondChanceStatus,
    ShortStatus, Source, VipStatus,
};
use crate::model::config::MplsLabels;
use crate::model::handover::{self, EndpointState, HashKey, Name, NextHop, Short, TunnelId};
use crate::model::second_chance::{Count, Counts, Pair, Pairs};
use crate::model::{Addresses, Bucket, Cluster, Endpoint, EndpointId, Mode, Problem, Subject, Vip};

/// A moment of the agent's knowledge.
#[derive(Debug, Clone)]
pub struct Known {
    /// Name of this node.
    pub node: String,
    /// What the cluster asks for, and how far this node has followed it.
    pub cluster: Cluster,
    /// Labels of mode mpls.
    pub labels: MplsLabels,
    /// There is no `--vip-cidrs`.
    pub any_address: bool,
    /// Why the agent is not ready, a line each.
    pub unready: Vec<String>,
    /// What is not yet as it is to be, a line each.
    pub pending: Vec<String>,
    /// What users have been told.
    pub problems: BTreeSet<Problem>,
    /// The program in the pods of this node, and what it has counted.
    pub second_chances: Option<(u32, Counts)>,
    /// What these pods have passed on to others, and received from others.
    pub pairs: Pairs,
}

impl Known {
    /// The pods of this node that have a VIP.
    pub fn local_pods(&self) -> BTreeSet<EndpointId> {
        self.cluster.vips().flat_map(|vip| vip.pods_of(&self.node).into_keys()).map(EndpointId::from).collect()
    }

    /// The same to be shown. What only kernels know (connections, `announced`, `withdrawn`) is left as it is by default.
    pub fn status(&self) -> NodeStatus {
        let me = self.cluster.nodes.get(&self.node);
        let ingress = self.cluster.nodes.values().filter(|node| node.ingress);
        NodeStatus {
            source: Source::Agent,
            node: Some(self.node.clone()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            ingress: me.is_some_and(|node| node.ingress),
            ingress_nodes: ingress.map(|node| node.name.clone()).collect(),
            cordoned: me.is_some_and(|node| node.cordoned),
            any_address: self.any_address,
            unready: self.unready.clone(),
            vips: self.cluster.vips().map(|vip| self.vip(vip)).collect(),
            pending: self.pending.clone(),
            problems: self.problems.iter().filter_map(of_service).collect(),
            node_problems: self.problems.iter().filter_map(of_node).collect(),
            second_chances: self.second_chances.as_ref().map(|(program, counts)| SecondChanceStatus {
                program: *program,
                packets: Count::ALL.map(|kind| (kind.as_str().to_owned(), counts.of(kind))).into(),
                pairs: pairs(&self.pairs),
            }),
            ..NodeStatus::default()
        }
    }

    fn vip(&self, vip: &Vip) -> VipStatus {
        let next_hops = vip.intent.iter().flat_map(|intent| intent.next_hops.iter());
        let named = next_hops.clone().filter(|(_, hop)| hop.id != TunnelId::OWNER_ALONE);
        let mut endpoints: Vec<EndpointStatus> = vip.endpoints.iter().map(|e| self.listed(vip, e)).collect();
        let members = vip.intent.iter().flat_map(|intent| &intent.members);
        let unlisted = members.filter(|(id, _)| vip.endpoints.iter().all(|e| e.pod_uid != id.as_str()));
        endpoints.extend(unlisted.map(|(id, member)| EndpointStatus {
            node: Some(member.node.to_string()),
            state: Some("gone".to_owned()),
            ..self.endpoint(vip, id.as_str(), member.addresses)
        }));
        endpoints.sort_by(|a, b| a.pod.cmp(&b.pod));
        VipStatus {
            address: vip.address,
            service: Some(vip.service.to_string()),
            mode: Some(vip.mode.to_string()),
            buckets: vip.hash().map_or(0, |hash| hash.buckets.get()),
            seed: vip.hash().map_or(0, |hash| hash.seed),
            client_ip_affinity: vip.hash().is_some_and(|hash| hash.key == HashKey::Addresses),
            generation: vip.intent.as_ref().map(|intent| intent.generation.0),
            announced: false,
            endpoints,
            refuses_new: next_hops.clone().any(|(_, hop)| hop.refuses_syn),
            draining: named.clone().map(|(bucket, hop)| (bucket.number(), drains(vip, *bucket, hop))).collect(),
            short: short(vip),
            tunnel_ids: named.map(|(bucket, hop)| (bucket.number(), hop.id.bits())).collect(),
        }
    }

    fn listed(&self, vip: &Vip, endpoint: &Endpoint) -> EndpointStatus {
        let state = match endpoint.state {
            EndpointState::Ready => "ready",
            EndpointState::Terminating { .. } => "terminating",
            EndpointState::NotReady => "not ready",
        };
        EndpointStatus {
            pod: Some(format!("{}/{}", endpoint.namespace, endpoint.pod)),
            node: Some(endpoint.node.clone()),
            state: Some(state.to_owned()),
            ..self.endpoint(vip, &endpoint.pod_uid, endpoint.addresses)
        }
    }

    fn endpoint(&self, vip: &Vip, id: &str, addresses: Addresses) -> EndpointStatus {
        let member = vip.intent.as_ref().and_then(|intent| intent.members.get(id));
        let next_hops = vip.intent.iter().flat_map(|intent| intent.next_hops.iter());
        EndpointStatus {
            id: id.to_owned(),
            addresses: addresses.iter().collect(),
            label: (vip.mode == Mode::Mpls).then(|| self.labels.of_pod(addresses)),
            name: member.map(|member| member.name.get()),
            set_up: member.is_some_and(|member| member.set_up),
            program: member.is_some_and(|member| member.program),
            buckets: next_hops.filter(|(_, hop)| hop.owner.as_str() == id).map(|(bucket, _)| bucket.number()).collect(),
            ..EndpointStatus::default()
        }
    }
}

fn of_service(problem: &Problem) -> Option<ProblemStatus> {
    let service = problem.subject.service()?.to_string();
    Some(ProblemStatus { service, reason: problem.reason.as_str().to_owned(), note: problem.note.clone() })
}

fn of_node(problem: &Problem) -> Option<NodeProblemStatus> {
    let Subject::Node(_) = problem.subject else { return None };
    Some(NodeProblemStatus { reason: problem.reason.as_str().to_owned(), note: problem.note.clone() })
}

/// Whose balance waits for what.
fn short(vip: &Vip) -> Vec<ShortStatus> {
    let endpoints: Vec<handover::Endpoint> = vip.endpoints.iter().map(Into::into).collect();
    let short = vip.map.iter().flat_map(|map| map.short(&endpoints));
    let status = |(id, short): (EndpointId, Short)| ShortStatus {
        endpoint: id.to_string(),
        share: short.share,
        announced: short.announced,
        former: short.former.iter().map(ToString::to_string).collect(),
    };
    short.map(status).collect()
}

fn pairs(pairs: &Pairs) -> Vec<PairStatus> {
    let all: BTreeSet<&Pair> = pairs.passed.keys().chain(pairs.received.keys()).collect();
    let status = |pair: &Pair| PairStatus {
        from: pair.from,
        to: pair.to,
        passed: pairs.passed.get(pair).copied(),
        received: pairs.received.get(pair).copied(),
    };
    all.into_iter().map(status).collect()
}

/// Who is asked for a bucket's packets besides the owner.
fn drains(vip: &Vip, bucket: Bucket, hop: &NextHop) -> Vec<DrainStatus> {
    let members = vip.intent.iter().flat_map(|intent| &intent.members);
    let named = |name| members.clone().find(|(_, member)| member.name == name).map(|(id, _)| id);
    let holding = vip.map.as_ref().and_then(|map| map.holding(bucket));
    let drain = |(place, name): (usize, Name)| {
        let id = named(name);
        let former =
            holding.into_iter().flat_map(|holding| &holding.former).find(|former| Some(&former.endpoint) == id);
        DrainStatus {
            endpoint: id.map_or_else(|| format!("name {name}"), ToString::to_string),
            since: former.map(|former| former.since),
            why: former.map(|former| former.why.to_string()),
            datagrams: place == 0 && hop.id.datagrams(),
            connections: None,
        }
    };
    hop.id.list().enumerate().map(drain).collect()
}
