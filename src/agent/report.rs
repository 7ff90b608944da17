//! What this node says about its pods, besides the drains that are over.

use std::collections::{BTreeMap, BTreeSet};

use super::status::Status;
use crate::model::handover::{Assignment, Generation, NodeReport, ServiceUid};
use crate::model::{Cluster, EndpointId};
use crate::state::LocalPod;

/// Pods that a map names on this node, and that have ended: the API does not know them any more, or all their containers have
/// ended for good.
pub(super) fn ended(here: &Cluster, local_pods: &BTreeMap<String, LocalPod>, node: &str) -> BTreeSet<EndpointId> {
    let maps = maps_of(here, node).into_values();
    let members = maps.flat_map(|map| &map.members).filter(|(_, member)| member.node.as_str() == node);
    let has_ended = |id: &EndpointId| local_pods.get(id.as_str()).is_none_or(|pod| pod.terminated);
    members.map(|(id, _)| id).filter(|id| has_ended(id)).cloned().collect()
}

/// Writes down how the pods of this node are set up and what they know: what their maps announce, once the pods are as they are asked
/// to be, and what was said before until then.
pub(super) fn note_pods(report: &mut NodeReport, here: &Cluster, status: &Status, node: &str) {
    report.pods = status.set_up();
    let (before, outdated) = (report.knows.take().unwrap_or_default(), status.outdated());
    let knows = |(service, map): (ServiceUid, &Assignment)| {
        let known = (!outdated.contains(&service)).then_some(map.announced);
        let known: Generation = known.or_else(|| before.get(&service).copied())?;
        Some((service, known))
    };
    report.knows = Some(maps_of(here, node).into_iter().filter_map(knows).collect());
}

/// The maps that name pods of this node.
fn maps_of<'a>(cluster: &'a Cluster, node: &str) -> BTreeMap<ServiceUid, &'a Assignment> {
    let is_here = |map: &Assignment| map.members.values().any(|member| member.node.as_str() == node);
    let maps = cluster.vips().filter_map(|vip| Some((&vip.service.uid, vip.map.as_deref()?)));
    maps.filter(|(_, map)| is_here(map)).map(|(uid, map)| (uid.as_str().into(), map)).collect()
}
