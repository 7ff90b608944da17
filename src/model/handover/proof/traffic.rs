//! Connections, the path of their packets, and what may become of them.

use std::collections::BTreeMap;
use std::fmt;

use super::world::{INGRESS, NODES, World, node_name, pod_address, pod_id, pod_of};
use crate::model::handover::{Finds, Known, MOST_FORMER, Packet, Taken, Verdict, Why, decide};
use crate::model::{Bucket, Family};

/// An open connection: the pod knows it, and it may enter by any ingress node.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// How late the ingress node was that it was opened by, in milliseconds.
    late: u64,
    /// When it was opened, with a pod that stood in for the owner.
    stand_in: Option<u64>,
}

/// Why a packet of an open connection is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Branch {
    /// It is answered.
    Answered,
    /// … by the second pod that it meets.
    AnsweredSecond,
    /// … by the third.
    AnsweredThird,
    /// Its own pod is gone, and the connection with it.
    PodGone,
    /// It waits: the node of a pod that it meets has not learnt the former owner's name.
    NameNotLearnt,
    /// It waits: a late ingress node names a former owner that has left.
    PassedOnByOneThatLeft,
    /// It waits: an owner went, and the node of a former owner has not learnt who follows.
    NotLetIn,
    /// It waits: nobody decides, who stands in has come since the last map, and nobody lets in what it passes on.
    StandInNotLetIn,
    /// Reset: its pod was given up as the third former owner.
    GivenUp,
    /// Reset: its pod stood in where nobody decided, the controller does not know of that, and the nodes that do not remember it
    /// either, or not any more, are asked.
    StandInForgotten,
    /// Reset: where nobody decides, and nodes give buckets to stand-ins, it was the third former owner.
    StandInThird,
    /// Reset: an ingress node is later than 15 s, or was when it opened the connection.
    IngressLate15,
    /// Reset: the bucket changed hands twice or more since what a late ingress node knows, and three pods are not enough.
    LateByTwoMoves,
    /// Reset: a late ingress node has named two former owners already, and three pods are not enough.
    LateWithoutRoom,
    /// Reset: an ingress node and the node of a pod that it meets are both late.
    BothLate,
    /// It waits: an ingress node that is late sends it to a pod that is gone, or knows of no owner.
    LateToDead,
    /// It waits: the owner has died, and nobody has said so yet, or nodes wait for the controller's word.
    DeathUnnoticed,
    /// It waits: a former owner that is asked before its pod has died.
    DeadBefore,
}

/// How often each branch was taken, in packets.
#[derive(Debug, Clone, Default)]
pub(super) struct Frequencies(BTreeMap<Branch, u64>);

impl Frequencies {
    fn count(&mut self, branch: Branch) {
        *self.0.entry(branch).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Frequencies) {
        other.0.iter().for_each(|(branch, n)| *self.0.entry(*branch).or_default() += n);
    }
}

impl fmt::Display for Frequencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: u64 = self.0.values().sum();
        writeln!(f, "{all:>10} packets")?;
        self.0.iter().try_for_each(|(branch, n)| writeln!(f, "{n:>10} {branch:?}"))
    }
}

/// The end of a packet's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answered,
    Reset,
    Unknown,
    /// Dropped by the pod's guard: its node does not know who has passed the packet on.
    Refused,
    Dead,
    NoOwner,
}

struct Path {
    pods: Vec<usize>,
    end: End,
}

impl World {
    /// Opens connections and sends a packet of each through every ingress node.
    pub(super) fn traffic(&mut self) -> Result<(), String> {
        let (pods, frequencies) = (&self.pods, &mut self.frequencies);
        self.connections.retain(|(_, pod), _| {
            let alive = pods[*pod].alive;
            if !alive {
                frequencies.count(Branch::PodGone);
            }
            alive
        });
        for ingress in 0..INGRESS {
            self.open(ingress)?;
        }
        let all: Vec<(Bucket, usize)> = self.connections.keys().copied().collect();
        for (bucket, pod) in all {
            for ingress in 0..INGRESS {
                if let Some(connection) = self.connections.get(&(bucket, pod)).cloned() {
                    self.check(ingress, bucket, pod, &connection)?;
                }
            }
        }
        Ok(())
    }

    /// New connections, one in each bucket.
    fn open(&mut self, ingress: usize) -> Result<(), String> {
        let hops = self.agents[ingress].hops.clone();
        for (bucket, hop) in hops.iter().filter(|(_, hop)| !hop.refuses_syn) {
            let owner = pod_of(&hop.owner);
            if !self.pods[owner].alive || !self.pods[owner].set_up {
                continue;
            }
            let stand_in = self.stands_in(ingress, *bucket).then_some(self.now);
            let late = self.mail[ingress].late(self.now).unwrap_or_default();
            let connection = Connection { late, stand_in };
            self.connections.entry((*bucket, owner)).or_insert(connection);
            let path = self.path(ingress, *bucket, owner);
            if path.end != End::Answered || path.pods.len() != 1 {
                return Err(self.told(ingress, *bucket, owner, &path, "a new connection is not answered"));
            }
        }
        Ok(())
    }

