//! What a node makes of a map: one small state machine for each bucket.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::usable;
use super::{Absences, Assignment, Endpoint, Generation, Holding, MOST_FORMER, Moment, Name, TunnelId};
use crate::model::{Addresses, Bucket, EndpointId};

/// For how long a stand-in is named after the owner has come back.
pub const NAMED: Duration = Duration::from_secs(120);
/// For how long after a change serving nodes tell packets that ingress nodes have sent to an earlier owner where to go.
pub const POINTED: Duration = Duration::from_secs(60);

/// What a node does about one Service, as the map and the endpoints that it has heard of say.
///
/// ```text
///            ┌────────┐  map: C   ┌─────────────────────────────────────────┐
///            │ P owns │ ────────► │ C owns, P is named if the map lists it  │
///            └────────┘           └─────────────────────────────────────────┘
///   map silent │  ▲
///   about P:   │  │ P is back: S is named for 2 minutes
///   5 s, 2 s   ▼  │
///            ┌────────────────┐ map: S, or anybody
///            │ S stands in,   │ ──────────────────────► S or C owns, as the map says
///            │ P is named     │
///            └────────────────┘
///
///   nobody may own, and a controller has said so: P keeps everything but new connections
///   nobody of the map may own, and nobody says so: who is ready and not in the map stands in
/// ```
///
/// Nobody waits for anybody: a planned move is in the map only when the nodes of all that take part have said that they know. What
/// serving nodes know of a bucket is what the map says, to whom a move is announced, and who is about to stand in. A map that vanishes,
/// cannot be read or is older changes nothing. That an owner is out of reach changes nothing either: another choice would be a
/// disagreement for ever.
#[derive(Debug, Clone)]
pub struct Follow {
    map: Arc<Assignment>,
    endpoints: Vec<Endpoint>,
    absences: Absences,
    buckets: Vec<InUse>,
    next_hops: Arc<BTreeMap<Bucket, NextHop>>,
}

/// Where an ingress node sends the packets of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// The pod that gets them.
    pub owner: EndpointId,
    /// Its addresses.
    pub addresses: Addresses,
    /// Who gets a second chance.
    pub id: TunnelId,
    /// SYNs are answered by the ingress node with a reset.
    pub refuses_syn: bool,
}

/// What the pods of a serving node have to know about a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// By name, the addresses of all that have one.
    pub names: BTreeMap<Name, Addresses>,
    /// The last name given out.
    pub last: Option<Name>,
    /// Of buckets whose owner has changed lately, or is about to: the present owner, its former owners, to whom a move is announced,
    /// and who is about to stand in; at most three.
    pub present: BTreeMap<Bucket, Vec<Name>>,
}

/// What came of a map that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is followed, or was already.
    Followed,
    /// It is older than the one that the node holds, which is of this generation: to be reported.
    Older(Generation),
}

/// One bucket.
#[derive(Debug, Clone, Default)]
struct InUse {
    /// The owner as serving nodes see it.
    owner: Option<EndpointId>,
    /// Of most buckets there is nothing else to be known, and there are very many.
    moving: Option<Box<Moving>>,
}

/// A bucket whose owner has changed lately, or is about to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Moving {
    /// Who is about to stand in for the owner.
    next: Option<EndpointId>,
    /// When one of the two changed.
    changed: Option<Instant>,
    /// The last two, the latest one first.
    stand_ins: Vec<StandIn>,
}

/// An endpoint that has stood in for the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
struct StandIn {
    endpoint: EndpointId,
    since: Moment,
    /// Until when it is named; `None` while it stands in.
    until: Option<Instant>,
}

impl Follow {
    /// Follows a map from now on, as it is: nothing that changed before is waited for.
    pub fn new(map: Arc<Assignment>, endpoints: Vec<Endpoint>, now: Moment) -> Follow {
        let buckets = vec![InUse::default(); map.holdings.len()];
        let mut follow = Follow { map, endpoints, absences: Absences::default(), buckets, next_hops: Arc::default() };
        follow.step(now);
        for bucket in &mut follow.buckets {
            bucket.moves(|moving| moving.changed = None);
        }
        follow
    }

