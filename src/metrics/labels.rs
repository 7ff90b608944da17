//! The labels of our metrics.

use std::net::IpAddr;

use prometheus_client::encoding::EncodeLabelSet;

use crate::model::{Problem, ServiceRef, Subject};

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

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServiceLabels {
    pub namespace: String,
    pub service: String,
}

impl From<&ServiceRef> for ServiceLabels {
    fn from(service: &ServiceRef) -> Self {
        ServiceLabels { namespace: service.namespace.clone(), service: service.name.clone() }
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

impl EndpointLabels {
    pub fn new(vip: IpAddr, service: &ServiceRef, eligible: &'static str) -> Self {
        let ServiceLabels { namespace, service } = service.into();
        EndpointLabels { vip: vip.to_string(), namespace, service, eligible }
    }
}

/// What may get new connections, or may not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EligibleLabels {
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

/// What users have been told, about a Service or a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProblemLabels {
    pub about: &'static str,
    pub reason: &'static str,
}

impl From<&Problem> for ProblemLabels {
    fn from(problem: &Problem) -> Self {
        let about = match problem.subject {
            Subject::Service(_) => "service",
            Subject::Node(_) => "node",
        };
        ProblemLabels { about, reason: problem.reason.as_str() }
    }
}

/// Of the program itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BuildLabels {
    pub version: &'static str,
}