    fn check(&mut self, ingress: usize, bucket: Bucket, pod: usize, connection: &Connection) -> Result<(), String> {
        let path = self.path(ingress, bucket, pod);
        let Some(branch) = self.branch(ingress, bucket, pod, connection, &path) else {
            return Err(self.told(ingress, bucket, pod, &path, "an open connection is not answered"));
        };
        self.frequencies.count(branch);
        if path.end == End::Reset {
            self.connections.remove(&(bucket, pod));
        }
        if path.pods.len() > 3 {
            return Err(self.told(ingress, bucket, pod, &path, "more than three pods"));
        }
        Ok(())
    }

    /// What became of a packet, if that may be.
    fn branch(&self, ingress: usize, bucket: Bucket, pod: usize, by: &Connection, path: &Path) -> Option<Branch> {
        let late = self.mail[ingress].late(self.now);
        let met = path.pods.first().map(|pod| self.pods[*pod].node);
        let stands_in = self.stands_in(ingress, bucket) || met.is_some_and(|node| self.gives_away(node, bucket));
        let is_late = |node: usize| self.mail[node].late(self.now).is_some();
        let nodes: Vec<usize> = path.pods.iter().map(|pod| self.pods[*pod].node).collect();
        match path.end {
            End::Answered => Some(match path.pods.len() {
                1 => Branch::Answered,
                2 => Branch::AnsweredSecond,
                _ => Branch::AnsweredThird,
            }),
            End::Unknown => nodes.last().is_some_and(|node| is_late(*node)).then_some(Branch::NameNotLearnt),
            End::Refused if by.stand_in.is_some() && !self.is_listed(bucket, pod) => Some(Branch::StandInForgotten),
            End::Refused if stands_in && self.has_left(&path.pods) => Some(Branch::StandInNotLetIn),
            End::Refused if late.is_some() && self.has_left(&path.pods) => Some(Branch::PassedOnByOneThatLeft),
            End::Refused => {
                nodes.last().is_some_and(|node| is_late(*node) && !self.is_planned(bucket)).then_some(Branch::NotLetIn)
            }
            End::Dead if path.pods.len() > 1 => Some(Branch::DeadBefore),
            End::Dead | End::NoOwner if late.is_some() => Some(Branch::LateToDead),
            End::Dead => Some(Branch::DeathUnnoticed),
            End::Reset | End::NoOwner if self.given_up.contains(&(bucket, pod)) => Some(Branch::GivenUp),
            End::Reset | End::NoOwner if late.unwrap_or_default().max(by.late) > 15_000 => Some(Branch::IngressLate15),
            End::Reset | End::NoOwner if by.stand_in.is_some() && !self.is_listed(bucket, pod) => {
                Some(Branch::StandInForgotten)
            }
            End::Reset if (by.stand_in.is_some() || stands_in) && self.is_full(ingress, bucket) => {
                Some(Branch::StandInThird)
            }
            End::Reset if late.is_some() && nodes.iter().any(|node| is_late(*node)) => Some(Branch::BothLate),
            End::Reset if late.is_some() && self.moves_missed(ingress, bucket) > 1 => Some(Branch::LateByTwoMoves),
            End::Reset if late.is_some() && self.is_full(ingress, bucket) => Some(Branch::LateWithoutRoom),
            End::Reset | End::NoOwner => None,
        }
    }

    /// Whether an ingress node does not use the owner that its map names.
    fn stands_in(&self, ingress: usize, bucket: Bucket) -> bool {
        let agent = &self.agents[ingress];
        let used = agent.hops.get(&bucket).map(|hop| &hop.owner);
        used != agent.follow.map().holdings[bucket.index()].owner.as_ref()
    }

    /// Whether the node of a pod knows of a stand-in.
    fn gives_away(&self, node: usize, bucket: Bucket) -> bool {
        let follow = &self.agents[node].follow;
        let stored = follow.map().holdings[bucket.index()].owner.as_ref().and_then(|owner| follow.map().name(owner));
        follow.served().present.get(&bucket).is_some_and(|present| present.first().copied() != stored)
    }

    /// How often a bucket has changed hands since the map that an ingress node follows.
    fn moves_missed(&self, ingress: usize, bucket: Bucket) -> usize {
        let known = self.agents[ingress].follow.map().generation;
        self.moves.iter().filter(|(of, generation, _)| *of == bucket && *generation > known).count()
    }

    /// Whether the last map knows that the pod had the bucket.
    fn is_listed(&self, bucket: Bucket, pod: usize) -> bool {
        let holding = &self.map.holdings[bucket.index()];
        let mut all = holding.owner.iter().chain(holding.former.iter().map(|former| &former.endpoint));
        all.any(|id| pod_of(id) == pod)
    }

