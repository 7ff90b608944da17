use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::log::Log;
use super::server::{After, Reply, Request, Server, client, until};
use crate::kube::watch::{Pace, Scope, watch_at};
use crate::model::Mode;
use crate::state::{Change, Index, Settings, Watched};

const SCOPE: Scope<'_> = Scope { node: Some("worker-a"), namespace: "tunnels" };
const SERVICES: &str = "/api/v1/services";
const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const BETA_SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1beta1/servicecidrs";

fn pace() -> Pace {
    Pace {
        answer: Duration::from_millis(1500),
        quiet: Duration::from_millis(200),
        settled: Duration::from_millis(50),
        retry: Duration::from_millis(10),
        retry_limit: Duration::from_millis(40),
        useless_limit: Duration::from_millis(40),
        busy_limit: Duration::from_millis(40),
        absent_limit: Duration::from_millis(40),
        ..Pace::default()
    }
}

fn start(client: &Client) -> mpsc::Receiver<Change> {
    watch_at(client, SCOPE, CancellationToken::new(), pace())
}

fn list(version: &str, items: &[Value]) -> Reply {
    Reply::Json(200, json!({ "kind": "List", "metadata": { "resourceVersion": version }, "items": items }))
}

fn service(name: &str, version: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "shop", "uid": name, "resourceVersion": version } })
}

/// A Service with a spec that no Service has.
fn garbage(name: &str, version: &str) -> Value {
    let mut garbage = service(name, version);
    garbage["spec"] = json!({ "ports": "not-a-list" });
    garbage
}

fn event(kind: &str, object: &Value) -> Value {
    json!({ "type": kind, "object": object })
}

fn bookmark(version: &str) -> Value {
    event("BOOKMARK", &json!({ "kind": "X", "apiVersion": "v1", "metadata": { "resourceVersion": version } }))
}

fn status(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": code })
}

/// Lists are empty and watches stay open.
fn idle(request: &Request) -> Reply {
    if request.is_watch() { Reply::Stream(Vec::new(), After::Hold) } else { list("1", &[]) }
}

/// Everything is idle but Services: their n-th request, counted from 0, gets the n-th reply, later ones are idle.
async fn scripted(script: impl Fn(usize, &Request) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |request| {
        let scripted = if request.path == SERVICES { script(count.fetch_add(1, SeqCst), request) } else { None };
        scripted.unwrap_or_else(|| idle(request))
    })
    .await
}

/// The next changes of Services, in short.
async fn next(changes: &mut mpsc::Receiver<Change>, n: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < n {
        let change = tokio::time::timeout(Duration::from_secs(10), changes.recv()).await.expect("no change comes");
        let Change::Service(change) = change.expect("the watch has ended") else { continue };
        all.push(match change {
            Watched::Init => "init".to_owned(),
            Watched::InitApply(object) => format!("init {}", object.metadata.name.unwrap()),
            Watched::InitKeep(key) => format!("keep {}", key.name),
            Watched::InitDone => "done".to_owned(),
            Watched::Apply(object) => format!("apply {}", object.metadata.name.unwrap()),
            Watched::Delete(key) => format!("delete {}", key.name),
            Watched::Absent => "absent".to_owned(),
        });
    }
    all
}

fn versions(server: &Server) -> Vec<String> {
    let watches = server.requests(|r| r.path == SERVICES && r.is_watch());
    watches.iter().map(|r| r.parameter("resourceVersion").unwrap()).collect()
}

#[tokio::test]
async fn a_list_comes_first_and_what_changes_afterwards_follows() {
    let server = scripted(|n, _| match n {
        0 => Some(list("5", &[service("a", "4"), service("b", "5")])),
        1 => Some(Reply::Stream(
            vec![
                event("ADDED", &service("c", "6")),
                event("MODIFIED", &service("a", "7")),
                event("DELETED", &service("b", "8")),
            ],
            After::Hold,
        )),
        _ => None,
    })
    .await;
    let mut changes = start(&server.client());
    let expected = ["init", "init a", "init b", "done", "apply c", "apply a", "delete b"];
    assert_eq!(next(&mut changes, 7).await, expected);
    assert_eq!(versions(&server), ["5"]);
}

