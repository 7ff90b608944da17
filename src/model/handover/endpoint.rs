//! Endpoints as EndpointSlices show them, and which of them may own a bucket.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::NodeName;
use crate::model::{Addresses, EndpointId, Family};

/// A moment, by both clocks that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// For what begins and ends on this machine.
    pub instant: Instant,
    /// Seconds since 1970 (UTC), for what is stored.
    pub unix: u64,
}

impl Moment {
    /// When this second (since 1970, UTC) begins, or a fraction of one later: a fraction earlier would be too early. At most a day from
    /// now: a damaged map may name a second that no clock can hold.
    pub fn at(self, unix: u64) -> Instant {
        self.instant + Duration::from_secs(unix.saturating_sub(self.unix).min(86_400))
    }
}

/// The conditions of an endpoint, as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointState {
    /// Takes new connections.
    Ready,
    /// Its pod is about to end, and will not be ready again.
    Terminating {
        /// Its readiness probe still succeeds.
        serving: bool,
    },
    /// Neither: it has crashed, hangs, starts, or its node is dead.
    NotReady,
}

impl EndpointState {
    /// Whether it answers its clients, as far as its probes say.
    pub fn serves(self) -> bool {
        matches!(self, EndpointState::Ready | EndpointState::Terminating { serving: true })
    }
}

/// One pod behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// UID of the pod.
    pub id: EndpointId,
    /// The node that it runs on.
    pub node: NodeName,
    /// Its addresses, at least one.
    pub addresses: Addresses,
    /// Its conditions.
    pub state: EndpointState,
}

impl From<&crate::model::Endpoint> for Endpoint {
    fn from(endpoint: &crate::model::Endpoint) -> Self {
        Endpoint {
            id: endpoint.pod_uid.as_str().into(),
            node: endpoint.node.as_str().into(),
            addresses: endpoint.addresses,
            state: endpoint.state,
        }
    }
}

/// Whether both may be addresses of one network namespace: at least one family in common, and no family that differs. Slices
/// of the two families are not written at the same moment.
pub(super) fn agree(one: Addresses, other: Addresses) -> bool {
    one.common(other).is_some() && !contradict(one, other)
}

/// Whether a family differs: the pod has another network namespace than before.
pub(super) fn contradict(one: Addresses, other: Addresses) -> bool {
    Family::ALL.into_iter().any(|family| matches!((one.of(family), other.of(family)), (Some(a), Some(b)) if a != b))
}

/// Those that may own a bucket: of the endpoints that are set up the ready ones, or where there is none, those that end and
/// still serve.
pub(super) fn usable<'a>(
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
    is_set_up: impl Fn(&Endpoint) -> bool,
) -> BTreeSet<EndpointId> {
    let set_up: Vec<&Endpoint> = endpoints.into_iter().filter(|e| e.state.serves() && is_set_up(e)).collect();
    let best = set_up.iter().map(|e| e.state).min();
    set_up.into_iter().filter(|e| Some(e.state) == best).map(|e| e.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, state: EndpointState) -> Endpoint {
        Endpoint { id: id.into(), node: "n".into(), addresses: Addresses::default(), state }
    }

    fn names(all: &BTreeSet<EndpointId>) -> Vec<&str> {
        all.iter().map(EndpointId::as_str).collect()
    }

    #[test]
    fn endpoints_that_end_are_used_only_where_none_is_ready() {
        let serving = |serving| EndpointState::Terminating { serving };
        let mut all = vec![
            endpoint("crashed", EndpointState::NotReady),
            endpoint("ends", serving(true)),
            endpoint("ended", serving(false)),
            endpoint("ready", EndpointState::Ready),
        ];
        assert_eq!(names(&usable(&all, |_| true)), ["ready"]);
        assert_eq!(names(&usable(&all, |e| e.id.as_str() != "ready")), ["ends"], "the ready one is not set up yet");
        all.pop();
        assert_eq!(names(&usable(&all, |_| true)), ["ends"]);
        assert!(usable(&all, |_| false).is_empty());
    }

    #[test]
    fn a_family_that_is_not_written_yet_is_no_other_address() {
        let of = |list: &[&str]| Addresses::first_of(&list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>());
        let (v4, both, other) = (of(&["10.0.0.1"]), of(&["10.0.0.1", "fd00::1"]), of(&["10.0.0.2", "fd00::1"]));
        assert!(agree(v4, both) && agree(both, v4) && !contradict(v4, both));
        assert!(!agree(both, other) && contradict(both, other));
        assert!(!agree(v4, of(&["fd00::1"])) && !contradict(v4, of(&["fd00::1"])));
    }
}
