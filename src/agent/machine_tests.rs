//! The agent, with what it hears and its clock in the hands of a test.

use std::time::Instant as StdInstant;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::model::handover::{Assignment, Generation};
use crate::model::{Endpoint, Mode};
use crate::plan::tests::support;
use crate::reconcile::{Goal, Order};
use crate::state::assignment::{MAP_KEY, encode, map_name};
use crate::state::{Change, Watched};

const UID: &str = "uid-echo";
const NODE_NAME: &str = "n1";

struct Play {
    agent: Agent,
    now: Moment,
}

fn object<K: DeserializeOwned>(value: Value) -> Box<K> {
    Box::new(serde_json::from_value(value).unwrap())
}

/// The same lists for all kinds that an agent watches: empty ones.
fn lists() -> Vec<Change> {
    macro_rules! lists {
        ($($kind:ident),*) => { vec![$(Change::$kind(Watched::Init), Change::$kind(Watched::InitDone)),*] };
    }
    lists!(Service, EndpointSlice, ServiceCidr, Node, Pod, Map)
}

fn node(name: &str, address: &str) -> Change {
    let status = json!({ "addresses": [{ "type": "InternalIP", "address": address }] });
    let metadata = json!({ "name": name, "uid": format!("uid-{name}") });
    Change::Node(Watched::Apply(object(json!({ "metadata": metadata, "status": status }))))
}

fn service(annotation: &str) -> Change {
    let annotations = json!({ "cmd.nu/tunnel": annotation });
    let metadata = json!({ "name": "echo", "namespace": "default", "uid": UID, "annotations": annotations });
    Change::Service(Watched::Apply(object(json!({ "metadata": metadata }))))
}

fn slice(endpoints: &[Endpoint]) -> Change {
    let listed = |endpoint: &Endpoint| {
        json!({
            "addresses": endpoint.addresses.iter().collect::<Vec<_>>(), "nodeName": endpoint.node,
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "targetRef": { "kind": "Pod", "namespace": "default", "name": endpoint.pod, "uid": endpoint.pod_uid },
        })
    };
    let labels = json!({ "kubernetes.io/service-name": "echo" });
    let metadata = json!({ "name": "echo-1", "namespace": "default", "labels": labels });
    let endpoints: Vec<Value> = endpoints.iter().map(listed).collect();
    let slice = json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints });
    Change::EndpointSlice(Watched::Apply(object(slice)))
}

fn map(map: &Assignment) -> Change {
    let reference = ServiceRef { namespace: "default".into(), name: "echo".into(), uid: UID.into() };
    let metadata = json!({ "name": map_name(UID), "namespace": "kube-service-tunnel" });
    let data = json!({ MAP_KEY: encode(&reference, map) });
    Change::Map(Watched::Apply(object::<ConfigMap>(json!({ "metadata": metadata, "data": data }))))
}

/// A map of the endpoints that announces what this decision says.
fn announcing(generation: u64, endpoints: &[Endpoint]) -> Assignment {
    let first = support::first_map(support::settings(NODE_NAME).flows(), endpoints);
    let vips = Some([(support::ip("192.0.2.10"), 1)].into());
    Assignment { generation: Generation(generation), announced: Generation(generation), vips, ..first }
}

impl Play {
    fn new() -> Play {
        let plan = Arc::new(support::settings(NODE_NAME));
        let settings = Settings {
            annotation: "cmd.nu/tunnel".to_owned(),
            default_mode: Mode::Vxlan,
            ingress_nodes: None,
            vip_ranges: Vec::new(),
            node_name: NODE_NAME.to_owned(),
            buckets: 16,
        };
        let now = Moment { instant: StdInstant::now(), unix: 1000 };
        let surroundings = (Netns::current().unwrap(), Arc::new(Metrics::of_agent()));
        let agent = Agent::new(settings, plan, Duration::from_secs(30), surroundings, Instant::from_std(now.instant));
        Play { agent, now }
    }