#[tokio::test]
async fn the_index_is_complete_when_all_lists_were_received() {
    let server = scripted(|_, _| None).await;
    let mut changes = start(&server.client());
    let mut index = Index::new("cmd.nu/tunnel");
    let listed = || server.requests(|r| !r.is_watch()).len();
    while !index.missing().is_empty() || listed() < 6 {
        let change = tokio::time::timeout(Duration::from_secs(10), changes.recv()).await.expect("no change comes");
        index.apply(change.unwrap());
    }
    let lists = server.requests(|r| !r.is_watch());
    let mut paths: Vec<&str> = lists.iter().map(|r| r.path.as_str()).collect();
    paths.sort_unstable();
    let maps = "/api/v1/namespaces/tunnels/configmaps";
    let slices = "/apis/discovery.k8s.io/v1/endpointslices";
    let expected = [maps, "/api/v1/nodes", "/api/v1/pods", SERVICES, slices, SERVICE_CIDRS];
    assert_eq!(paths, expected);
}

#[tokio::test]
async fn nothing_is_known_while_bucket_maps_may_not_be_read() {
    let server = Server::start(move |request| match request.parameter("labelSelector") {
        Some(selector) if selector.contains("bucket-map") => Reply::Json(403, status(403, "Forbidden")),
        _ => idle(request),
    })
    .await;
    let mut changes = start(&server.client());
    let mut index = Index::new("cmd.nu/tunnel");
    let settings = Settings {
        annotation: "cmd.nu/tunnel".to_owned(),
        default_mode: Mode::Gre,
        ingress_nodes: None,
        vip_ranges: Vec::new(),
        node_name: String::new(),
        buckets: 64,
    };
    let refused = || server.requests(|r| r.parameter("labelSelector").is_some()).len();
    while refused() < 6 || index.missing() != ["ConfigMap"] {
        if let Ok(change) = tokio::time::timeout(Duration::from_millis(10), changes.recv()).await {
            index.apply(change.unwrap());
        }
    }
    assert_eq!(index.resolve(&settings), None, "a list that is refused is no empty list");
}

#[tokio::test]
async fn a_controller_watches_reports_and_no_pods() {
    let server = scripted(|_, _| None).await;
    let scope = Scope { node: None, ..SCOPE };
    let _changes = watch_at(&server.client(), scope, CancellationToken::new(), pace());
    let of = |label: &str| {
        let label = format!("cmd.nu/tunnel-object={label}");
        server.requests(|r| r.is_watch() && r.parameter("labelSelector") == Some(label.clone())).len()
    };
    until("the watches of maps and reports", || of("bucket-map") > 0 && of("node-report") > 0).await;
    assert!(server.requests(|r| r.path == "/api/v1/pods").is_empty());
}

#[tokio::test]
async fn only_pods_of_the_own_node_are_asked_for() {
    let server = scripted(|_, _| None).await;
    let _changes = start(&server.client());
    until("the watch of pods", || !server.requests(|r| r.path == "/api/v1/pods" && r.is_watch()).is_empty()).await;
    let own = Some("spec.nodeName=worker-a".to_owned());
    for request in server.requests(|r| r.path == "/api/v1/pods") {
        assert_eq!(request.parameter("fieldSelector"), own);
    }
    assert!(server.requests(|r| r.path == SERVICES).iter().all(|r| r.parameter("fieldSelector").is_none()));
}

#[tokio::test]
async fn a_long_list_is_received_in_pages() {
    let server = scripted(|n, request| match n {
        0 => {
            assert_eq!(request.parameter("limit").unwrap(), "500");
            let meta = json!({ "resourceVersion": "5", "continue": "more" });
            Some(Reply::Json(200, json!({ "metadata": meta, "items": [service("a", "4")] })))
        }
        1 => {
            assert_eq!(request.parameter("continue").unwrap(), "more");
            Some(list("5", &[service("b", "5")]))
        }
        _ => None,
    })
    .await;
    let mut changes = start(&server.client());
    assert_eq!(next(&mut changes, 4).await, ["init", "init a", "init b", "done"]);
}

