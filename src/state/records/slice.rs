//! EndpointSlices: which pods are behind a Service, and how they are.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};

use super::{Annotations, Reduce};
use crate::model::Family;

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What matters of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct SliceRecord {
    /// The Service that it belongs to, in the same namespace.
    pub service: Option<String>,
    /// What its addresses are.
    pub address_type: AddressType,
    /// `metadata.generation`: rises with each change.
    pub generation: i64,
    /// Its endpoints; none are kept of a slice whose addresses are no IP addresses.
    pub endpoints: Vec<EndpointRecord>,
}

/// `addressType` of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::state) enum AddressType {
    /// `IPv4` or `IPv6`: a dual-stack Service has slices of both.
    Ip(Family),
    /// `FQDN`, or whatever a later API invents.
    Other(String),
}

/// What matters of one endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct EndpointRecord {
    /// The first address, as written: no meaning is defined for the others.
    pub address: Option<String>,
    /// The pod behind it; `None` for anything else, or a pod without UID.
    pub pod: Option<PodRef>,
    /// `nodeName`.
    pub node: Option<String>,
    /// Whether it can take connections.
    pub condition: Condition,
    /// `conditions.terminating`.
    pub terminating: bool,
}

impl EndpointRecord {
    /// Its address, if it is an IP address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.as_ref()?.parse().ok()
    }
}

/// A pod as an endpoint refers to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::state) struct PodRef {
    /// `metadata.uid` of the pod; links share it.
    pub uid: Arc<str>,
    /// Its namespace, if the reference says so.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// The three conditions of an endpoint in one: the greater, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::state) enum Condition {
    /// Gets no new connections.
    NotReady,
    /// Serving and terminating: gets new connections when there is nothing better.
    Leaving,
    /// Gets new connections. What `publishNotReadyAddresses` asks for arrives like this, too.
    Ready,
}

impl Reduce for SliceRecord {
    type Object = EndpointSlice;

    fn reduce(slice: &EndpointSlice, _: &Annotations) -> Self {
        let address_type = match slice.address_type.as_str() {
            "IPv4" => AddressType::Ip(Family::V4),
            "IPv6" => AddressType::Ip(Family::V6),
            other => AddressType::Other(other.to_owned()),
        };
        let endpoints = match address_type {
            AddressType::Ip(_) => slice.endpoints.iter().flatten().map(endpoint).collect(),
            AddressType::Other(_) => Vec::new(),
        };
        Self {
            service: slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME).cloned()),
            address_type,
            generation: slice.metadata.generation.unwrap_or_default(),
            endpoints,
        }
    }
}

fn endpoint(endpoint: &Endpoint) -> EndpointRecord {
    EndpointRecord {
        address: endpoint.addresses.first().cloned(),
        pod: endpoint.target_ref.as_ref().and_then(pod),
        node: endpoint.node_name.clone().filter(|name| !name.is_empty()),
        condition: condition(endpoint.conditions.as_ref()),
        terminating: endpoint.conditions.as_ref().and_then(|c| c.terminating).unwrap_or(false),
    }
}

fn pod(target: &ObjectReference) -> Option<PodRef> {
    if target.kind.as_deref() != Some("Pod") {
        return None;
    }
    let uid = target.uid.clone().filter(|uid| !uid.is_empty())?;
    Some(PodRef { uid: uid.into(), namespace: target.namespace.clone(), name: target.name.clone().unwrap_or_default() })
}

/// What is left out means `ready`, `serving` and not `terminating`: so the API's documentation has it.
fn condition(conditions: Option<&EndpointConditions>) -> Condition {
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(true);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => Condition::Ready,
        (false, true) => Condition::Leaving,
        (false, false) => Condition::NotReady,
    }
}
