//! One change of a bucket map, carried out by many nodes: what each of them does when.
//!
//! A bucket that leaves an endpoint which stays drains: the new owner is asked first, and its pod passes on to the former one what
//! belongs to none of its connections. So nobody depends on a pod that had the bucket before him, and may end any moment. But
//! the new owner's pod must know whom to ask, and the former one take it, before the first packet comes, on nodes that learn of
//! the change at other moments: pods are prepared at once, ingress nodes follow when the nodes of all pods concerned have
//! reported that they are done, but not before [`HOLD`]. Nodes that do not report are waited for: [`PREPARATION`] where the former
//! owner is ready for new connections, or about to end, [`URGENT`] where it is not ready. Then new connections go to the new owner
//! and all else is put to the former one first ([`Staged::first`]), until there is a report. Where the former owner is gone
//! there is nothing to wait for.
//!
//! When changes follow each other quickly, ingress nodes are at different ones for a while, and packets come in at different
//! pods. Until all of them have reported that they follow ([`Progress`]), and for [`LINGER`] after it, the last pod asks the first,
//! so that it does not matter where the first question is put: a pod that comes is added to the ring, and one that gets its bucket
//! back ([`SharedMap::next`]) only becomes its beginning. Who comes must know whom to ask before he is asked himself: who asked
//! another one before turns to him when all others have reported that they know, after [`ENTRY`] at the latest, and only then is
//! prepared.
//!
//! While no controller writes, nodes bridge: a pod that is not ready for a while and then ready again has its buckets back,
//! and nothing stored says who had them meanwhile. Nodes remember it by themselves, for [`REMEMBERED`] at most, and as long as
//! they run. The owner is asked before those who stood in, so that a node which remembers somebody alone does the owner's
//! connections no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::shared::links;
use super::{Bucket, Drain, Endpoint, EndpointId, SharedMap};

/// What a change of owner waits for other nodes.
pub const HOLD: Duration = Duration::from_secs(1);
/// What a change of owner waits for nodes that have not reported yet, where the former owner takes new connections meanwhile.
pub const PREPARATION: Duration = Duration::from_secs(60);
/// The same where the former owner is not ready: it may still take some, and it may not.
pub const URGENT: Duration = Duration::from_secs(10);
/// What a node waits for the writer's word about endpoints that take no new connections but are there, before it bridges
/// ([`SharedMap::bridge`]): what it would forget again when they are back. A writer that works writes once a second; one that is
/// replaced, or that hears late, takes longer.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The same for endpoints that are about to end: they do not come back, so whoever bridges decides as the writer will.
pub const PATIENCE_AT_THE_END: Duration = Duration::from_secs(2);
/// What the end of a drain waits for other nodes: one with much to do takes seconds to follow.
pub const LINGER: Duration = Duration::from_secs(10);

/// What a pod waits before it passes on to another one than before, who has to be ready for it, where nothing is reported of it.
pub const RELINK: Duration = Duration::from_millis(500);
/// The same until there is a report. As long as whom he passes on to now has an answer: it is better that packets are lost for a
/// while than that a pod resets what it knows nothing of.
pub const ENTRY: Duration = LINGER.saturating_sub(HOLD);

/// How long a node remembers who had a bucket of which the stored map says nothing.
pub const REMEMBERED: Duration = Duration::from_secs(120);
/// Of how many for each bucket.
const MOST_REMEMBERED: usize = 4;

/// For a bucket and one who had it: who is asked next.
pub type Onward = BTreeMap<(Bucket, EndpointId), EndpointId>;

/// What a node does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The map that its packets follow.
    pub map: SharedMap,
    /// Who is asked first for open connections, where that is not the owner yet: a former one.
    pub first: BTreeMap<Bucket, EndpointId>,
    /// What its pods pass on to whom.
    pub onward: Onward,
    /// Who takes what another passes on: all that do so on this node, or may do so already on others.
    pub admitted: BTreeSet<(EndpointId, EndpointId)>,
    /// Buckets that ingress nodes may still be on their way to: a former owner may get new connections.
    pub unsettled: BTreeSet<Bucket>,
    /// Of those who are about to pass on to another one than now, and so are not prepared yet: the last generation of the map by
    /// which all of it was as it should be.
    pub turning: BTreeMap<EndpointId, u64>,
    /// The same of those among them who come back, and so have not even entered.
    pub entering: BTreeMap<EndpointId, u64>,
    /// The last generation of the map by which all packets took the way that it says.
    pub followed: u64,
}

/// The progress of one VIP on one node.
#[derive(Debug, Clone)]
pub struct Stage {
    /// What packets follow.
    used: SharedMap,
    /// Who is asked first, where the owner does not know yet whom it has to ask, as far as anybody can tell.
    first: BTreeMap<Bucket, EndpointId>,
    /// Since when the owner of a bucket has been the same.
    unchanged: BTreeMap<Bucket, Instant>,
    /// Buckets whose packets are to take another way.
    moves: BTreeMap<Bucket, Move>,
    /// The generation of the writer's last word, zero before the first step, and how long another one is waited for about each
    /// endpoint that takes no new connections.
    unsaid: (u64, BTreeMap<EndpointId, Instant>),
    /// Who is asked, where others were asked before.
    rows: BTreeMap<Bucket, Row>,
    /// Who passes on to whom.
    links: BTreeMap<(Bucket, EndpointId), Link>,
    /// Who had a bucket here that no map mentions, the first one first, and until when that counts.
    remembered: BTreeMap<Bucket, Vec<(EndpointId, Instant)>>,
    /// Who drained by the writer's last word: of whom it says nothing any more, he has nothing left.
    drained: BTreeSet<(Bucket, EndpointId)>,
    /// Who takes whose packets, and until when if the other's node does not say otherwise: it may be late.
    admitted: BTreeMap<(EndpointId, EndpointId), Instant>,
}

/// How far a node is with the maps of a Service, as generations of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whoever of its pods is asked knows whom to ask next, and takes what others pass on.
    pub entered: u64,
    /// And who asked somebody else before asks whom the map says.
    pub prepared: u64,
    /// Its packets take the way that the map says, if it is an ingress node.
    pub followed: u64,
}

