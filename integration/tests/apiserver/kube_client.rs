//! The double as kube-rs sees it: typed access, the watcher over every fault, and streaming lists.

use std::fmt::Debug;
use std::pin::pin;

use futures::{Stream, StreamExt};
use integration::apiserver::{ApiError, ApiServer, Options, Record, Volumes};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::events::v1::Event as KubeEvent;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

fn start() -> (ApiServer, Client) {
    let server = ApiServer::start_local(Options::default()).unwrap();
    let client = server.client().unwrap();
    (server, client)
}

fn service(name: &str) -> Service {
    let service = json!({"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}});
    serde_json::from_value(service).unwrap()
}

/// Reads watcher events up to the one that is wanted; errors on the way are what the watcher recovers from.
async fn until<K: Debug>(
    events: &mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin),
    wanted: impl Fn(&Event<K>) -> bool,
) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let debug = format!("{event:?}");
                seen.push(debug.split(['(', ' ']).next().unwrap().to_owned());
                if wanted(&event) {
                    return seen;
                }
            }
            Err(_) => {
                seen.push("Err".into());
                // A refused connection fails without waiting for anything: let the server run.
                tokio::task::yield_now().await;
            }
        }
    }
    panic!("the stream ended after {seen:?}");
}

fn applied(name: &str) -> impl Fn(&Event<Service>) -> bool + '_ {
    move |event| matches!(event, Event::Apply(service) if service.name_any() == name)
}

fn watches(count: usize) -> impl Fn(&[Record]) -> bool {
    move |requests| {
        requests.iter().filter(|one| one.info.is("watch", "services") && one.code == Some(200)).count() >= count
    }
}

