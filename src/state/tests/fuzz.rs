//! Whatever is stored in the API, or written by users: it is refused, or what follows from it makes sense.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::*;
use crate::model::handover::{
    Assignment, DrainLimits, Endpoint as Listed, EndpointState, FlowHash, Follow, HashKey, Inputs, MOST_FORMER, Moment,
    NodeReport, Offered, ServiceUid, SetUp, Witness,
};
use crate::model::{Addresses, BucketCount, EndpointId, ServiceRef};
use crate::state::assignment::{MAP_KEY, map_name};
use crate::state::{assignment, node_report};
use crate::testing::fuzz::documents;

const UID: &str = "uid-a";
const UNIX: u64 = 1_790_000_000;
/// Members of a map whose endpoints are listed.
const LISTED: usize = 12;

/// A clock and the Service of a map.
struct Stage {
    start: Instant,
    service: ServiceUid,
}

impl Stage {
    fn new() -> Stage {
        Stage { start: Instant::now(), service: UID.into() }
    }

    fn at(&self, seconds: u64) -> Moment {
        Moment { instant: self.start + Duration::from_secs(seconds), unix: UNIX + seconds }
    }

    /// What all nodes of these endpoints say: everything is set up, and known as far as `knows` says.
    fn witness(&self, endpoints: &[Listed], knows: &Assignment, at: u64) -> Witness {
        let mut witness = Witness::default();
        for endpoint in endpoints {
            let knows = Some([(self.service.clone(), knows.announced)].into());
            let mut report = NodeReport { knows, ..NodeReport::default() };
            for other in endpoints.iter().filter(|other| other.node == endpoint.node) {
                let set_up = SetUp { addresses: other.addresses, program: true, ..SetUp::default() };
                report.pods.insert(other.id.clone(), set_up);
            }
            witness.hear(&endpoint.node, Some(report), self.at(at).instant);
        }
        witness.complete();
        witness
    }

    fn next(&self, map: &Assignment, endpoints: &[Listed], at: u64) -> Assignment {
        self.decide(map, endpoints, &self.witness(endpoints, map, at), at)
    }

    fn decide(&self, map: &Assignment, endpoints: &[Listed], witness: &Witness, at: u64) -> Assignment {
        let limits = DrainLimits { limit: None, non_tcp: Duration::from_secs(30) };
        let (service, lost, key, now) = (&self.service, &[].into(), HashKey::Ports, self.at(at));
        map.next(&Inputs { service, endpoints, witness, lost, key, limits, now }).0
    }
}

fn listed(pod: u8, state: EndpointState) -> Listed {
    let addresses = Addresses::from(Ipv4Addr::new(10, 244, 0, pod));
    let (id, node) = (format!("pod-{pod}"), format!("node-{}", pod % 2));
    Listed { id: id.as_str().into(), node: node.as_str().into(), addresses, state }
}

fn stored(map: &Assignment) -> Vec<u8> {
    let service = ServiceRef { namespace: "shop".into(), name: "a".into(), uid: UID.into() };
    assignment::encode(&service, map).into_bytes()
}

fn read(bytes: &[u8]) -> Option<Assignment> {
    assignment::decode(Some(&String::from_utf8_lossy(bytes)), UID).ok().map(|stored| stored.map)
}

/// The maps of a Service that begins with two pods, gets a third one, and loses the first one.
fn maps() -> Vec<Assignment> {
    let stage = Stage::new();
    let hash = FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 7, key: HashKey::Ports };
    let mut all = vec![Assignment::begin(hash, &stage.service, UNIX * 1000, None)];
    let begun = all[0].generation;
    all[0].hold(&[ip("192.0.2.10")].into(), UNIX, begun);
    for (at, pods) in [(0, 0..2), (9, 0..3), (10, 0..3), (60, 1..3), (61, 1..3)] {
        let endpoints: Vec<Listed> = pods.map(|pod| listed(pod, EndpointState::Ready)).collect();
        all.extend(all.last().map(|map| stage.next(map, &endpoints, at)));
    }
    all
}

#[test]
fn the_maps_of_these_targets_have_moves_former_owners_and_news() {
    let any = |has: fn(&Assignment) -> bool| maps().iter().any(has);
    assert!(any(|map| map.moves().next().is_some()));
    assert!(any(|map| map.holdings.iter().any(|holding| !holding.former.is_empty())));
    assert!(any(|map| map.members.values().any(|member| member.named.is_some())));
}