/// Who is asked, one after the other.
#[derive(Debug, Clone)]
struct Row {
    /// They.
    way: Vec<EndpointId>,
    /// The generation of the map that said it first.
    generation: u64,
    /// Since when that is known.
    since: Instant,
    /// When the last that may wait for it was known to wait.
    awaited: Instant,
    /// Since when all of them are known to be prepared.
    prepared: Option<Instant>,
    /// All ingress nodes have followed.
    followed: bool,
}

/// A bucket whose packets are to take another way.
#[derive(Debug, Clone)]
struct Move {
    /// Who is asked then.
    way: Vec<EndpointId>,
    /// Since when the owner is known.
    since: Instant,
    /// The generation of the map that said first who is asked.
    generation: u64,
    /// The last one whose way packets took.
    followed: u64,
    /// When it is taken whatever is heard until then.
    until: Instant,
}

/// What a step goes by.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// All endpoints, eligible or not.
    pub endpoints: &'a [Endpoint],
    /// For how long pods may keep connections at all, if there is a limit.
    pub limit: Option<Duration>,
    /// By node, what it has reported.
    pub reported: &'a BTreeMap<String, Progress>,
    /// The ingress nodes.
    pub ingress: &'a BTreeSet<String>,
    /// The time.
    pub now: Instant,
}

impl Circumstances<'_> {
    fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.pod_uid == id.as_str())
    }

    /// How long a change, first said in this generation, waits for the nodes of those who are asked from then on, of whom
    /// `old` is the present owner.
    fn hold(&self, map: &SharedMap, bucket: Bucket, old: &EndpointId, generation: u64) -> Duration {
        let awaits = is_stored(map, bucket) && !self.are_prepared(map, bucket, generation);
        match self.endpoint(old).filter(|_| awaits) {
            Some(old) if old.eligible || old.terminating => PREPARATION,
            Some(_) => URGENT,
            None => HOLD,
        }
    }

    /// Whether all who are asked are on nodes that have reported that they are prepared.
    fn are_prepared(&self, map: &SharedMap, bucket: Bucket, generation: u64) -> bool {
        is_stored(map, bucket) && self.all_have(map.way(bucket).into_iter(), |progress| progress.prepared, generation)
    }

    /// Whether the nodes of these endpoints have all reported that they are so far.
    fn all_have<'a>(
        &self,
        mut endpoints: impl Iterator<Item = &'a EndpointId>,
        how_far: fn(&Progress) -> u64,
        generation: u64,
    ) -> bool {
        let progress = |id: &EndpointId| self.reported.get(&self.endpoint(id)?.node);
        endpoints.all(|id| progress(id).is_some_and(|progress| how_far(progress) >= generation))
    }

    /// Whether the packets of all ingress nodes take the way that this generation of the map says, or a newer one.
    fn have_followed(&self, generation: u64) -> bool {
        self.ingress.iter().all(|node| self.reported.get(node).is_some_and(|progress| progress.followed >= generation))
    }
}

/// Whether the writer knows of all who drain.
fn is_stored(map: &SharedMap, bucket: Bucket) -> bool {
    map.previous.get(&bucket).into_iter().flatten().all(Drain::is_stored)
}

/// Writes who drains from a bucket.
fn write(previous: &mut BTreeMap<Bucket, Vec<Drain>>, bucket: Bucket, drains: Vec<Drain>) {
    if drains.is_empty() {
        previous.remove(&bucket);
    } else {
        previous.insert(bucket, drains);
    }
}

/// The way on from one who had a bucket.
#[derive(Debug, Clone)]
struct Link {
    to: EndpointId,
    change: Change,
}

/// What becomes of a link.
#[derive(Debug, Clone)]
enum Change {
    /// It is as the last map says.
    None,
    /// The map says nothing any more: it goes then.
    Ends(Instant),
    /// The map has said something else for the first time then.
    Turns(Turn),
}

/// A link that is about to lead to another one.
#[derive(Debug, Clone)]
struct Turn {
    /// Since when that is so.
    first: Instant,
    /// The last generation by which the link was as the map says.
    reached: u64,
    /// Whoever passes on had left the row before.
    enters: bool,
    /// Whom the map says now.
    to: EndpointId,
    /// Since when.
    since: Instant,
    /// All others who are asked are to know this generation, if that is reported.
    awaits: Option<u64>,
}

impl Stage {
    /// Begins with a map as it is: whoever was to be prepared for it has been.
    pub fn new(map: SharedMap) -> Stage {
        let link = |(from, to)| (from, Link { to, change: Change::None });
        let links = map.onward().into_iter().map(link).collect();
        let (moves, rows, admitted) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (unchanged, remembered, drained) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let (unsaid, first) = ((0, BTreeMap::new()), BTreeMap::new());
        Stage { used: map, first, unchanged, moves, unsaid, rows, links, remembered, drained, admitted }
    }

    /// Takes the stored map and the endpoints as they are now, and says what to do and when to ask again if nothing changes.
    pub fn step(&mut self, stored: &SharedMap, around: &Circumstances<'_>) -> (Staged, Option<Instant>) {
        let Circumstances { endpoints, now, .. } = *around;
        let before = self.unsaid.0;
        let is_first = before == 0;
        let (map, word) = self.bridge(stored, around);
        if is_first {
            self.step_back(&map, around);
        }
        let map = &map;
        self.remember(map, around);
        self.follow(map, before, around);
        let mut onward = self.onward(map);
        let unsettled = self.close(map, &mut onward, around);
        self.pass_on(onward, map, before, around);
        let moves = self.moves.values().map(|one| one.until);
        let rings = self.rows.values().map(|row| row.awaited + LINGER).filter(|until| *until > now);
        let turns = self.first.keys().filter_map(|bucket| Some(self.rows.get(bucket)?.prepared? + HOLD));
        let due = moves.chain(self.links.values().filter_map(Link::due)).chain(word).chain(rings).chain(turns);
        let due = due.chain(self.remembered.values().flatten().map(|(_, until)| *until)).min();
        let onward = self.links.iter().map(|(from, link)| (from.clone(), link.to.clone())).collect();
        let ends = self.admit(endpoints, now);
        let admitted = self.admitted.keys().cloned().collect();
        let (map, first) = (self.used.clone(), self.first.clone());
        let (turning, entering) = (self.turning(|_| true), self.turning(|turn| turn.enters));
        let followed = self.moves.values().map(|one| one.followed).min().unwrap_or(map.generation);
        let staged = Staged { map, first, onward, admitted, unsettled, turning, entering, followed };
        (staged, [due, ends].into_iter().flatten().min())
    }