    /// With two nodes, and a Service with a pod on each.
    fn serving() -> Play {
        let mut play = Play::new();
        let endpoints = support::on_nodes();
        let world = [node("n1", "10.0.0.1"), node("n2", "10.0.0.2"), service("192.0.2.10"), slice(&endpoints)];
        for change in lists().into_iter().chain(world).chain([map(&announcing(5, &endpoints))]) {
            play.hear(AgentEvent::Changed(change));
        }
        play
    }

    fn hear(&mut self, event: AgentEvent) -> Vec<Effect> {
        let effects = self.agent.handle(event, self.now);
        self.agent.rests(Instant::from_std(self.now.instant));
        effects
    }

    fn later(&mut self, by: Duration) {
        self.now.instant += by;
        self.now.unix += by.as_secs();
    }

    /// Waits until something is due.
    fn wait(&mut self) -> Vec<Effect> {
        let due = self.agent.due().unwrap().into_std();
        self.now.instant = self.now.instant.max(due);
        self.hear(AgentEvent::Time)
    }

    fn prepared(&mut self) -> Vec<Effect> {
        self.hear(AgentEvent::Prepared(Prepared { program: Some(7), ..Prepared::default() }))
    }

    /// A target is as its order asks for.
    fn in_sync(&mut self, target: &str, order: &Order) -> Vec<Effect> {
        let state = State::InSync {
            writes: 1,
            problems: Vec::new(),
            notes: Vec::new(),
            program: true,
            lacking: BTreeSet::new(),
            goal: order.goal.clone(),
        };
        self.hear(AgentEvent::Reported(Report { target: target.to_owned(), took: Duration::ZERO, state }))
    }

    fn gone(&mut self, target: &str) -> Vec<Effect> {
        let report = Report { target: target.to_owned(), took: Duration::ZERO, state: State::Gone };
        self.hear(AgentEvent::Reported(report))
    }
}

fn started(effects: &[Effect]) -> Vec<(&str, &Order)> {
    fn start(effect: &Effect) -> Option<(&str, &Order)> {
        if let Effect::Start(name, order) = effect { Some((name, order)) } else { None }
    }
    effects.iter().filter_map(start).collect()
}

fn ordered<'a>(effects: &'a [Effect], target: &str) -> Option<&'a Order> {
    effects.iter().find_map(|effect| match effect {
        Effect::Start(name, order) | Effect::Order(name, order) if name == target => Some(order),
        _ => None,
    })
}

fn is_preparing(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Prepare(_)))
}

/// What the last report says is known of the Service.
fn known(effects: &[Effect]) -> Option<u64> {
    let report = effects.iter().rev().find_map(|e| if let Effect::Report(report) = e { Some(report) } else { None })?;
    Some(report.knows.as_ref()?.get(&ServiceUid::from(UID))?.0)
}

fn unready(effects: &[Effect]) -> Option<&[String]> {
    effects
        .iter()
        .rev()
        .find_map(|effect| if let Effect::Unready(reasons) = effect { Some(&reasons[..]) } else { None })
}

#[test]
fn nothing_is_asked_of_anybody_before_all_kinds_are_listed() {
    let mut play = Play::new();
    let mut lists = lists();
    let last = lists.pop().unwrap();
    for change in lists {
        play.hear(AgentEvent::Changed(change));
        assert!(started(&play.hear(AgentEvent::Time)).is_empty());
    }
    play.hear(AgentEvent::Changed(last));
    let effects = play.wait();
    assert_eq!(started(&effects).into_iter().map(|(name, _)| name).collect::<Vec<_>>(), [NODE]);
    assert!(!is_preparing(&effects), "no pod has a VIP");
    let told = effects.iter().any(|effect| matches!(effect, Effect::Report(report) if report.pods.is_empty()));
    assert!(told, "the others are told that there is nothing to tell");
}