    /// The map that is followed.
    pub fn map(&self) -> &Assignment {
        &self.map
    }

    /// Takes the stored map, unless it is older.
    pub fn offer(&mut self, map: &Arc<Assignment>, now: Moment) -> Offered {
        if map.generation < self.map.generation {
            return Offered::Older(self.map.generation);
        }
        if map.generation > self.map.generation {
            if map.hash != self.map.hash {
                // Its buckets hold other flows.
                self.buckets = vec![InUse::default(); map.holdings.len()];
            }
            self.map = map.clone();
            self.step(now);
        }
        Offered::Followed
    }

    /// Takes the endpoints as they are listed now.
    pub fn see(&mut self, endpoints: &[Endpoint], now: Moment) {
        self.endpoints = endpoints.to_vec();
        self.step(now);
    }

    /// Does what is due by now.
    pub fn step(&mut self, now: Moment) {
        let usable = self.usable();
        let owners = self.map.holdings.iter().filter_map(|holding| holding.owner.as_ref());
        self.absences.look(owners, &usable, &self.endpoints, now.instant);
        let mut buckets = std::mem::take(&mut self.buckets);
        let mut next_hops = Vec::with_capacity(buckets.len());
        for ((bucket, holding), in_use) in self.map.iter().zip(&mut buckets) {
            let owner = self.owner(bucket, holding, &usable, now);
            let next = self.next_stand_in(bucket, holding, owner.as_ref(), &usable);
            let is_another = in_use.owner != owner;
            in_use.moves(|moving| {
                moving.stand(holding, owner.as_ref(), now);
                if is_another || moving.next != next {
                    (moving.next, moving.changed) = (next, Some(now.instant));
                }
                moving.changed = moving.changed.filter(|changed| *changed + POINTED > now.instant);
            });
            in_use.owner.clone_from(&owner);
            let hop = owner.and_then(|owner| self.hop(owner, holding, in_use.stand_ins(), &usable, now));
            next_hops.extend(hop.map(|hop| (bucket, hop)));
        }
        self.buckets = buckets;
        let is_same = self.next_hops.iter().eq(next_hops.iter().map(|(bucket, hop)| (bucket, hop)));
        if !is_same {
            self.next_hops = Arc::new(next_hops.into_iter().collect());
        }
    }

    /// When [`Follow::step`] has something to do although nothing changed.
    pub fn next_deadline(&self, now: Moment) -> Option<Instant> {
        let non_tcp = |holding: &Holding| {
            let end = holding.former.first()?.since.saturating_add(self.map.drain_non_tcp);
            (end > now.unix).then(|| now.at(end))
        };
        let bucket = |(holding, in_use): (&Holding, &InUse)| {
            let stand_ins = in_use.stand_ins();
            let (stand_in, ends) = (stand_ins.first(), stand_ins.iter().filter_map(|one| one.until));
            // Of a damaged map it may be any number.
            let kept = Duration::from_secs(self.map.drain_non_tcp);
            [
                in_use.changed().map(|changed| changed + POINTED),
                ends.min(),
                stand_in.and_then(|stand_in| stand_in.since.instant.checked_add(kept)),
                non_tcp(holding),
            ]
        };
        let all = self.map.holdings.iter().zip(&self.buckets).flat_map(bucket).flatten();
        all.chain(self.absences.due(now.instant)).filter(|at| *at > now.instant).min()
    }

    /// Where an ingress node sends the packets of each bucket; buckets without an owner are left out.
    pub fn next_hops(&self) -> &Arc<BTreeMap<Bucket, NextHop>> {
        &self.next_hops
    }

