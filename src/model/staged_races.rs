//! Many nodes that learn of the same changes at other moments: whatever they are in the middle of, a packet of an open
//! connection finds its pod.
//!
//! A little world of its own, without a kernel: ingress nodes and pods' nodes each have their [`Stage`], a writer continues
//! the map, pods are ready and not ready. A connection is there for every pod that has ever been given a SYN of a bucket.

use super::*;
use crate::model::shared::{DrainRules, Flows};
use crate::model::{Addresses, BucketCount};
use crate::testing::thorough;

const RULES: DrainRules = DrainRules { limit: None, datagrams: Duration::from_secs(30) };
/// Nodes hear of anything within this time, in milliseconds, where nothing else is said.
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
    /// Its pod.
    own: Option<EndpointId>,
    endpoints: Vec<Endpoint>,
    map: SharedMap,
    reported: BTreeMap<String, Progress>,
    /// News under way, by the moment at which they arrive; each kind keeps its order.
    news: Vec<(u64, News)>,
    stage: Stage,
    staged: Staged,
}

#[derive(Clone)]
enum News {
    Endpoints(Vec<Endpoint>),
    Map(SharedMap),
    /// How far a node is.
    Report(String, Progress),
}

impl Known {
    fn new(own: Option<EndpointId>, endpoints: &[Endpoint], map: &SharedMap) -> Known {
        let stage = Stage::new(map.clone());
        let (admitted, unsettled) = (BTreeSet::new(), BTreeSet::new());
        let (turning, entering) = (BTreeMap::new(), BTreeMap::new());
        let (first, onward, followed) = (BTreeMap::new(), Onward::new(), map.generation);
        let staged = Staged { map: map.clone(), first, onward, admitted, unsettled, turning, entering, followed };
        Known {
            own,
            endpoints: endpoints.to_vec(),
            map: map.clone(),
            reported: BTreeMap::new(),
            news: Vec::new(),
            stage,
            staged,
        }
    }

    fn will_hear(&mut self, news: &News, now: u64, latest: u64, random: &mut Random) {
        let last = |kind: &News| {
            let alike = |(_, other): &&(u64, News)| std::mem::discriminant(other) == std::mem::discriminant(kind);
            self.news.iter().filter(alike).map(|(at, _)| *at).max().unwrap_or(0)
        };
        let at = last(news).max(now + random.below(latest));
        self.news.push((at, news.clone()));
    }

    /// What it reports, after `before`. Pods have nodes of their own.
    fn progress(&self, before: Progress) -> Progress {
        let own = |all: &BTreeMap<EndpointId, u64>| all.get(self.own.as_ref()?).copied();
        let reached = |until: Option<u64>, before: u64| until.unwrap_or(self.map.generation).max(before);
        Progress {
            entered: reached(own(&self.staged.entering), before.entered),
            prepared: reached(own(&self.staged.turning), before.prepared),
            followed: reached(Some(self.staged.followed), before.followed),
        }
    }

    fn live(
        &mut self,
        reported: Option<&BTreeMap<String, Progress>>,
        ingress: &BTreeSet<String>,
        now: Instant,
        milliseconds: u64,
    ) {
        let (due, later) = std::mem::take(&mut self.news).into_iter().partition(|(at, _)| *at <= milliseconds);
        self.news = later;
        let due: Vec<(u64, News)> = due;
        for (_, news) in due {
            match news {
                News::Endpoints(endpoints) => self.endpoints = endpoints,
                News::Map(map) => self.map = map,
                News::Report(node, progress) => {
                    self.reported.insert(node, progress);
                }
            }
        }
        let reported = reported.unwrap_or(&self.reported);
        let around = Circumstances { endpoints: &self.endpoints, limit: None, reported, ingress, now };
        (self.staged, _) = self.stage.step(&self.map, &around);
    }
}

/// A pod of the world, on a node of its own.
#[derive(Debug, Clone, PartialEq)]
struct Pod {
    number: usize,
    ready: bool,
    /// When it is gone, in milliseconds, once it has been told to end.
    gone: Option<u64>,
}

impl Pod {
    fn new(number: usize) -> Pod {
        Pod { number, ready: true, gone: None }
    }

    fn id(&self) -> EndpointId {
        EndpointId::from(format!("p{}", self.number).as_str())
    }
}

fn endpoints(pods: &[Pod]) -> Vec<Endpoint> {
    let endpoint = |pod: &Pod| Endpoint {
        pod_uid: format!("p{}", pod.number),
        namespace: "default".into(),
        pod: format!("p{}", pod.number),
        node: format!("n{}", pod.number),
        addresses: Addresses::default(),
        eligible: pod.ready && pod.gone.is_none(),
        terminating: pod.gone.is_some(),
        state: crate::model::handover::EndpointState::Ready,
    };
    pods.iter().map(endpoint).collect()
}

