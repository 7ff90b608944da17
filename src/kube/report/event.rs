//! A problem as an `events.k8s.io/v1` Event.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde_json::{Value, json};

use crate::model::{Problem, Reason, Subject};

/// Who reports, whatever the node.
pub(in crate::kube) const CONTROLLER: &str = "cmd.nu/tunnel-router";

/// Longest `reportingInstance` that the API takes.
const MAX_INSTANCE: usize = 128;

/// Namespace of Events about objects that have none, as of Nodes: the API takes them nowhere else.
const NO_NAMESPACE: &str = "default";

/// Most of a subject's name that fits into an Event's, besides a dot and the hash: a Node's name may have all 253 characters.
const MAX_NAME: usize = 253 - 17;

/// The Event's name: the same on every node, and another one for every subject (by UID), reason and note.
pub(super) fn name(problem: &Problem) -> String {
    let subject = &problem.subject;
    let hash = fnv1a([subject.identity(), problem.reason.as_str(), problem.note.as_str()]);
    let start = &subject.name()[..subject.name().floor_char_boundary(MAX_NAME)];
    format!("{}.{hash:016x}", start.trim_end_matches(['.', '-']))
}

/// Namespace of the Event.
pub(super) fn namespace(subject: &Subject) -> &str {
    subject.service().map_or(NO_NAMESPACE, |service| &service.namespace)
}

/// The Event as it is created.
pub(super) fn new(problem: &Problem, instance: &str, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name(problem)),
            namespace: Some(namespace(&problem.subject).to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(if problem.reason.is_information() { "Normal" } else { "Warning" }.to_owned()),
        reason: Some(problem.reason.as_str().to_owned()),
        action: Some(action(problem.reason).to_owned()),
        note: Some(problem.note.clone()),
        regarding: Some(regarding(&problem.subject)),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance[..instance.floor_char_boundary(MAX_INSTANCE)].to_owned()),
        ..Event::default()
    }
}

/// `kubectl describe` finds Events by the UID of their object. Kubelets wrote a Node's name in its place
/// (kubernetes/kubernetes#29289), newer ones write the UID.
fn regarding(subject: &Subject) -> ObjectReference {
    let (kind, namespace, uid) = match subject {
        Subject::Service(service) => ("Service", Some(service.namespace.clone()), Some(service.uid.clone())),
        Subject::Node(node) => ("Node", None, node.uid.clone()),
    };
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace,
        name: Some(subject.name().to_owned()),
        uid,
        ..ObjectReference::default()
    }
}

/// When an Event was observed last, as far as it says so.
pub(super) fn last_observed(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    series.or(event.event_time.as_ref().map(|time| time.0))
}

/// A merge patch that says that the Event was observed once more. With the version that was read: when two nodes do it
/// at the same time, one of them is refused.
pub(super) fn observed_again(event: &Event, now: Timestamp) -> Value {
    let count = event.series.as_ref().map_or(1, |series| series.count).saturating_add(1);
    let series = json!({ "count": count, "lastObservedTime": MicroTime(now) });
    json!({ "metadata": { "resourceVersion": event.metadata.resource_version }, "series": series })
}

/// What was being done.
fn action(reason: Reason) -> &'static str {
    match reason {
        Reason::EndpointFailed
        | Reason::NoSecondChance
        | Reason::NodeFailed
        | Reason::FirewallDrops
        | Reason::PacketsLost
        | Reason::NotForwarding
        | Reason::UnknownListing => "Program",
        Reason::InvalidVip
        | Reason::VipConflict
        | Reason::InvalidMode
        | Reason::InvalidOption
        | Reason::EndpointRefused
        | Reason::TooManyEndpoints
        | Reason::InvalidMap
        | Reason::NoController
        | Reason::NotEnforced
        | Reason::UnsupportedService => "Resolve",
        Reason::NotSetUp
        | Reason::WaitingForBalance
        | Reason::WaitingForNodes
        | Reason::ConnectionsGivenUp
        | Reason::ForwardingBlocked
        | Reason::VipAssigned => "Assign",
    }
}

/// FNV-1a over the parts, each ended by a byte that no text has. The standard library's hasher may change with the
/// compiler, and two versions of the agent must agree.
pub(super) fn fnv1a<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    let bytes = parts.into_iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
