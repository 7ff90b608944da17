//! What an object is called.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Name of an object within its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace; empty for kinds that have none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A key that stores and indexes share.
pub(super) type Key = Arc<ObjectKey>;

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
