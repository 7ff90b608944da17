//! Addresses that belong to somebody already and therefore are no VIPs: of nodes, pods and Services.
//!
//! A VIP on such an address would take over traffic of the cluster itself (the way of CVE-2020-8554).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::key::ObjectKey;
use super::links::{Links, Source};
use super::records::{EndpointRecord, NodeRecord, PodRecord, ServiceCidrRecord, ServiceRecord, SliceRecord};
use super::stores::Stores;

/// Who has an address. Ordered: of several holders the first is named, the same one on every node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// A node.
    Node(ObjectKey),
    /// A Service, in `spec.clusterIPs`.
    ClusterIp(ObjectKey),
    /// The API server: an endpoint of the Service `default/kubernetes`.
    ApiServer,
    /// A Service, in `spec.externalIPs`.
    ExternalIp(ObjectKey),
    /// A Service, in `status.loadBalancer` or `spec.loadBalancerIP`.
    LoadBalancer(ObjectKey),
    /// The range that a node gives its pods addresses from.
    PodCidr(IpNet, ObjectKey),
    /// The range that the cluster gives Services addresses from, by a ServiceCIDR.
    ServiceCidr(IpNet, ObjectKey),
    /// A pod.
    Pod(ObjectKey),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Node(node) => write!(f, "is an address of node {node}"),
            Holder::ClusterIp(service) => write!(f, "is the cluster IP of Service {service}"),
            Holder::ApiServer => f.write_str("is an address of the API server"),
            Holder::LoadBalancer(service) => write!(f, "is the load balancer's address of Service {service}"),
            Holder::ExternalIp(service) => write!(f, "is in spec.externalIPs of Service {service}"),
            Holder::PodCidr(net, node) => write!(f, "is inside {net}, the pod range of node {node}"),
            Holder::ServiceCidr(net, cidr) => write!(f, "is inside {net}, the Service network of ServiceCIDR {cidr}"),
            Holder::Pod(pod) => write!(f, "is the address of pod {pod}"),
        }
    }
}

impl Holder {
    /// The Service that has the address by its own word.
    pub(super) fn service(&self) -> Option<&ObjectKey> {
        match self {
            Holder::ExternalIp(service) | Holder::LoadBalancer(service) => Some(service),
            _ => None,
        }
    }

    /// Whether a VIP that is held already has to go: what the cluster itself gives out is nobody's to take. What any tenant can
    /// write takes nothing away.
    pub(super) fn prevails(&self) -> bool {
        matches!(
            self,
            Holder::Node(_) | Holder::ClusterIp(_) | Holder::ApiServer | Holder::PodCidr(..) | Holder::ServiceCidr(..)
        )
    }
}

/// Who has an address already. Of several the first is named, the same one on every node.
pub(super) fn holders(address: IpAddr, links: &Links, stores: &Stores) -> BTreeSet<Holder> {
    let holders = |source: &Source| match source {
        Source::Node(key) => stores.nodes.get(key).map(|node| of_node(address, key, node)),
        Source::Service(key) => stores.services.get(key).map(|service| of_service(address, key, service)),
        Source::ServiceCidr(key) => stores.service_cidrs.get(key).map(|cidr| of_service_cidr(address, key, cidr)),
        Source::Slice(key) => stores.slices.get(key).map(|slice| of_slice(address, key, slice)),
        Source::Pod(key) => stores.pods.get(key).map(|pod| of_pod(address, key, pod)),
    };
    links.sources(address).filter_map(holders).flatten().collect()
}

fn of_node(address: IpAddr, key: &ObjectKey, node: &NodeRecord) -> Vec<Holder> {
    let own = node.all.contains(&address).then(|| Holder::Node(key.clone()));
    let nets = node.pod_cidrs.iter().filter(|net| net.contains(&address));
    own.into_iter().chain(nets.map(|net| Holder::PodCidr(*net, key.clone()))).collect()
}

fn of_service(address: IpAddr, key: &ObjectKey, service: &ServiceRecord) -> Vec<Holder> {
    let has = |list: &[IpAddr], holder: fn(ObjectKey) -> Holder| list.contains(&address).then(|| holder(key.clone()));
    let cluster = has(&service.cluster_ips, Holder::ClusterIp);
    let external = has(&service.external_ips, Holder::ExternalIp);
    let load_balancer = has(&service.load_balancer_ips, Holder::LoadBalancer);
    [cluster, external, load_balancer].into_iter().flatten().collect()
}

fn of_service_cidr(address: IpAddr, key: &ObjectKey, cidr: &ServiceCidrRecord) -> Vec<Holder> {
    let nets = cidr.nets.iter().filter(|net| net.contains(&address));
    nets.map(|net| Holder::ServiceCidr(*net, key.clone())).collect()
}

/// Only endpoints that are pods count, and those of the API server: a Service without selector whose endpoint is a VIP is a fair way to give the VIP
/// a name inside the cluster, and must not take the VIP down.
fn of_slice(address: IpAddr, key: &ObjectKey, slice: &SliceRecord) -> Vec<Holder> {
    let has_it = |endpoint: &&EndpointRecord| endpoint.ip() == Some(address);
    let of_api_server = is_of_api_server(key, slice);
    let holders = slice.endpoints.iter().filter(has_it).flat_map(|endpoint| {
        let pod = endpoint.pod.as_ref().map(|pod| {
            let namespace = pod.namespace.as_ref().unwrap_or(&key.namespace).clone();
            Holder::Pod(ObjectKey { namespace, name: pod.name.clone() })
        });
        pod.into_iter().chain(of_api_server.then_some(Holder::ApiServer))
    });
    holders.collect()
}

fn of_pod(address: IpAddr, key: &ObjectKey, pod: &PodRecord) -> Vec<Holder> {
    // A pod that has ended gave its address back.
    let has_it = !pod.terminated && pod.addresses.contains(&address);
    has_it.then(|| Holder::Pod(key.clone())).into_iter().collect()
}

/// Whether a slice is the API server's own.
pub(super) fn is_of_api_server(key: &ObjectKey, slice: &SliceRecord) -> bool {
    key.namespace == "default" && slice.service.as_deref() == Some("kubernetes")
}

/// Whether a slice says that a pod has an address.
pub(super) fn has_pod_with(address: IpAddr, slice: &SliceRecord) -> bool {
    slice.endpoints.iter().any(|endpoint| endpoint.pod.is_some() && endpoint.ip() == Some(address))
}
