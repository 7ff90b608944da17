//! ServiceCIDRs: the networks that cluster IPs come from.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::{Annotations, Reduce};

/// What matters of a ServiceCIDR. One that is being deleted counts until it is gone: Services may still have addresses of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct ServiceCidrRecord {
    /// `spec.cidrs`.
    pub nets: Vec<IpNet>,
}

impl Reduce for ServiceCidrRecord {
    type Object = ServiceCIDR;

    fn reduce(object: &ServiceCIDR, _: &Annotations) -> Self {
        let cidrs = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
        Self { nets: cidrs.filter_map(|text| text.parse().ok()).collect() }
    }
}
