//! Label and field selectors of lists and watches, parsed once per request and then asked for every object.

pub mod field;
pub mod label;

use serde_json::Value;

use super::error::ApiResult;
use super::object;
use super::resource::Resource;

pub use field::FieldSelector;
pub use label::LabelSelector;

/// Which objects a list, watch or deletecollection is about.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// `labelSelector`.
    pub labels: LabelSelector,
    /// `fieldSelector`.
    pub fields: FieldSelector,
}

impl Selection {
    /// Parses the two selectors of a query.
    pub fn parse(resource: &Resource, namespace: Option<&str>, labels: &str, fields: &str) -> ApiResult<Self> {
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            labels: LabelSelector::parse(labels)?,
            fields: FieldSelector::parse(resource, fields)?,
        })
    }

    /// Whether `object`, in the form of its API version, is selected.
    pub fn matches(&self, object: &Value) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == object::namespace(object))
            && self.labels.matches(&object::labels(object))
            && self.fields.matches(object)
    }

    /// Whether there is a label or field selector; then a page cannot say how many items remain.
    pub fn is_filtered(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }
}
