//! An agent: it follows the map, sets up its pods, counts their connections and reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::world::{News, World, node_name, pod_address, pod_id, pod_of};
use crate::model::handover::{Assignment, Endpoint, Follow, Moment, NextHop, NodeReport, Over, Served, SetUp};
use crate::model::{Bucket, EndpointId};

/// For how long a pod must have had no connection, in milliseconds.
const QUIET: u64 = 15_000;

pub(super) struct Agent {
    node: usize,
    pub follow: Follow,
    endpoints: Vec<Endpoint>,
    quiet: BTreeMap<Over, u64>,
    pub hops: Arc<BTreeMap<Bucket, NextHop>>,
    pub served: Served,
}

impl Agent {
    pub(super) fn new(node: usize, map: &Assignment, now: Moment) -> Agent {
        let follow = Follow::new(map.clone().into(), Vec::new(), now);
        let (hops, served) = (follow.next_hops().clone(), follow.served());
        Agent { node, follow, endpoints: Vec::new(), quiet: BTreeMap::new(), hops, served }
    }

    fn hear(&mut self, news: Vec<News>, now: Moment) {
        for news in news {
            match news {
                News::Endpoints(endpoints) => {
                    self.follow.see(&endpoints, now);
                    self.endpoints = endpoints;
                }
                News::Map(map) => {
                    self.follow.offer(&map.into(), now);
                }
                News::Report(..) => {}
            }
        }
        self.follow.step(now);
        (self.hops, self.served) = (self.follow.next_hops().clone(), self.follow.served());
    }

    /// Drains of its pods, of which one is over when there was no connection for a while.
    fn over(&mut self, world: &WorldView<'_>) -> BTreeSet<Over> {
        let mut quiet = BTreeMap::new();
        for (bucket, holding) in self.follow.map().iter() {
            for former in &holding.former {
                let pod = pod_of(&former.endpoint);
                if world.here.contains(&former.endpoint) && !world.open.contains(&(bucket, pod)) {
                    let (service, pod) = ("s".into(), former.endpoint.clone());
                    let over = Over { service, pod, generation: former.generation, bucket };
                    let since = self.quiet.get(&over).copied().unwrap_or(world.now);
                    quiet.insert(over, since);
                }
            }
        }
        self.quiet = quiet;
        let over = self.quiet.iter().filter(|(_, since)| **since + QUIET <= world.now);
        over.map(|(over, _)| over.clone()).collect()
    }
}

struct WorldView<'a> {
    now: u64,
    here: &'a BTreeSet<EndpointId>,
    open: BTreeSet<(Bucket, usize)>,
}

impl World {
    /// What a node does in a tick.
    pub(super) fn act(&mut self, node: usize) {
        let (now, moment) = (self.now, self.moment());
        if self.dead.contains_key(&node) {
            return;
        }
        let news = self.mail[node].take(now);
        let agent = &mut self.agents[node];
        agent.hear(news, moment);
        for endpoint in agent.endpoints.iter().filter(|e| e.node == node_name(node)) {
            let pod = &mut self.pods[pod_of(&endpoint.id)];
            pod.set_up |= pod.alive;
        }
        let here = |(_, pod): &(usize, &super::world::Pod)| pod.node == agent.node && pod.alive && pod.set_up;
        let here: BTreeSet<EndpointId> = self.pods.iter().enumerate().filter(here).map(|(n, _)| pod_id(n)).collect();
        let view = WorldView { now, here: &here, open: self.connections.keys().copied().collect() };
        let over = agent.over(&view);
        let members = agent.follow.map().members.iter().filter(|(_, member)| member.node == node_name(node));
        let ended = members.filter(|(id, _)| !self.pods[pod_of(id)].alive).map(|(id, _)| id.clone()).collect();
        let set_up = |id: &EndpointId| SetUp { addresses: pod_address(pod_of(id)), program: true, ..SetUp::default() };
        let pods = here.iter().map(|id| (id.clone(), set_up(id))).collect();
        let map = agent.follow.map();
        let is_serving = map.members.values().any(|member| member.node == node_name(node));
        let knows = is_serving.then(|| (self.service.clone(), map.announced)).into_iter().collect();
        let report = NodeReport { pods, over, ended, knows: Some(knows), ..NodeReport::default() };
        if !self.mail[node].deaf && self.reports.get(&node_name(node)) != Some(&report) {
            self.reports.insert(node_name(node), report.clone());
            self.tell_controller(News::Report(node_name(node), report));
        }
    }
}
