//! The double against recordings of a real API server.
//!
//! `fixtures/transcripts` tells one story (its README does), request by request. [`story`] tells it again to the double and
//! compares every answer: status, headers that matter, body, the order of watch events, and whether versions stayed or rose.
//! What differs by nature (uids, versions, times, random suffixes, allocated addresses) is normalised on both sides by
//! [`normal`]; managedFields, which the double does not keep, are dropped. A recording without a step fails the test.

mod normal;
mod story;

use std::collections::{BTreeMap, BTreeSet};

use http::Request;
use integration::apiserver::{ApiServer, Grants, Options, RESOURCES, service_account};
use serde_json::{Value, json};

use normal::{blur_cells, difference};
use story::{Story, all_recordings, bytes, recording};

/// Recordings without a step, each with the reason.
const NOT_REPLAYED: &[(&str, &str)] = &[];

#[tokio::test]
async fn the_double_tells_the_recorded_story() {
    let mut story = Story::begin();
    nodes_and_discovery(&mut story).await;
    let version = story.server.store().revision().to_string();
    let from = |path: String| path.replace("resourceVersion=355", &format!("resourceVersion={version}"));
    let mut watches = Vec::new();
    for name in ["services-send-initial-events", "services-from-list", "endpointslices", "pods-of-one-node"] {
        watches.push(story.open_watch(&format!("watch/{name}"), from).await);
    }
    service_and_pods(&mut story).await;
    patches(&mut story).await;
    errors(&mut story).await;
    load_balancer_lease_and_events(&mut story).await;
    deletion(&mut story).await;
    story.server.faults().end_watches();
    for watch in watches {
        story.finish_watch(watch).await;
    }
    let late = |path: String| {
        from(path).replace("timeoutSeconds=3", "timeoutSeconds=1").replace("timeoutSeconds=4", "timeoutSeconds=1")
    };
    for name in ["services-timeoutSeconds", "services-too-old-410", "services-future-resourceVersion"] {
        let watch = story.open_watch(&format!("watch/{name}"), late).await;
        story.finish_watch(watch).await;
    }
    story.replay("objects/namespace-delete").await;
    assert!(story.server.store().get("namespaces", "", "tunnel-rec").unwrap_err().is_not_found());

    let excused: BTreeSet<String> = NOT_REPLAYED.iter().map(|(name, _)| (*name).to_owned()).collect();
    let told: BTreeSet<String> = story.replayed.union(&excused).cloned().collect();
    assert_eq!(
        all_recordings().difference(&told).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "recordings without a step"
    );
    assert!(story.faults.is_empty(), "{} differences:\n{}", story.faults.len(), story.faults.join("\n"));
}

async fn nodes_and_discovery(story: &mut Story) {
    for name in ["api", "readyz", "api-discovery-v1", "api-coordination-v1", "api-events-v1"] {
        story.replay(&format!("discovery/{name}")).await;
    }
    core_resources(story).await;
    version(story).await;
    let node1 = recording("list/nodes-limit-1")["response"]["body"]["items"][0].clone();
    let mut node1 = node1;
    node1["apiVersion"] = json!("v1");
    node1["kind"] = json!("Node");
    node1["metadata"]["resourceVersion"] = Value::Null;
    story.server.store().create(node1).unwrap();
    story.replay("objects/namespace-create").await;
    for node in ["worker-a", "worker-b"] {
        story.replay(&format!("objects/node-create-{node}")).await;
        story.replay(&format!("objects/node-status-{node}")).await;
    }
    let first = story.replay("list/nodes-limit-1").await;
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    story
        .replay_as("list/nodes-continue", |request| {
            request["path"] = json!(format!("/api/v1/nodes?limit=1&continue={token}"))
        })
        .await;
    story.replay("list/nodes-bad-continue").await;
    story.replay("list/services").await;
}

/// Of core/v1 the double serves a part, and that part as recorded.
async fn core_resources(story: &mut Story) {
    let recorded = recording("discovery/api-v1")["response"]["body"]["resources"].clone();
    let response = story.send(&json!({"method": "GET", "path": "/api/v1"})).await;
    let body: Value = serde_json::from_slice(&bytes(response).await).unwrap();
    let served = body["resources"].as_array().unwrap();
    for entry in served {
        let known = recorded.as_array().unwrap().contains(entry);
        story.expect("discovery/api-v1", known, || format!("no such entry: {entry}"));
    }
    for resource in RESOURCES.iter().filter(|resource| resource.group.is_empty()) {
        assert!(served.iter().any(|entry| entry["name"] == resource.plural), "{}", resource.plural);
    }
    story.replayed.insert("discovery/api-v1".into());
}

/// The version is that of the recorded server, the build is not.
async fn version(story: &mut Story) {
    let recorded = recording("discovery/version")["response"]["body"].clone();
    let response = story.send(&json!({"method": "GET", "path": "/version"})).await;
    let body: Value = serde_json::from_slice(&bytes(response).await).unwrap();
    for field in ["major", "minor", "gitVersion", "emulationMinor", "minCompatibilityMinor", "platform"] {
        story.expect("discovery/version", recorded[field] == body[field], || format!("{field} is {}", body[field]));
    }
    story.replayed.insert("discovery/version".into());
}

async fn service_and_pods(story: &mut Story) {
    story.replay("objects/service-create").await;
    story.replay("objects/service-get").await;
    story.replay("objects/pod-create-echo-1").await;
    story.replay("objects/pod-create-echo-2").await;
    // The first time that echo-1 was not ready is not in a file of its own; the second has the same request.
    let notready = recording("objects/pod-status-echo-1-notready")["request"].clone();
    story.unrecorded("PATCH", notready["path"].as_str().unwrap(), notready["body"].clone()).await;
    for name in ["echo-2-notready", "echo-1-ready", "echo-2-ready"] {
        story.replay(&format!("objects/pod-status-{name}")).await;
    }
    for name in ["endpointslices", "endpointslices-label-selector", "pods-field-selector"] {
        story.replay(&format!("list/{name}")).await;
    }
}