#[tokio::test]
async fn a_list_that_expires_between_its_pages_is_begun_again() {
    let server = scripted(|n, _| match n {
        0 => {
            let meta = json!({ "resourceVersion": "5", "continue": "more" });
            Some(Reply::Json(200, json!({ "metadata": meta, "items": [service("a", "4")] })))
        }
        1 => Some(Reply::Json(410, status(410, "Expired"))),
        2 => Some(list("9", &[service("b", "9")])),
        _ => None,
    })
    .await;
    let mut changes = start(&server.client());
    assert_eq!(next(&mut changes, 5).await, ["init", "init a", "init", "init b", "done"]);
}

#[tokio::test]
async fn a_version_that_expires_in_the_stream_is_listed_again() {
    let server = scripted(|n, _| match n {
        1 => Some(Reply::Stream(vec![event("ERROR", &status(410, "Expired"))], After::End)),
        2 => Some(list("9", &[service("b", "9")])),
        _ => None,
    })
    .await;
    let mut changes = start(&server.client());
    assert_eq!(next(&mut changes, 5).await, ["init", "done", "init", "init b", "done"]);
    until("the next watch", || versions(&server) == ["1", "9"]).await;
}

#[tokio::test]
async fn a_version_that_expires_in_the_answer_is_listed_again() {
    let server = scripted(|n, _| match n {
        1 => Some(Reply::Json(410, status(410, "Gone"))),
        2 => Some(list("9", &[])),
        _ => None,
    })
    .await;
    let mut changes = start(&server.client());
    assert_eq!(next(&mut changes, 4).await, ["init", "done", "init", "done"]);
    until("the next watch", || versions(&server) == ["1", "9"]).await;
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_where_it_broke() {
    let server = scripted(|n, _| match n {
        1 => Some(Reply::Stream(vec![event("ADDED", &service("a", "7"))], After::Break)),
        2 => Some(Reply::Stream(vec![event("ADDED", &service("b", "8")), bookmark("20")], After::Break)),
        3 => Some(Reply::Stream(vec![event("ADDED", &service("c", "21"))], After::End)),
        _ => None,
    })
    .await;
    let mut changes = start(&server.client());
    assert_eq!(next(&mut changes, 5).await, ["init", "done", "apply a", "apply b", "apply c"]);
    until("the next watch", || versions(&server) == ["1", "7", "20", "21"]).await;
}

#[tokio::test]
async fn an_api_that_is_away_at_the_start_is_waited_for() {
    let (log, _guard) = Log::start(tracing::Level::INFO);
    // Nobody listens on that port after this.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut changes = start(&client(free));
    until("the outage", || log.count(&["WARN", "watch Service\""]) == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _server = Server::start_at(free, idle).await;
    assert_eq!(next(&mut changes, 2).await, ["init", "done"]);
    until("the end of the outage", || log.count(&["INFO", "works again"]) == 6).await;
    assert_eq!(log.count(&["WARN"]), 6, "one line per kind: {}", log.text());
}

#[tokio::test]
async fn an_outage_of_a_quiet_watch_ends_in_the_log_without_an_event() {
    let (log, _guard) = Log::start(tracing::Level::INFO);
    let server = scripted(|n, _| (n == 1).then(|| Reply::Json(500, status(500, "InternalError")))).await;
    let _changes = start(&server.client());
    until("the end of the outage", || log.count(&["INFO", "watch Service\"", "works again"]) == 1).await;
    assert_eq!(log.count(&["WARN", "watch Service\"", "no (HTTP 500 InternalError)"]), 1, "{}", log.text());
}

#[tokio::test]
async fn a_kind_that_is_forbidden_does_not_disturb_the_others() {
    let server = Server::start(|request| match request.path.as_str() {
        "/api/v1/nodes" => Reply::Json(403, status(403, "Forbidden")),
        _ => idle(request),
    })
    .await;
    let mut changes = start(&server.client());
    assert_eq!(next(&mut changes, 2).await, ["init", "done"]);
    until("trying again", || server.requests(|r| r.path == "/api/v1/nodes").len() > 3).await;
}

/// Everything is idle but ServiceCIDRs, of which both versions get this.
async fn with_service_cidrs(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |request| match request.path.as_str() {
        SERVICE_CIDRS | BETA_SERVICE_CIDRS => reply(request),
        _ => idle(request),
    })
    .await
}

/// Lists the one ServiceCIDR, and keeps watches open.
fn one_service_cidr(request: &Request) -> Reply {
    let spec = json!({ "cidrs": ["10.96.0.0/16"] });
    let object = json!({ "metadata": { "name": "kubernetes", "resourceVersion": "4" }, "spec": spec });
    if request.is_watch() { idle(request) } else { list("5", &[object]) }
}

async fn next_of_service_cidrs(changes: &mut mpsc::Receiver<Change>) -> Watched<ServiceCIDR> {
    let next = async {
        loop {
            if let Change::ServiceCidr(change) = changes.recv().await.expect("the watch has ended") {
                return change;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), next).await.expect("no change comes")
}

/// Awaits the list, which has the one ServiceCIDR.
async fn service_cidr_is_listed(changes: &mut mpsc::Receiver<Change>) {
    let cidrs = loop {
        if let Watched::InitApply(object) = next_of_service_cidrs(changes).await {
            break object.spec.unwrap().cidrs;
        }
    };
    assert_eq!(cidrs, Some(vec!["10.96.0.0/16".to_owned()]));
    assert!(matches!(next_of_service_cidrs(changes).await, Watched::InitDone));
}

#[tokio::test]
async fn a_server_without_service_cidrs_is_asked_again_later_and_nothing_is_told() {
    let (log, _guard) = Log::start(tracing::Level::INFO);
    let has_them = Arc::new(AtomicBool::new(false));
    let upgraded = Arc::clone(&has_them);
    let server = with_service_cidrs(move |request| match has_them.load(SeqCst) {
        true => one_service_cidr(request),
        // A path that a server does not know has no Status.
        false => Reply::Json(404, json!("404 page not found")),
    })
    .await;
    let mut changes = start(&server.client());
    assert!(matches!(next_of_service_cidrs(&mut changes).await, Watched::Absent));
    upgraded.store(true, SeqCst);
    service_cidr_is_listed(&mut changes).await;
    assert_eq!(log.count(&["WARN"]), 0, "{}", log.text());
}

#[tokio::test]
async fn service_cidrs_are_read_in_their_earlier_version_where_there_is_no_other() {
    let server = with_service_cidrs(|request| match request.path.as_str() {
        SERVICE_CIDRS => Reply::Json(404, json!("404 page not found")),
        _ => one_service_cidr(request),
    })
    .await;
    service_cidr_is_listed(&mut start(&server.client())).await;
}

#[tokio::test]
async fn service_cidrs_that_are_forbidden_are_told_once_and_hold_nothing_up() {
    let (log, _guard) = Log::start(tracing::Level::INFO);
    let server = with_service_cidrs(|_| Reply::Json(403, status(403, "Forbidden"))).await;
    let mut changes = start(&server.client());
    for _ in 0..3 {
        assert!(matches!(next_of_service_cidrs(&mut changes).await, Watched::Absent));
    }
    assert_eq!(log.count(&["WARN", "watch ServiceCIDR", "Forbidden"]), 1, "{}", log.text());
    assert!(server.requests(|request| request.path == BETA_SERVICE_CIDRS).is_empty());
}

#[tokio::test]
async fn a_server_that_fails_to_list_service_cidrs_is_waited_for() {
    let failures = AtomicUsize::new(0);
    let server = with_service_cidrs(move |request| match failures.fetch_add(1, SeqCst) {
        0..3 => Reply::Json(500, status(500, "InternalError")),
        _ => one_service_cidr(request),
    })
    .await;
    let mut changes = start(&server.client());
    assert!(matches!(next_of_service_cidrs(&mut changes).await, Watched::Init));
    service_cidr_is_listed(&mut changes).await;
}

#[tokio::test]
async fn an_object_that_cannot_be_decoded_does_not_stop_the_rest() {
    let (log, _guard) = Log::start(tracing::Level::INFO);
    let server = scripted(|n, _| match n {
        0 => Some(list("5", &[garbage("x", "4"), service("a", "5")])),
        1 => Some(Reply::Stream(
            vec![
                event("MODIFIED", &garbage("x", "6")),
                event("ADDED", &service("b", "7")),
                event("MODIFIED", &service("x", "8")),
                event("DELETED", &garbage("x", "9")),
            ],
            After::Hold,
        )),
        _ => None,
    })
    .await;
    let mut changes = start(&server.client());
    let expected = ["init", "keep x", "init a", "done", "apply b", "apply x", "delete x"];
    assert_eq!(next(&mut changes, 7).await, expected);
    assert_eq!(log.count(&["WARN", "shop/x", "cannot be decoded"]), 1, "{}", log.text());
    assert_eq!(log.count(&["INFO", "can be decoded again"]), 1);
}

#[tokio::test]
async fn an_event_that_means_nothing_does_not_stop_the_rest() {
    let server = scripted(|n, _| match n {
        1 => Some(Reply::Stream(
            vec![
                json!({ "type": "SURPRISE", "object": {} }),
                event("ADDED", &json!({ "metadata": 5 })),
                event("ADDED", &service("b", "7")),
            ],
            After::Hold,
        )),
        _ => None,
    })
    .await;
    let mut changes = start(&server.client());
    assert_eq!(next(&mut changes, 3).await, ["init", "done", "apply b"]);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_not_waited_for_without_end() {
    let server = scripted(|n, _| (n == 0 || n == 2).then_some(Reply::Silence)).await;
    let mut changes = start(&server.client());
    assert_eq!(next(&mut changes, 2).await, ["init", "done"]);
    until("the watch after a silent one", || versions(&server).len() >= 2).await;
}

#[tokio::test]
async fn a_version_about_which_the_server_stays_silent_is_listed_again() {
    let server = scripted(|n, _| (n == 4).then(|| list("2", &[service("a", "2")]))).await;
    let mut changes = start(&server.client());
    assert_eq!(next(&mut changes, 5).await, ["init", "done", "init", "init a", "done"]);
    assert_eq!(versions(&server)[..3], ["1", "1", "1"]);
}

#[tokio::test]
async fn a_version_that_is_refused_in_other_words_is_listed_again() {
    let server = scripted(|n, _| match n {
        1..=3 => Some(Reply::Json(400, status(400, "BadRequest"))),
        4 => Some(list("2", &[])),
        _ => None,
    })
    .await;
    let mut changes = start(&server.client());
    assert_eq!(next(&mut changes, 4).await, ["init", "done", "init", "done"]);
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_not_repeated_without_a_pause() {
    let server = scripted(|n, _| (n > 0).then(|| Reply::Stream(Vec::new(), After::End))).await;
    let _changes = start(&server.client());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let watches = versions(&server).len();
    assert!((2..60).contains(&watches), "{watches}");
}

#[tokio::test]
async fn a_server_that_grants_watches_and_keeps_none_open_is_asked_more_often_than_one_that_refuses() {
    // Were all failures counted alike, the last of them would be followed by a wait of minutes.
    let server = scripted(|n, _| match n {
        0 | 45.. => None,
        44 => Some(Reply::Stream(vec![event("ADDED", &service("a", "7"))], After::Hold)),
        n if n % 3 == 0 => Some(Reply::Json(503, status(503, "ServiceUnavailable"))),
        n if n % 3 == 1 => Some(Reply::Stream(Vec::new(), After::Break)),
        _ => Some(Reply::Stream(Vec::new(), After::End)),
    })
    .await;
    let pace = Pace { retry_limit: Duration::from_secs(3600), ..pace() };
    let mut changes = watch_at(&server.client(), SCOPE, CancellationToken::new(), pace);
    assert_eq!(next(&mut changes, 3).await, ["init", "done", "apply a"]);
}

#[tokio::test]
async fn cancelling_ends_the_watches_and_the_receiver() {
    let server = scripted(|_, _| None).await;
    let cancel = CancellationToken::new();
    let mut changes = watch_at(&server.client(), SCOPE, cancel.clone(), pace());
    next(&mut changes, 2).await;
    cancel.cancel();
    let end = async { while changes.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), end).await.expect("the receiver does not end");
}

#[tokio::test]
async fn nobody_listening_ends_the_watches() {
    let server = scripted(|_, _| None).await;
    drop(start(&server.client()));
    // A watch that lives is renewed at this pace every quarter of a second.
    for _ in 0..5 {
        let before = server.requests(|_| true).len();
        tokio::time::sleep(Duration::from_secs(1)).await;
        if server.requests(|_| true).len() == before {
            return;
        }
    }
    panic!("the watches go on");
}