    /// What the pods of a serving node have to know.
    pub fn served(&self) -> Served {
        let names = self.map.members.values().map(|member| (member.name, member.addresses)).collect();
        let moves = |holding: &Holding, in_use: &InUse| in_use.changed().is_some() || holding.next.is_some();
        let present = self.map.iter().zip(&self.buckets).filter(|((_, holding), in_use)| moves(holding, in_use));
        let present = present.filter_map(|((bucket, holding), in_use)| {
            let owner = in_use.owner.as_ref()?;
            let announced = holding.next.as_ref().map(|next| &next.endpoint).filter(|next| *next != owner);
            let all = std::iter::once(owner).chain(self.second_chances(owner, holding, in_use.stand_ins()));
            let all = all.chain(announced).chain(in_use.next());
            Some((bucket, all.filter_map(|id| self.map.name(id)).take(MOST_FORMER + 1).collect()))
        });
        Served { names, last: Some(self.map.last_name), present: present.collect() }
    }

    /// Who may own a bucket: of the endpoints that the map knows those that are set up. Where there is none, and no controller has said so,
    /// those that it does not know: they have come since it was stored, and whether they are set up only their nodes know. Once they stand
    /// in, they go on.
    fn usable(&self) -> BTreeSet<EndpointId> {
        let members = &self.map.members;
        let known = usable(&self.endpoints, |e| members.get(&e.id).is_some_and(|member| member.set_up));
        let mut standing = self.buckets.iter().flat_map(InUse::stand_ins).filter(|one| one.until.is_none());
        let goes_on = standing.any(|one| !members.contains_key(&one.endpoint));
        if !known.is_empty() || self.map.refuses_new && !goes_on {
            return known;
        }
        usable(&self.endpoints, |e| !members.contains_key(&e.id))
    }

    /// Who owns a bucket now: the stored owner, or the stand-in where nobody decides.
    fn owner(
        &self,
        bucket: Bucket,
        holding: &Holding,
        usable: &BTreeSet<EndpointId>,
        now: Moment,
    ) -> Option<EndpointId> {
        let stored = holding.owner.as_ref()?;
        let stand_in = self.absences.is_over(stored, now.instant).then(|| self.map.stand_in(bucket, usable)).flatten();
        Some(stand_in.unwrap_or(stored).clone())
    }

    /// Who is about to stand in: pods know it before the first ingress node sends anything there.
    fn next_stand_in(
        &self,
        bucket: Bucket,
        holding: &Holding,
        owner: Option<&EndpointId>,
        usable: &BTreeSet<EndpointId>,
    ) -> Option<EndpointId> {
        let stored = holding.owner.as_ref()?;
        let goes = Some(stored) == owner && !usable.contains(stored) && self.absences.is_seen(stored);
        goes.then(|| self.map.stand_in(bucket, usable)).flatten().cloned()
    }

    fn hop(
        &self,
        owner: EndpointId,
        holding: &Holding,
        stand_ins: &[StandIn],
        usable: &BTreeSet<EndpointId>,
        now: Moment,
    ) -> Option<NextHop> {
        let member = self.map.members.get(&owner).map(|member| (member.addresses, member.program));
        // The program is loaded with everything else, unless the kernel refuses it.
        let listed = || self.endpoints.iter().find(|e| e.id == owner).map(|e| (e.addresses, true));
        let (addresses, program) = member.or_else(listed)?;
        let second_chances = self.second_chances(&owner, holding, stand_ins);
        let names = second_chances.iter().filter(|_| program).filter_map(|id| self.map.name(id));
        let non_tcp = second_chances.first().is_some_and(|first| self.keeps_non_tcp(first, holding, stand_ins, now));
        let id = TunnelId::of(names, non_tcp);
        let is_silent = self.map.refuses_new || self.absences.is_over(&owner, now.instant);
        let refuses_syn = is_silent && !usable.contains(&owner);
        Some(NextHop { addresses, owner, id, refuses_syn })
    }