    /// Who turns to another one, of those that are `meant`, and what they have reached.
    fn turning(&self, meant: impl Fn(&Turn) -> bool) -> BTreeMap<EndpointId, u64> {
        let mut all = BTreeMap::new();
        for ((_, from), link) in &self.links {
            if let Change::Turns(turn) = &link.change
                && meant(turn)
            {
                let least = all.entry(from.clone()).or_insert(turn.reached);
                *least = turn.reached.min(*least);
            }
        }
        all
    }

    /// Returns when somebody is admitted no more.
    fn admit(&mut self, endpoints: &[Endpoint], now: Instant) -> Option<Instant> {
        let links = self.links.iter().flat_map(|((_, from), link)| link.ends().map(move |to| (from, to)));
        // Others may have heard of what they ask each other before this node has, or after.
        let rows = self.rows.values().filter(|row| now.duration_since(row.awaited) < LINGER).map(|row| &row.way);
        let rows = rows.flat_map(|way| way.iter().flat_map(move |from| way.iter().map(move |to| (from, to))));
        let pairs = links.chain(rows.filter(|(from, to)| from != to));
        let pairs: BTreeSet<_> = pairs.map(|(from, to)| (from.clone(), to.clone())).collect();
        let is_there = |id: &EndpointId| endpoints.iter().any(|e| e.pod_uid == id.as_str());
        self.admitted.retain(|(from, to), until| *until > now && is_there(from) && is_there(to));
        self.admitted.extend(pairs.iter().map(|pair| (pair.clone(), now + HOLD)));
        self.admitted.iter().filter(|(pair, _)| !pairs.contains(pair)).map(|(_, until)| *until).min()
    }

    /// What the map's last change waits for on other nodes, this one begins with as it was before.
    fn step_back(&mut self, map: &SharedMap, around: &Circumstances<'_>) {
        let mut owners = self.used.owners.owners().to_vec();
        for (bucket, drains) in &map.previous {
            let newest = drains.iter().map(|drain| drain.generation).max().unwrap_or_default();
            if around.are_prepared(map, *bucket, newest) {
                continue;
            }
            let left = drains.iter().position(|drain| drain.generation == newest).filter(|_| newest == map.generation);
            let ready = |drain: &Drain| around.endpoint(&drain.endpoint).is_some_and(|endpoint| endpoint.eligible);
            let Some(left) = left.filter(|left| ready(&drains[*left])) else {
                self.first.extend(drains.last().map(|drain| (*bucket, drain.endpoint.clone())));
                continue;
            };
            let mut before = drains.clone();
            owners[bucket.index()] = Some(before.remove(left).endpoint);
            write(&mut self.used.previous, *bucket, before);
        }
        self.used.owners = owners.into_iter().collect();
    }

    /// The stored map without those of whom the writer would have had the time to say something, and when to bridge the next.
    fn bridge(&mut self, stored: &SharedMap, around: &Circumstances<'_>) -> (SharedMap, Option<Instant>) {
        let Circumstances { endpoints, now, .. } = *around;
        let (generation, known) = std::mem::take(&mut self.unsaid);
        let until = |endpoint: &Endpoint| {
            let id = EndpointId::from(endpoint.pod_uid.as_str());
            let patience = match (generation, endpoint.terminating) {
                // Others have waited while this node's agent was not there.
                (0, _) => Duration::ZERO,
                (_, true) => PATIENCE_AT_THE_END,
                (_, false) => PATIENCE,
            };
            let known = known.get(&id).filter(|_| generation == stored.generation);
            let until = known.map_or(now + patience, |known| (*known).min(now + patience));
            (id, until)
        };
        let until = endpoints.iter().filter(|endpoint| !endpoint.eligible).map(until).collect();
        self.unsaid = (stored.generation, until);
        let waits = |id: &EndpointId| self.unsaid.1.get(id).is_some_and(|until| *until > now);
        let mut map = stored.bridge_unless(endpoints, waits);
        if around.limit == Some(Duration::ZERO) {
            map.previous.clear();
        }
        let owners = map.owners.counts();
        let due = self.unsaid.1.iter().filter(|(id, until)| **until > now && owners.contains_key(*id));
        let due = due.map(|(_, until)| *until).min();
        (map, due)
    }

    /// Keeps whoever this node has used and the map does not mention. Not for a moment only: maps and endpoints are watched each by
    /// itself, and until both are there an owner may look as if it were gone.
    ///
    /// They are asked after the owner, which keeps its connections even if no other node knows of them.
    fn remember(&mut self, map: &SharedMap, around: &Circumstances<'_>) {
        let Circumstances { limit, now, .. } = *around;
        if self.used.flows != map.flows {
            self.remembered.clear();
            return;
        }
        let until = now + limit.map_or(REMEMBERED, |limit| limit.min(REMEMBERED));
        let all = map.previous.iter().flat_map(|(bucket, drains)| drains.iter().map(move |drain| (*bucket, drain)));
        let written = all.filter(|(_, drain)| drain.is_stored());
        let written = written.map(|(bucket, drain)| (bucket, drain.endpoint.clone())).collect();
        let drained = std::mem::replace(&mut self.drained, written);
        for bucket in map.flows.buckets.iter() {
            let before = self.remembered.remove(&bucket).unwrap_or_default();
            let used = self.used.owners.owner(bucket).filter(|used| !drained.contains(&(bucket, (*used).clone())));
            let used = used.map(|used| (used.clone(), until));
            let used = used.filter(|_| self.unchanged.get(&bucket).is_some_and(|since| now - *since >= HOLD));
            let stays = |(id, until): &(EndpointId, Instant)| {
                *until > now && !map.way(bucket).contains(&id) && around.endpoint(id).is_some()
            };
            let mut list: Vec<(EndpointId, Instant)> = before.into_iter().filter(stays).collect();
            list.extend(used.filter(stays).filter(|(used, _)| list.iter().all(|(id, _)| id != used)));
            list.drain(..list.len().saturating_sub(MOST_REMEMBERED));
            if !list.is_empty() {
                self.remembered.insert(bucket, list);
            }
        }
    }

