use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::log::Log;
use super::server::{Reply, Request, Server, until};
use crate::kube::Reporter;
use crate::model::{NodeRef, Problem, Reason, ServiceRef, Subject};

const PATH: &str = "/apis/events.k8s.io/v1/namespaces/shop/events";

fn mk_problem(note: &str) -> Problem {
    let service = ServiceRef { namespace: "shop".to_owned(), name: "echo".to_owned(), uid: "uid-echo".to_owned() };
    Problem { subject: Subject::Service(service), reason: Reason::InvalidVip, note: note.to_owned() }
}

/// The Events of an API: created once, read, patched with a version.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<BTreeMap<String, Value>>>);

impl Events {
    async fn serve(&self) -> Server {
        let events = self.clone();
        Server::start(move |request| events.answer(request)).await
    }

    fn answer(&self, request: &Request) -> Reply {
        match request.method.as_str() {
            "POST" => self.create(request),
            "GET" => match self.get(request.path.rsplit('/').next().unwrap()) {
                Some(event) => Reply::Json(200, event),
                None => status(404, "NotFound"),
            },
            _ => self.patch(request),
        }
    }

    fn create(&self, request: &Request) -> Reply {
        let name = request.body["metadata"]["name"].as_str().unwrap().to_owned();
        let mut events = self.0.lock().unwrap();
        if events.contains_key(&name) {
            return status(409, "AlreadyExists");
        }
        let mut event = request.body.clone();
        event["metadata"]["resourceVersion"] = json!("1");
        events.insert(name, event.clone());
        Reply::Json(201, event)
    }

    fn patch(&self, request: &Request) -> Reply {
        let mut events = self.0.lock().unwrap();
        let event = events.get_mut(request.path.rsplit('/').next().unwrap()).unwrap();
        if event["metadata"]["resourceVersion"] != request.body["metadata"]["resourceVersion"] {
            return status(409, "Conflict");
        }
        event["series"] = request.body["series"].clone();
        event["metadata"]["resourceVersion"] = json!("2");
        Reply::Json(200, event.clone())
    }

    fn get(&self, name: &str) -> Option<Value> {
        self.0.lock().unwrap().get(name).cloned()
    }

    fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().values().cloned().collect()
    }
}

fn status(code: u16, reason: &str) -> Reply {
    Reply::Json(code, json!({ "kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": code }))
}

fn reporter(server: &Server, node: &str) -> Reporter {
    Reporter::new(server.client(), node, CancellationToken::new())
}

fn count(server: &Server, method: &str) -> usize {
    server.requests(|r| r.method == method).len()
}