#[test]
fn pods_get_their_goals_when_the_kernel_was_asked_and_news_wait_until_then() {
    let mut play = Play::serving();
    let effects = play.wait();
    assert!(is_preparing(&effects) && started(&effects).is_empty());
    // What is heard meanwhile waits.
    play.hear(AgentEvent::Changed(service("192.0.2.10,192.0.2.11")));
    assert!(play.agent.resolves_at().is_none());
    let underlay = [(support::ip("10.0.0.2"), 1400)].into();
    let effects = play.hear(AgentEvent::Prepared(Prepared { underlay, program: Some(7), failed: None }));
    let names: Vec<&str> = started(&effects).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [NODE, "pod uid-2"]);
    let Some(Goal::Pod(input)) = ordered(&effects, "pod uid-2").map(|order| &order.goal) else { panic!("{effects:?}") };
    assert_eq!((input.program, input.underlay_mtu, input.vips.len()), (Some(7), Some(1400), 1));
    assert!(is_preparing(&play.wait()), "the second address");
    let effects = play.prepared();
    let Some(Goal::Pod(input)) = ordered(&effects, "pod uid-2").map(|order| &order.goal) else { panic!("{effects:?}") };
    assert_eq!(input.vips.len(), 2);
}

#[test]
fn a_burst_is_one_question_and_what_comes_after_it_is_gathered_for_a_while() {
    let mut play = Play::serving();
    play.wait();
    play.later(Duration::from_millis(3));
    play.prepared();
    for announced in [6, 7, 8] {
        play.hear(AgentEvent::Changed(map(&announcing(announced, &support::on_nodes()))));
        assert!(!is_preparing(&play.hear(AgentEvent::Time)), "it is too early");
    }
    let before = play.now.instant;
    assert!(is_preparing(&play.wait()));
    assert_eq!(play.now.instant.duration_since(before), GATHERED * Duration::from_millis(3));
    play.later(Duration::from_secs(1));
    play.prepared();
    play.hear(AgentEvent::Changed(map(&announcing(9, &support::on_nodes()))));
    let before = play.now.instant;
    assert!(is_preparing(&play.wait()));
    assert_eq!(play.now.instant.duration_since(before), SETTLE);
}

#[test]
fn a_node_knows_what_a_map_announces_when_its_pods_are_as_that_map_asks_and_not_before() {
    let mut play = Play::serving();
    play.wait();
    let effects = play.prepared();
    assert_eq!(known(&effects), None, "nothing is heard of the pod yet");
    let first = ordered(&effects, "pod uid-2").unwrap().clone();
    assert_eq!(known(&play.in_sync("pod uid-2", &first)), Some(5));

    // A pod comes on the other node, and this one is to let in what it passes on.
    let endpoints = [support::on_nodes(), vec![support::endpoint(4, "n2")]].concat();
    play.hear(AgentEvent::Changed(slice(&endpoints)));
    play.hear(AgentEvent::Changed(map(&announcing(6, &endpoints))));
    assert!(is_preparing(&play.wait()));
    assert_eq!(known(&play.in_sync("pod uid-2", &first)), None, "that is what the map before asked for");
    let effects = play.prepared();
    let second = ordered(&effects, "pod uid-2").unwrap().clone();
    assert_ne!(first, second);
    assert_eq!(known(&effects), None);
    assert_eq!(known(&play.in_sync("pod uid-2", &first)), None, "it had begun before it got the order");
    assert_eq!(known(&play.in_sync("pod uid-2", &second)), Some(6));
}