    /// Whether the last map does not name the last but one of these pods.
    fn has_left(&self, pods: &[usize]) -> bool {
        pods.iter().rev().nth(1).is_some_and(|pod| !self.map.members.contains_key(&pod_id(*pod)))
    }

    /// Whether the bucket has changed hands for balance only, as far as the last map knows.
    fn is_planned(&self, bucket: Bucket) -> bool {
        let holding = &self.map.holdings[bucket.index()];
        holding.planned && holding.former.iter().all(|former| former.why == Why::Balance)
    }

    fn is_full(&self, ingress: usize, bucket: Bucket) -> bool {
        self.agents[ingress].hops.get(&bucket).is_some_and(|hop| hop.id.list().count() == MOST_FORMER)
    }

    /// The pods that a packet of a connection with `pod` meets.
    fn path(&self, ingress: usize, bucket: Bucket, pod: usize) -> Path {
        let Some(hop) = self.agents[ingress].hops.get(&bucket) else {
            return Path { pods: Vec::new(), end: End::NoOwner };
        };
        let (mut pods, mut id) = (vec![pod_of(&hop.owner)], hop.id);
        loop {
            let at = pods[pods.len() - 1];
            if !self.pods[at].alive || !self.pods[at].set_up || pods.len() > 5 {
                return Path { pods, end: End::Dead };
            }
            let agent = &self.agents[self.pods[at].node];
            let present = agent.served.present.get(&bucket).map_or(&[][..], Vec::as_slice);
            let own = agent.follow.map().name(&pod_id(at));
            let (names, last) = (&agent.served.names, agent.served.last);
            let known = Known { own, names, last, outer: Family::V4, present };
            let packet = Packet::Tcp(if at == pod { Finds::Socket } else { Finds::Nothing });
            match decide(packet, id, &known) {
                Verdict::Take(Taken::Socket) => return Path { pods, end: End::Answered },
                Verdict::Take(_) => return Path { pods, end: End::Reset },
                Verdict::Drop(_) => return Path { pods, end: End::Unknown },
                Verdict::Forward { to, id: next } => {
                    let [.., last] = names[&to].v4.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED).octets();
                    let to = usize::from(last);
                    pods.push(to);
                    id = next;
                    let peers = &self.agents[self.pods[to].node].served.names;
                    if self.pods[to].alive && !peers.values().any(|addresses| *addresses == pod_address(at)) {
                        return Path { pods, end: End::Refused };
                    }
                }
            }
        }
    }

    fn told(&self, ingress: usize, bucket: Bucket, pod: usize, path: &Path, what: &str) -> String {
        let late: Vec<String> = (0..NODES).map(|n| format!("{:?}", self.mail[n].late(self.now))).collect();
        let log = self.log.join("\n");
        let maps: Vec<String> = self.agents.iter().map(|agent| agent.follow.map().generation.to_string()).collect();
        format!(
            "{what}: p{pod}, bucket {}, by {}, {:?} {:?} at {} ms; connection {:?}; hop {:?}; late {late:?}, maps {maps:?}\n{log}",
            bucket.number(),
            node_name(ingress),
            path.pods,
            path.end,
            self.now,
            self.connections.get(&(bucket, pod)),
            self.agents[ingress].hops.get(&bucket),
        )
    }

    /// After everybody has heard of everything.
    pub(super) fn check_agreement(&self) -> Result<(), String> {
        let fail = |what: &str| Err(format!("{what}\n{}", self.log.join("\n")));
        let alive = (0..NODES).filter(|node| !self.dead.contains_key(node));
        for node in alive {
            let agent = &self.agents[node];
            if *agent.follow.map() != self.map || !agent.served.present.is_empty() {
                return fail(&format!("n{node} does not follow the last map"));
            }
            if agent.hops != self.agents[0].hops {
                return fail(&format!("n{node} disagrees with n0"));
            }
            for (bucket, holding) in self.map.iter() {
                if agent.hops.get(&bucket).map(|hop| &hop.owner) != holding.owner.as_ref() {
                    return fail(&format!("n{node} gives bucket {} to another one", bucket.number()));
                }
            }
        }
        let counts = self.map.counts();
        let usable = self.pods.iter().filter(|pod| pod.alive && pod.listed && pod.state.serves()).count();
        if self.map.refuses_new != (usable == 0) {
            return fail("new connections are refused without reason, or not refused");
        }
        let (least, most) = (counts.values().min(), counts.values().max());
        let spread = most.unwrap_or(&0) - least.unwrap_or(&0);
        if spread > 1 && !self.map.refuses_new && self.controller.waiting.balance.is_empty() {
            return fail("not balanced");
        }
        Ok(())
    }
}
