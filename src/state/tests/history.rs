//! A watch may be late, repeat what it has said, miss what happens until the next list, and break off in a list. In the end
//! everything that is known is what the API has.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;

use super::order::objects;
use super::*;
use crate::model::handover::{Assignment, FlowHash, HashKey};
use crate::model::{BucketCount, ServiceRef};
use crate::state::assignment::{MAP_KEY, encode, map_name};
use crate::testing::fuzz::scripts;

/// The API server, and what a watcher of it knows.
struct History {
    /// What the API has, by kind and name.
    stored: BTreeMap<(&'static str, ObjectKey), Change>,
    /// What the watches have said since their last lists.
    said: Vec<Change>,
    /// Kinds of which something was missed.
    stale: BTreeSet<&'static str>,
    /// Events that came.
    count: usize,
    index: Index,
}

/// Calls `$body` with the event of a change, whatever its kind, and makes a change of that kind of the result.
macro_rules! with_event {
    ($change:expr, $event:ident => $body:expr) => {
        match $change {
            Change::Service($event) => Change::Service($body),
            Change::EndpointSlice($event) => Change::EndpointSlice($body),
            Change::ServiceCidr($event) => Change::ServiceCidr($body),
            Change::Node($event) => Change::Node($body),
            Change::Pod($event) => Change::Pod($body),
            Change::Map($event) => Change::Map($body),
            Change::Report($event) => Change::Report($body),
        }
    };
}

/// Kind and name of the object of a change.
fn key(change: &Change) -> (&'static str, ObjectKey) {
    macro_rules! of {
        ($kind:literal, $event:ident) => {
            match $event {
                Watched::Apply(object) => ($kind, ObjectKey::of(&object.metadata).unwrap()),
                other => panic!("not an object: {other:?}"),
            }
        };
    }
    match change {
        Change::Service(event) => of!("Service", event),
        Change::EndpointSlice(event) => of!("EndpointSlice", event),
        Change::Node(event) => of!("Node", event),
        Change::Pod(event) => of!("Pod", event),
        Change::Map(event) => of!("ConfigMap", event),
        other => panic!("not of a kind that is changed here: {other:?}"),
    }
}

/// The map of Service `a`, in one of its decisions; every fifth one is damaged.
fn map(variant: u8) -> Change {
    let uid = mk_service("a", "").metadata.uid.unwrap();
    let hash = FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 1, key: HashKey::Ports };
    let mut map = Assignment::begin(hash, &uid.as_str().into(), 7 + u64::from(variant / 5), None);
    map.vips = Some([(ip("192.0.2.11"), u64::from(variant % 5))].into());
    let text = encode(&ServiceRef { namespace: "shop".into(), name: "a".into(), uid: uid.clone() }, &map);
    let text = if variant % 5 == 4 { "{".to_owned() } else { text };
    let data = Some([(MAP_KEY.to_owned(), text)].into());
    let object = ConfigMap { metadata: meta(&map_name(&uid)), data, ..ConfigMap::default() };
    Change::Map(Watched::Apply(Box::new(object)))
}

/// One of the objects of a cluster, in one of its forms.
fn object(cluster: &[Change], which: u8) -> Change {
    let (which, variant) = (usize::from(which) % (cluster.len() + 1), which / 16);
    let Some(mut change) = cluster.get(which).cloned() else { return map(variant) };
    match &mut change {
        Change::Service(Watched::Apply(service)) if variant % 4 == 1 => service.metadata.annotations = None,
        Change::Service(Watched::Apply(service)) if variant % 4 == 2 => {
            service.metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), "192.0.2.15".to_owned());
        }
        Change::Service(Watched::Apply(service)) if variant % 4 == 3 => {
            service.metadata.uid = Some(format!("uid-{}", variant / 8));
            service.spec.get_or_insert_default().external_ips = Some(vec!["192.0.2.11".to_owned()]);
        }
        Change::EndpointSlice(Watched::Apply(slice)) => {
            slice.metadata.generation = Some(i64::from(variant));
            slice.endpoints.iter_mut().for_each(|all| all.truncate(usize::from(variant % 4)));
            if variant > 11 {
                slice.endpoints.get_or_insert_default().push(mk_endpoint("taker", "192.0.2.11"));
            }
        }
        Change::Node(Watched::Apply(node)) if variant % 4 == 1 => node.status = None,
        Change::Node(Watched::Apply(node)) if variant % 4 == 2 => {
            node.spec.get_or_insert_default().unschedulable = Some(true);
        }
        Change::Node(Watched::Apply(node)) if variant % 4 == 3 => {
            let pod = node_address("InternalIP", "10.244.2.1");
            node.status.get_or_insert_default().addresses.get_or_insert_default().push(pod);
        }
        Change::Pod(Watched::Apply(pod)) if variant % 2 == 1 => pod.status = None,
        _ => {}
    }
    change
}

