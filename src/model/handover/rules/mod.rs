//! The controller's rules: from one decision to the next.
//!
//! One step does, in this order:
//!
//! 1. what the nodes have said is written down: who is set up, at which address, with or without the program;
//! 2. former owners leave whose pod has ended, whose drain is over, or whose time is up;
//! 3. buckets whose owner may not own them get another one, at once;
//! 4. moves for balance are announced, as far as they cost nobody a connection, and made when the nodes say that they know;
//! 5. names are given out and retired.
//!
//! Nothing that is absent takes anything away: an endpoint without a report stays what it was.

mod balance;
mod members;
mod owners;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Assignment, Endpoint, Former, HashKey, Member, Moment, NodeName, Over, Said, ServiceUid, Why, Witness};
use crate::model::second_chance::Pair;
use crate::model::{Addresses, Bucket, EndpointId};

/// What a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The Service.
    pub service: &'a ServiceUid,
    /// All its endpoints, from its EndpointSlices.
    pub endpoints: &'a [Endpoint],
    /// What the nodes say.
    pub witness: &'a Witness,
    /// Pods that have ended although their nodes do not say so: their Node objects have been gone for a while.
    pub lost: &'a BTreeSet<EndpointId>,
    /// What is hashed, as the Service says now.
    pub key: HashKey,
    /// For how long buckets drain.
    pub limits: DrainLimits,
    /// The time.
    pub now: Moment,
}

/// For how long buckets drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainLimits {
    /// The Service's limit, if it has one; zero: not at all.
    pub limit: Option<Duration>,
    /// For how long packets that are not TCP stay with the former owner.
    pub non_tcp: Duration,
}

/// What a Service waits for, for Events and `status`, and when to decide again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The first list of reports is not complete: nothing was decided.
    pub reports: bool,
    /// Ready endpoints of which their node has not said that they are set up.
    pub not_set_up: BTreeMap<EndpointId, NodeName>,
    /// Endpoints that own buckets without a second chance.
    pub without_program: BTreeSet<EndpointId>,
    /// Endpoints that have less than their share until former owners leave.
    pub balance: BTreeSet<EndpointId>,
    /// Endpoints to which buckets are announced, and the nodes that have not said that they know of it.
    pub unheard: BTreeMap<EndpointId, BTreeSet<NodeName>>,
    /// Eligible endpoints for which there are not enough buckets.
    pub no_bucket: usize,
    /// Former owners to which packets are passed on that do not arrive, with one of the pods that pass them on.
    pub unreached: BTreeMap<EndpointId, EndpointId>,
    /// Former owners that were given up in this decision, because a third one came.
    pub given_up: Vec<(Bucket, EndpointId)>,
    /// When something has to be decided although nothing changed, in seconds since 1970 (UTC).
    due: Option<u64>,
}

impl Waiting {
    /// When something has to be decided although nothing changed, in seconds since 1970 (UTC). [`Witness::due`] comes on top.
    pub fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Assignment {
    /// The next decision, and what it waits for. The same map again, with the same generation, where nothing has to change.
    pub fn next(&self, inputs: &Inputs<'_>) -> (Assignment, Waiting) {
        if !inputs.witness.is_complete() {
            return (self.clone(), Waiting { reports: true, ..Waiting::default() });
        }
        let mut step = Step::new(self, inputs);
        step.take_reports();
        step.former_owners_leave();
        step.replace_owners();
        step.take_knowledge();
        step.balance();
        step.give_names();
        step.take_note_of_news();
        step.finish()
    }
}

/// A decision in the making.
struct Step<'a> {
    before: &'a Assignment,
    inputs: &'a Inputs<'a>,
    map: Assignment,
    endpoints: BTreeMap<&'a EndpointId, &'a Endpoint>,
    /// Listed endpoints that are set up, and whether with the program.
    set_up: BTreeMap<EndpointId, bool>,
    /// Those that may own buckets.
    eligible: BTreeSet<EndpointId>,
    /// Members whose network namespace is another one than before: their connections are gone.
    reborn: BTreeSet<EndpointId>,
    /// Buckets that have moved in this step.
    moved: BTreeSet<Bucket>,
    /// Owners that may not own any more have been replaced.
    replaced: bool,
    /// Balance was put off to the next decision.
    again: bool,
    waiting: Waiting,
}