/// The endpoints of a map's members: their states differ, and change with the time.
fn endpoints_of(map: &Assignment, turn: usize) -> Vec<Listed> {
    const STATES: [EndpointState; 4] = [
        EndpointState::Ready,
        EndpointState::NotReady,
        EndpointState::Terminating { serving: true },
        EndpointState::Terminating { serving: false },
    ];
    let members = map.members.iter().take(LISTED).enumerate().filter(|(number, _)| (number + turn) % 5 != 4);
    let endpoint = |(number, (id, member)): (usize, (&EndpointId, &crate::model::handover::Member))| Listed {
        id: id.clone(),
        node: member.node.clone(),
        addresses: member.addresses,
        state: STATES[(number * turn) % 4],
    };
    members.map(endpoint).collect()
}

/// What a node makes of a map names members only, at most so many as there is room for, and comes to rest.
fn follow(stage: &Stage, map: &Assignment, before: &Assignment) {
    let mut follow = Follow::new(before.clone().into(), endpoints_of(before, 1), stage.at(0));
    let offered = follow.offer(&map.clone().into(), stage.at(1));
    assert_eq!(offered == Offered::Followed, map.generation >= before.generation);
    let followed = if map.generation > before.generation { map } else { before };
    assert_eq!(follow.map(), followed);
    for (turn, at) in [(0, 1), (1, 2), (1, 4), (2, 9), (3, 30), (0, 31), (0, 160), (4, 400)] {
        follow.see(&endpoints_of(followed, turn), stage.at(at));
        let due = follow.next_deadline(stage.at(at));
        assert!(due.is_none_or(|due| due > stage.at(at).instant));
        for hop in follow.next_hops().values() {
            assert!(followed.members.contains_key(&hop.owner));
            assert!(hop.id.list().all(|name| followed.named(name).is_some_and(|(id, _)| *id != hop.owner)));
        }
        assert!(follow.served().present.values().all(|names| names.len() <= MOST_FORMER + 1));
    }
}

/// What the controller decides next can be read, and every bucket of it has an owner that is a member.
fn decide(stage: &Stage, map: &Assignment) {
    let mut map = map.clone();
    for (turn, at) in [(0, 0), (0, 1), (1, 2), (1, 10), (2, 100), (0, 101)] {
        let next = stage.next(&map, &endpoints_of(&map, turn), at);
        assert!(next.generation >= map.generation);
        for holding in &next.holdings {
            assert!(holding.former.len() <= MOST_FORMER);
            assert!(holding.owner.as_ref().is_none_or(|owner| next.members.contains_key(owner)));
            assert!(holding.former.iter().all(|former| next.members.contains_key(&former.endpoint)));
        }
        assert_eq!(read(&stored(&next)).map(|read| stored(&read)), Some(stored(&next)));
        map = next;
    }
}

/// A map is refused, or it can be written again, followed and decided upon.
#[test]
fn fuzz_map() {
    let (stage, maps) = (Stage::new(), maps());
    documents("map", &maps.iter().map(stored).collect::<Vec<_>>(), |bytes| {
        let Some(map) = read(bytes) else { return };
        let again = read(&stored(&map)).expect("what is written can be read");
        assert_eq!(read(&stored(&again)), Some(again));
        follow(&stage, &map, &maps[2]);
        follow(&stage, &maps[5], &map);
        decide(&stage, &map);
    });
}

/// A report is refused, or it can be written again, and decisions that rest on it can be read.
#[test]
fn fuzz_report() {
    let (stage, maps) = (Stage::new(), maps());
    let valid = concat!(
        r#"{"version":2,"node":"node-1","pods":{"pod-0":{"addresses":["10.244.0.0"],"program":true,"fallen":true},"#,
        r#""pod-1":{"addresses":["10.244.0.1","fd00::1"],"program":false,"fallen":false,"lacks":["uid-a"]}},"#,
        r#""over":[{"service":"uid-a","pod":"pod-1","generation":1790000000002,"buckets":[0,3]}],"ended":["pod-0"],"#,
        r#""holds":{"uid-a":1790000000009},"knows":{"uid-a":1790000000001},"#,
        r#""passed":[["10.244.0.1","10.244.0.2"]],"received":[["10.244.0.2","10.244.0.1"]]}"#
    );
    let later = valid.replace("1790000000002", "18446744073709551615");
    documents("report", &[valid.into(), later.into()], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(report) = node_report::decode(Some(&text), "node-1") else { return };
        let again = node_report::encode(&"node-1".into(), &report);
        assert_eq!(node_report::decode(Some(&again), "node-1").as_ref(), Ok(&report));
        for map in &maps {
            let endpoints = [0, 1, 2].map(|pod| listed(pod, EndpointState::Ready));
            let mut witness = stage.witness(&endpoints, map, 0);
            witness.hear(&"node-1".into(), Some(report.clone()), stage.at(0).instant);
            let next = stage.decide(map, &endpoints, &witness, 9);
            assert_eq!(read(&stored(&next)), Some(next));
        }
    });
}