async fn patches(story: &mut Story) {
    story.replay("patch/merge-annotation-with-resourceVersion").await;
    // The recording used the version of the creation, which the patch before it has outdated; so does the replay.
    story.replay("errors/merge-patch-stale-resourceVersion-409").await;
    story.replay("patch/json-patch-add").await;
    story.replay("errors/json-patch-test-fails-422").await;
    story.replay("patch/strategic-merge-delete-label").await;
    let path = "/api/v1/namespaces/tunnel-rec/services/echo";
    story.unrecorded("PATCH", path, json!({"metadata": {"labels": {"x": "unchanged"}}})).await;
    let before = story.server.store().revision();
    story.replay("patch/no-op-keeps-resourceVersion").await;
    assert_eq!(story.server.store().revision(), before);
    // Clients send apply patches as JSON, which the double reads; the recording was made by hand, in YAML.
    story
        .replay_as("patch/server-side-apply-status-condition", |request| {
            let condition = json!({"type": "cmd.nu/TunnelReady", "status": "True", "reason": "Programmed",
                "message": "2 endpoints", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1});
            request["body"] = json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "echo", "namespace": "tunnel-rec"}, "status": {"conditions": [condition]}});
        })
        .await;
    story.replay("patch/condition-without-required-fields-is-accepted").await;
    story.replay("patch/status-in-main-resource-is-ignored").await;
}

async fn errors(story: &mut Story) {
    for name in [
        "service-404",
        "service-create-exists-409",
        "service-invalid-422",
        "bad-json-400",
        "bad-field-selector-400",
        "unknown-group-404",
        "list-future-resourceVersion-504",
        "watch-bad-resourceVersion-500",
    ] {
        story.replay(&format!("errors/{name}")).await;
    }
    refused(story).await;
}

/// The server of the story admits everybody; this one does not.
async fn refused(story: &mut Story) {
    let users = [("good", "somebody".to_owned()), ("weak", service_account("tunnel-rec", "weak"))];
    let tokens = BTreeMap::from(users.map(|(token, user)| (token.to_owned(), user.into())));
    let options = Options { tokens, grants: Some(Grants::default()), ..Options::default() };
    let guarded = ApiServer::start_local(options).unwrap();
    let client = guarded.client().unwrap();
    let request = |token: &str| {
        let builder = Request::builder().uri("/api/v1/services").header("Authorization", format!("Bearer {token}"));
        builder.body(Vec::new().into()).unwrap()
    };
    for (token, name) in [("bad", "errors/bad-token-401"), ("weak", "errors/forbidden-403")] {
        let response = client.send(request(token)).await.unwrap();
        let recorded = recording(name)["response"].clone();
        story.compare(name, &recorded, response).await;
    }
    assert_eq!(client.send(request("good")).await.unwrap().status(), 200);
    assert_eq!(guarded.journal().requests()[2].info.user.name, "somebody");
}

async fn load_balancer_lease_and_events(story: &mut Story) {
    story.replay("objects/service-create-loadbalancer-mixed-protocols").await;
    story.replay("errors/loadbalancer-status-bad-ip-422").await;
    story.replay("errors/loadbalancerclass-immutable-422").await;
    story.replay("patch/loadbalancer-status-ipmode").await;
    story.replay("patch/pod-readiness-gate-strategic-merge").await;
    story.replay("lease/create").await;
    // The recorded body shows the holder of the stale update that followed, which was built from the same object.
    story.replay_as("lease/renew", |request| request["body"]["spec"]["holderIdentity"] = json!("worker-a")).await;
    story.replay("lease/stale-update-409").await;
    story.replay("events/create").await;
    story.replay("events/series").await;
    story.replay("errors/event-without-reportingController-422").await;
    story.replay("list/services-metadata-only").await;
    services_table(story).await;
}

async fn services_table(story: &mut Story) {
    let name = "list/services-as-table";
    let mut recorded = recording(name);
    let response = story.send(&recorded["request"]).await;
    let mut body: Value = serde_json::from_slice(&bytes(response).await).unwrap();
    blur_cells(&mut recorded["response"]["body"]);
    blur_cells(&mut body);
    let expected = story.normalised(recorded["response"]["body"].clone(), false);
    let seen = story.normalised(body, true);
    story.expect(name, expected == seen, || difference(&expected, &seen));
    story.replayed.insert(name.into());
}

async fn deletion(story: &mut Story) {
    let mut third = recording("objects/pod-create-echo-1")["request"]["body"].clone();
    third["metadata"]["name"] = json!("echo-3");
    let created = story.unrecorded("POST", "/api/v1/namespaces/tunnel-rec/pods", third).await;
    let recorded = recording("objects/pod-status-echo-3-ready");
    let uid = recorded["response"]["body"]["metadata"]["uid"].as_str().unwrap().to_owned();
    story.ours.insert(uid, created["metadata"]["uid"].as_str().unwrap().to_owned());
    story.replay("objects/pod-status-echo-3-ready").await;
    story.replay("objects/pod-delete-graceful").await;
    story.replay("list/endpointslices-with-terminating").await;
    story.replay("objects/pod-status-echo-1-notready").await;
    story.replay("list/endpointslices-terminating-not-serving").await;
    story.replay("objects/pod-delete-final").await;
    story.replay("objects/networkpolicy-create").await;
    story.replay("objects/service-delete").await;
}
