//! What is true, what the API shows, and who hears of it when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::controller::Controller;
use super::node::Agent;
use super::traffic::{Connection, Frequencies};
use crate::model::handover::{
    Assignment, Endpoint, EndpointState, FlowHash, Generation, HashKey, Moment, NodeName, NodeReport, ServiceUid,
};
use crate::model::{Addresses, Bucket, BucketCount, EndpointId};

pub(super) const TICK: u64 = 500;
const UNIX: u64 = 1_790_000_000;
/// Nodes; the first ones are ingress nodes, and all but the first have pods.
pub(super) const NODES: usize = 5;
pub(super) const INGRESS: usize = 2;
/// Who else hears of things.
pub(super) const CONTROLLER: usize = NODES;
const MOST_PODS: usize = 8;
/// A node's pods are given up with its Node object.
const NODE_OBJECT: u64 = 60_000;

/// What happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A pod starts on a node.
    Add(u8),
    /// A pod becomes ready, or not ready.
    Ready(u8, bool),
    /// A pod is told to end: after so many milliseconds it is gone; until then it serves, or not.
    End(u8, u64, bool),
    /// A pod is not selected any more.
    Relabel(u8),
    /// A node loses power; after so many milliseconds its pods are shown as not ready.
    Dies(u8, u64),
    /// All that a node, or the controller, hears from now on takes so many milliseconds.
    Delay(u8, u64),
    /// A node hears nothing any more.
    Deaf(u8),
    /// It hears again.
    Hears(u8),
    /// There is no controller for so many milliseconds.
    NoController(u64),
    /// Another controller leads.
    NewController,
    /// Clients of a pod close their connections in these buckets.
    Close(u8, u16),
    /// Nothing.
    Wait,
}

/// A pod, as it is.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub node: usize,
    pub alive: bool,
    pub ends: Option<u64>,
    pub listed: bool,
    pub state: EndpointState,
    /// Its node has set it up.
    pub set_up: bool,
}

/// Something that the API shows.
#[derive(Debug, Clone)]
pub(super) enum News {
    Endpoints(Vec<Endpoint>),
    Map(Assignment),
    Report(NodeName, NodeReport),
}

/// What is on its way to somebody, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Mail {
    queue: Vec<(u64, u64, News)>,
    delay: u64,
    pub deaf: bool,
}

impl Mail {
    fn send(&mut self, now: u64, news: News) {
        let last = self.queue.last().map_or(0, |(_, at, _)| *at);
        self.queue.push((now, last.max(now + self.delay), news));
    }

    pub(super) fn take(&mut self, now: u64) -> Vec<News> {
        let due = if self.deaf { 0 } else { self.queue.iter().take_while(|(_, at, _)| *at <= now).count() };
        self.queue.drain(..due).map(|(_, _, news)| news).collect()
    }

    /// For how long the oldest news has been on its way, in milliseconds; `None`: everything has been heard.
    pub(super) fn late(&self, now: u64) -> Option<u64> {
        self.queue.first().map(|(sent, _, _)| now - sent)
    }
}

pub(super) struct World {
    pub now: u64,
    start: Instant,
    pub service: ServiceUid,
    pub pods: Vec<Pod>,
    pub agents: Vec<Agent>,
    pub mail: Vec<Mail>,
    pub dead: BTreeMap<usize, u64>,
    noticed: BTreeMap<usize, u64>,
    pub controller: Controller,
    pub away_until: u64,
    endpoints: Vec<Endpoint>,
    pub map: Assignment,
    pub reports: BTreeMap<NodeName, NodeReport>,
    pub connections: BTreeMap<(Bucket, usize), Connection>,
    pub given_up: BTreeSet<(Bucket, usize)>,
    /// Which bucket changed hands by which decision, and when.
    pub moves: Vec<(Bucket, Generation, u64)>,
    pub frequencies: Frequencies,
    pub log: Vec<String>,
}

pub(super) fn pod_id(pod: usize) -> EndpointId {
    EndpointId::from(format!("p{pod}").as_str())
}

pub(super) fn pod_of(id: &EndpointId) -> usize {
    id.as_str()[1..].parse().unwrap()
}

pub(super) fn pod_address(pod: usize) -> Addresses {
    Addresses::from(Ipv4Addr::new(10, 0, 0, u8::try_from(pod).unwrap()))
}

pub(super) fn node_name(node: usize) -> NodeName {
    NodeName::from(format!("n{node}").as_str())
}