/// A packet that does not arrive.
struct Lost {
    /// The way it took, and where that ends.
    by: String,
    /// A pod that does not know the connection takes it, and resets it.
    is_reset: bool,
}

/// The way of a packet of a connection with `pod`, from an ingress node on.
fn way(ingress: &Known, pods: &BTreeMap<EndpointId, Known>, bucket: Bucket, pod: &EndpointId) -> Result<(), Lost> {
    let owner = ingress.staged.map.owners.owner(bucket);
    let mut way: Vec<EndpointId> = ingress.staged.first.get(&bucket).or(owner).cloned().into_iter().collect();
    let lost = |way: &[EndpointId], why: &str, is_reset| {
        let all: Vec<&str> = way.iter().map(EndpointId::as_str).collect();
        Err(Lost { by: format!("{}, {why}", all.join(" → ")), is_reset })
    };
    while let Some(at) = way.last().cloned().filter(|_| way.len() <= HOPS) {
        if at == *pod {
            return Ok(());
        }
        let Some(here) = pods.get(&at) else {
            // Until that is known, connections with pods that come after it wait. The owner comes first.
            return if owner == Some(pod) { lost(&way, "which is gone", false) } else { Ok(()) };
        };
        let Some(next) = here.staged.onward.get(&(bucket, at.clone())) else {
            return lost(&way, "which passes nothing on", true);
        };
        way.push(next.clone());
        if pods.get(next).is_some_and(|node| !node.staged.admitted.contains(&(at.clone(), next.clone()))) {
            return lost(&way, "which does not admit it", false);
        }
    }
    lost(&way, "to and fro", false)
}

/// Who reports that it is prepared.
#[derive(Debug, Clone, Copy)]
enum Reports {
    Everybody,
    /// Everybody, and others hear of it as late as of all else.
    Late,
    /// All but the node of one pod.
    Most,
    Nobody,
}

/// What happens in a run.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// How often something changes, in milliseconds, more or less.
    every: u64,
    reports: Reports,
    /// For how long pods that end serve on at least, in milliseconds, if pods end at all.
    lives: Option<u64>,
    /// How late nodes hear of something at most, in milliseconds.
    latest: u64,
    /// Packets may be lost for a while, only nobody may reset the connection.
    may_wait: bool,
}

/// All nodes, in the order in which they hear of things.
fn everybody<'a>(
    ingress: &'a mut [Known],
    pods: &'a mut BTreeMap<EndpointId, Known>,
    left: &'a mut BTreeMap<EndpointId, Known>,
) -> impl Iterator<Item = &'a mut Known> {
    ingress.iter_mut().chain(pods.values_mut()).chain(left.values_mut())
}