impl<'a> Step<'a> {
    fn new(before: &'a Assignment, inputs: &'a Inputs<'a>) -> Step<'a> {
        let mut map = before.clone();
        map.generation = before.generation.next();
        map.hash.key = inputs.key;
        map.drain_non_tcp = inputs.limits.non_tcp.as_secs();
        Step {
            before,
            inputs,
            map,
            endpoints: inputs.endpoints.iter().map(|e| (&e.id, e)).collect(),
            set_up: BTreeMap::new(),
            eligible: BTreeSet::new(),
            reborn: BTreeSet::new(),
            moved: BTreeSet::new(),
            replaced: false,
            again: false,
            waiting: Waiting::default(),
        }
    }

    fn unix(&self) -> u64 {
        self.inputs.now.unix
    }

    /// Whether the pod object of a member is gone, as far as anybody can tell.
    fn has_ended(&self, id: &EndpointId) -> bool {
        let node = self.before.members.get(id).map(|member| &member.node);
        let node = node.or_else(|| self.endpoints.get(id).map(|e| &e.node));
        self.inputs.lost.contains(id) || node.is_some_and(|node| self.inputs.witness.has_ended(node, id))
    }

    /// Whether it can forward to former owners.
    fn has_program(&self, id: &EndpointId) -> bool {
        let member = || self.map.members.get(id).is_some_and(|member| member.program);
        self.set_up.get(id).copied().unwrap_or_else(member)
    }

    fn former_owners_leave(&mut self) {
        let mut holdings = std::mem::take(&mut self.map.holdings);
        for (bucket, holding) in self.map.hash.buckets.iter().zip(&mut holdings) {
            holding.former.retain(|former| self.stays(bucket, former));
        }
        self.map.holdings = holdings;
    }

    /// Whether a former owner may still have connections of the bucket.
    fn stays(&self, bucket: Bucket, former: &Former) -> bool {
        let id = &former.endpoint;
        let is_timed_out =
            self.inputs.limits.limit.is_some_and(|limit| self.unix() >= former.since.saturating_add(limit.as_secs()));
        let serves = self.endpoints.get(id).is_some_and(|e| e.state.serves());
        let keeps_non_tcp = serves && former.keeps_non_tcp(self.inputs.limits.non_tcp, self.unix());
        !is_timed_out
            && !self.has_ended(id)
            && !self.reborn.contains(id)
            && (keeps_non_tcp || !self.is_over(bucket, former))
    }

    fn is_over(&self, bucket: Bucket, former: &Former) -> bool {
        let over = Over {
            service: self.inputs.service.clone(),
            pod: former.endpoint.clone(),
            generation: former.generation,
            bucket,
        };
        let member = self.map.members.get(&former.endpoint);
        member.is_some_and(|member| self.inputs.witness.is_over(&member.node, &over))
    }

    /// Why an endpoint may not own a bucket any more.
    fn why(&self, id: &EndpointId) -> Why {
        use super::EndpointState::{NotReady, Ready, Terminating};
        match self.endpoints.get(id).map(|e| e.state) {
            _ if self.eligible.contains(id) => Why::Balance,
            None => Why::Left,
            Some(NotReady) => Why::NotReady,
            Some(Terminating { .. }) => Why::Terminating,
            Some(Ready) => Why::TunnelFell,
        }
    }

    /// Who receives nothing of what others pass on to it.
    fn unreached(&self) -> BTreeMap<EndpointId, EndpointId> {
        let members = &self.map.members;
        let former = self.map.holdings.iter().flat_map(|holding| &holding.former).map(|former| &former.endpoint);
        let former: BTreeSet<&EndpointId> = former.collect();
        let find = |to: &&EndpointId| {
            let (receiver, mut senders) = (members.get(*to)?, members.iter().filter(|(id, _)| *id != *to));
            let is_lost = |sender: &Member| {
                let ways =
                    sender.addresses.iter().flat_map(|from| receiver.addresses.iter().map(move |to| Pair { from, to }));
                ways.into_iter().any(|pair| self.inputs.witness.is_lost(pair, &sender.node, &receiver.node))
            };
            senders.find(|(_, sender)| is_lost(sender)).map(|(from, _)| from.clone())
        };
        former.iter().filter_map(|to| Some(((*to).clone(), find(to)?))).collect()
    }

    /// What nodes know is stored with what else changes.
    fn is_unchanged(&self) -> bool {
        let (generation, knows) = (self.before.generation, self.before.knows.clone());
        Assignment { generation, knows, ..self.map.clone() } == *self.before
    }

    fn finish(mut self) -> (Assignment, Waiting) {
        if self.is_unchanged() {
            self.map = self.before.clone();
        } else {
            self.map.forget_old_news();
        }
        let limits = self.inputs.limits;
        let ends = self.map.holdings.iter().flat_map(|holding| &holding.former).flat_map(|former| {
            [limits.limit, Some(limits.non_tcp)]
                .into_iter()
                .flatten()
                .map(|limit| former.since.saturating_add(limit.as_secs()))
        });
        self.waiting.unreached = self.unreached();
        let soon = self.again.then(|| self.unix().saturating_add(1));
        self.waiting.due = ends.filter(|at| *at > self.unix()).chain(soon).min();
        (self.map, self.waiting)
    }
}

/// The addresses as they are known now: families that are not listed any more stay, as long as none of the others differs.
fn merged(known: Addresses, listed: Addresses) -> Addresses {
    Addresses { v4: listed.v4.or(known.v4), v6: listed.v6.or(known.v6) }
}

#[cfg(test)]
mod tests;
