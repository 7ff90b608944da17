use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::server::{Reply, Request, Server};
use crate::kube::tell_unbound;

/// What the agent of `worker-a` posts apart from reviews, when these are answered so, the last answer for all that follow.
async fn told(reviews: &'static [(u16, &'static str)]) -> Vec<Value> {
    let asked = AtomicUsize::new(0);
    let answer = move |request: &Request| match request.path.as_str() {
        "/apis/authentication.k8s.io/v1/selfsubjectreviews" => {
            let n = asked.fetch_add(1, Ordering::Relaxed).min(reviews.len() - 1);
            Reply::Json(reviews[n].0, serde_json::from_str(reviews[n].1).unwrap())
        }
        "/api/v1/nodes/worker-a" => Reply::Json(200, json!({ "metadata": { "name": "worker-a", "uid": "u-a" } })),
        _ => Reply::Json(201, request.body.clone()),
    };
    let server = Server::start(answer).await;
    let telling = tell_unbound(server.client(), "worker-a".to_owned(), CancellationToken::new());
    tokio::time::timeout(Duration::from_secs(10), telling).await.expect("it ends when it has told");
    let events = server.requests(|request| request.path == "/apis/events.k8s.io/v1/namespaces/default/events");
    events.into_iter().map(|request| request.body).collect()
}

/// A review of a token that was issued for a pod on `worker-a`.
const OWN: &str = r#"{"status":{"userInfo":{"username":"agent","extra":{
    "authentication.kubernetes.io/node-name":["worker-a"],"authentication.kubernetes.io/pod-name":["p"]}}}}"#;
const FOREIGN: &str = r#"{"status":{"userInfo":{"extra":{"authentication.kubernetes.io/node-name":["worker-b"]}}}}"#;
const NAMELESS: &str = r#"{"status":{"userInfo":{"username":"agent","groups":["system:authenticated"]}}}"#;
/// No `Status`, as of servers that know nothing of the kind.
const UNKNOWN: &str = r#""404 page not found""#;
const FAILED: &str = r#"{"kind":"Status","status":"Failure","message":"not now","reason":"InternalError","code":500}"#;

#[tokio::test]
async fn a_token_of_the_own_node_is_worth_no_event() {
    assert_eq!(told(&[(201, OWN)]).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_token_without_a_node_is_told_on_the_node() {
    let events = told(&[(201, NAMELESS)]).await;
    assert_eq!(events.len(), 1);
    let regarding = json!({ "apiVersion": "v1", "kind": "Node", "name": "worker-a", "uid": "u-a" });
    assert_eq!((&events[0]["regarding"], &events[0]["reason"]), (&regarding, &json!("NotBoundToNode")));
    let note = events[0]["note"].as_str().unwrap();
    assert!(note.contains("names no node") && note.contains("Kubernetes 1.30"), "{note}");
}

#[tokio::test]
async fn a_token_of_another_node_is_told_with_the_remedy() {
    let events = told(&[(201, FOREIGN)]).await;
    let note = events[0]["note"].as_str().unwrap();
    assert!(note.contains("node worker-b") && note.contains("node worker-a") && note.contains("--node-name"), "{note}");
}

#[tokio::test]
async fn a_server_without_reviews_makes_no_claims() {
    let events = told(&[(404, UNKNOWN)]).await;
    assert!(events[0]["note"].as_str().unwrap().contains("names no node"), "{events:?}");
}

#[tokio::test]
async fn a_review_that_fails_is_asked_for_again() {
    assert_eq!(told(&[(500, FAILED), (201, NAMELESS)]).await.len(), 1);
}