/// However a Service is annotated, it gets at most as many VIPs as are allowed, and another Service keeps its own.
#[test]
fn fuzz_annotations() {
    let valid = [
        "192.0.2.11,2001:db8::11\ngre\nkeep\n90m",
        " 192.0.2.10 ,\t192.0.2.12,192.0.2.13/32,192.0.2.13:53\nvxlan\noff\n0",
        "fd00::10,64:ff9b::c000:20a,::ffff:192.0.2.9,fe80::1%eth0,[::1]\nmpls\n\n5s",
        "192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4,192.0.2.5,192.0.2.6,192.0.2.7,192.0.2.8,192.0.2.9,192.0.2.21,192.0.2.22,192.0.2.23,192.0.2.24,192.0.2.25,192.0.2.26,192.0.2.27,192.0.2.28,192.0.2.29,192.0.2.30\ngre\nkeep\n24h",
    ];
    documents("annotations", &valid.map(|text| text.as_bytes().to_vec()), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let mut values = text.split('\n');
        let mut odd = mk_service("z-odd", values.next().unwrap_or_default());
        for (name, value) in ["cmd.nu/tunnel-mode", "cmd.nu/tunnel-conntrack", "cmd.nu/tunnel-drain"].iter().zip(values)
        {
            odd = annotated(odd, name, value);
        }
        let resolved = World::new().service(mk_service("echo", "192.0.2.10")).service(odd).resolve();
        assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].service.name, "echo");
        assert!(resolved.cluster.vips.len() <= 17);
        assert_problems_can_be_shown(&resolved);
    });
}

fn assert_problems_can_be_shown(resolved: &Resolved) {
    for problem in &resolved.cluster.problems {
        assert!(problem.note.len() <= MAX_NOTE, "{}", problem.note);
        assert!(problem.note.chars().all(|c| !c.is_control()), "{:?}", problem.note);
    }
}

macro_rules! recorded {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/kubernetes/",
            $name,
            ".json"
        )))
        .unwrap()
    };
}

/// An object of a kind that is watched, if that is what the document is.
fn change(object: Value) -> Option<Change> {
    macro_rules! apply {
        ($kind:ident) => {
            Some(Change::$kind(Watched::Apply(Box::new(serde_json::from_value(object).ok()?))))
        };
    }
    match object["kind"].as_str()? {
        "Service" => apply!(Service),
        "EndpointSlice" => apply!(EndpointSlice),
        "ServiceCIDR" => apply!(ServiceCidr),
        "Node" => apply!(Node),
        "Pod" => apply!(Pod),
        "ConfigMap" => apply!(Map),
        _ => None,
    }
}

/// Two nodes, a Service with its slices and a pod, its map, and a network of Services.
fn recorded_objects() -> Vec<Value> {
    let mut all =
        vec![recorded!("service"), recorded!("node-worker-a"), recorded!("node-worker-b"), recorded!("pod-echo-1")];
    for mut slice in recorded!("endpointslices-with-terminating")["items"].as_array().unwrap().clone() {
        slice["kind"] = "EndpointSlice".into();
        all.push(slice);
    }
    let uid = all[0]["metadata"]["uid"].as_str().unwrap().to_owned();
    let map = String::from_utf8(stored(&maps()[5])).unwrap().replace(UID, &uid);
    let mut metadata = meta(&map_name(&uid));
    metadata.resource_version = Some("7".to_owned());
    let map = ConfigMap { metadata, data: Some([(MAP_KEY.to_owned(), map)].into()), ..ConfigMap::default() };
    let mut map = serde_json::to_value(map).unwrap();
    map["kind"] = "ConfigMap".into();
    let cidr =
        json!({"kind": "ServiceCIDR", "metadata": {"name": "c"}, "spec": {"cidrs": ["10.96.0.0/16", "fd00:96::/108"]}});
    all.extend([map, cidr]);
    all
}

/// Whatever object of the API changes in whatever way, VIPs, endpoints and problems are as they must be.
#[test]
fn fuzz_objects() {
    let recorded = recorded_objects();
    let changes: Vec<Change> = recorded.iter().cloned().map(|object| change(object).unwrap()).collect();
    let valid: Vec<Vec<u8>> = recorded.iter().map(|object| object.to_string().into_bytes()).collect();
    documents("objects", &valid, |bytes| {
        let Some(changed) = serde_json::from_slice(bytes).ok().and_then(change) else { return };
        let mut world = World::new();
        for change in changes.iter().cloned().chain([changed]) {
            world.0.apply(change);
        }
        let resolved = world.resolve();
        for (address, vip) in &resolved.cluster.vips {
            assert_eq!(address, &vip.address);
            assert!(vip.endpoints.is_sorted_by(|a, b| a.pod_uid < b.pod_uid));
            assert!(vip.endpoints.iter().all(|endpoint| endpoint.addresses != Addresses::default()));
        }
        assert_problems_can_be_shown(&resolved);
    });
}
