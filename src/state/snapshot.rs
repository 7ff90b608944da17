//! One moment of the cluster, as records.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::records::{MapRecord, NodeRecord, PodRecord, ServiceCidrRecord, ServiceRecord, SliceRecord};
use crate::model::handover::Assignment;

/// Name of an object within its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace; empty for kinds that have none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// The key in an object's metadata; `None` when it has no name, which no server sends.
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        let name = meta.name.clone()?;
        Some(Self { namespace: meta.namespace.clone().unwrap_or_default(), name })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All objects of one kind. Shared, so that a snapshot costs four reference counts.
pub(super) type Objects<R> = Arc<BTreeMap<ObjectKey, Arc<R>>>;

/// Every object that matters, at one moment; cheap to clone. Made by [`Index::snapshot`](super::Index::snapshot).
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Every Service of the cluster, annotated or not: their addresses cannot be VIPs.
    pub(super) services: Objects<ServiceRecord>,
    /// Every EndpointSlice of the cluster.
    pub(super) slices: Objects<SliceRecord>,
    /// Every ServiceCIDR, where the API serves them.
    pub(super) service_cidrs: Objects<ServiceCidrRecord>,
    /// Every Node.
    pub(super) nodes: Objects<NodeRecord>,
    /// The pods of the own node.
    pub(super) pods: Objects<PodRecord>,
    /// The bucket maps as they are stored.
    pub(super) maps: Objects<MapRecord>,
    /// By UID of the Service, the newest map that could be read, also where what is stored now cannot be or is older.
    pub assignments: Arc<BTreeMap<String, Arc<Assignment>>>,
}
