//! The bucket map of one Service, as it is stored and as every node reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::{FlowHash, Generation, Name, NodeName, ServiceUid};
use crate::model::assign::favourite;
use crate::model::hash::jhash;
use crate::model::{Addresses, Bucket, EndpointId};

/// Former owners of one bucket: as many as a tunnel id has names.
pub const MOST_FORMER: usize = 2;

/// Which endpoint of a Service owns which bucket, which ones owned it before, and how to find them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The decision.
    pub generation: Generation,
    /// How flows become buckets.
    pub hash: FlowHash,
    /// One per bucket, in their order.
    pub holdings: Vec<Holding>,
    /// Owners, former owners, and those that may soon own a bucket. Each has a name of its own.
    pub members: BTreeMap<EndpointId, Member>,
    /// The last decision that named somebody or announced a move: serving nodes say when their pods know of it.
    pub announced: Generation,
    /// What the pods of each member's node know of what was announced, as their nodes had said when the map was written.
    pub knows: BTreeMap<NodeName, Generation>,
    /// The addresses that the Service holds, and since when, in seconds since 1970 (UTC). `None`: the map was written before
    /// that was stored.
    pub vips: Option<BTreeMap<IpAddr, u64>>,
    /// The last name given out.
    pub last_name: Name,
    /// No endpoint is eligible: owners keep everything but new connections.
    pub refuses_new: bool,
    /// For how long packets that are not TCP stay with the former owner, in seconds.
    pub drain_non_tcp: u64,
}

/// One bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// The endpoint that gets new connections; `None` while there has never been one, and when all are gone.
    pub owner: Option<EndpointId>,
    /// The first decision that named this owner.
    pub generation: Generation,
    /// Since when it has had the bucket, in seconds since 1970 (UTC); earlier by the time that it had it before.
    pub since: u64,
    /// It moved for balance: the owner before was eligible when it lost the bucket.
    pub planned: bool,
    /// At most [`MOST_FORMER`] former owners, the last one first.
    pub former: Vec<Former>,
    /// The endpoint that gets the bucket as soon as the nodes of all that take part say that they know of it.
    pub next: Option<Next>,
}

/// A planned move that is announced: who takes part knows of it before the first packet takes the new way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The endpoint, a member.
    pub endpoint: EndpointId,
    /// The decision that announced it.
    pub generation: Generation,
}

/// An endpoint that owned a bucket, and may still have its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// The endpoint, a member.
    pub endpoint: EndpointId,
    /// The decision that took the bucket away.
    pub generation: Generation,
    /// When that was, in seconds since 1970 (UTC).
    pub since: u64,
    /// For how long it had the bucket in all, in seconds.
    pub held: u64,
    /// Why it lost the bucket.
    pub why: Why,
}

/// Why an endpoint lost a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// Another endpoint had less than its share.
    Balance,
    /// It was not ready.
    NotReady,
    /// Its pod was about to end.
    Terminating,
    /// It is not listed any more: relabelled, or the Service's selector changed, or its pod is gone.
    Left,
    /// Its node said that its tunnel fell.
    TunnelFell,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Balance => "balance",
            Why::NotReady => "not ready",
            Why::Terminating => "terminating",
            Why::Left => "not listed any more",
            Why::TunnelFell => "its tunnel fell",
        })
    }
}

/// An endpoint that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in tunnel ids.
    pub name: Name,
    /// The node that it runs on.
    pub node: NodeName,
    /// Its addresses when it was last listed.
    pub addresses: Addresses,
    /// Its node has said that its tunnel stands at these addresses. Together with being ready that makes it eligible.
    pub set_up: bool,
    /// Its node has loaded the program for it: it can forward to former owners.
    pub program: bool,
    /// The first decision that names it at these addresses; `None`: all nodes know of it.
    pub named: Option<Generation>,
}

impl Assignment {
    /// The first map of a Service, or a map of which nothing is left: no bucket has an owner. `unix_ms` and what is known to
    /// have been stored before (`later_than`) make it later than every other life of this map.
    pub fn begin(hash: FlowHash, service: &ServiceUid, unix_ms: u64, later_than: Option<Generation>) -> Assignment {
        Assignment {
            generation: Generation::of_new_life(unix_ms, later_than),
            hash,
            holdings: vec![Holding::default(); hash.buckets.iter().len()],
            members: BTreeMap::new(),
            announced: Generation::default(),
            knows: BTreeMap::new(),
            vips: Some(BTreeMap::new()),
            last_name: first_name(service, unix_ms),
            refuses_new: false,
            drain_non_tcp: 0,
        }
    }

    /// The same owners in a new life: a map that nodes have refused because they hold a later one. Every member gets another
    /// name, because the names that the lost decisions gave out are not known here.
    pub fn begin_again(&self, service: &ServiceUid, unix_ms: u64, later_than: Generation) -> Assignment {
        let later_than = later_than.max(self.generation);
        let mut map = Assignment { generation: Generation::of_new_life(unix_ms, Some(later_than)), ..self.clone() };
        map.last_name = first_name(service, unix_ms);
        for member in map.members.values_mut() {
            map.last_name = map.last_name.next();
            (member.name, member.named) = (map.last_name, Some(map.generation));
        }
        map.announced = map.generation;
        map.holdings.iter_mut().for_each(|holding| holding.next = None);
        map
    }

