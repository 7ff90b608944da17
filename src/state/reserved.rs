//! Addresses that belong to somebody already and therefore are no VIPs: of nodes, pods and Services.
//!
//! A VIP on such an address would take over traffic of the cluster itself (the way of CVE-2020-8554).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::snapshot::{ObjectKey, Snapshot};

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

/// Who has an address already, for those that are asked about.
pub(super) type Holders = BTreeMap<IpAddr, BTreeSet<Holder>>;

/// Which of the `wanted` addresses are held, and by whom. The cluster has far more addresses than VIPs are wanted, so
/// only those that are asked about are remembered.
pub(super) fn holders(snapshot: &Snapshot, wanted: &BTreeSet<IpAddr>) -> Holders {
    let mut found = Found { wanted, holders: BTreeMap::new() };
    nodes(snapshot, &mut found);
    services(snapshot, &mut found);
    service_cidrs(snapshot, &mut found);
    pods(snapshot, &mut found);
    found.holders
}

struct Found<'a> {
    wanted: &'a BTreeSet<IpAddr>,
    holders: Holders,
}

impl Found<'_> {
    fn note(&mut self, address: IpAddr, holder: impl FnOnce() -> Holder) {
        if self.wanted.contains(&address) {
            self.keep(address, holder());
        }
    }

    fn note_range(&mut self, net: IpNet, holder: impl Fn() -> Holder) {
        let wanted = self.wanted;
        for address in wanted.range(net.network()..=net.broadcast()) {
            self.keep(*address, holder());
        }
    }

    fn keep(&mut self, address: IpAddr, holder: Holder) {
        self.holders.entry(address).or_default().insert(holder);
    }
}

fn nodes(snapshot: &Snapshot, found: &mut Found<'_>) {
    for (key, node) in snapshot.nodes.iter() {
        for address in &node.all {
            found.note(*address, || Holder::Node(key.clone()));
        }
        for net in &node.pod_cidrs {
            found.note_range(*net, || Holder::PodCidr(*net, key.clone()));
        }
    }
}

fn service_cidrs(snapshot: &Snapshot, found: &mut Found<'_>) {
    for (key, record) in snapshot.service_cidrs.iter() {
        for net in &record.nets {
            found.note_range(*net, || Holder::ServiceCidr(*net, key.clone()));
        }
    }
}

fn services(snapshot: &Snapshot, found: &mut Found<'_>) {
    for (key, service) in snapshot.services.iter() {
        for address in &service.cluster_ips {
            found.note(*address, || Holder::ClusterIp(key.clone()));
        }
        for address in &service.external_ips {
            found.note(*address, || Holder::ExternalIp(key.clone()));
        }
        for address in &service.load_balancer_ips {
            found.note(*address, || Holder::LoadBalancer(key.clone()));
        }
    }
}

/// Its slices are the API server's own.
fn is_of_api_server(slice: &ObjectKey, service: Option<&str>) -> bool {
    slice.namespace == "default" && service == Some("kubernetes")
}

/// Only endpoints that are pods count, and those of the API server: a Service without selector whose endpoint is a VIP is a fair way to give the VIP
/// a name inside the cluster, and must not take the VIP down.
fn pods(snapshot: &Snapshot, found: &mut Found<'_>) {
    for (key, slice) in snapshot.slices.iter() {
        let of_api_server = is_of_api_server(key, slice.service.as_deref());
        for endpoint in &slice.endpoints {
            if let Some(address) = endpoint.address.as_deref().filter(|_| of_api_server) {
                address.parse().into_iter().for_each(|address| found.note(address, || Holder::ApiServer));
            }
            let (Some(address), Some(pod)) = (&endpoint.address, &endpoint.pod) else { continue };
            let Ok(address) = address.parse() else { continue };
            let namespace = pod.namespace.as_ref().unwrap_or(&key.namespace);
            found.note(address, || Holder::Pod(ObjectKey { namespace: namespace.clone(), name: pod.name.clone() }));
        }
    }
    for (key, pod) in snapshot.pods.iter() {
        // A pod that has ended gave its address back.
        for address in pod.addresses.iter().filter(|_| !pod.terminated) {
            found.note(*address, || Holder::Pod(key.clone()));
        }
    }
}
