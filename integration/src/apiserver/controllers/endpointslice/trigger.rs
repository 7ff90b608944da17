//! When the cause of a change happened, for the annotation `endpoints.kubernetes.io/last-change-trigger-time`: the creation
//! of the Service, else the earliest change of a pod's readiness since the last look, else unknown.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::apiserver::object::{self, text};

/// What was seen at the last look.
#[derive(Debug, Default)]
pub struct TriggerTimes {
    known: bool,
    /// Pod name to the time its readiness last changed.
    pods: BTreeMap<String, String>,
}

impl TriggerTimes {
    /// Looks again and says when the cause of what is new happened.
    pub fn observe(&mut self, service: &Value, pods: &[Arc<Value>]) -> Option<String> {
        let now: BTreeMap<String, String> =
            pods.iter().filter_map(|pod| Some((object::name(pod).to_owned(), ready_since(pod)?))).collect();
        let changed = now.iter().filter(|(name, time)| self.pods.get(*name) != Some(*time));
        let earliest = changed.map(|(_, time)| time.clone()).min();
        let first = !std::mem::replace(&mut self.known, true);
        self.pods = now;
        if first { Some(text(service, "/metadata/creationTimestamp").to_owned()) } else { earliest }
    }
}

fn ready_since(pod: &Value) -> Option<String> {
    let conditions = object::list(pod, "/status/conditions");
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
    ready["lastTransitionTime"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, time: &str) -> Arc<Value> {
        let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": time}]);
        Arc::new(json!({"metadata": {"name": name}, "status": {"conditions": conditions}}))
    }

    #[test]
    fn the_service_first_then_the_earliest_new_readiness_then_nothing() {
        let service = json!({"metadata": {"creationTimestamp": "t5"}});
        let mut times = TriggerTimes::default();
        assert_eq!(times.observe(&service, &[pod("a", "t1")]).as_deref(), Some("t5"));
        assert_eq!(times.observe(&service, &[pod("a", "t7"), pod("b", "t6")]).as_deref(), Some("t6"));
        assert_eq!(times.observe(&service, &[pod("a", "t7"), pod("b", "t6")]), None);
        assert_eq!(times.observe(&service, &[pod("b", "t6")]), None);
    }
}