    /// Who is asked for connections that the owner does not know, at most two: those that serve before those that may be dead,
    /// because nobody gets past a dead one.
    fn second_chances<'a>(
        &self,
        owner: &EndpointId,
        holding: &'a Holding,
        stand_ins: &'a [StandIn],
    ) -> Vec<&'a EndpointId> {
        let stored = holding.owner.as_ref().filter(|stored| *stored != owner);
        let mut former: Vec<_> = holding.former.iter().collect();
        former.sort_by_key(|former| Reverse(former.held));
        let stand_ins = stand_ins.iter().map(|stand_in| &stand_in.endpoint);
        // Where there are more than two, those that had the bucket for the longest time: a stand-in had it for seconds.
        let all = stored.into_iter().chain(former.into_iter().map(|former| &former.endpoint)).chain(stand_ins);
        // One that the map does not know has no name.
        let all = all.filter(|id| self.map.members.contains_key(*id));
        let mut list: Vec<&EndpointId> = Vec::new();
        for id in all {
            if id != owner && !list.contains(&id) && list.len() < MOST_FORMER {
                list.push(id);
            }
        }
        let place = |id: &EndpointId| holding.former.iter().position(|former| former.endpoint == *id);
        list.sort_by_key(|id| (self.doubt(id), stored != Some(*id), place(id)));
        list
    }

    /// How likely a former owner is dead.
    fn doubt(&self, id: &EndpointId) -> u8 {
        match self.endpoints.iter().find(|e| e.id == *id) {
            Some(endpoint) if endpoint.state.serves() => 0,
            None => 1,
            Some(_) => 2,
        }
    }

    /// Whether packets that are not TCP stay with this former owner.
    fn keeps_non_tcp(&self, former: &EndpointId, holding: &Holding, stand_ins: &[StandIn], now: Moment) -> bool {
        let drain = Duration::from_secs(self.map.drain_non_tcp);
        let serves = self.endpoints.iter().any(|e| e.id == *former && e.state.serves());
        let listed = holding.former.first().filter(|first| first.endpoint == *former);
        let stands_in = stand_ins.first().filter(|stand_in| stand_in.until.is_none());
        serves
            && (listed.is_some_and(|listed| listed.keeps_non_tcp(drain, now.unix))
                || stands_in.is_some_and(|one| now.instant.saturating_duration_since(one.since.instant) < drain))
    }
}

impl InUse {
    /// Changes what is to be known besides the owner; nothing is kept if that is nothing.
    fn moves(&mut self, change: impl FnOnce(&mut Moving)) {
        let mut moving = self.moving.take().map_or_else(Moving::default, |moving| *moving);
        change(&mut moving);
        self.moving = (moving != Moving::default()).then(|| Box::new(moving));
    }

    fn stand_ins(&self) -> &[StandIn] {
        self.moving.as_ref().map(|moving| &moving.stand_ins[..]).unwrap_or_default()
    }

    fn changed(&self) -> Option<Instant> {
        self.moving.as_ref()?.changed
    }

    fn next(&self) -> Option<&EndpointId> {
        self.moving.as_ref()?.next.as_ref()
    }
}

impl Moving {
    /// Notes who stands in, and who has stood in.
    fn stand(&mut self, holding: &Holding, owner: Option<&EndpointId>, now: Moment) {
        let standing = owner.filter(|owner| holding.owner.as_ref() != Some(*owner));
        for stand_in in &mut self.stand_ins {
            let stands = standing == Some(&stand_in.endpoint);
            stand_in.until = if stands { None } else { stand_in.until.or(Some(now.instant + NAMED)) };
        }
        // One that the map makes the owner stands in no longer.
        let is_named = |one: &StandIn| one.until.is_none_or(|until| until > now.instant);
        self.stand_ins.retain(|one| is_named(one) && holding.owner.as_ref() != Some(&one.endpoint));
        if let Some(endpoint) = standing
            && self.stand_ins.iter().all(|one| one.endpoint != *endpoint)
        {
            self.stand_ins.insert(0, StandIn { endpoint: endpoint.clone(), since: now, until: None });
            self.stand_ins.truncate(2);
        }
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
