//! Services: who wants which VIPs, and which addresses Services have already.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::{Annotations, Reduce, addresses};

/// What matters of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct ServiceRecord {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.creationTimestamp`: of two Services that want a VIP, the older has it.
    pub created: Option<Timestamp>,
    /// The VIP annotation, as written.
    pub vips: Option<String>,
    /// The mode annotation, as written.
    pub mode: Option<String>,
    /// The annotation about connection tracking, as written.
    pub conntrack: Option<String>,
    /// The annotation about draining, as written.
    pub drain: Option<String>,
    /// `type: ExternalName`: a DNS alias without endpoints.
    pub external_name: bool,
    /// `sessionAffinity: ClientIP`.
    pub client_ip_affinity: bool,
    /// `externalTrafficPolicy: Local`.
    pub local_only: bool,
    /// `spec.clusterIPs`, without "None".
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`, and `spec.loadBalancerIP`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Names of fields that limit who reaches the Service, and mean nothing to packets of a VIP.
    pub not_enforced: Vec<&'static str>,
}

impl ServiceRecord {
    /// The addresses that it has, but for its VIPs.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.cluster_ips.iter().chain(&self.external_ips).chain(&self.load_balancer_ips).copied()
    }
}

fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let given = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    let wished = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_ref());
    addresses(given.filter_map(|ingress| ingress.ip.as_ref()).chain(wished))
}

fn not_enforced(spec: &ServiceSpec) -> Vec<&'static str> {
    let ranges = spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
    let local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let fields = [(ranges, "spec.loadBalancerSourceRanges"), (local, "spec.internalTrafficPolicy: Local")];
    fields.into_iter().filter(|(is_set, _)| *is_set).map(|(_, field)| field).collect()
}

impl Reduce for ServiceRecord {
    type Object = Service;

    fn reduce(service: &Service, annotations: &Annotations) -> Self {
        let meta = &service.metadata;
        let spec = service.spec.as_ref();
        let annotation = |name: &str| meta.annotations.as_ref()?.get(name).cloned();
        let cluster_ip = spec.and_then(|s| s.cluster_ip.as_ref());
        let cluster_ips = spec.and_then(|s| s.cluster_ips.as_ref());
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            vips: annotation(&annotations.vips),
            mode: annotation(&annotations.mode),
            conntrack: annotation(&annotations.conntrack),
            drain: annotation(&annotations.drain),
            external_name: spec.is_some_and(|s| s.type_.as_deref() == Some("ExternalName")),
            client_ip_affinity: spec.is_some_and(|s| s.session_affinity.as_deref() == Some("ClientIP")),
            local_only: spec.is_some_and(|s| s.external_traffic_policy.as_deref() == Some("Local")),
            // `clusterIP` repeats the first of `clusterIPs`, unless a very old writer left the list out.
            cluster_ips: match cluster_ips {
                Some(all) if !all.is_empty() => addresses(all),
                _ => addresses(cluster_ip),
            },
            external_ips: addresses(spec.and_then(|s| s.external_ips.as_ref()).into_iter().flatten()),
            load_balancer_ips: load_balancer_ips(service),
            not_enforced: spec.map(not_enforced).unwrap_or_default(),
        }
    }
}
