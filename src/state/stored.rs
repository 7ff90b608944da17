//! What is stored in our own namespace, object by object: maps and reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::assignment::{AssignmentFault, uid_of};
use super::key::ObjectKey;
use super::node_report::{ReportFault, node_of};
use super::records::{MapRecord, ReportRecord};
use super::{Index, key::Key};
use crate::model::handover::{Assignment, Generation, NodeReport, ServiceUid};

/// A bucket map as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMap {
    /// The ConfigMap.
    pub key: ObjectKey,
    /// The ConfigMap's `metadata.resourceVersion`.
    pub version: String,
    /// The map, or why it is not used.
    pub map: Result<Arc<Assignment>, AssignmentFault>,
    /// Whether this code may write in its place, or delete it.
    pub may_be_replaced: bool,
}

/// A report as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReport {
    /// The ConfigMap.
    pub key: ObjectKey,
    /// The ConfigMap's `metadata.resourceVersion`.
    pub version: String,
    /// What it says, or why it says nothing.
    pub report: Result<Arc<NodeReport>, ReportFault>,
}

/// What a controller has to look at again.
#[derive(Debug, Clone, Default)]
pub struct News {
    /// Services whose map, or whose wish for VIPs, is another one.
    pub maps: BTreeSet<ServiceUid>,
    /// Nodes whose report is another one.
    pub reports: BTreeSet<String>,
}

impl Index {
    /// What has come since this was asked last. Only a controller has news.
    pub fn take_news(&mut self) -> News {
        self.news.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The newest map of a Service that could be read.
    pub fn assignment(&self, uid: &str) -> Option<&Arc<Assignment>> {
        self.maps.get(uid)
    }

    /// Services whose stored map is an earlier decision than the one that is known here, with the generation of that one:
    /// somebody has restored what was saved before.
    pub fn superseded(&self) -> BTreeMap<ServiceUid, Generation> {
        self.maps.superseded().clone()
    }

    /// Whether a Service with this UID asks for VIPs, whether it gets them or not.
    pub fn asks(&self, uid: &str) -> bool {
        self.links.asks(uid)
    }

    /// Names of the nodes that there are; `None` before the first list.
    pub fn node_names(&self) -> Option<BTreeSet<&str>> {
        let names = self.stores.nodes.iter().map(|(key, _)| key.name.as_str());
        self.stores.nodes.is_listed().then(|| names.collect())
    }

    /// Whether reports have been listed.
    pub fn knows_reports(&self) -> bool {
        self.stores.reports.is_listed()
    }

    /// The report that is named after a node.
    pub fn stored_report(&self, node: &str) -> Option<StoredReport> {
        let (key, record) = self.report_record(node)?;
        let (version, report) = (record.version.clone(), record.report.clone());
        Some(StoredReport { key: ObjectKey::clone(key), version, report })
    }

    /// The ConfigMap that says it is the bucket map of a Service and has the name of one.
    pub fn stored_map(&self, uid: &str) -> Option<StoredMap> {
        let (key, record) = self.map_record(uid)?;
        let (version, map) = (record.version.clone(), record.map.clone());
        Some(StoredMap { key: ObjectKey::clone(key), version, map, may_be_replaced: record.may_be_replaced })
    }

    /// The version of the map or report with this name.
    pub fn stored_version(&self, name: &str) -> Option<&str> {
        let map = uid_of(name).and_then(|uid| self.map_record(uid)).map(|(_, record)| record.version.as_str());
        map.or_else(|| Some(self.report_record(node_of(name)?)?.1.version.as_str()))
    }

    fn map_record(&self, uid: &str) -> Option<(&Key, &Arc<MapRecord>)> {
        self.stores.maps.entry(self.links.maps(uid).last()?)
    }

    fn report_record(&self, node: &str) -> Option<(&Key, &Arc<ReportRecord>)> {
        self.stores.reports.entry(self.links.reports(node).last()?)
    }
}