    /// Who is asked, one after the other: the owner, those who had the bucket before, and those who stood in for it.
    fn asked<'a>(&'a self, map: &'a SharedMap, bucket: Bucket) -> impl Iterator<Item = &'a EndpointId> {
        map.way(bucket).into_iter().chain(self.remembered.get(&bucket).into_iter().flatten().map(|(id, _)| id))
    }

    /// Who passes on to whom by the map and by what this node remembers.
    fn onward(&self, map: &SharedMap) -> Onward {
        let mut onward = map.onward();
        for bucket in self.remembered.keys() {
            onward.extend(links(*bucket, &self.asked(map, *bucket).collect::<Vec<_>>()));
        }
        onward
    }

    /// Takes the way of the map, which was at generation `before` in the last step, where others are prepared for it.
    fn follow(&mut self, map: &SharedMap, before: u64, around: &Circumstances<'_>) {
        let now = around.now;
        if self.used.flows != map.flows {
            self.moves.clear();
            self.unchanged.clear();
            self.first.clear();
            self.used = map.clone();
            return;
        }
        let mut moves = BTreeMap::new();
        let mut next = map.clone();
        let mut owners = map.owners.owners().to_vec();
        for bucket in map.flows.buckets.iter() {
            let wanted = map.way(bucket);
            let (Some(old), Some(to)) = (self.used.owners.owner(bucket), wanted.first()) else { continue };
            if old == *to {
                continue;
            }
            let is_asked = wanted.contains(&old);
            let known = self.moves.remove(&bucket);
            let followed = known.as_ref().map_or(before, |one| one.followed);
            let known = known.filter(|one| one.way.first() == Some(*to));
            let since = known.as_ref().map_or(now, |one| one.since);
            let same = known.filter(|one| one.way.iter().eq(wanted.iter().copied()));
            let generation = same.map_or(map.generation, |one| one.generation);
            let until = since + around.hold(map, bucket, old, generation);
            if !is_asked || now >= until {
                // An owner that may not know yet whom it has to ask is not asked first.
                let first = match around.endpoint(old) {
                    _ if around.are_prepared(map, bucket, generation) => None,
                    // Who is forgotten has stood in for the owner, who is there all the time.
                    Some(_) => is_asked.then_some(old),
                    None => wanted.get(1).copied(),
                };
                match first.cloned() {
                    Some(first) => self.first.insert(bucket, first),
                    None => self.first.remove(&bucket),
                };
                continue;
            }
            let way = wanted.iter().copied().cloned().collect();
            moves.insert(bucket, Move { way, since, generation, followed, until });
            owners[bucket.index()] = Some(old.clone());
            let mut drains = self.used.previous.get(&bucket).cloned().unwrap_or_default();
            drains.retain(|drain| wanted.contains(&&drain.endpoint));
            write(&mut next.previous, bucket, drains);
        }
        next.owners = owners.into_iter().collect();
        for bucket in map.flows.buckets.iter() {
            if next.owners.owner(bucket) != self.used.owners.owner(bucket) {
                self.unchanged.insert(bucket, now);
            }
            self.unchanged.entry(bucket).or_insert(now);
        }
        (self.used, self.moves) = (next, moves);
        // Who is asked first must be asked at all.
        for (bucket, first) in std::mem::take(&mut self.first) {
            let drains = self.used.previous.get(&bucket).map_or(&[][..], Vec::as_slice);
            let is_asked = drains.iter().any(|drain| drain.endpoint == first);
            let other = drains.last().map(|drain| drain.endpoint.clone());
            self.first.extend(if is_asked { Some(first) } else { other }.map(|first| (bucket, first)));
        }
    }

    /// Lets the last of a row ask the first while an ingress node may wait before it follows a change of the row, and for a
    /// while after that. Returns the buckets where that is so.
    fn close(&mut self, map: &SharedMap, onward: &mut Onward, around: &Circumstances<'_>) -> BTreeSet<Bucket> {
        let (now, mut unsettled) = (around.now, BTreeSet::new());
        let mut old = std::mem::take(&mut self.rows);
        for (bucket, drains) in &map.previous {
            let way: Vec<EndpointId> = self.asked(map, *bucket).cloned().collect();
            // Others may have followed a change, and one back, of which this node has only seen the end.
            let is_newer =
                |row: &Row| drains.iter().any(|drain| drain.is_stored() && drain.generation > row.generation);
            let known = old.remove(bucket).filter(|row| row.way == way && !is_newer(row));
            let generation = map.generation;
            let new = || Row { way, generation, since: now, awaited: now, prepared: None, followed: false };
            let mut row = known.unwrap_or_else(new);
            let prepared = around.are_prepared(map, *bucket, row.generation);
            if prepared && row.prepared.is_none() {
                (row.prepared, row.awaited) = (Some(now), now);
            }
            row.followed |= around.have_followed(row.generation);
            if is_stored(map, *bucket) && (row.prepared.is_none() || !row.followed) {
                row.awaited = now.min(row.since + PREPARATION);
            }
            if row.prepared.is_some_and(|since| now.duration_since(since) >= HOLD) {
                self.first.remove(bucket);
            }
            if let [owner, .., last] = &row.way[..] {
                onward.insert((*bucket, last.clone()), owner.clone());
                if now.duration_since(row.awaited) < LINGER {
                    unsettled.insert(*bucket);
                } else {
                    // Where the owner is not the first that is asked, it is the last.
                    let end = (*bucket, if self.first.contains_key(bucket) { owner.clone() } else { last.clone() });
                    onward.remove(&end);
                    self.links.remove(&end);
                }
            }
            self.rows.insert(*bucket, row);
        }
        unsettled
    }