#[tokio::test]
async fn a_problem_becomes_an_event_of_the_form_that_the_api_wants() {
    let events = Events::default();
    let server = events.serve().await;
    let mut reporter = reporter(&server, "worker-a");
    reporter.report([mk_problem("\"banana\" is not an IP address: write one")]);
    until("the event", || events.all().len() == 1).await;
    let [request] = &server.requests(|_| true)[..] else { panic!("one request") };
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", PATH));

    let event = &events.all()[0];
    let recorded: Value = serde_json::from_str(include_str!("../../../tests/fixtures/kubernetes/event.json")).unwrap();
    for field in ["apiVersion", "kind", "type", "reportingController", "reportingInstance"] {
        assert_eq!(event[field], recorded[field], "{field}");
    }
    assert_eq!(event["reason"], "InvalidVIP");
    assert_eq!(event["action"], "Resolve");
    assert_eq!(event["note"], "\"banana\" is not an IP address: write one");
    let regarding =
        json!({ "apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "echo", "uid": "uid-echo" });
    assert_eq!(event["regarding"], regarding);
    assert!(serde_json::from_value::<Event>(event.clone()).unwrap().event_time.is_some());
}

#[tokio::test]
async fn a_problem_of_a_node_becomes_an_event_where_kubectl_looks_for_those_of_nodes() {
    let events = Events::default();
    let server = events.serve().await;
    let mut reporter = reporter(&server, "worker-a");
    let node = |uid: &str| Subject::Node(NodeRef { name: "worker-a".to_owned(), uid: Some(uid.to_owned()) });
    let problem = |uid| Problem { subject: node(uid), reason: Reason::NotForwarding, ..mk_problem("no") };
    reporter.report([problem("uid-1")]);
    until("the event", || events.all().len() == 1).await;
    let [request] = &server.requests(|_| true)[..] else { panic!("one request") };
    assert_eq!(request.path, "/apis/events.k8s.io/v1/namespaces/default/events");
    let event = &events.all()[0];
    assert_eq!(event["metadata"]["namespace"], "default");
    let regarding = json!({ "apiVersion": "v1", "kind": "Node", "name": "worker-a", "uid": "uid-1" });
    assert_eq!(event["regarding"], regarding);
    // Registered anew, it is another one.
    reporter.report([problem("uid-2")]);
    until("the event of the other node", || events.all().len() == 2).await;
}

#[tokio::test]
async fn the_problems_of_all_nodes_make_one_event() {
    let events = Events::default();
    let server = events.serve().await;
    let mut nodes: Vec<Reporter> = (0..5).map(|n| reporter(&server, &format!("worker-{n}"))).collect();
    for reporter in &mut nodes {
        reporter.report([mk_problem("a")]);
    }
    until("every node's attempt", || count(&server, "POST") == 5 && count(&server, "GET") == 4).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(events.all().len(), 1);
    assert_eq!(count(&server, "PATCH"), 0, "an event of this moment is not observed again");
}

#[tokio::test]
async fn an_old_event_of_a_problem_that_lasts_is_observed_again() {
    let events = Events::default();
    let server = events.serve().await;
    let mut first = reporter(&server, "worker-a");
    first.report([mk_problem("a")]);
    until("the event", || events.all().len() == 1).await;
    drop(first);
    for event in events.0.lock().unwrap().values_mut() {
        event["eventTime"] = json!("2026-01-01T00:00:00.000000Z");
    }
    let mut again = reporter(&server, "worker-a");
    again.report([mk_problem("a")]);
    until("the patch", || count(&server, "PATCH") == 1).await;
    let event = &events.all()[0];
    assert_eq!(event["series"]["count"], 2);
    let event: Event = serde_json::from_value(event.clone()).unwrap();
    let age = jiff::Timestamp::now().duration_since(event.series.unwrap().last_observed_time.0);
    assert!(age.as_secs() < 60);
}

#[tokio::test]
async fn a_refusal_is_one_warning_and_tried_again_until_it_works() {
    let (log, _guard) = Log::start(tracing::Level::INFO);
    let events = Events::default();
    let (inner, tries) = (events.clone(), Mutex::new(0));
    let server = Server::start(move |request| {
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        if *tries <= 2 { status(403, "Forbidden") } else { inner.answer(request) }
    })
    .await;
    let mut reporter = reporter(&server, "worker-a");
    reporter.report([mk_problem("a")]);
    until("the event", || events.all().len() == 1).await;
    until("the end of the outage", || log.count(&["INFO", "publish Event", "works again"]) == 1).await;
    assert_eq!(log.count(&["WARN", "publish Event", "HTTP 403 Forbidden"]), 1, "{}", log.text());
}

#[tokio::test]
async fn an_event_for_a_namespace_that_is_going_is_not_tried_again() {
    let (log, _guard) = Log::start(tracing::Level::INFO);
    let server = Server::start(|_| {
        let causes = json!([{ "reason": "NamespaceTerminating", "message": "x", "field": "metadata.namespace" }]);
        let details = json!({ "causes": causes });
        let body =
            json!({ "status": "Failure", "message": "no", "reason": "Forbidden", "code": 403, "details": details });
        Reply::Json(403, body)
    })
    .await;
    let mut reporter = reporter(&server, "worker-a");
    reporter.report([mk_problem("a")]);
    tokio::time::sleep(Duration::from_millis(3000)).await;
    assert_eq!(server.requests(|_| true).len(), 1);
    assert_eq!(log.count(&["publish Event"]), 0, "{}", log.text());
}

#[tokio::test]
async fn reporting_never_waits_and_many_problems_are_sent_slowly() {
    let events = Events::default();
    let server = events.serve().await;
    let mut reporter = reporter(&server, "worker-a");
    let all: Vec<Problem> = (0..500).map(|n| mk_problem(&format!("problem {n}"))).collect();
    for n in 0..100 {
        reporter.report(all[..n * 5 + 5].to_vec());
    }
    until("the burst", || events.all().len() >= 25).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(events.all().len() <= 27, "{}", events.all().len());
}

#[tokio::test]
async fn each_problem_is_logged_when_it_appears_and_when_it_is_resolved() {
    let (log, _guard) = Log::start(tracing::Level::INFO);
    let server = Server::start(|_| Reply::Silence).await;
    let mut reporter = reporter(&server, "worker-a");
    reporter.report([]);
    for _ in 0..3 {
        reporter.report([mk_problem("a"), mk_problem("b")]);
    }
    reporter.report([mk_problem("b"), mk_problem("b")]);
    assert_eq!(log.count(&["WARN", "problem appeared", "shop/echo", "InvalidVIP", "note=\"a\""]), 1, "{}", log.text());
    assert_eq!(log.count(&["WARN"]), 2);
    assert_eq!(log.count(&["INFO", "problem resolved", "note=\"a\""]), 1);
    assert_eq!(log.count(&["INFO"]), 1);
}
