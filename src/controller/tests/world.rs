//! A cluster of ConfigMaps, Nodes and one Service, and a controller that a test lets look when it wants to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::controller::decide::{Decided, Decider, Now, Rules};
use crate::controller::decision::Decision;
use crate::model::handover::{Assignment, Moment, NodeReport, Over, SetUp};
use crate::model::{BucketCount, Cluster, EndpointId, Mode, Problem, Reason};
use crate::state::assignment::{MAP_KEY, decode, encode, map_name};
use crate::state::node_report::{self, REPORT_KEY, report_name};
use crate::state::{Change, Index, ObjectKey, Resolved, Settings, Watched};

pub(super) const UID: &str = "uid-echo";
/// When every test begins, in milliseconds since 1970 (UTC).
pub(super) const BEGIN: u64 = 1_790_000_000_000;
const NAMESPACE: &str = "kube-service-tunnel";

/// Pod `a` has UID `a` and is on node `na`.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Pod {
    Ready,
    Crashed,
    Ends,
}

pub(super) struct World {
    index: Index,
    decider: Decider,
    start: Instant,
    at: Duration,
    /// Counts writes of the API server.
    version: u64,
    /// ConfigMaps by name.
    stored: BTreeMap<String, ConfigMap>,
    pods: BTreeMap<char, Pod>,
    reports: BTreeMap<char, NodeReport>,
    nodes: BTreeSet<char>,
    vips: &'static str,
    /// The nodes of these pods do not say what they know.
    pub(super) deaf: &'static str,
    pub(super) problems: Vec<Problem>,
    pub(super) due: Option<Instant>,
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn apply<K: DeserializeOwned>(change: fn(Watched<K>) -> Change, value: Value) -> Change {
    change(Watched::Apply(Box::new(object(value))))
}

pub(super) fn node_name(pod: char) -> String {
    format!("n{pod}")
}

pub(super) fn id(pod: char) -> EndpointId {
    EndpointId::from(pod.to_string().as_str())
}

fn settings() -> Settings {
    Settings {
        annotation: "cmd.nu/tunnel".to_owned(),
        default_mode: Mode::Gre,
        ingress_nodes: None,
        vip_ranges: Vec::new(),
        node_name: String::new(),
        buckets: u16::MAX,
    }
}

fn decider() -> Decider {
    let buckets = BucketCount::new(16).unwrap();
    Decider::new(Rules { buckets, seed: 7, drain_non_tcp: Duration::from_secs(30) })
}

impl World {
    /// Pods that are ready and whose nodes have reported them, and a controller that has stored their map.
    pub(super) fn of(pods: &str) -> World {
        let mut world = World::without_reports(pods);
        world.list_reports();
        world.settle();
        world
    }

    /// The same before the first list of reports.
    pub(super) fn without_reports(pods: &str) -> World {
        let mut world = World {
            index: Index::of_controller("cmd.nu/tunnel"),
            decider: decider(),
            start: Instant::now(),
            at: Duration::ZERO,
            version: 0,
            stored: BTreeMap::new(),
            pods: BTreeMap::new(),
            reports: BTreeMap::new(),
            nodes: BTreeSet::new(),
            vips: "192.0.2.10",
            deaf: "",
            problems: Vec::new(),
            due: None,
        };
        world.list();
        world.serve("192.0.2.10");
        pods.chars().for_each(|pod| world.add(pod));
        world
    }

    fn list(&mut self) {
        macro_rules! list {
            ($($kind:ident),*) => { $(
                self.index.apply(Change::$kind(Watched::Init));
                self.index.apply(Change::$kind(Watched::InitDone));
            )* };
        }
        list!(Service, EndpointSlice, ServiceCidr, Node, Map);
    }

    pub(super) fn list_reports(&mut self) {
        self.index.apply(Change::Report(Watched::Init));
        for object in self.stored.values().filter(|object| is_report(object)) {
            self.index.apply(Change::Report(Watched::InitApply(Box::new(object.clone()))));
        }
        self.index.apply(Change::Report(Watched::InitDone));
    }

    /// Another controller, that remembers nothing. It has listed everything but the reports.
    pub(super) fn restart(&mut self) {
        (self.index, self.decider) = (Index::of_controller("cmd.nu/tunnel"), decider());
        self.problems.clear();
        self.list();
        self.serve(self.vips);
        for pod in self.nodes.clone() {
            self.node(pod);
        }
        self.slice();
        for object in self.stored.values().filter(|object| !is_report(object)) {
            self.index.apply(Change::Map(Watched::Apply(Box::new(object.clone()))));
        }
    }

