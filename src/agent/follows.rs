//! What this node does about each Service: its stored map, followed at this node's own pace.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant as StdInstant, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::model::handover::{Assignment, Endpoint, Follow, Intent, Moment, Offered};
use crate::model::{Cluster, Vip};

/// The maps that this node follows.
#[derive(Debug, Default)]
pub struct Follows {
    /// By UID of the Service.
    services: HashMap<String, Followed>,
    /// What was asked and what was answered last, by VIP.
    answers: BTreeMap<IpAddr, Answer>,
    /// VIPs without a map since the start, with the UID of their Service; `None` before the first look.
    unheard: Option<BTreeMap<IpAddr, String>>,
    /// When to look again although nothing changes.
    due: Option<StdInstant>,
}

/// A Service with a map.
#[derive(Debug)]
struct Followed {
    follow: Follow,
    intent: Arc<Intent>,
    /// When the next step is due.
    due: Option<StdInstant>,
}

/// What this node does about a VIP.
#[derive(Debug)]
struct Answer {
    asked: Arc<Vip>,
    given: Arc<Vip>,
    due: Option<StdInstant>,
}

impl Answer {
    /// Whether it is still right: the VIP is the same, also in whether what was there stays, and nothing is due.
    fn stands(&self, asked: &Arc<Vip>, holds: bool, now: Moment) -> bool {
        Arc::ptr_eq(&self.asked, asked) && self.given.holds == holds && self.due.is_none_or(|due| now.instant < due)
    }

    /// Whether the VIP is another Service's now, or nobody's map says anything of it any more.
    fn is_left_by(&self, asked: &Vip) -> bool {
        self.asked.map.is_some() && (asked.map.is_none() || asked.service.uid != self.asked.service.uid)
    }
}

impl Follows {
    /// Writes into each VIP of a Service with a map what this node does now. A Service that is gone is forgotten. What has not
    /// changed since the last time is the same object as then.
    pub fn follow(&mut self, cluster: &mut Cluster, now: Moment) {
        let holding = self.hold(cluster);
        // A Service has a VIP of each family, or more.
        let mut stepped = BTreeSet::new();
        let mut is_left = false;
        for (address, vip) in &mut cluster.vips {
            let (asked, holds) = (vip.clone(), holding.contains(address));
            if let Some(answer) = self.answers.get(address).filter(|answer| answer.stands(&asked, holds, now)) {
                *vip = answer.given.clone();
                continue;
            }
            let followed = asked.map.as_ref().map(|map| {
                let is_new = stepped.insert(asked.service.uid.clone());
                self.step(&asked, map, is_new, now)
            });
            let intent = followed.map(|followed| followed.intent.clone());
            let due = followed.and_then(|followed| followed.due);
            *vip = Arc::new(Vip { intent, holds, ..asked.as_ref().clone() });
            let before = self.answers.insert(*address, Answer { asked: asked.clone(), given: vip.clone(), due });
            is_left |= before.is_some_and(|before| before.is_left_by(&asked));
        }
        if self.answers.len() > cluster.vips.len() {
            self.answers.retain(|address, _| cluster.vips.contains_key(address));
            is_left = true;
        }
        if is_left {
            self.forget();
        }
        self.due = self.answers.values().filter_map(|answer| answer.due).min();
    }

    /// Forgets Services that no VIP has a map of.
    fn forget(&mut self) {
        let mapped = self.answers.values().filter(|answer| answer.asked.map.is_some());
        let uids: BTreeSet<&str> = mapped.map(|answer| answer.asked.service.uid.as_str()).collect();
        self.services.retain(|uid, _| uids.contains(uid.as_str()));
    }

    /// Follows the map of a VIP's Service, if that has not been done for another of its VIPs.
    fn step(&mut self, vip: &Vip, map: &Arc<Assignment>, is_new: bool, now: Moment) -> &Followed {
        let endpoints = || vip.endpoints.iter().map(Endpoint::from).collect::<Vec<_>>();
        let new = || {
            let follow = Follow::new(map.clone(), endpoints(), now);
            Followed { intent: Arc::new(Intent::of(&follow)), due: follow.next_deadline(now), follow }
        };
        let followed = match self.services.entry(vip.service.uid.clone()) {
            Entry::Vacant(entry) => return entry.insert(new()),
            Entry::Occupied(entry) => entry.into_mut(),
        };
        if is_new {
            // The index never offers an older one.
            let (Offered::Followed | Offered::Older(_)) = followed.follow.offer(map, now);
            followed.follow.see(&endpoints(), now);
            followed.due = followed.follow.next_deadline(now);
            let intent = Intent::of(&followed.follow);
            if *followed.intent != intent {
                followed.intent = Arc::new(intent);
            }
        }
        followed
    }

    /// VIPs of which nothing is known: where there has been no map since this agent started, an earlier one may have followed it.
    fn hold(&mut self, cluster: &Cluster) -> BTreeSet<IpAddr> {
        let unmapped = cluster.vips().filter(|vip| vip.map.is_none());
        let unheard = unmapped.filter_map(|vip| {
            let uid = &vip.service.uid;
            let holds = self.unheard.as_ref().is_none_or(|unheard| unheard.get(&vip.address) == Some(uid));
            holds.then(|| (vip.address, uid.clone()))
        });
        let unheard = self.unheard.insert(unheard.collect());
        unheard.keys().copied().collect()
    }

    /// When to look again although nothing changes.
    pub fn due(&self) -> Option<Instant> {
        self.due.map(Instant::from_std)
    }
}

/// Now.
pub fn moment() -> Moment {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Moment { instant: StdInstant::now(), unix }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;
    use crate::plan::tests::support::{bare_vip, cluster, endpoint, on_nodes, vip};

    fn shared(vips: Vec<Vip>) -> Vec<Arc<Vip>> {
        cluster(vips).vips.into_values().map(|vip| Arc::new(Vip { intent: None, ..vip.as_ref().clone() })).collect()
    }

    #[test]
    fn what_has_not_changed_is_the_same_object_as_before() {
        let (mut follows, now) = (Follows::default(), moment());
        let mut look = |vips: &[Arc<Vip>]| {
            let vips = vips.iter().map(|vip| (vip.address, vip.clone())).collect();
            let mut cluster = Cluster { vips, ..Cluster::default() };
            follows.follow(&mut cluster, now);
            (cluster.vips.into_values().collect::<Vec<_>>(), follows.services.len())
        };
        let both = ["192.0.2.10", "192.0.2.11"].map(|address| vip(address, Mode::Gre, on_nodes()));
        let asked = shared(both.to_vec());
        let (first, services) = look(&asked);
        assert!(first.iter().all(|vip| vip.intent.is_some()) && services == 2);
        let other = shared(vec![vip("192.0.2.11", Mode::Gre, vec![endpoint(2, "n1")])]);
        let (second, _) = look(&[asked[0].clone(), other[0].clone()]);
        assert!(Arc::ptr_eq(&first[0], &second[0]) && !Arc::ptr_eq(&first[1], &second[1]));
        // Another Service gets the address, and has no map yet; the third time there is nothing at all.
        let bare = shared(vec![bare_vip("192.0.2.11", Mode::Gre, on_nodes())]);
        let (third, services) = look(&[asked[0].clone(), bare[0].clone()]);
        assert!(third[1].intent.is_none() && !third[1].holds && services == 1);
        assert_eq!(look(&[]).1, 0);
    }
}