impl World {
    /// Three ready pods, of which everybody knows.
    pub(super) fn new() -> World {
        let hash = FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 1, key: HashKey::Ports };
        let service = ServiceUid::from("s");
        let map = Assignment::begin(hash, &service, 1, None);
        let mut world = World {
            now: 0,
            start: Instant::now(),
            service,
            pods: Vec::new(),
            agents: Vec::new(),
            mail: vec![Mail::default(); NODES + 1],
            dead: BTreeMap::new(),
            noticed: BTreeMap::new(),
            controller: Controller::default(),
            away_until: 0,
            endpoints: Vec::new(),
            map,
            reports: BTreeMap::new(),
            connections: BTreeMap::new(),
            given_up: BTreeSet::new(),
            moves: Vec::new(),
            frequencies: Frequencies::default(),
            log: Vec::new(),
        };
        world.agents = (0..NODES).map(|node| Agent::new(node, &world.map, world.moment())).collect();
        (1..4).for_each(|node| world.add(node));
        world.run(3 * TICK).unwrap();
        world
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { instant: self.start + Duration::from_millis(self.now), unix: UNIX + self.now / 1000 }
    }

    fn add(&mut self, node: usize) {
        if !self.dead.contains_key(&node) && self.pods.iter().filter(|pod| pod.alive).count() < MOST_PODS {
            let state = EndpointState::Ready;
            self.pods.push(Pod { node, alive: true, ends: None, listed: true, state, set_up: false });
        }
    }

    /// A living pod.
    fn pick(&mut self, number: u8) -> Option<usize> {
        let alive: Vec<usize> = (0..self.pods.len()).filter(|pod| self.pods[*pod].alive).collect();
        (!alive.is_empty()).then(|| alive[usize::from(number) % alive.len()])
    }

    pub(super) fn apply(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Add(node) => self.add(1 + usize::from(node) % (NODES - 1)),
            Step::Ready(pod, ready) => {
                if let Some(pod) = self.pick(pod).map(|pod| &mut self.pods[pod]).filter(|pod| pod.ends.is_none()) {
                    pod.state = if ready { EndpointState::Ready } else { EndpointState::NotReady };
                }
            }
            Step::End(pod, grace, serving) => {
                if let Some(pod) = self.pick(pod).map(|pod| &mut self.pods[pod]).filter(|pod| pod.ends.is_none()) {
                    (pod.ends, pod.state) = (Some(now + grace), EndpointState::Terminating { serving });
                }
            }
            Step::Relabel(pod) => {
                if let Some(pod) = self.pick(pod) {
                    self.pods[pod].listed = false;
                }
            }
            Step::Dies(node, noticed) => {
                let node = 1 + usize::from(node) % (NODES - 1);
                if node >= INGRESS && !self.dead.contains_key(&node) {
                    self.dead.insert(node, now);
                    self.noticed.insert(node, now + noticed);
                    self.mail[node].deaf = true;
                }
            }
            Step::Delay(hearer, ms) => self.mail[usize::from(hearer) % (NODES + 1)].delay = ms,
            Step::Deaf(node) => self.mail[usize::from(node) % NODES].deaf = true,
            Step::Hears(node) => {
                let node = usize::from(node) % NODES;
                self.mail[node].deaf = self.dead.contains_key(&node);
            }
            Step::NoController(ms) => self.away_until = self.away_until.max(now + ms),
            Step::NewController => self.controller = Controller::default(),
            Step::Close(pod, buckets) => {
                if let Some(pod) = self.pick(pod) {
                    self.connections.retain(|(bucket, of), _| *of != pod || buckets >> bucket.number() & 1 == 0);
                }
            }
            Step::Wait => {}
        }
        self.log.push(format!("{now} {step:?}"));
    }

    /// Lets time go by.
    pub(super) fn run(&mut self, ms: u64) -> Result<(), String> {
        let until = self.now + ms;
        while self.now < until {
            self.now += TICK;
            self.tick()?;
        }
        Ok(())
    }

    /// Everybody hears of everything, nobody is away, and enough time goes by.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        for (node, mail) in self.mail.iter_mut().enumerate() {
            mail.delay = 0;
            mail.deaf = self.dead.contains_key(&node);
            for item in &mut mail.queue {
                item.1 = item.1.min(self.now);
            }
        }
        self.away_until = 0;
        self.run(20_000)?;
        for _ in 0..30 {
            self.now += 10_000;
            self.tick()?;
        }
        self.check_agreement()
    }

    fn tick(&mut self) -> Result<(), String> {
        self.live();
        for node in 0..NODES {
            self.act(node);
        }
        if self.now >= self.away_until {
            self.decide()?;
        }
        self.traffic()
    }

    /// Pods end, and the API shows endpoints as they are.
    fn live(&mut self) {
        for pod in &mut self.pods {
            let is_dead = self.dead.contains_key(&pod.node);
            pod.alive &= !is_dead && pod.ends.is_none_or(|ends| ends > self.now);
            if self.noticed.get(&pod.node).is_some_and(|at| *at <= self.now) {
                pod.state = EndpointState::NotReady;
            }
        }
        let is_shown = |pod: &Pod| {
            let object = self.dead.get(&pod.node).is_some_and(|at| at + NODE_OBJECT > self.now);
            pod.listed && (pod.alive || object)
        };
        let shown = self.pods.iter().enumerate().filter(|(_, pod)| is_shown(pod));
        let endpoints: Vec<Endpoint> = shown
            .map(|(n, pod)| Endpoint {
                id: pod_id(n),
                node: node_name(pod.node),
                addresses: pod_address(n),
                state: pod.state,
            })
            .collect();
        if endpoints != self.endpoints {
            self.endpoints = endpoints.clone();
            self.tell_all(&News::Endpoints(endpoints));
        }
    }

    pub(super) fn tell_all(&mut self, news: &News) {
        for mail in &mut self.mail {
            mail.send(self.now, news.clone());
        }
    }

    pub(super) fn tell_controller(&mut self, news: News) {
        let now = self.now;
        self.mail[CONTROLLER].send(now, news);
    }

    pub(super) fn shown_endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    /// Pods whose Node objects are gone.
    pub(super) fn lost(&self) -> BTreeSet<EndpointId> {
        let is_lost = |pod: &Pod| self.dead.get(&pod.node).is_some_and(|at| at + NODE_OBJECT <= self.now);
        self.pods.iter().enumerate().filter(|(_, pod)| is_lost(pod)).map(|(n, _)| pod_id(n)).collect()
    }
}
