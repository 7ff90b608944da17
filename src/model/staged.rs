//! One change of a bucket map, carried out by many nodes: what each of them does when.
//!
//! A bucket that leaves an endpoint which stays drains: that endpoint's pod must pass on what it does not know before the
//! first packet of the new owner comes by it, and the new owner's pod must take it, on nodes that learn of the change at
//! other moments. So pods are prepared at once, ingress nodes follow [`HOLD`] later, and pods keep passing on for
//! [`LINGER`] after the end. Where the former owner is gone there is nothing to wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Bucket, Endpoint, EndpointId, SharedMap};

/// What a change of owner waits for other nodes.
pub const HOLD: Duration = Duration::from_secs(1);
/// What the end of a drain waits for other nodes.
pub const LINGER: Duration = Duration::from_secs(5);

/// For a bucket and one who had it: who is asked next.
pub type Onward = BTreeMap<(Bucket, EndpointId), EndpointId>;

/// What a node does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The map that its packets follow.
    pub map: SharedMap,
    /// What its pods pass on to whom.
    pub onward: Onward,
}

/// The progress of one VIP on one node.
#[derive(Debug, Clone)]
pub struct Stage {
    /// What packets follow.
    used: SharedMap,
    /// Buckets that are to follow another owner, and since when that is known.
    moves: BTreeMap<Bucket, (Option<EndpointId>, Instant)>,
    /// What the last map said about passing on.
    onward: Onward,
    /// What an earlier one said, and until when it holds.
    lingering: BTreeMap<(Bucket, EndpointId), (EndpointId, Instant)>,
}

impl Stage {
    /// Begins with a map as it is: whoever was to be prepared for it has been.
    pub fn new(map: SharedMap) -> Stage {
        let onward = map.onward();
        Stage { used: map, moves: BTreeMap::new(), onward, lingering: BTreeMap::new() }
    }

    /// Takes the present map and endpoints at `now`, and says what to do and when to ask again if nothing changes.
    pub fn step(&mut self, map: &SharedMap, endpoints: &[Endpoint], now: Instant) -> (Staged, Option<Instant>) {
        self.follow(map, now);
        self.pass_on(map.onward(), endpoints, now);
        let moves = self.moves.values().map(|(_, since)| *since + HOLD);
        let due = moves.chain(self.lingering.values().map(|(_, until)| *until)).min();
        let mut onward: Onward = self.lingering.iter().map(|(from, (to, _))| (from.clone(), to.clone())).collect();
        onward.extend(self.onward.clone());
        (Staged { map: self.used.clone(), onward }, due)
    }

    fn follow(&mut self, map: &SharedMap, now: Instant) {
        if self.used.flows != map.flows {
            self.moves.clear();
            self.used = map.clone();
            return;
        }
        let mut moves = BTreeMap::new();
        let mut next = map.clone();
        let mut owners = map.owners.owners().to_vec();
        for bucket in map.flows.buckets.iter() {
            let (old, new) = (self.used.owners.owner(bucket), map.owners.owner(bucket));
            let drains = map.previous.get(&bucket).map_or(&[][..], Vec::as_slice);
            let Some(old) = old.filter(|old| Some(*old) != new && drains.iter().any(|drain| drain.endpoint == **old))
            else {
                continue;
            };
            let since = match self.moves.get(&bucket) {
                Some((to, since)) if to.as_ref() == new => *since,
                _ => now,
            };
            if now.duration_since(since) >= HOLD {
                continue;
            }
            moves.insert(bucket, (new.cloned(), since));
            owners[bucket.index()] = Some(old.clone());
            let mut before = self.used.previous.get(&bucket).cloned().unwrap_or_default();
            before.retain(|drain| drains.iter().any(|d| d.endpoint == drain.endpoint));
            if before.is_empty() {
                next.previous.remove(&bucket)
            } else {
                next.previous.insert(bucket, before)
            };
        }
        next.owners = owners.into_iter().collect();
        (self.used, self.moves) = (next, moves);
    }

