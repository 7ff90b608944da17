//! The records of every kind.

use super::records::{MapRecord, NodeRecord, PodRecord, ReportRecord, ServiceCidrRecord, ServiceRecord, SliceRecord};
use super::store::Store;

/// Every object that matters, as a record.
#[derive(Debug, Clone, Default)]
pub(super) struct Stores {
    /// Every Service of the cluster, annotated or not: their addresses cannot be VIPs.
    pub(super) services: Store<ServiceRecord>,
    /// Every EndpointSlice of the cluster.
    pub(super) slices: Store<SliceRecord>,
    /// Every ServiceCIDR, where the API serves them.
    pub(super) service_cidrs: Store<ServiceCidrRecord>,
    /// Every Node.
    pub(super) nodes: Store<NodeRecord>,
    /// The pods of the own node.
    pub(super) pods: Store<PodRecord>,
    /// The bucket maps as they are stored.
    pub(super) maps: Store<MapRecord>,
    /// Reports of nodes. Only a controller watches them.
    pub(super) reports: Store<ReportRecord>,
}

impl Stores {
    /// Kinds whose first list is not complete yet.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let listed = [
            ("Service", self.services.is_listed()),
            ("EndpointSlice", self.slices.is_listed()),
            ("ServiceCIDR", self.service_cidrs.is_listed()),
            ("Node", self.nodes.is_listed()),
            ("Pod", self.pods.is_listed()),
            ("ConfigMap", self.maps.is_listed() && self.reports.is_listed()),
        ];
        listed.into_iter().filter(|(_, is_listed)| !is_listed).map(|(kind, _)| kind).collect()
    }
}