#[tokio::test]
async fn services_are_created_changed_and_deleted() {
    let (_server, client) = start();
    let api: Api<Service> = Api::default_namespaced(client);
    let created = api.create(&PostParams::default(), &service("echo")).await.unwrap();
    assert_eq!(created.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("10.96.0.10"));
    let exists = api.create(&PostParams::default(), &service("echo")).await.unwrap_err();
    assert!(matches!(exists, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists"));

    let mut stale = created.clone();
    stale.labels_mut().insert("a".into(), "1".into());
    api.replace("echo", &PostParams::default(), &stale).await.unwrap();
    let conflict = api.replace("echo", &PostParams::default(), &stale).await.unwrap_err();
    assert!(matches!(conflict, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict"));

    let listed = api.list(&ListParams::default().labels("a in (1,2)").fields("metadata.name=echo")).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    api.delete("echo", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("echo").await.unwrap().is_none());
}

#[tokio::test]
async fn every_patch_format_reaches_the_status() {
    let (_server, client) = start();
    let api: Api<Service> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &service("echo")).await.unwrap();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = |kind: &str| json!({"status": {"conditions": [condition(kind)]}});
    let parameters = PatchParams::default();
    api.patch_status("echo", &parameters, &Patch::Merge(status("A"))).await.unwrap();
    api.patch_status("echo", &parameters, &Patch::Strategic(status("B"))).await.unwrap();
    let mut apply = status("C");
    apply["apiVersion"] = json!("v1");
    apply["kind"] = json!("Service");
    let forced = PatchParams::apply("tunnel-router").force();
    api.patch_status("echo", &forced, &Patch::Apply(apply)).await.unwrap();
    let operations = json!([{"op": "add", "path": "/status/conditions/-", "value": condition("D")}]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(operations).unwrap());
    let patched = api.patch_status("echo", &parameters, &patch).await.unwrap();
    let mut kinds: Vec<String> =
        patched.status.unwrap().conditions.unwrap().into_iter().map(|condition| condition.type_).collect();
    kinds.sort();
    assert_eq!(kinds, ["A", "B", "C", "D"]);
}

#[tokio::test]
async fn leases_and_events_are_written_as_typed_objects() {
    let (server, client) = start();
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let lease: Lease = serde_json::from_value(json!({"metadata": {"name": "tunnel-router"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}}))
    .unwrap();
    let mut held = leases.create(&PostParams::default(), &lease).await.unwrap();
    held.spec.as_mut().unwrap().holder_identity = Some("b".into());
    let renewed = leases.replace("tunnel-router", &PostParams::default(), &held).await.unwrap();
    assert_eq!(renewed.spec.unwrap().renew_time, held.spec.as_ref().unwrap().renew_time);
    assert!(leases.replace("tunnel-router", &PostParams::default(), &held).await.is_err(), "the version is stale");

    let events: Api<KubeEvent> = Api::default_namespaced(client);
    let event: KubeEvent = serde_json::from_value(json!({"metadata": {"generateName": "echo."}, "type": "Normal",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "cmd.nu/tunnel-router", "action": "Program",
        "reportingInstance": "a", "reason": "Programmed", "note": "2 endpoints",
        "regarding": {"kind": "Service", "name": "echo", "namespace": "default"}}))
    .unwrap();
    events.create(&PostParams::default(), &event).await.unwrap();
    let stored = &server.store().list("events").unwrap()[0];
    assert_eq!((&stored["message"], &stored["involvedObject"]["name"]), (&json!("2 endpoints"), &json!("echo")));
}

#[tokio::test]
async fn leases_are_not_updated_unconditionally() {
    let (_server, client) = start();
    let leases: Api<Lease> = Api::default_namespaced(client);
    let lease: Lease = serde_json::from_value(json!({"metadata": {"name": "x"}})).unwrap();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let error = leases.replace("x", &PostParams::default(), &lease).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 422));
}

#[tokio::test]
async fn a_dropped_a_cut_and_an_ended_watch_resume_without_a_new_list() {
    let (server, client) = start();
    let mut events = pin!(watcher(Api::<Service>::all(client), watcher::Config::default()));
    until(&mut events, |event| matches!(event, Event::InitDone)).await;
    for (round, name) in ["dropped", "cut", "ended"].into_iter().enumerate() {
        server.store().create(service_json(&format!("before-{name}"))).unwrap();
        until(&mut events, applied(&format!("before-{name}"))).await;
        assert_eq!(server.journal().count("watch", "services"), round + 1);
        match name {
            "dropped" => server.faults().drop_watches(),
            "cut" => server.faults().cut_watches(),
            _ => server.faults().end_watches(),
        }
        // Created while nobody watches: the resumed watch must deliver it.
        server.store().create(service_json(name)).unwrap();
        until(&mut events, applied(name)).await;
    }
    assert_eq!(server.journal().count("list", "services"), 1);
}

#[tokio::test]
async fn an_expired_watch_leads_to_one_new_list() {
    let (server, client) = start();
    let mut events = pin!(watcher(Api::<Service>::all(client), watcher::Config::default()));
    until(&mut events, |event| matches!(event, Event::InitDone)).await;
    server.store().create(service_json("before")).unwrap();
    until(&mut events, applied("before")).await;
    server.faults().expire_watches();
    let seen = until(&mut events, |event| matches!(event, Event::InitDone)).await;
    assert_eq!(seen, ["Err", "Init", "InitApply", "InitApply", "InitDone"]);
    assert_eq!(server.journal().count("list", "services"), 2);
}

#[tokio::test]
async fn a_watch_that_resumes_after_a_compaction_is_told_410() {
    let (server, client) = start();
    let api: Api<Service> = Api::all(client);
    let version = server.store().revision();
    server.store().create(service_json("lost")).unwrap();
    server.faults().compact();
    let mut events = pin!(api.watch(&WatchParams::default(), &version.to_string()).await.unwrap());
    let first = events.next().await.unwrap().unwrap();
    assert!(
        matches!(&first, WatchEvent::Error(status) if status.code == 410 && status.reason == "Expired"),
        "{first:?}"
    );
    assert!(events.next().await.is_none(), "an error is the last event");
}

#[tokio::test]
async fn streaming_lists_need_no_list() {
    let (server, client) = start();
    let config = watcher::Config::default().streaming_lists();
    let mut events = pin!(watcher(Api::<Service>::all(client), config));
    let seen = until(&mut events, |event| matches!(event, Event::InitDone)).await;
    assert_eq!(seen, ["Init", "InitApply", "InitDone"]);
    server.store().create(service_json("echo")).unwrap();
    until(&mut events, applied("echo")).await;
    server.faults().expire_watches();
    until(&mut events, |event| matches!(event, Event::InitDone)).await;
    assert_eq!(server.journal().count("list", "services"), 0);
}

#[tokio::test]
async fn a_metadata_watcher_gets_metadata_only() {
    let (server, client) = start();
    let mut events = pin!(watcher(Api::<PartialObjectMeta<Service>>::all(client), watcher::Config::default()));
    until(&mut events, |event| matches!(event, Event::InitDone)).await;
    server.store().create(service_json("echo")).unwrap();
    until(&mut events, |event| matches!(event, Event::Apply(service) if service.name_any() == "echo")).await;
}

#[tokio::test]
async fn a_field_selector_follows_pods_onto_the_node() {
    let (server, client) = start();
    let config = watcher::Config::default().fields("spec.nodeName=worker-a");
    let mut events = pin!(watcher(Api::<Pod>::all(client), config));
    until(&mut events, |event| matches!(event, Event::InitDone)).await;
    let pod = |name: &str, node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i:1"}]}})
    };
    server.store().create(pod("elsewhere", "worker-b")).unwrap();
    server.store().create(pod("here", "worker-a")).unwrap();
    let seen = until(&mut events, |event| matches!(event, Event::Apply(pod) if pod.name_any() == "here")).await;
    assert_eq!(seen, ["Apply"]);
}