    fn pass_on(&mut self, mut onward: Onward, map: &SharedMap, before: u64, around: &Circumstances<'_>) {
        let Circumstances { endpoints, now, .. } = *around;
        let present: BTreeSet<&str> = endpoints.iter().map(|e| e.pod_uid.as_str()).collect();
        let is_there = |id: &EndpointId| present.contains(id.as_str());
        self.links.retain(|from, link| is_there(&from.1) && is_there(&link.to));
        for (from, link) in &mut self.links {
            let (bucket, own) = from;
            let is_reported = is_stored(map, *bucket) && !self.remembered.contains_key(bucket);
            link.take(onward.remove(from), before, is_reported.then_some(map.generation), now);
            let Change::Turns(turn) = &link.change else { continue };
            // Who comes back does not wait for his own node, which says nothing before he is done.
            let node = around.endpoint(own).map(|endpoint| &endpoint.node).filter(|_| turn.enters);
            let is_other = |id: &EndpointId| around.endpoint(id).is_none_or(|other| Some(&other.node) != node);
            let others = map.way(*bucket).into_iter().filter(|id| *id != own && is_other(id));
            let have_entered = |generation| around.all_have(others, |progress| progress.entered, generation);
            if turn.awaits.is_some_and(have_entered) || link.due().is_some_and(|due| due <= now) {
                *link = Link { to: turn.to.clone(), change: Change::None };
            }
        }
        self.links.retain(|_, link| !matches!(link.change, Change::Ends(at) if at <= now));
        self.links.extend(onward.into_iter().map(|(from, to)| (from, Link { to, change: Change::None })));
    }
}

impl Link {
    /// Takes what the map says at `now`. It was at generation `before` in the last step; `awaits` is the one that it is at, where
    /// nodes report of it.
    fn take(&mut self, wanted: Option<EndpointId>, before: u64, awaits: Option<u64>, now: Instant) {
        self.change = match (wanted, &self.change) {
            (None, Change::Ends(at)) => Change::Ends(*at),
            (None, _) => Change::Ends(now + LINGER),
            (Some(wanted), _) if wanted == self.to => Change::None,
            (Some(wanted), Change::Turns(turn)) if wanted == turn.to => Change::Turns(turn.clone()),
            (Some(to), Change::Turns(turn)) => Change::Turns(Turn { to, since: now, awaits, ..turn.clone() }),
            (Some(to), old) => {
                let enters = matches!(old, Change::Ends(_));
                Change::Turns(Turn { first: now, reached: before, enters, to, since: now, awaits })
            }
        };
    }

    /// When something becomes of it although nothing is said. Nobody may be asked for longer than he has an answer.
    fn due(&self) -> Option<Instant> {
        match self.change {
            Change::None => None,
            Change::Ends(at) => Some(at),
            Change::Turns(Turn { first, since, awaits, .. }) => {
                let latest = first + ENTRY;
                Some(if awaits.is_some() { latest } else { latest.min(since + RELINK) })
            }
        }
    }

    /// Whom it leads to, now or soon.
    fn ends(&self) -> impl Iterator<Item = &EndpointId> {
        let soon = match &self.change {
            Change::Turns(turn) => Some(&turn.to),
            _ => None,
        };
        std::iter::once(&self.to).chain(soon)
    }
}

