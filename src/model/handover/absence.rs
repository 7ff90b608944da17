//! Since when endpoints that own buckets may not own them: nodes and the controller are patient, and forget nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Endpoint, EndpointState};
use crate::model::EndpointId;

/// What a node waits for the controller's word about an owner that is not ready.
pub const NOT_READY: Duration = Duration::from_secs(5);
/// What it waits about one that is gone, or about to end: that one does not come back.
pub const ENDING: Duration = Duration::from_secs(2);
/// What it waits for the first sight of an owner that no slice has shown to it yet: slices may be later than maps.
pub const UNSEEN: Duration = Duration::from_secs(15);

/// Since when an endpoint may not own a bucket; `None`: since before anybody looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Absence {
    first: Option<Instant>,
    /// Since when it has been gone or about to end, if it is.
    ending: Option<Option<Instant>>,
    /// No slice has shown it yet.
    unseen: bool,
}

/// The owners that may not own a bucket now.
#[derive(Debug, Clone, Default)]
pub struct Absences {
    all: BTreeMap<EndpointId, Absence>,
    /// Owners that slices have shown.
    seen: BTreeSet<EndpointId>,
    looked: bool,
}

impl Absences {
    /// Looks at the owners, of whom those in `usable` are not absent.
    pub fn look<'a>(
        &mut self,
        owners: impl IntoIterator<Item = &'a EndpointId>,
        usable: &BTreeSet<EndpointId>,
        endpoints: &[Endpoint],
        now: Instant,
    ) {
        let now = self.looked.then_some(now);
        let owners: BTreeSet<&EndpointId> = owners.into_iter().collect();
        self.all.retain(|id, _| owners.contains(id) && !usable.contains(id));
        self.seen.retain(|id| owners.contains(id));
        for id in owners {
            let state = endpoints.iter().find(|e| e.id == *id).map(|e| e.state);
            if state.is_some() {
                self.seen.insert(id.clone());
            }
            if usable.contains(id) {
                continue;
            }
            let ends = matches!(state, None | Some(EndpointState::Terminating { .. }));
            let absence = self.all.entry(id.clone()).or_insert(Absence { first: now, ending: None, unseen: true });
            absence.ending = ends.then(|| absence.ending.unwrap_or(now));
            absence.unseen = !self.seen.contains(id);
        }
        self.looked = true;
    }

    /// Whether nodes without a word of the controller have given the endpoint's buckets to stand-ins by now.
    pub fn is_over(&self, id: &EndpointId, now: Instant) -> bool {
        self.all.get(id).is_some_and(|absence| absence.until().is_none_or(|until| until <= now))
    }

    /// Whether a slice has shown this owner.
    pub fn is_seen(&self, id: &EndpointId) -> bool {
        self.seen.contains(id)
    }

    /// When the next one is over, after `now`.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.all.values().filter_map(Absence::until).filter(|until| *until > now).min()
    }
}

impl Absence {
    /// Until when its buckets are left alone; `None`: that is over since before anybody looked.
    fn until(&self) -> Option<Instant> {
        if self.unseen {
            return Some(self.first? + UNSEEN);
        }
        let not_ready = self.first? + NOT_READY;
        match self.ending {
            None => Some(not_ready),
            Some(ending) => Some((ending? + ENDING).min(not_ready)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Addresses;

    #[test]
    fn patience_is_5_s_for_what_may_come_back_and_2_s_for_the_rest() {
        let (start, mut absences) = (Instant::now(), Absences::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        let owner = EndpointId::from("p");
        let mut look = |state: Option<EndpointState>, usable: bool, seconds| {
            let endpoint =
                |state| Endpoint { id: owner.clone(), node: "n".into(), addresses: Addresses::default(), state };
            let all: Vec<Endpoint> = state.map(endpoint).into_iter().collect();
            let usable = if usable { [owner.clone()].into() } else { BTreeSet::new() };
            absences.look([&owner], &usable, &all, at(seconds));
            (absences.is_over(&owner, at(seconds)), absences.due(at(seconds)).map(|due| (due - start).as_secs()))
        };
        let (ready, not_ready, ends) = (
            Some(EndpointState::Ready),
            Some(EndpointState::NotReady),
            Some(EndpointState::Terminating { serving: true }),
        );
        assert_eq!(look(not_ready, false, 0), (true, None), "since before anybody looked");
        assert_eq!(look(ready, true, 1), (false, None));
        assert_eq!(look(not_ready, false, 10), (false, Some(15)));
        assert_eq!(look(ends, false, 12), (false, Some(14)));
        assert_eq!(look(None, false, 13), (false, Some(14)));
        assert_eq!(look(None, false, 14), (true, None));
        assert_eq!(look(ready, true, 20), (false, None));
        assert_eq!(look(not_ready, false, 21), (false, Some(26)));
        assert_eq!(look(ends, false, 25), (false, Some(26)));
    }

    #[test]
    fn slices_that_come_later_than_a_map_take_nothing_from_its_owner() {
        let (start, mut absences, owner) = (Instant::now(), Absences::default(), EndpointId::from("p"));
        let at = |seconds| start + Duration::from_secs(seconds);
        absences.look([], &BTreeSet::new(), &[], at(0));
        absences.look([&owner], &BTreeSet::new(), &[], at(1));
        assert!(!absences.is_over(&owner, at(15)) && absences.is_over(&owner, at(16)));
        assert_eq!(absences.due(at(1)), Some(at(16)));
    }
}
