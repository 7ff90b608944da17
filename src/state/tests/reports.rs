//! Stored reports: only a controller sees them, each counts for the node that it is named after.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::model::handover::NodeReport;
use crate::state::node_report::{REPORT_KEY, ReportFault, encode, report_name};

fn report(node: &str, text: String) -> Change {
    let data = Some(BTreeMap::from([(REPORT_KEY.to_owned(), text)]));
    let object = ConfigMap { metadata: meta(&report_name(node)), data, ..ConfigMap::default() };
    Change::Report(Watched::Apply(Box::new(object)))
}

fn controller() -> Index {
    let mut index = Index::of_controller(ANNOTATION);
    for change in World::empty() {
        index.apply(change);
    }
    index
}

#[test]
fn only_a_controller_waits_for_the_first_list_of_reports() {
    assert!(World::new().0.resolve(&settings()).is_some());
    let mut index = controller();
    assert_eq!((index.resolve(&settings()), index.knows_reports(), index.missing()), (None, false, vec!["ConfigMap"]));
    index.apply(Change::Report(Watched::Init));
    assert!(index.apply(Change::Report(Watched::InitDone)));
    assert!(index.resolve(&settings()).is_some() && index.knows_reports());
}

#[test]
fn a_report_counts_for_the_node_that_it_is_named_after() {
    let mut index = controller();
    index.apply(Change::Report(Watched::Init));
    index.apply(Change::Report(Watched::InitDone));
    let empty = |node: &str| encode(&node.into(), &NodeReport::default());
    assert!(index.apply(report("worker-a", empty("worker-a"))));
    assert!(index.apply(report("worker-b", empty("worker-a"))));
    assert!(index.apply(report("worker-c", "garbage".to_owned())));
    let report = |node: &str| index.stored_report(node).unwrap().report;
    assert!(report("worker-a").is_ok());
    assert_eq!(report("worker-b"), Err(ReportFault::Foreign("worker-a".to_owned())));
    assert!(matches!(report("worker-c"), Err(ReportFault::Malformed(_))));
}