#[cfg(test)]
#[path = "staged_races.rs"]
mod races;

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
            terminating: false,
            state: crate::model::handover::EndpointState::Ready,
        };
        letters.chars().map(endpoint).collect()
    }

    /// The same, but who takes no new connections is about to end.
    fn ending(letters: &str) -> Vec<Endpoint> {
        let end = |endpoint: Endpoint| Endpoint { terminating: !endpoint.eligible, ..endpoint };
        endpoints(letters).into_iter().map(end).collect()
    }

    /// A node that has done all that a generation of the map asks for.
    fn by_now(node: &str, generation: u64) -> BTreeMap<String, Progress> {
        let progress = Progress { entered: generation, prepared: generation, followed: generation };
        [(node.to_owned(), progress)].into()
    }

    /// No node has reported anything.
    fn around(endpoints: &[Endpoint], limit: Option<Duration>, now: Instant) -> Circumstances<'_> {
        static NOBODY: BTreeMap<String, Progress> = BTreeMap::new();
        static NO_NODE: BTreeSet<String> = BTreeSet::new();
        Circumstances { endpoints, limit, reported: &NOBODY, ingress: &NO_NODE, now }
    }

    /// All nodes have reported that they are prepared for whatever there is.
    fn prepared(endpoints: &[Endpoint], now: Instant) -> Circumstances<'_> {
        static EVERYBODY: LazyLock<BTreeMap<String, Progress>> = LazyLock::new(|| by_now("n1", u64::MAX));
        Circumstances { reported: &EVERYBODY, ..around(endpoints, None, now) }
    }

    fn next(map: &SharedMap, letters: &str) -> SharedMap {
        map.next(&endpoints(letters), 1, RULES, |_, _| false)
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
        let (staged, due) = stage.step(&two, &around(&endpoints("Ab"), None, at(0)));
        assert_eq!((owners(&staged).as_str(), due), ("aaaaaaaaaaaaaaaa", Some(at(10_000))));
        assert!(staged.map.previous.is_empty() && staged.onward.len() == 32, "to and fro");
        let (staged, due) = stage.step(&two, &around(&endpoints("Ab"), None, at(9999)));
        assert_eq!((owners(&staged).as_str(), due), ("aaaaaaaaaaaaaaaa", Some(at(10_000))));
        let (staged, due) = stage.step(&two, &around(&endpoints("Ab"), None, at(10_000)));
        assert_eq!((&staged.map, staged.onward.len(), due), (&two, 32, Some(at(20_000))));
        assert!(
            staged.first.len() == 16 && staged.first.values().all(|first| first.as_str() == "a"),
            "b may not know a"
        );
        let prepared = by_now("n1", 2);
        let all = ending("Ab");
        let heard = |now| Circumstances { reported: &prepared, ..around(&all, None, now) };
        let mut told = stage.clone();
        let (staged, _) = told.step(&two, &heard(at(15_000)));
        assert!(staged.first.len() == 16 && staged.onward.len() == 32, "pods of other nodes may hear of it later");
        let (staged, due) = told.step(&two, &heard(at(16_000)));
        assert!(staged.first.is_empty() && due == Some(at(25_000)), "the owner first");
        let (staged, due) = told.step(&two, &heard(at(25_000)));
        assert_eq!((staged.onward.len(), due), (16, None));
        assert!(staged.onward.keys().all(|(_, from)| from.as_str() == "b"), "it asks who had the bucket before");
        // Other nodes may know this owner as a ready one, and wait for what nobody reports.
        stage.step(&two, &around(&ending("Ab"), None, at(59_999)));
        let (staged, due) = stage.step(&two, &around(&ending("Ab"), None, at(60_000)));
        assert_eq!((staged.onward.len(), due), (32, Some(at(70_000))));
        let (staged, due) = stage.step(&two, &around(&ending("Ab"), None, at(70_000)));
        assert_eq!((staged.onward.len(), due), (16, None));
        assert!(staged.onward.keys().all(|(_, from)| from.as_str() == "a"), "the owner may not know whom to ask");
    }

    #[test]
    fn nobody_waits_for_one_who_is_gone_or_may_not_drain() {
        let one = first("a");
        let two = next(&one, "b");
        let (staged, due) = Stage::new(one.clone()).step(&two, &around(&endpoints("b"), None, at(0)));
        assert_eq!((staged.map, due), (two, None));
        let mut cut = next(&one, "Ab");
        cut.previous.clear();
        let (staged, due) = Stage::new(one).step(&cut, &around(&endpoints("Ab"), Some(Duration::ZERO), at(0)));
        assert_eq!((staged.map, due), (cut, None));
    }

    #[test]
    fn another_change_of_the_same_bucket_waits_anew_and_of_another_one_does_not() {
        let one = first("ab");
        let two = next(&one, "Abc");
        let mut stage = Stage::new(one);
        stage.step(&two, &prepared(&ending("Abc"), at(0)));
        let three = next(&two, "AbCd");
        let (staged, _) = stage.step(&three, &prepared(&ending("AbCd"), at(500)));
        assert!(!owners(&staged).contains(['c', 'd']), "{}", owners(&staged));
        let (staged, due) = stage.step(&three, &prepared(&ending("AbCd"), at(1000)));
        assert!(!owners(&staged).contains('d') && due == Some(at(1500)), "{}", owners(&staged));
        let (staged, _) = stage.step(&three, &prepared(&ending("AbCd"), at(1500)));
        assert_eq!(staged.map, three);
    }

    #[test]
    fn pods_pass_on_a_while_after_the_end() {
        let one = next(&first("a"), "Ab");
        let over = one.next(&endpoints("Ab"), 31, RULES, |_, _| true);
        let mut stage = Stage::new(one);
        let (staged, due) = stage.step(&over, &around(&endpoints("Ab"), None, at(0)));
        assert!(staged.map.previous.is_empty() && staged.onward.len() == 16 && due == Some(at(10_000)));
        let (staged, due) = stage.step(&over, &around(&endpoints("b"), None, at(10)));
        assert!(staged.onward.is_empty() && due.is_none(), "who is gone passes nothing on");
        let (staged, _) = stage.step(&over, &around(&endpoints("b"), None, at(11_000)));
        assert!(staged.onward.is_empty());
    }

    #[test]
    fn who_stood_in_while_nothing_was_stored_keeps_its_connections() {
        let stored = first("ab");
        let step = |stage: &mut Stage, letters: &str, limit, seconds: u64| {
            stage.step(&stored, &around(&endpoints(letters), limit, at(1000 * seconds))).0
        };
        let flap = |limit| {
            let mut stage = Stage::new(stored.clone());
            for second in 0..10 {
                step(&mut stage, "Ab", limit, second);
            }
            let staged = step(&mut stage, "Ab", limit, 10);
            assert!(!owners(&staged).contains('a'));
            let before: Onward = staged.onward.into_iter().filter(|((_, from), _)| from.as_str() == "a").collect();
            (before, step(&mut stage, "ab", limit, 20), stage)
        };
        let (before, staged, mut stage) = flap(None);
        assert_eq!(staged.map, stored, "the owner is asked first, whoever else knows of the stand-in");
        assert_eq!((before.len(), &staged.onward), (8, &before), "it passes on as it did");
        step(&mut stage.clone(), "a", None, 31);
        assert!(step(&mut stage.clone(), "a", None, 31).onward.is_empty(), "the stand-in's pod is gone");
        step(&mut stage, "ab", None, 20 + REMEMBERED.as_secs());
        assert!(step(&mut stage, "ab", None, 30 + REMEMBERED.as_secs()).onward.is_empty());
        // A map that is read before the endpoints that it is made for.
        let mut stage = Stage::new(stored.bridge(&endpoints("b")));
        step(&mut stage, "b", None, 0);
        assert_eq!(step(&mut stage, "ab", None, 0).map, stored, "nobody has stood in for a second");
        // A drain that the writer has ended while this node had not followed yet.
        let moved = next(&stored, "abc");
        let over = moved.next(&endpoints("abc"), 31, RULES, |_, _| true);
        let mut stage = Stage::new(stored.clone());
        let ask =
            |stage: &mut Stage, map: &SharedMap, now| stage.step(map, &around(&endpoints("abc"), None, at(now))).0;
        ask(&mut stage, &stored, 0);
        ask(&mut stage, &moved, 5000);
        assert_eq!(ask(&mut stage, &over, 6000).map, over, "nothing is left");
        // A Service that wants connections cut.
        let (before, staged, _) = flap(Some(Duration::ZERO));
        assert!(before.is_empty() && staged.onward.is_empty() && staged.map.previous.is_empty());
    }

    #[test]
    fn a_ready_owner_can_wait_for_the_nodes_of_all_who_are_asked() {
        let one = first("a");
        let two = next(&one, "ab");
        let endpoints = endpoints("ab");
        let follows = |stage: &mut Stage, generation: u64, milliseconds| {
            let prepared = by_now("n1", generation);
            let around = Circumstances { reported: &prepared, ..around(&endpoints, None, at(milliseconds)) };
            owners(&stage.step(&two, &around).0).contains('b')
        };
        let mut stage = Stage::new(one);
        assert!(!follows(&mut stage, 1, 0) && !follows(&mut stage, 1, 1000), "prepared for something older");
        assert!(follows(&mut stage.clone(), 2, 1000));
        assert!(!follows(&mut stage, 1, 59_999));
        assert!(follows(&mut stage, 1, 60_000), "nothing is heard of it");
    }

    #[test]
    fn who_is_not_ready_is_left_soon_and_who_ends_when_all_are_prepared() {
        let one = first("ab");
        let two = next(&one, "Ab");
        // One that ends would take its new owner's connections along where the new owner does not know of it.
        for (all, until) in [(endpoints("Ab"), 10_000), (ending("Ab"), 60_000)] {
            let left = |generation: u64, milliseconds| {
                let prepared = by_now("n1", generation);
                let mut stage = Stage::new(one.clone());
                let mut step = |now| {
                    let around = Circumstances { reported: &prepared, ..around(&all, None, now) };
                    owners(&stage.step(&two, &around).0)
                };
                step(at(0));
                !step(at(milliseconds)).contains('a')
            };
            assert_eq!([left(2, 999), left(2, 1000), left(1, until - 1), left(1, until)], [false, true, false, true]);
        }
    }

    #[test]
    fn without_a_word_of_the_writer_endpoints_are_left_the_sooner_the_surer_it_is() {
        let stored = first("abc");
        let left = |all: &[Endpoint], milliseconds| {
            let mut stage = Stage::new(stored.clone());
            stage.step(&stored, &around(&endpoints("abc"), None, at(0)));
            stage.step(&stored, &around(all, None, at(0)));
            let (prepared, _) = stage.step(&stored, &around(all, None, at(milliseconds)));
            let (followed, _) = stage.step(&stored, &around(all, None, at(milliseconds + 1000)));
            assert!(prepared.onward.is_empty() || owners(&prepared).contains('a'), "pods are prepared first");
            !owners(&followed).contains('a')
        };
        assert_eq!([left(&endpoints("Abc"), 9999), left(&endpoints("Abc"), 10_000)], [false, true]);
        assert_eq!([left(&ending("Abc"), 1999), left(&ending("Abc"), 2000)], [false, true]);
        let gone = Stage::new(stored.clone()).step(&stored, &around(&endpoints("bc"), None, at(0))).0;
        assert!(!owners(&gone).contains('a'));
    }

    #[test]
    fn an_agent_that_starts_in_the_middle_of_a_change_waits_like_the_others() {
        let two = next(&first("a"), "ab");
        let follows = |letters: &str, generation: u64| {
            let prepared = by_now("n1", generation);
            let (all, mut stage) = (endpoints(letters), Stage::new(two.clone()));
            let around = Circumstances { reported: &prepared, ..around(&all, None, at(0)) };
            let (staged, due) = stage.step(&two, &around);
            assert!(staged.onward.len() >= 16, "its pods are prepared at once");
            (owners(&staged).contains('b'), due.is_some())
        };
        assert_eq!([follows("ab", 2), follows("ab", 1)], [(true, true), (false, true)]);
        assert!(follows("Ab", 1).0, "nothing new goes to who is not ready");
    }

    #[test]
    fn an_agent_that_starts_in_a_drain_asks_whom_the_others_ask() {
        let two = next(&first("a"), "Ab");
        let three = two.next(&endpoints("Ab"), 31, RULES, |_, _| false);
        assert!(three.generation == 3 && three.owners == two.owners, "datagrams have moved on");
        let asked_first = |generation: u64| {
            let prepared = by_now("n1", generation);
            let (all, mut stage) = (endpoints("Ab"), Stage::new(three.clone()));
            let around = Circumstances { reported: &prepared, ..around(&all, None, at(0)) };
            stage.step(&three, &around).0.first.into_values().collect::<BTreeSet<_>>()
        };
        assert!(asked_first(2).is_empty(), "all were prepared when the bucket moved");
        assert_eq!(asked_first(1), ["a".into()].into());
    }

    #[test]
    fn who_is_asked_first_stays_when_nobody_reports_until_it_drains_no_more() {
        let (one, two) = (first("a"), next(&first("a"), "Ab"));
        let mut stage = Stage::new(one);
        stage.step(&two, &around(&endpoints("Ab"), None, at(0)));
        let three = next(&two, "ABc");
        let asked_first = |stage: &mut Stage, map: &SharedMap, letters, now| {
            let staged = stage.step(map, &around(&endpoints(letters), None, at(now))).0;
            staged.first.into_values().collect::<BTreeSet<_>>()
        };
        assert_eq!(asked_first(&mut stage, &two, "Ab", 10_000), ["a".into()].into());
        asked_first(&mut stage, &three, "ABc", 11_000);
        assert_eq!(asked_first(&mut stage, &three, "ABc", 21_000), ["b".into()].into(), "the last owner here");
        let without_b = next(&three, "Ac");
        assert_eq!(asked_first(&mut stage, &without_b, "Ac", 22_000), ["a".into()].into());
        let over = without_b.next(&endpoints("Ac"), 99, RULES, |_, _| true);
        assert!(asked_first(&mut stage, &over, "Ac", 23_000).is_empty());
    }

    #[test]
    fn who_waits_is_not_hurried_by_what_changes_elsewhere() {
        let one = first("a");
        let two = next(&one, "ab");
        let three = two.next(&endpoints("ab"), 31, RULES, |_, _| false);
        assert!(three.generation == 3 && three.owners == two.owners, "datagrams have moved on");
        let all = endpoints("ab");
        let follows = |stage: &mut Stage, map: &SharedMap, generation: u64, milliseconds| {
            let prepared = by_now("n1", generation);
            let around = Circumstances { reported: &prepared, ..around(&all, None, at(milliseconds)) };
            owners(&stage.step(map, &around).0).contains('b')
        };
        let mut stage = Stage::new(one);
        assert!(!follows(&mut stage, &two, 1, 0));
        assert!(!follows(&mut stage, &three, 1, 5000));
        assert!(follows(&mut stage.clone(), &three, 2, 5000), "prepared for this change is enough");
        assert!(follows(&mut stage, &three, 1, 60_000));
    }

    #[test]
    fn both_the_former_and_the_new_owners_nodes_have_to_be_prepared() {
        let one = first("a");
        let two = next(&one, "ab");
        let mut endpoints = endpoints("ab");
        endpoints[1].node = "n2".into();
        let follows = |nodes: &[&str]| {
            let prepared = nodes.iter().flat_map(|node| by_now(node, 2)).collect();
            let around = |now| Circumstances { reported: &prepared, ..around(&endpoints, None, now) };
            let mut stage = Stage::new(one.clone());
            stage.step(&two, &around(at(0)));
            owners(&stage.step(&two, &around(at(1000))).0).contains('b')
        };
        assert_eq!([follows(&["n1"]), follows(&["n2"]), follows(&["n1", "n2"])], [false, false, true]);
    }

    /// The same changes of one bucket again and again: `a` is not ready, and ready again.
    fn to_and_fro(maps: usize) -> Vec<SharedMap> {
        let letters = ["Ab", "ab"].into_iter().cycle();
        let mut all = vec![first("ab")];
        letters.take(maps).for_each(|letters| all.push(next(&all[all.len() - 1], letters)));
        all
    }

    #[test]
    fn a_change_and_one_back_count_although_this_node_has_only_seen_the_end() {
        let maps = to_and_fro(4);
        let (before, after) = (&maps[2], &maps[4]);
        let bucket = *before.previous.keys().next().unwrap();
        assert!(before.way(bucket) == after.way(bucket) && before.generation + 2 == after.generation);
        let all = endpoints("ab");
        let mut stage = Stage::new(before.clone());
        let mut unsettled = |map: &SharedMap, now| stage.step(map, &prepared(&all, at(now))).0.unsettled.len();
        assert_eq!([unsettled(before, 0), unsettled(before, 9999)], [8, 8]);
        // Ingress nodes may have followed the map in between, and be about to follow this one.
        assert_eq!([unsettled(after, 9999), unsettled(after, 19_998), unsettled(after, 19_999)], [8, 8, 0]);
    }

    #[test]
    fn pods_ask_each_other_to_and_fro_until_all_ingress_nodes_have_followed() {
        let two = next(&first("a"), "Ab");
        let (all, ingress) = (endpoints("Ab"), BTreeSet::from(["i".to_owned()]));
        let settles = |followed: u64, milliseconds| {
            let mut stage = Stage::new(two.clone());
            let mut reported = by_now("n1", 2);
            reported.insert("i".to_owned(), Progress { followed, ..Progress::default() });
            let mut step = |now| {
                let around = Circumstances { reported: &reported, ingress: &ingress, ..around(&all, None, at(now)) };
                stage.step(&two, &around).0.unsettled.is_empty()
            };
            let mut earlier = [0, 50_000, 60_000].into_iter().filter(|now| *now < milliseconds);
            assert!(!earlier.any(&mut step));
            step(milliseconds)
        };
        assert_eq!([settles(2, 9999), settles(2, 10_000)], [false, true]);
        assert_eq!([settles(1, 10_000), settles(1, 69_999), settles(1, 70_000)], [false, false, true]);
    }

    #[test]
    fn who_asked_another_one_before_turns_away_when_all_others_know_of_it() {
        let two = next(&first("a"), "Ab");
        let three = next(&two, "ABc");
        let bucket = three.flows.buckets.iter().find(|bucket| three.way(*bucket).len() == 3).unwrap();
        let asked = |entered: u64, milliseconds| {
            let mut stage = Stage::new(two.clone());
            let reported = [("n1".to_owned(), Progress { entered, ..Progress::default() })].into();
            let mut step = |map, letters, now| {
                let all = endpoints(letters);
                let around = Circumstances { reported: &reported, ..around(&all, None, at(now)) };
                stage.step(map, &around).0
            };
            assert_eq!(step(&two, "Ab", 0).onward[&(bucket, "a".into())].as_str(), "b");
            step(&three, "ABc", 0);
            let staged = step(&three, "ABc", milliseconds);
            let asked = staged.onward[&(bucket, "a".into())].to_string();
            assert_eq!(staged.turning, if asked == "b" { [("a".into(), 2)].into() } else { BTreeMap::new() });
            assert!(staged.entering.is_empty());
            asked
        };
        assert_eq!([asked(2, 8999), asked(2, 9000), asked(3, 0)], ["b", "c", "c"], "c passes on what is not its own");
    }

    #[test]
    fn who_comes_back_waits_for_other_nodes_and_not_for_his_own() {
        let two = next(&first("a"), "Ab");
        let over = two.next(&endpoints("Ab"), 31, RULES, |_, _| true);
        let three = over.next(&endpoints("ABc"), 32, RULES, |_, _| false);
        let bucket = three.flows.buckets.iter().find(|bucket| three.way(*bucket).len() == 2).unwrap();
        let asked = |node: &str| {
            let mut stage = Stage::new(two.clone());
            let reported = by_now("n1", 2);
            let mut step = |map, letters| {
                let mut all = endpoints(letters);
                all.iter_mut().filter(|e| e.pod_uid == "c").for_each(|e| e.node = node.to_owned());
                let around = Circumstances { reported: &reported, ..around(&all, None, at(0)) };
                stage.step(map, &around).0
            };
            assert_eq!(step(&two, "Ab").onward[&(bucket, "b".into())].as_str(), "a");
            step(&over, "Ab");
            let staged = step(&three, "ABc");
            let asked = staged.onward[&(bucket, "b".into())].to_string();
            assert_eq!(staged.entering.contains_key(&EndpointId::from("b")), asked == "a");
            asked
        };
        assert_eq!([asked("n2"), asked("n1")], ["a", "c"]);
    }
}
