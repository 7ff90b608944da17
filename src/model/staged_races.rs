//! Many nodes that learn of the same changes at other moments: whatever they are in the middle of, a packet of an open
//! connection finds its pod.
//!
//! A little world of its own, without a kernel: ingress nodes and pods' nodes each have their [`Stage`], a writer continues
//! the map, pods are ready and not ready. A connection is there for every pod that has ever been given a SYN of a bucket.

use super::*;
use crate::model::shared::{DrainRules, Flows};
use crate::model::{Addresses, BucketCount};

const RULES: DrainRules = DrainRules { limit: None, datagrams: Duration::from_secs(30) };
/// Nodes hear of anything within this time, in milliseconds.
const LATEST: u64 = 500;
/// How often the writer writes at most.
const PER_MAP: u64 = 1000;
const TICK: u64 = 20;
/// More than any way from pod to pod should take.
const HOPS: usize = 40;

/// A generator that is good enough to pick moments.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What a node knows, what it will know, and what it does.
struct Known {
    endpoints: Vec<Endpoint>,
    map: SharedMap,
    /// News under way, by the moment at which they arrive; each kind keeps its order.
    news: Vec<(u64, News)>,
    stage: Stage,
    staged: Staged,
}

#[derive(Clone)]
enum News {
    Endpoints(Vec<Endpoint>),
    Map(SharedMap),
}

impl Known {
    fn new(endpoints: &[Endpoint], map: &SharedMap) -> Known {
        let stage = Stage::new(map.clone());
        let (admitted, unsettled) = (BTreeSet::new(), BTreeSet::new());
        let staged = Staged { map: map.clone(), onward: Onward::new(), admitted, unsettled };
        Known { endpoints: endpoints.to_vec(), map: map.clone(), news: Vec::new(), stage, staged }
    }

    fn will_hear(&mut self, news: &News, now: u64, random: &mut Random) {
        let last = |kind: &News| {
            let alike = |(_, other): &&(u64, News)| std::mem::discriminant(other) == std::mem::discriminant(kind);
            self.news.iter().filter(alike).map(|(at, _)| *at).max().unwrap_or(0)
        };
        let at = last(news).max(now + random.below(LATEST));
        self.news.push((at, news.clone()));
    }

    fn live(&mut self, prepared: &BTreeMap<String, u64>, now: Instant, milliseconds: u64) {
        let (due, later) = std::mem::take(&mut self.news).into_iter().partition(|(at, _)| *at <= milliseconds);
        self.news = later;
        let due: Vec<(u64, News)> = due;
        for (_, news) in due {
            match news {
                News::Endpoints(endpoints) => self.endpoints = endpoints,
                News::Map(map) => self.map = map,
            }
        }
        let around = Circumstances { endpoints: &self.endpoints, limit: None, prepared, now };
        (self.staged, _) = self.stage.step(&self.map, &around);
    }
}

fn endpoints(ready: &[bool]) -> Vec<Endpoint> {
    let endpoint = |(n, ready): (usize, &bool)| Endpoint {
        pod_uid: format!("p{n}"),
        namespace: "default".into(),
        pod: format!("p{n}"),
        node: format!("n{n}"),
        addresses: Addresses::default(),
        eligible: *ready,
        terminating: false,
    };
    ready.iter().enumerate().map(endpoint).collect()
}

/// The way of a packet of a connection with `pod`, from an ingress node on; `Err` where it ends before.
fn way(ingress: &Known, pods: &BTreeMap<EndpointId, Known>, bucket: Bucket, pod: &EndpointId) -> Result<(), String> {
    let map = &ingress.staged.map;
    let first = map.previous.get(&bucket).and_then(|drains| drains.first()).map(|drain| drain.endpoint.clone());
    let mut at = first.or_else(|| map.owners.owner(bucket).cloned()).ok_or("nobody")?;
    let mut way = vec![at.to_string()];
    for _ in 0..HOPS {
        if at == *pod {
            return Ok(());
        }
        let Some(next) = pods[&at].staged.onward.get(&(bucket, at.clone())) else {
            return Err(format!("{} by {}, which passes nothing on", pod, way.join(" → ")));
        };
        if !pods[next].staged.admitted.contains(&(at.clone(), next.clone())) {
            return Err(format!("{} by {}: {next} does not admit it", pod, way.join(" → ")));
        }
        at = next.clone();
        way.push(at.to_string());
    }
    Err(format!("{pod} by {}, to and fro", way.join(" → ")))
}

