//! When to look at a Service again although nothing changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::model::handover::ServiceUid;

/// At most one moment for each Service.
#[derive(Debug, Clone, Default)]
pub(super) struct Alarms {
    of: BTreeMap<ServiceUid, Instant>,
    queue: BTreeSet<(Instant, ServiceUid)>,
}

impl Alarms {
    /// Sets the moment of a Service in place of the one before.
    pub(super) fn set(&mut self, service: &ServiceUid, at: Option<Instant>) {
        if let Some(before) = self.of.remove(service) {
            self.queue.remove(&(before, service.clone()));
        }
        if let Some(at) = at {
            self.of.insert(service.clone(), at);
            self.queue.insert((at, service.clone()));
        }
    }

    /// Sets the moment of a Service, unless there is an earlier one.
    pub(super) fn set_earlier(&mut self, service: &ServiceUid, at: Instant) {
        if self.of.get(service).is_none_or(|before| at < *before) {
            self.set(service, Some(at));
        }
    }

    /// Services whose moment has come. They have none any more.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<ServiceUid> {
        let mut due = Vec::new();
        while self.next().is_some_and(|at| at <= now) {
            let Some((_, service)) = self.queue.pop_first() else { break };
            self.of.remove(&service);
            due.push(service);
        }
        due
    }

    /// The next moment.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_service_has_one_moment_and_none_when_it_has_come() {
        let (start, mut alarms) = (Instant::now(), Alarms::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        let [a, b] = ["a", "b"].map(ServiceUid::from);
        alarms.set(&a, Some(at(5)));
        alarms.set(&b, Some(at(3)));
        alarms.set_earlier(&a, at(7));
        assert_eq!((alarms.next(), alarms.take_due(at(2))), (Some(at(3)), Vec::new()));
        alarms.set_earlier(&a, at(4));
        assert_eq!(alarms.take_due(at(4)), [b.clone(), a.clone()]);
        alarms.set(&a, Some(at(9)));
        alarms.set(&a, None);
        assert_eq!((alarms.next(), alarms.take_due(at(20))), (None, Vec::new()));
    }
}
