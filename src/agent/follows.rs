//! What this node does about each Service: its stored map, followed at this node's own pace.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant as StdInstant, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::model::cluster::differing;
use crate::model::handover::{Assignment, Endpoint, Follow, Intent, Moment, Offered};
use crate::model::{Cluster, Vip, Vips};

/// The maps that this node follows.
#[derive(Debug, Default)]
pub struct Follows {
    /// By UID of the Service.
    services: HashMap<String, Followed>,
    /// The VIPs as they were asked for last, and as they were answered.
    asked: Vips,
    given: Vips,
    /// VIPs without a map since the start, with the UID of their Service; `None` before the first look.
    unheard: Option<BTreeMap<IpAddr, String>>,
    /// When to look at a VIP again although it does not change.
    dues: BTreeMap<IpAddr, StdInstant>,
    /// The same, by time.
    by_time: BTreeSet<(StdInstant, IpAddr)>,
}

/// A Service with a map.
#[derive(Debug)]
struct Followed {
    follow: Follow,
    intent: Arc<Intent>,
    /// When the next step is due.
    due: Option<StdInstant>,
}

impl Follows {
    /// Writes into each VIP of a Service with a map what this node does now. A Service that is gone is forgotten. What has not
    /// changed since the last time is the same object as then, and is not looked at.
    pub fn follow(&mut self, cluster: &mut Cluster, now: Moment) {
        let before = std::mem::replace(&mut self.asked, cluster.vips.clone());
        let changed = differing(&before, &cluster.vips).filter_map(|(old, new)| Some(old.or(new)?.address));
        let mut again: BTreeSet<IpAddr> = changed.collect();
        again.extend(self.hear(cluster));
        again.extend(self.by_time.iter().take_while(|(due, _)| *due <= now.instant).map(|(_, address)| *address));
        // A Service has a VIP of each family, or more.
        let mut stepped = BTreeSet::new();
        let mut is_left = false;
        for address in again {
            let (old, new) = (before.get(&address), cluster.vips.get(&address));
            is_left |= old.is_some_and(|old| is_left_by(old, new.map(Arc::as_ref)));
            let Some(asked) = new else {
                self.given.remove(&address);
                self.wait(address, None);
                continue;
            };
            let followed = asked.map.as_ref().map(|map| {
                let is_new = stepped.insert(asked.service.uid.clone());
                self.step(asked, map, is_new, now)
            });
            let intent = followed.map(|followed| followed.intent.clone());
            let due = followed.and_then(|followed| followed.due);
            let holds = self.unheard.as_ref().is_some_and(|unheard| unheard.contains_key(&address));
            self.given.insert(address, Arc::new(Vip { intent, holds, ..asked.as_ref().clone() }));
            self.wait(address, due);
        }
        if is_left {
            self.forget();
        }
        cluster.vips = self.given.clone();
    }

    /// Looks at a VIP again when it is due.
    fn wait(&mut self, vip: IpAddr, due: Option<StdInstant>) {
        if let Some(before) = self.dues.remove(&vip) {
            self.by_time.remove(&(before, vip));
        }
        if let Some(due) = due {
            self.dues.insert(vip, due);
            self.by_time.insert((due, vip));
        }
    }

    /// Forgets Services that no VIP has a map of.
    fn forget(&mut self) {
        let mapped = self.asked.values().filter(|asked| asked.map.is_some());
        let uids: BTreeSet<&str> = mapped.map(|asked| asked.service.uid.as_str()).collect();
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

    /// Takes note of VIPs of which nothing is known: where there has been no map since this agent started, an earlier one may have followed
    /// it. Returns those of which something is heard now.
    fn hear(&mut self, cluster: &Cluster) -> Vec<IpAddr> {
        let is_unheard = |address: &IpAddr, uid: &str| {
            cluster.vips.get(address).is_some_and(|vip| vip.map.is_none() && vip.service.uid == uid)
        };
        if let Some(unheard) = &mut self.unheard {
            return unheard
                .extract_if(.., |address, uid| !is_unheard(address, uid))
                .map(|(address, _)| address)
                .collect();
        }
        let unmapped = cluster.vips().filter(|vip| vip.map.is_none());
        self.unheard = Some(unmapped.map(|vip| (vip.address, vip.service.uid.clone())).collect());
        Vec::new()
    }

    /// When to look again although nothing changes.
    pub fn due(&self) -> Option<Instant> {
        self.by_time.first().map(|(due, _)| Instant::from_std(*due))
    }
}

/// Whether a VIP is another Service's now, or nobody's map says anything of it any more.
fn is_left_by(old: &Vip, new: Option<&Vip>) -> bool {
    old.map.is_some() && new.is_none_or(|new| new.map.is_none() || new.service.uid != old.service.uid)
}

/// Now.
pub fn moment() -> Moment {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Moment { instant: StdInstant::now(), unix }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Mode;
    use crate::plan::tests::support::{bare_vip, draining_vip, endpoint, on_nodes, vip};

    /// VIPs as they are asked for.
    fn shared(vips: Vec<Vip>) -> impl Iterator<Item = (IpAddr, Arc<Vip>)> {
        vips.into_iter().map(|vip| (vip.address, Arc::new(Vip { intent: None, ..vip })))
    }

    #[test]
    fn what_has_not_changed_is_the_same_object_as_before() {
        let (mut follows, now) = (Follows::default(), moment());
        let mut look = |vips: &[Arc<Vip>]| {
            let vips = vips.iter().map(|vip| (vip.address, vip.clone())).collect();
            let mut cluster = Cluster { vips, ..Cluster::default() };
            follows.follow(&mut cluster, now);
            (cluster.vips.values().cloned().collect::<Vec<_>>(), follows.services.len())
        };
        let both = ["192.0.2.10", "192.0.2.11"].map(|address| vip(address, Mode::Gre, on_nodes()));
        let shared = |vips: Vec<Vip>| shared(vips).map(|(_, vip)| vip).collect::<Vec<_>>();
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

    #[test]
    fn a_vip_is_looked_at_again_when_it_is_due_and_no_other_is() {
        let mut follows = Follows::default();
        let start = Moment { unix: 1000, ..moment() };
        let (two, both) = (vec![endpoint(2, "n1")], on_nodes());
        let drains = draining_vip("192.0.2.10", Mode::Gre, both, &two);
        let asked =
            Cluster { vips: shared(vec![drains, vip("192.0.2.11", Mode::Gre, two)]).collect(), ..Cluster::default() };
        let mut look = |after: Duration| {
            let now = Moment { instant: start.instant + after, unix: start.unix + after.as_secs() };
            let mut cluster = asked.clone();
            follows.follow(&mut cluster, now);
            let datagrams =
                |vip: &Vip| vip.intent.iter().flat_map(|i| i.next_hops.values()).any(|hop| hop.id.datagrams());
            let stay: Vec<bool> = cluster.vips().map(datagrams).collect();
            let due = follows.due().map(|due| due.into_std().duration_since(start.instant));
            (cluster.vips.values().cloned().collect::<Vec<_>>(), stay, due)
        };
        let (first, stay, due) = look(Duration::ZERO);
        assert_eq!((stay, due), (vec![true, false], Some(Duration::from_secs(30))), "datagrams stay for 30 s");
        let (second, ..) = look(Duration::from_secs(29));
        assert!(Arc::ptr_eq(&first[0], &second[0]));
        let (third, stay, due) = look(Duration::from_secs(30));
        assert_eq!((stay, due), (vec![false, false], None));
        assert!(!Arc::ptr_eq(&first[0], &third[0]) && Arc::ptr_eq(&first[1], &third[1]));
    }
}
