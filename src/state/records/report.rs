//! Reports of nodes: the ConfigMaps of our own namespace that carry
//! [`REPORT_LABEL`](crate::state::node_report::REPORT_LABEL).

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Annotations, Reduce};
use crate::model::handover::NodeReport;
use crate::state::node_report::{REPORT_KEY, ReportFault, decode, node_of};

/// What matters of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) struct ReportRecord {
    /// The node that it belongs to by its name; empty if the name is none that we give.
    pub node: String,
    /// `metadata.resourceVersion`: what a writer has to have seen.
    pub version: String,
    /// What it says.
    pub report: Result<Arc<NodeReport>, ReportFault>,
}

impl Reduce for ReportRecord {
    type Object = ConfigMap;

    fn reduce(object: &ConfigMap, _: &Annotations) -> Self {
        let node = object.metadata.name.as_deref().and_then(node_of).unwrap_or_default();
        let text = object.data.as_ref().and_then(|data| data.get(REPORT_KEY)).map(String::as_str);
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        Self { node: node.to_owned(), version, report: decode(text, node).map(Arc::new) }
    }
}