#[tokio::test]
async fn the_server_goes_down_and_comes_back_on_the_same_address() {
    let (server, client) = start();
    let api: Api<Node> = Api::all(client.clone());
    let mut events = pin!(watcher(Api::<Service>::all(client), watcher::Config::default()));
    until(&mut events, |event| matches!(event, Event::InitDone)).await;
    for round in 0..3 {
        let name = format!("round-{round}");
        server.store().create(service_json(&format!("before-{name}"))).unwrap();
        until(&mut events, applied(&format!("before-{name}"))).await;
        server.faults().go_down();
        while api.list(&ListParams::default()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let refused = tokio::net::TcpStream::connect(server.address()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        server.store().create(service_json(&name)).unwrap();
        server.faults().come_up();
        until(&mut events, applied(&name)).await;
        while api.list(&ListParams::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(server.journal().count("list", "services"), 1);
}

#[tokio::test]
async fn injected_refusals_hit_what_they_name_and_end() {
    let (server, client) = start();
    let api: Api<Service> = Api::default_namespaced(client);
    let error = ApiError::Injected { code: 503, reason: "ServiceUnavailable".into(), message: "not now".into() };
    server.faults().fail_next(2, |request| request.is("get", "services"), error.clone());
    for expected in [Some(503), Some(503), None] {
        let code = match api.get("kubernetes").await {
            Err(kube::Error::Api(status)) => Some(status.code),
            other => other.map(|_| None).unwrap(),
        };
        assert_eq!(code, expected);
        assert!(api.list(&ListParams::default()).await.is_ok());
    }
    server.faults().fail_all(|request| request.is_write(), error);
    assert!(api.create(&PostParams::default(), &service("x")).await.is_err());
    server.faults().heal();
    api.create(&PostParams::default(), &service("x")).await.unwrap();
}

#[tokio::test]
async fn delayed_answers_come_when_the_delay_ends() {
    let (server, client) = start();
    let api: Api<Service> = Api::default_namespaced(client);
    server.faults().delay_all(std::time::Duration::from_secs(3600));
    let answer = tokio::spawn(async move { api.get("kubernetes").await });
    server.journal().wait_for(|requests| requests.iter().any(|one| one.info.is("get", "services"))).await;
    assert!(server.journal().requests()[0].code.is_none() && !answer.is_finished());
    server.faults().heal();
    answer.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_journal_says_who_wrote_what() {
    let (server, client) = start();
    let api: Api<Service> = Api::default_namespaced(client);
    server.store().create(service_json("echo")).unwrap();
    let patch = json!({"metadata": {"annotations": {"a": "b"}}});
    api.patch(
        "echo",
        &PatchParams { field_manager: Some("tunnel-router".into()), ..Default::default() },
        &Patch::Merge(&patch),
    )
    .await
    .unwrap();
    api.get("echo").await.unwrap();
    let writes = server.journal().writes();
    assert_eq!(writes.len(), 1, "reads and in-process writes are not in it");
    assert_eq!((writes[0].info.field_manager(), &writes[0].body, writes[0].code), ("tunnel-router", &patch, Some(200)));
    assert_eq!(server.journal().count("get", "services"), 1);
}

#[tokio::test]
async fn volumes_count_events_and_bytes_of_a_watch_and_no_bookmarks() {
    let (server, client) = start();
    let api: Api<Service> = Api::all(client);
    let listed = api.list(&ListParams::default()).await.unwrap();
    let version = listed.metadata.resource_version.unwrap();
    let mut events = pin!(api.watch(&WatchParams::default(), &version).await.unwrap());
    server.journal().wait_for(watches(1)).await;
    let before = server.journal().volumes();
    let sent = |of: &Volumes, verb: &str| of.sum(|asked| asked.verb == verb);
    assert_eq!(sent(&before, "list").requests, 1);
    assert!(sent(&before, "list").sent > 100, "{before:?}");

    server.faults().bookmark_watches();
    assert!(matches!(events.next().await.unwrap().unwrap(), WatchEvent::Bookmark(_)));
    assert_eq!(server.journal().volumes().since(&before), Volumes::default());
    let stored = server.store().create(service_json("echo")).unwrap();
    assert!(matches!(events.next().await.unwrap().unwrap(), WatchEvent::Added(_)));
    let after = sent(&server.journal().volumes().since(&before), "watch");
    assert_eq!((after.requests, after.events, after.received), (0, 1, 0));
    let event = json!({"type": "ADDED", "object": stored}).to_string().len() + 1;
    assert_eq!(after.sent, u64::try_from(event).unwrap());
}

#[tokio::test]
async fn a_bookmark_moves_an_idle_watch_forward() {
    let (server, client) = start();
    let api: Api<Service> = Api::all(client);
    let version = server.store().revision();
    let mut events = pin!(api.watch(&WatchParams::default(), &version.to_string()).await.unwrap());
    server.journal().wait_for(watches(1)).await;
    server.store().create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}})).unwrap();
    server.faults().bookmark_watches();
    let bookmark = events.next().await.unwrap().unwrap();
    let WatchEvent::Bookmark(bookmark) = bookmark else { panic!("{bookmark:?}") };
    assert!(bookmark.metadata.resource_version.parse::<u64>().unwrap() >= version);
}

fn service_json(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
}

#[tokio::test]
async fn a_client_that_shakes_no_hands_keeps_no_other_waiting() {
    let (server, client) = start();
    let mut silent = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let api: Api<Node> = Api::all(client);
    api.list(&ListParams::default()).await.unwrap();
    server.faults().go_down();
    let mut end = Vec::new();
    // Its connection ends with the server, too.
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut end).await;
    assert!(end.is_empty() && ended.is_ok_and(|length| length == 0));
}
