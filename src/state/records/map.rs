//! Bucket maps: the ConfigMaps of our own namespace that carry [`MAP_LABEL`](crate::state::assignment::MAP_LABEL).

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Annotations, Reduce};
use crate::model::handover::Assignment;
use crate::state::assignment::{AssignmentFault, MAP_KEY, decode, uid_of};

/// What matters of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct MapRecord {
    /// UID of the Service that it belongs to by its name; empty if the name is none that we give.
    pub service_uid: String,
    /// `metadata.resourceVersion`: what a writer has to have seen.
    pub version: String,
    /// The map.
    pub map: Result<Arc<Assignment>, AssignmentFault>,
    /// Whether this code may write in its place: not if a later version of the program wrote it.
    pub may_be_replaced: bool,
}

impl Reduce for MapRecord {
    type Object = ConfigMap;

    fn reduce(object: &ConfigMap, _: &Annotations) -> Self {
        let uid = object.metadata.name.as_deref().and_then(uid_of).unwrap_or_default();
        let text = object.data.as_ref().and_then(|data| data.get(MAP_KEY)).map(String::as_str);
        let (map, may_be_replaced) = match decode(text, uid) {
            Ok(stored) => {
                let may_be_replaced = stored.may_be_replaced();
                (Ok(Arc::new(stored.map)), may_be_replaced)
            }
            Err(fault) => {
                let may_be_replaced = fault.may_be_replaced();
                (Err(fault), may_be_replaced)
            }
        };
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        Self { service_uid: uid.to_owned(), version, map, may_be_replaced }
    }
}