#[test]
fn a_pod_that_serves_nothing_is_cleared_and_begins_anew_when_it_serves_again_before_it_has_ended() {
    let mut play = Play::serving();
    play.wait();
    play.prepared();
    play.hear(AgentEvent::Changed(service("")));
    play.hear(AgentEvent::Changed(Change::Map(Watched::Delete(crate::state::ObjectKey {
        namespace: "kube-service-tunnel".into(),
        name: map_name(UID),
    }))));
    let effects = play.wait();
    assert_eq!(ordered(&effects, "pod uid-2").map(|order| &order.goal), Some(&Goal::Nothing));
    play.hear(AgentEvent::Changed(service("192.0.2.10")));
    play.hear(AgentEvent::Changed(map(&announcing(5, &support::on_nodes()))));
    play.wait();
    let effects = play.prepared();
    assert!(started(&effects).is_empty(), "it has not ended");
    assert!(matches!(ordered(&effects, "pod uid-2").map(|order| &order.goal), Some(Goal::Pod(_))));
    // It had, and nobody had heard of it.
    let effects = play.gone("pod uid-2");
    let released = effects.iter().position(|effect| *effect == Effect::Release("pod uid-2".to_owned())).unwrap();
    let begun = effects.iter().position(|effect| matches!(effect, Effect::Start(..))).unwrap();
    assert!(released < begun, "{effects:?}");
    assert_eq!(started(&effects)[0].0, "pod uid-2");
}

#[test]
fn what_cannot_be_prepared_is_told_and_tried_again_and_holds_up_nobody() {
    let failed = || Prepared { failed: Some("no CAP_BPF".to_owned()), ..Prepared::default() };
    let mut play = Play::serving();
    play.wait();
    let effects = play.hear(AgentEvent::Prepared(failed()));
    assert!(ordered(&effects, "pod uid-2").is_some());
    let told = |effects: &[Effect]| -> Option<usize> {
        effects.iter().find_map(|effect| if let Effect::Tell(problems) = effect { Some(problems.len()) } else { None })
    };
    assert_eq!(told(&effects), Some(1), "{effects:?}");
    let before = play.now.instant;
    // Everything else that is due is not this.
    let mut effects = play.wait();
    while !is_preparing(&effects) || play.now.instant < before + RETRY {
        if is_preparing(&effects) {
            assert_eq!(told(&play.hear(AgentEvent::Prepared(failed()))), None, "it is known");
        }
        effects = play.wait();
    }
    assert_eq!(told(&play.prepared()), Some(0));
}

#[test]
fn a_node_without_vips_does_not_try_again_for_ever() {
    let mut play = Play::serving();
    play.wait();
    play.hear(AgentEvent::Prepared(Prepared { failed: Some("no memory".to_owned()), ..Prepared::default() }));
    play.hear(AgentEvent::Changed(slice(&[support::endpoint(3, "n2")])));
    play.hear(AgentEvent::Changed(map(&announcing(6, &[support::endpoint(3, "n2")]))));
    play.wait();
    play.later(2 * RETRY);
    play.hear(AgentEvent::Time);
    let due = play.agent.due().unwrap().into_std();
    assert!(due > play.now.instant, "nothing is due");
}

#[test]
fn the_ways_to_other_nodes_are_asked_for_again_and_again() {
    let mut play = Play::serving();
    play.wait();
    play.prepared();
    let before = play.now.instant;
    while !is_preparing(&play.wait()) {}
    assert_eq!(play.now.instant.duration_since(before), Duration::from_secs(30));
}

#[test]
fn an_agent_is_ready_when_everything_was_in_place_once() {
    let mut play = Play::serving();
    play.wait();
    let effects = play.prepared();
    assert_eq!(unready(&effects).unwrap().len(), 2);
    let orders: Vec<(String, Order)> =
        started(&effects).into_iter().map(|(name, order)| (name.to_owned(), order.clone())).collect();
    assert_eq!(unready(&play.in_sync(&orders[0].0, &orders[0].1)).unwrap().len(), 1);
    assert_eq!(unready(&play.in_sync(&orders[1].0, &orders[1].1)), Some(&[][..]));
    assert_eq!(unready(&play.in_sync(&orders[1].0, &orders[1].1)), None, "nothing is said twice");
}