/// Who reports that it is prepared.
#[derive(Debug, Clone, Copy)]
enum Reports {
    Everybody,
    /// All but the node of one pod.
    Most,
    Nobody,
}

/// Changes every `every` milliseconds or so, for ten seconds. Pods' nodes are prepared at once.
fn run(seed: u64, every: u64, reports: Reports) -> Result<(), String> {
    let (mut random, start) = (Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), Instant::now());
    let flows = Flows { buckets: BucketCount::new(16).unwrap(), seed: 1 };
    let mut ready = vec![true; 4];
    let mut map = SharedMap::new(flows, &endpoints(&ready));
    let mut ingress: Vec<Known> = (0..2).map(|_| Known::new(&endpoints(&ready), &map)).collect();
    let ids = (0..ready.len()).map(|n| EndpointId::from(format!("p{n}").as_str()));
    let mut pods: BTreeMap<EndpointId, Known> = ids.map(|id| (id, Known::new(&endpoints(&ready), &map))).collect();
    let mut connections: BTreeSet<(Bucket, EndpointId)> = BTreeSet::new();
    let (mut written, mut change) = (0, every);
    for now in (0..10_000).step_by(usize::try_from(TICK).unwrap()).map(|now: u64| now) {
        let mut news = Vec::new();
        if now >= change {
            change = now + 1 + random.below(2 * every);
            let n = usize::try_from(random.below(ready.len() as u64)).unwrap();
            ready[n] = !ready[n] || ready.iter().filter(|ready| **ready).count() == 1;
            news.push(News::Endpoints(endpoints(&ready)));
        }
        if now >= written + PER_MAP {
            let next = map.next(&endpoints(&ready), 1 + now / 1000, RULES, |_, _| false);
            if next != map {
                (map, written) = (next.clone(), now);
                news.push(News::Map(next));
            }
        }
        for news in &news {
            ingress.iter_mut().chain(pods.values_mut()).for_each(|node| node.will_hear(news, now, &mut random));
        }
        let all = pods.iter().map(|(pod, node)| (pod.as_str().replace('p', "n"), node.map.generation));
        let prepared: BTreeMap<String, u64> = match reports {
            Reports::Everybody => all.collect(),
            Reports::Most => all.skip(1).collect(),
            Reports::Nobody => BTreeMap::new(),
        };
        let moment = start + Duration::from_millis(now);
        ingress.iter_mut().chain(pods.values_mut()).for_each(|node| node.live(&prepared, moment, now));
        for node in &ingress {
            let opened = flows.buckets.iter().map(|b| (b, node.staged.map.owners.owner(b).unwrap().clone()));
            connections.extend(opened);
        }
        for ((bucket, pod), node) in connections.iter().flat_map(|c| ingress.iter().map(move |node| (c, node))) {
            way(node, &pods, *bucket, pod).map_err(|why| {
                format!("seed {seed}, every {every}, reports {reports:?}, {now} ms, bucket {bucket:?}: {why}")
            })?;
        }
    }
    Ok(())
}

#[test]
fn an_open_connection_finds_its_pod_whoever_has_heard_what() {
    let runs = [100, 300, 800, 1500].into_iter().flat_map(|every| (1..=4).map(move |seed| (seed, every)));
    let reports = [Reports::Everybody, Reports::Most, Reports::Nobody];
    let runs = runs.flat_map(|(seed, every)| reports.map(|reports| (seed, every, reports)));
    let failures: Vec<String> = runs.filter_map(|(seed, every, reports)| run(seed, every, reports).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