    /// The Service asks for these VIPs; for none, if the text is empty.
    pub(super) fn serve(&mut self, vips: &'static str) {
        self.vips = vips;
        let annotations = if vips.is_empty() { json!({}) } else { json!({ "cmd.nu/tunnel": vips }) };
        let metadata = json!({ "name": "echo", "namespace": "shop", "uid": UID, "annotations": annotations });
        self.index.apply(apply::<Service>(Change::Service, json!({ "metadata": metadata })));
    }

    /// A ready pod on a node of its own, which has set it up.
    pub(super) fn add(&mut self, pod: char) {
        self.add_unreported(pod);
        self.report(pod, |_| {});
    }

    pub(super) fn add_unreported(&mut self, pod: char) {
        self.node(pod);
        self.set(pod, Pod::Ready);
    }

    pub(super) fn set(&mut self, pod: char, state: Pod) {
        self.pods.insert(pod, state);
        self.slice();
    }

    pub(super) fn unlist(&mut self, pod: char) {
        self.pods.remove(&pod);
        self.slice();
    }

    fn slice(&mut self) {
        let endpoint = |(pod, state): (&char, &Pod)| {
            let (ready, serving, terminating) = match state {
                Pod::Ready => (true, true, false),
                Pod::Crashed => (false, false, false),
                Pod::Ends => (false, true, true),
            };
            json!({
                "addresses": [address(*pod)], "nodeName": node_name(*pod),
                "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
                "targetRef": { "kind": "Pod", "namespace": "shop", "name": format!("echo-{pod}"), "uid": pod.to_string() },
            })
        };
        let endpoints: Vec<Value> = self.pods.iter().map(endpoint).collect();
        let labels = json!({ "kubernetes.io/service-name": "echo" });
        let metadata = json!({ "name": "echo-1", "namespace": "shop", "labels": labels });
        let slice = json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints });
        self.index.apply(apply::<EndpointSlice>(Change::EndpointSlice, slice));
    }

    pub(super) fn node(&mut self, pod: char) {
        self.nodes.insert(pod);
        self.index.apply(apply::<Node>(Change::Node, json!({ "metadata": { "name": node_name(pod) } })));
    }

    pub(super) fn no_node(&mut self, pod: char) {
        self.nodes.remove(&pod);
        let key = ObjectKey { namespace: String::new(), name: node_name(pod) };
        self.index.apply(Change::Node(Watched::Delete(key)));
    }

    /// The node of a pod reports it as set up, and what `change` adds.
    pub(super) fn report(&mut self, pod: char, change: impl FnOnce(&mut NodeReport)) {
        let addresses = address(pod).into();
        let report = self.reports.entry(pod).or_default();
        report.pods.insert(id(pod), SetUp { addresses, program: true, ..SetUp::default() });
        change(report);
        let text = node_report::encode(&node_name(pod).as_str().into(), report);
        self.put(&report_name(&node_name(pod)), REPORT_KEY, &text);
    }

    /// The node of a pod says that nobody is connected to it in any bucket that it has lost.
    pub(super) fn quiet(&mut self, pod: char) {
        let map = self.map();
        let former = map.iter().flat_map(|(bucket, holding)| holding.former.iter().map(move |f| (bucket, f)));
        let over = former.filter(|(_, f)| f.endpoint == id(pod)).map(|(bucket, f)| Over {
            service: UID.into(),
            pod: id(pod),
            generation: f.generation,
            bucket,
        });
        let over: BTreeSet<Over> = over.collect();
        self.report(pod, |report| report.over = over);
    }

    /// Somebody writes a ConfigMap, and the watch shows it.
    pub(super) fn put(&mut self, name: &str, key: &str, text: &str) {
        self.keep(name, key, text);
        self.show(name);
    }

    fn keep(&mut self, name: &str, key: &str, text: &str) {
        self.version += 1;
        let metadata = json!({ "name": name, "namespace": NAMESPACE, "resourceVersion": self.version.to_string() });
        let stored: ConfigMap = object(json!({ "metadata": metadata, "data": { key: text } }));
        self.stored.insert(name.to_owned(), stored);
    }

    pub(super) fn put_map(&mut self, text: &str) {
        self.put(&map_name(UID), MAP_KEY, text);
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.stored.remove(name);
        self.show(name);
    }

    /// The watch shows what has become of a ConfigMap.
    pub(super) fn show(&mut self, name: &str) {
        let change = if name.starts_with("map-") { Change::Map } else { Change::Report };
        let news = match self.stored.get(name) {
            Some(object) => Watched::Apply(Box::new(object.clone())),
            None => Watched::Delete(ObjectKey { namespace: NAMESPACE.to_owned(), name: name.to_owned() }),
        };
        self.index.apply(change(news));
    }

    pub(super) fn text(&self) -> String {
        self.stored[&map_name(UID)].data.as_ref().unwrap()[MAP_KEY].clone()
    }

    pub(super) fn is_stored(&self, name: &str) -> bool {
        self.stored.contains_key(name)
    }

    /// The stored map.
    pub(super) fn map(&self) -> Assignment {
        decode(Some(&self.text()), UID).unwrap().map
    }

    /// The owner of each bucket.
    pub(super) fn owners(&self) -> Vec<Option<EndpointId>> {
        self.map().holdings.into_iter().map(|holding| holding.owner).collect()
    }

    pub(super) fn count(&self, pod: char) -> usize {
        self.owners().into_iter().filter(|owner| *owner == Some(id(pod))).count()
    }

    pub(super) fn now(&self) -> Now {
        let unix_ms = BEGIN + u64::try_from(self.at.as_millis()).unwrap();
        Now { moment: Moment { instant: self.start + self.at, unix: unix_ms / 1000 }, unix_ms }
    }

    pub(super) fn wait_ms(&mut self, ms: u64) {
        self.at += Duration::from_millis(ms);
    }

    /// The controller looks; nothing that it begins comes to an end.
    pub(super) fn look(&mut self) -> Vec<Decision> {
        let now = self.now();
        self.decider.observe(&mut self.index, now.moment.instant);
        let Some(Resolved { cluster, .. }) = self.index.resolve(&settings()) else { return Vec::new() };
        let Decided { begin, tells, due } = self.decider.decide(&self.index, &cluster, now);
        self.assert_nothing_is_missed(&cluster, due);
        let problems: Vec<Problem> = self.decider.problems().cloned().collect();
        assert_eq!(tells, problems != self.problems, "{problems:?}");
        (self.problems, self.due) = (problems, due);
        begin
    }

    /// Deciding about every Service again leads to nothing that was not found by what had changed.
    fn assert_nothing_is_missed(&self, cluster: &Cluster, due: Option<Instant>) {
        let mut again = self.decider.clone();
        again.mark_all();
        let all = again.decide(&self.index, cluster, self.now());
        assert_eq!(all, Decided { due, ..Decided::default() });
    }

    /// A write that the controller has begun succeeds; the watch is still to show it.
    pub(super) fn store(&mut self, decision: Decision) {
        let name = decision.name();
        let there = self.stored.get(&name).and_then(|object| object.metadata.resource_version.clone());
        assert_eq!(decision.version(), there.as_deref(), "the API server refuses {decision}");
        match &decision {
            Decision::Write(write) => self.keep(&name, MAP_KEY, &encode(&write.service, &write.map)),
            Decision::Delete { .. } => drop(self.stored.remove(&name)),
        }
        let now = self.now().moment.instant;
        self.decider.finished(decision, true, now);
    }

    pub(super) fn fail(&mut self, decision: Decision) {
        self.decider.finished(decision, false, self.now().moment.instant);
    }

    /// The controller looks, and what it writes succeeds and is shown. Returns what it wrote.
    pub(super) fn decide(&mut self) -> Vec<String> {
        let begun = self.look();
        let names: Vec<String> = begun.iter().map(Decision::name).collect();
        for decision in begun {
            let name = decision.name();
            self.store(decision);
            self.show(&name);
        }
        names
    }

    /// The nodes' pods know what the stored map says.
    fn nodes_hear(&mut self) {
        let Some(stored) = self.stored.get(&map_name(UID)) else { return };
        let Ok(stored) = decode(stored.data.as_ref().and_then(|data| data.get(MAP_KEY)).map(String::as_str), UID)
        else {
            return;
        };
        let knows = Some([(UID.into(), stored.map.announced)].into());
        let pods: Vec<char> =
            self.reports.iter().filter(|(_, said)| said.knows != knows).map(|(pod, _)| *pod).collect();
        for pod in pods.into_iter().filter(|pod| !self.deaf.contains(*pod)) {
            self.report(pod, |report| report.knows.clone_from(&knows));
        }
    }

    /// Looks once a second for a while.
    pub(super) fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.nodes_hear();
            self.decide();
            self.wait_ms(1000);
        }
    }

    /// Looks until nothing is written any more.
    pub(super) fn settle(&mut self) {
        self.run(4);
    }

    /// What users are told for this reason.
    pub(super) fn told(&self, reason: Reason) -> Vec<&str> {
        self.problems.iter().filter(|p| p.reason == reason).map(|p| p.note.as_str()).collect()
    }
}

fn is_report(object: &ConfigMap) -> bool {
    object.metadata.name.as_deref().is_some_and(|name| name.starts_with("node-"))
}

/// The address of a pod.
pub(super) fn address(pod: char) -> IpAddr {
    let last = u8::try_from(u32::from(pod)).unwrap();
    IpAddr::from([10, 244, 0, last])
}