impl History {
    fn new() -> History {
        let World(index) = World::new();
        History { stored: BTreeMap::new(), said: Vec::new(), stale: BTreeSet::new(), count: 0, index }
    }

    /// One step of a script.
    fn step(&mut self, cluster: &[Change], what: u8, which: u8) {
        let change = object(cluster, which);
        let key = key(&change);
        match what % 8 {
            0..=2 => self.changed(key, change, true),
            3 => self.deleted(key, true),
            4 if what < 128 => self.changed(key, change, false),
            4 => self.deleted(key, false),
            5 => self.repeated(usize::from(which)),
            6 => self.listed(key.0, usize::MAX),
            _ => self.listed(key.0, usize::from(which % 4)),
        }
    }

    fn changed(&mut self, key: (&'static str, ObjectKey), change: Change, is_said: bool) {
        self.stored.insert(key.clone(), change.clone());
        self.hear(key.0, change, is_said);
    }

    fn deleted(&mut self, key: (&'static str, ObjectKey), is_said: bool) {
        if let Some(change) = self.stored.remove(&key) {
            self.hear(key.0, with_event!(change, _event => Watched::Delete(key.1)), is_said);
        }
    }

    fn hear(&mut self, kind: &'static str, change: Change, is_said: bool) {
        if is_said {
            self.said.push(change.clone());
            self.apply(change);
        } else {
            self.stale.insert(kind);
        }
    }

    /// The last events come again, in their order: watches start from an earlier version.
    fn repeated(&mut self, count: usize) {
        let from = self.said.len().saturating_sub(count);
        (from..self.said.len()).for_each(|at| self.apply(self.said[at].clone()));
    }

    /// A list of a kind, which may break off before its end.
    fn listed(&mut self, kind: &'static str, at_most: usize) {
        let all: Vec<Change> =
            self.stored.iter().filter(|((of, _), _)| *of == kind).map(|(_, change)| change.clone()).collect();
        self.apply(bare(kind, true));
        for change in all.iter().take(at_most).cloned() {
            self.apply(with_event!(change, event => in_list(event)));
        }
        if at_most < usize::MAX {
            self.stale.insert(kind);
            return;
        }
        self.apply(bare(kind, false));
        self.stale.remove(kind);
        // An event from before the list never comes after it.
        self.said.clear();
    }

    /// A change that says that it changed nothing has no effect. What it concerns is found out at once, or together with what the
    /// next ones concern.
    fn apply(&mut self, change: Change) {
        let before = whole(&self.index, &settings());
        let changed = self.index.apply(change.clone());
        let now = whole(&self.index, &settings());
        assert!(changed || before == now, "{change:?}");
        self.count += 1;
        if self.count.is_multiple_of(3) {
            assert_eq!(self.index.resolve(&settings()), Some(now), "{change:?}");
        }
    }

    fn catch_up(&mut self) {
        std::mem::take(&mut self.stale).into_iter().for_each(|kind| self.listed(kind, usize::MAX));
    }

    /// What a watcher knows that begins now.
    fn fresh(&self) -> Index {
        let World(mut index) = World::new();
        self.stored.values().for_each(|change| {
            index.apply(change.clone());
        });
        index
    }
}

fn in_list<K>(event: Watched<K>) -> Watched<K> {
    match event {
        Watched::Apply(object) => Watched::InitApply(object),
        other => other,
    }
}

/// The beginning or the end of a list.
fn bare(kind: &str, is_begin: bool) -> Change {
    macro_rules! bare {
        ($kind:ident) => {
            Change::$kind(if is_begin { Watched::Init } else { Watched::InitDone })
        };
    }
    match kind {
        "Service" => bare!(Service),
        "EndpointSlice" => bare!(EndpointSlice),
        "Node" => bare!(Node),
        "Pod" => bare!(Pod),
        _ => bare!(Map),
    }
}

/// Whatever the watches have said, what is known in the end is what a fresh list says. Maps are never followed backwards: of those,
/// at least what is stored is known.
#[test]
fn fuzz_events() {
    let cluster = objects();
    scripts("events", |script| {
        let mut history = History::new();
        script.chunks_exact(2).for_each(|step| history.step(&cluster, step[0], step[1]));
        history.catch_up();
        let fresh = history.fresh();
        let known = &mut history.index;
        for (uid, map) in fresh.maps.all() {
            let known = known.assignment(uid).expect("a stored map is known");
            assert!(known.generation > map.generation || known == map);
        }
        let (a, b) = (&known.stores, &fresh.stores);
        assert!(a.services.iter().eq(b.services.iter()) && a.slices.iter().eq(b.slices.iter()));
        assert!(
            a.nodes.iter().eq(b.nodes.iter()) && a.pods.iter().eq(b.pods.iter()) && a.maps.iter().eq(b.maps.iter())
        );
        assert_eq!(known.resolve(&settings()), Some(whole(known, &settings())));
    });
}