/// Ten seconds, or twenty times as long as news take, but no more than a minute. Pods' nodes are prepared at once.
fn run(seed: u64, trial: Trial) -> Result<(), String> {
    let Trial { every, reports, lives, latest, may_wait } = trial;
    let (mut random, start) = (Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), Instant::now());
    let flows = Flows { buckets: BucketCount::new(16).unwrap(), seed: 1 };
    let mut there: Vec<Pod> = (0..4).map(Pod::new).collect();
    let mut map = SharedMap::new(flows, &endpoints(&there));
    let mut ingress: Vec<Known> = (0..2).map(|_| Known::new(None, &endpoints(&there), &map)).collect();
    let mut pods: BTreeMap<EndpointId, Known> =
        there.iter().map(|pod| (pod.id(), Known::new(Some(pod.id()), &endpoints(&there), &map))).collect();
    // Nodes outlive their pods.
    let mut left: BTreeMap<EndpointId, Known> = BTreeMap::new();
    let mut connections: BTreeSet<(Bucket, EndpointId)> = BTreeSet::new();
    let mut own: BTreeMap<String, Progress> = BTreeMap::new();
    let names: BTreeSet<String> = ["i0", "i1"].map(str::to_owned).into();
    let (mut written, mut change, mut number) = (0, every, there.len());
    for now in (0..(10_000 * latest / LATEST).min(60_000)).step_by(usize::try_from(TICK).unwrap()).map(|now: u64| now) {
        let before = there.clone();
        if now >= change {
            change = now + 1 + random.below(2 * every);
            let n = usize::try_from(random.below(there.len() as u64)).unwrap();
            let is_last = there.iter().filter(|pod| pod.ready && pod.gone.is_none()).count() == 1;
            match lives.filter(|_| there[n].gone.is_none() && random.below(2) == 0) {
                Some(lives) => {
                    there[n].gone = Some(now + lives + random.below(lives));
                    there.push(Pod::new(number));
                    let id = there[there.len() - 1].id();
                    let known = Known::new(Some(id.clone()), &endpoints(&there), &map);
                    pods.insert(id, Known { reported: own.clone(), ..known });
                    number += 1;
                }
                None => there[n].ready = !there[n].ready || is_last,
            }
        }
        for pod in there.extract_if(.., |pod| pod.gone.is_some_and(|gone| gone <= now)) {
            left.extend(pods.remove_entry(&pod.id()));
            connections.retain(|(_, of)| *of != pod.id());
        }
        let mut news = Vec::new();
        if there != before {
            news.push(News::Endpoints(endpoints(&there)));
        }
        if now >= written + PER_MAP {
            let next = map.next(&endpoints(&there), 1 + now / 1000, RULES, |_, _| false);
            if next != map {
                (map, written) = (next.clone(), now);
                news.push(News::Map(next));
            }
        }
        for news in &news {
            everybody(&mut ingress, &mut pods, &mut left)
                .for_each(|node| node.will_hear(news, now, latest, &mut random));
        }
        let nodes = pods.iter().chain(&left).map(|(pod, node)| (pod.as_str().replace('p', "n"), node));
        let nodes = nodes.chain(ingress.iter().enumerate().map(|(n, node)| (format!("i{n}"), node)));
        let all = nodes.map(|(name, node)| {
            let progress = node.progress(own.get(&name).copied().unwrap_or_default());
            (name, progress)
        });
        let all: BTreeMap<String, Progress> = all.collect();
        let reported = match reports {
            Reports::Everybody => Some(all.clone()),
            Reports::Most => Some(all.clone().into_iter().filter(|(node, _)| node != "n0").collect()),
            Reports::Nobody => Some(BTreeMap::new()),
            Reports::Late => {
                let new = all.iter().filter(|(node, progress)| own.get(*node) != Some(*progress));
                for report in new.map(|(node, progress)| News::Report(node.clone(), *progress)) {
                    everybody(&mut ingress, &mut pods, &mut left)
                        .for_each(|node| node.will_hear(&report, now, latest, &mut random));
                }
                None
            }
        };
        own = all;
        let moment = start + Duration::from_millis(now);
        everybody(&mut ingress, &mut pods, &mut left)
            .for_each(|node| node.live(reported.as_ref(), &names, moment, now));
        for node in &ingress {
            let owner = |bucket| node.staged.map.owners.owner(bucket).filter(|owner| pods.contains_key(*owner));
            let opened = flows.buckets.iter().filter_map(|bucket| Some((bucket, owner(bucket)?.clone())));
            connections.extend(opened);
        }
        for ((bucket, pod), node) in connections.iter().flat_map(|c| ingress.iter().map(move |node| (c, node))) {
            let lost = way(node, &pods, *bucket, pod).err().filter(|lost| lost.is_reset || !may_wait);
            if let Some(Lost { by, .. }) = lost {
                return Err(format!("{pod} by {by}: seed {seed}, {trial:?}, {now} ms, bucket {bucket:?}"));
            }
        }
    }
    Ok(())
}

const TRIAL: Trial = Trial { every: 1200, reports: Reports::Everybody, lives: None, latest: LATEST, may_wait: false };

fn failures(every: &[u64], trial: Trial) -> String {
    let runs = every.iter().flat_map(|every| (1..=thorough(4, 1)).map(move |seed| (u64::from(seed), *every)));
    runs.filter_map(|(seed, every)| run(seed, Trial { every, ..trial }).err()).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_open_connection_finds_its_pod_whoever_has_heard_what() {
    let trials = [Reports::Everybody, Reports::Most, Reports::Nobody].map(|reports| Trial { reports, ..TRIAL });
    let failures = trials.map(|trial| failures(&[100, 300, 800, 1500], trial)).concat();
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn pods_that_end_take_no_connection_of_others_along() {
    let failures = failures(&[300, 800, 1500], Trial { lives: Some(3000), ..TRIAL });
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn an_open_connection_finds_its_pod_where_all_hear_of_each_other_late() {
    let failures = failures(&[1200, 2500], Trial { reports: Reports::Late, latest: 2000, ..TRIAL });
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn nobody_resets_an_open_connection_where_all_hear_of_each_other_even_later() {
    let trial = Trial { reports: Reports::Late, latest: 4000, may_wait: true, ..TRIAL };
    let failures = failures(&[1200, 2500], trial);
    assert!(failures.is_empty(), "{failures}");
}
