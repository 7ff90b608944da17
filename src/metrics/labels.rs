//! The labels of our metrics.

use std::net::IpAddr;

use prometheus_client::encoding::EncodeLabelSet;

use crate::model::{Problem, ServiceRef};

/// A target: `node`, or `pod <namespace>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TargetLabels {
    pub target: String,
}

/// How rounds of a target ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RoundLabels {
    pub target: String,
    pub result: &'static str,
}

/// A VIP and its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VipLabels {
    pub vip: String,
    pub namespace: String,
    pub service: String,
}

impl VipLabels {
    pub fn new(vip: IpAddr, service: &ServiceRef) -> Self {
        VipLabels { vip: vip.to_string(), namespace: service.namespace.clone(), service: service.name.clone() }
    }
}

/// Endpoints of a VIP that may get new connections, or may not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndpointLabels {
    pub vip: String,
    pub namespace: String,
    pub service: String,
    pub eligible: &'static str,
}

/// A VIP in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PodVipLabels {
    pub vip: String,
    pub namespace: String,
    pub pod: String,
}

/// What became of a packet in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FateLabels {
    pub fate: &'static str,
}

/// What users have been told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProblemLabels {
    pub namespace: String,
    pub service: String,
    pub reason: &'static str,
}

impl From<&Problem> for ProblemLabels {
    fn from(problem: &Problem) -> Self {
        let service = problem.subject.service();
        let (namespace, service) = service.map(|s| (s.namespace.clone(), s.name.clone())).unwrap_or_default();
        ProblemLabels { namespace, service, reason: problem.reason.as_str() }
    }
}

/// Of the program itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BuildLabels {
    pub version: &'static str,
}
