//! Bucket maps: the ConfigMaps of our own namespace that carry [`MAP_LABEL`](crate::state::stored::MAP_LABEL).

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Annotations, Reduce};
use crate::model::SharedMap;
use crate::state::stored::{MAP_KEY, MapFault, decode, uid_of};

/// What matters of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct MapRecord {
    /// UID of the Service that it belongs to by its name; empty if the name is none that we give.
    pub service_uid: String,
    /// `metadata.resourceVersion`: what a writer has to have seen.
    pub version: String,
    /// The map.
    pub map: Result<Arc<SharedMap>, MapFault>,
}

impl Reduce for MapRecord {
    type Object = ConfigMap;

    fn reduce(object: &ConfigMap, _: &Annotations) -> Self {
        let uid = object.metadata.name.as_deref().and_then(uid_of).unwrap_or_default();
        let text = object.data.as_ref().and_then(|data| data.get(MAP_KEY)).map(String::as_str);
        Self {
            service_uid: uid.to_owned(),
            version: object.metadata.resource_version.clone().unwrap_or_default(),
            map: decode(text, uid).map(Arc::new),
        }
    }
}