    fn pass_on(&mut self, onward: Onward, endpoints: &[Endpoint], now: Instant) {
        let over = std::mem::replace(&mut self.onward, onward).into_iter();
        self.lingering.extend(over.map(|(from, to)| (from, (to, now + LINGER))));
        let present: BTreeSet<&str> = endpoints.iter().map(|e| e.pod_uid.as_str()).collect();
        let Stage { onward, lingering, .. } = self;
        lingering.retain(|from, (to, until)| {
            *until > now
                && !onward.contains_key(from)
                && present.contains(from.1.as_str())
                && present.contains(to.as_str())
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::model::shared::{DrainRules, Flows};
    use crate::model::{Addresses, BucketCount};

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    const RULES: DrainRules = DrainRules { limit: None, datagrams: Duration::from_secs(30) };

    fn at(milliseconds: u64) -> Instant {
        *START + Duration::from_millis(milliseconds)
    }

    /// `a` is a ready pod, `A` the same pod while it takes no new connections.
    fn endpoints(letters: &str) -> Vec<Endpoint> {
        let endpoint = |letter: char| Endpoint {
            pod_uid: letter.to_ascii_lowercase().to_string(),
            namespace: "default".into(),
            pod: letter.to_string(),
            node: "n1".into(),
            addresses: Addresses::default(),
            eligible: letter.is_ascii_lowercase(),
        };
        letters.chars().map(endpoint).collect()
    }

    fn next(map: &SharedMap, letters: &str) -> SharedMap {
        map.next(&endpoints(letters), 0, RULES, |_, _| false)
    }

    fn first(letters: &str) -> SharedMap {
        SharedMap::new(Flows { buckets: BucketCount::new(16).unwrap(), seed: 1 }, &endpoints(letters))
    }

    fn owners(staged: &Staged) -> String {
        staged.map.owners.owners().iter().flatten().map(EndpointId::as_str).collect()
    }

    #[test]
    fn pods_are_prepared_before_packets_follow() {
        let one = first("a");
        let mut stage = Stage::new(one.clone());
        let two = next(&one, "Ab");
        let (staged, due) = stage.step(&two, &endpoints("Ab"), at(0));
        assert_eq!((owners(&staged).as_str(), due), ("aaaaaaaaaaaaaaaa", Some(at(1000))));
        assert!(staged.map.previous.is_empty() && staged.onward.len() == 16);
        let (staged, due) = stage.step(&two, &endpoints("Ab"), at(999));
        assert_eq!((owners(&staged).as_str(), due), ("aaaaaaaaaaaaaaaa", Some(at(1000))));
        let (staged, due) = stage.step(&two, &endpoints("Ab"), at(1000));
        assert_eq!((staged.map, staged.onward.len(), due), (two, 16, None));
    }

    #[test]
    fn nobody_waits_for_one_who_is_gone_or_may_not_drain() {
        let one = first("a");
        let two = next(&one, "b");
        let (staged, due) = Stage::new(one.clone()).step(&two, &endpoints("b"), at(0));
        assert_eq!((staged.map, due), (two, None));
        let mut cut = next(&one, "Ab");
        cut.previous.clear();
        let (staged, due) = Stage::new(one).step(&cut, &endpoints("Ab"), at(0));
        assert_eq!((staged.map, due), (cut, None));
    }

    #[test]
    fn another_change_of_the_same_bucket_waits_anew_and_of_another_one_does_not() {
        let one = first("ab");
        let two = next(&one, "Abc");
        let mut stage = Stage::new(one);
        stage.step(&two, &endpoints("Abc"), at(0));
        let three = next(&two, "AbCd");
        let (staged, _) = stage.step(&three, &endpoints("AbCd"), at(500));
        assert!(!owners(&staged).contains(['c', 'd']), "{}", owners(&staged));
        let (staged, due) = stage.step(&three, &endpoints("AbCd"), at(1000));
        assert!(!owners(&staged).contains('d') && due == Some(at(1500)), "{}", owners(&staged));
        let (staged, _) = stage.step(&three, &endpoints("AbCd"), at(1500));
        assert_eq!(staged.map, three);
    }

    #[test]
    fn pods_pass_on_a_while_after_the_end() {
        let one = next(&first("a"), "Ab");
        let over = one.next(&endpoints("Ab"), 0, RULES, |_, _| true);
        let mut stage = Stage::new(one);
        let (staged, due) = stage.step(&over, &endpoints("Ab"), at(0));
        assert!(staged.map.previous.is_empty() && staged.onward.len() == 16 && due == Some(at(5000)));
        let (staged, due) = stage.step(&over, &endpoints("b"), at(10));
        assert!(staged.onward.is_empty() && due.is_none(), "who is gone passes nothing on");
        let (staged, _) = stage.step(&over, &endpoints("b"), at(6000));
        assert!(staged.onward.is_empty());
    }
}