    /// Writes down which addresses the Service holds from now on, in a decision that follows `before`.
    pub fn hold(&mut self, vips: &BTreeSet<IpAddr>, unix: u64, before: Generation) {
        let known = self.vips.as_ref();
        if known.is_some_and(|known| known.keys().eq(vips)) {
            return;
        }
        let since = |vip: &IpAddr| known.and_then(|known| known.get(vip)).copied().unwrap_or(unix);
        self.vips = Some(vips.iter().map(|vip| (*vip, since(vip))).collect());
        self.generation = self.generation.max(before.next());
    }

    /// Since when the Service has held an address; `None` if it does not.
    pub fn holds(&self, vip: IpAddr) -> Option<u64> {
        self.vips.as_ref()?.get(&vip).copied()
    }

    /// What all nodes know is news no longer.
    pub(super) fn forget_old_news(&mut self) {
        let known = self.members.values().map(|member| self.known_to(&member.node)).min().unwrap_or_default();
        for member in self.members.values_mut() {
            member.named = member.named.filter(|named| *named > known);
        }
    }

    /// Whether the node of a member is known to have heard of another one: the pod takes what that one passes on.
    fn lets_in(&self, member: &Member, other: &Member) -> bool {
        other.named.is_none_or(|named| self.known_to(&member.node) >= named)
    }

    /// The last decision of which the pods of a node are known to know.
    pub(super) fn known_to(&self, node: &NodeName) -> Generation {
        self.knows.get(node).copied().unwrap_or_default()
    }

    /// The moves that are announced.
    pub fn moves(&self) -> impl Iterator<Item = (Bucket, &Next)> {
        self.iter().filter_map(|(bucket, holding)| Some((bucket, holding.next.as_ref()?)))
    }

    /// The buckets with their holdings.
    pub fn iter(&self) -> impl Iterator<Item = (Bucket, &Holding)> {
        self.hash.buckets.iter().zip(&self.holdings)
    }

    /// What is stored of a bucket; `None` beyond the map.
    pub fn holding(&self, bucket: Bucket) -> Option<&Holding> {
        self.holdings.get(bucket.index())
    }

    /// The name of an endpoint.
    pub fn name(&self, endpoint: &EndpointId) -> Option<Name> {
        self.members.get(endpoint).map(|member| member.name)
    }

    /// The endpoint of a name.
    pub fn named(&self, name: Name) -> Option<(&EndpointId, &Member)> {
        self.members.iter().find(|(_, member)| member.name == name)
    }

    /// How many buckets each owner has.
    pub fn counts(&self) -> BTreeMap<&EndpointId, u32> {
        let mut counts = BTreeMap::new();
        for owner in self.holdings.iter().filter_map(|holding| holding.owner.as_ref()) {
            *counts.entry(owner).or_default() += 1;
        }
        counts
    }

    /// The endpoint that gets a bucket whose owner goes: a former owner if one may own the bucket, else the favourite, of those
    /// with the program if there are any, and of those whom the owner's node lets in. The controller and all nodes that know the
    /// same map and the same usable endpoints choose the same, so that nodes may do it while nobody decides.
    pub fn stand_in<'a>(&self, bucket: Bucket, usable: &'a BTreeSet<EndpointId>) -> Option<&'a EndpointId> {
        let holding = self.holding(bucket);
        let former = holding.into_iter().flat_map(|holding| &holding.former);
        let former = former.filter_map(|former| usable.get(&former.endpoint)).next();
        let owner = holding.and_then(|holding| self.members.get(holding.owner.as_ref()?));
        let program = |id: &&EndpointId| self.members.get(*id).is_some_and(|member| member.program);
        let known =
            |id: &&EndpointId| owner.zip(self.members.get(*id)).is_some_and(|(owner, id)| self.lets_in(owner, id));
        former
            .or_else(|| favourite(bucket, usable.iter().filter(program).filter(known)))
            .or_else(|| favourite(bucket, usable.iter().filter(program)))
            .or_else(|| favourite(bucket, usable))
    }
}

impl Holding {
    /// For how long the owner has had the bucket, in seconds.
    pub(super) fn held(&self, unix: u64) -> u64 {
        unix.saturating_sub(self.since)
    }
}

impl Former {
    /// Whether packets that are not TCP still belong to it, as far as the time goes.
    pub(super) fn keeps_non_tcp(&self, drain: Duration, unix: u64) -> bool {
        unix < self.since.saturating_add(drain.as_secs())
    }
}

/// Where the names of a life begin: elsewhere than those of another one, as far as chance goes.
fn first_name(service: &ServiceUid, unix_ms: u64) -> Name {
    let [a, b, c, d, ..] = unix_ms.to_le_bytes();
    Name::of_hash(jhash(service.as_str().as_bytes(), u32::from_le_bytes([a, b, c, d])))
}
