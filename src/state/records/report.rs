//! Reports of nodes: the ConfigMaps of our own namespace that carry [`REPORT_LABEL`](crate::state::report::REPORT_LABEL).

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Annotations, Reduce};
use crate::state::report::{NodeReport, REPORT_KEY, decode};

/// What matters of a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::state) struct ReportRecord {
    /// Name of the node; empty if the report cannot be read.
    pub node: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// What it says.
    pub report: NodeReport,
}

impl Reduce for ReportRecord {
    type Object = ConfigMap;

    fn reduce(object: &ConfigMap, _: &Annotations) -> Self {
        let text = object.data.as_ref().and_then(|data| data.get(REPORT_KEY)).map(String::as_str);
        let (node, report) = decode(text).unwrap_or_default();
        Self { node, version: object.metadata.resource_version.clone().unwrap_or_default(), report }
    }
}
