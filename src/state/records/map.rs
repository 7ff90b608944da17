//! Bucket maps: the ConfigMaps of our own namespace that carry [`MAP_LABEL`](crate::state::stored::MAP_LABEL).

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Annotations, Reduce};
use crate::model::SharedMap;
use crate::state::stored::{MAP_KEY, MapFault, decode, uid_of};

/// The last map of a Service that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct GoodMap {
    /// UID of the ConfigMap that it was in.
    pub object_uid: String,
    /// The map.
    pub map: Arc<SharedMap>,
}

impl GoodMap {
    /// Whether this one is older than another, as its generation says. Only maps of one object can be compared: a new
    /// object is a new beginning, and in which order that and changes of the Service become known is not certain.
    pub(in crate::state) fn is_older_than(&self, other: &GoodMap) -> bool {
        self.object_uid == other.object_uid && self.map.generation < other.map.generation
    }
}

impl MapRecord {
    /// The map, if it can be read.
    pub(in crate::state) fn good(&self) -> Option<GoodMap> {
        Some(GoodMap { object_uid: self.object_uid.clone(), map: self.map.as_ref().ok()?.clone() })
    }
}

/// What matters of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct MapRecord {
    /// UID of the Service that it belongs to by its name; empty if the name is none that we give.
    pub service_uid: String,
    /// `metadata.uid`: an object that is deleted and made anew is another one.
    pub object_uid: String,
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
            object_uid: object.metadata.uid.clone().unwrap_or_default(),
            version: object.metadata.resource_version.clone().unwrap_or_default(),
            map: decode(text, uid).map(Arc::new),
        }
    }
}
