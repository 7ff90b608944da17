//! What the recordings do not show: pages of the past, finalizers, preconditions, kinds of Services, and the EndpointSlice
//! controller in the corners.

use std::collections::BTreeSet;

use axum::body::Body;
use http::Request;
use integration::apiserver::{ApiServer, Objects, Options, object};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};

struct Bench {
    server: ApiServer,
    client: kube::Client,
}

impl Bench {
    fn new() -> Self {
        let server = ApiServer::start_local(Options::default()).unwrap();
        Self { client: server.client().unwrap(), server }
    }

    fn store(&self) -> &Objects {
        self.server.store()
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request =
            Request::builder().method(method).uri(path).header("Content-Type", kind).body(body.into()).unwrap();
        let response = self.client.send(request).await.unwrap();
        let code = response.status().as_u16();
        let body = axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap();
        (code, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, Value::Null).await
    }

    /// The events of a watch from `version` to now: type and name.
    async fn events(&self, path: &str, version: u64) -> Vec<String> {
        let uri = format!("{path}{}watch=true&resourceVersion={version}", if path.contains('?') { '&' } else { '?' });
        let response = self.client.send(Request::get(uri).body(Vec::new().into()).unwrap()).await.unwrap();
        self.server.faults().end_watches();
        let text = axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap();
        let events = serde_json::Deserializer::from_slice(&text).into_iter::<Value>().map(Result::unwrap);
        events.map(|event| format!("{} {}", event["type"].as_str().unwrap(), object::name(&event["object"]))).collect()
    }

    async fn slices(&self, service: &str) -> Vec<Value> {
        self.server.settled().await;
        let mut slices = self.store().list("endpointslices").unwrap();
        slices.retain(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
        slices
    }
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"name": name}}})
}

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}});
    json_patch::merge(&mut service["spec"], &spec);
    service
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "z1"}}})
}

fn pod(name: &str, app: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i:1"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(object::name).collect()
}

#[tokio::test]
async fn the_pages_of_a_list_show_one_version() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.store().create(config_map(name)).unwrap();
    }
    let (_, first) = bench.get("/api/v1/configmaps?limit=2").await;
    bench.store().delete("configmaps", "default", "c").unwrap();
    bench.store().create(config_map("d")).unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = bench.get(&format!("/api/v1/configmaps?limit=2&continue={token}")).await;
    assert_eq!((names(&first), names(&second)), (vec!["a", "b"], vec!["c"]));
    assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    bench.server.faults().compact();
    let (code, status) = bench.get(&format!("/api/v1/configmaps?limit=2&continue={token}")).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
}

#[tokio::test]
async fn an_exact_list_shows_the_past_and_others_the_present() {
    let bench = Bench::new();
    bench.store().create(config_map("a")).unwrap();
    let then = bench.store().revision();
    bench.store().create(config_map("b")).unwrap();
    let path = |suffix: &str| format!("/api/v1/configmaps?resourceVersion={then}{suffix}");
    assert_eq!(names(&bench.get(&path("&resourceVersionMatch=Exact")).await.1), ["a"]);
    assert_eq!(names(&bench.get(&path("&resourceVersionMatch=NotOlderThan")).await.1), ["a", "b"]);
    assert_eq!(names(&bench.get("/api/v1/configmaps?resourceVersion=0").await.1), ["a", "b"]);
    let (code, status) = bench.get("/api/v1/configmaps?resourceVersionMatch=Exact").await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
}

#[tokio::test]
async fn labels_that_change_make_objects_enter_and_leave_a_watch() {
    let bench = Bench::new();
    let version = bench.store().revision();
    bench.store().create(config_map("a")).unwrap();
    for label in ["x", "x", "y"] {
        let patch = json!({"metadata": {"labels": {"name": label}}, "data": {"k": label}});
        bench.store().patch("configmaps", "default", "a", patch).unwrap();
    }
    bench.store().patch("configmaps", "default", "a", json!({"metadata": {"labels": {"name": "x"}}})).unwrap();
    bench.store().delete("configmaps", "default", "a").unwrap();
    let events = bench.events("/api/v1/configmaps?labelSelector=name%20in%20(x)", version).await;
    assert_eq!(events, ["ADDED a", "DELETED a", "ADDED a", "DELETED a"], "the patch that changes nothing is no event");
}

#[tokio::test]
async fn an_object_with_finalizers_stays_until_the_last_is_removed() {
    let bench = Bench::new();
    let version = bench.store().revision();
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(["cmd.nu/cleanup"]);
    bench.store().create(object).unwrap();
    let (code, body) = bench.call("DELETE", "/api/v1/namespaces/default/configmaps/a", Value::Null).await;
    assert_eq!((code, &body["kind"]), (200, &json!("ConfigMap")));
    assert!(!body["metadata"]["deletionTimestamp"].is_null());
    bench.store().patch("configmaps", "default", "a", json!({"metadata": {"finalizers": null}})).unwrap();
    assert!(bench.store().get("configmaps", "default", "a").unwrap_err().is_not_found());
    assert_eq!(bench.events("/api/v1/configmaps", version).await, ["ADDED a", "MODIFIED a", "DELETED a"]);
}

#[tokio::test]
async fn deletions_obey_their_preconditions() {
    let bench = Bench::new();
    let created = bench.store().create(config_map("a")).unwrap();
    let path = "/api/v1/namespaces/default/configmaps/a";
    for preconditions in [json!({"uid": "other"}), json!({"resourceVersion": "1"})] {
        let (code, status) = bench.call("DELETE", path, json!({ "preconditions": preconditions })).await;
        assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    }
    let right = json!({"uid": created["metadata"]["uid"], "resourceVersion": created["metadata"]["resourceVersion"]});
    let body = json!({"preconditions": right, "propagationPolicy": "Background"});
    let (code, status) = bench.call("DELETE", path, body).await;
    assert_eq!((code, &status["status"], &status["details"]["kind"]), (200, &json!("Success"), &json!("configmaps")));
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.store().create(config_map(name)).unwrap();
    }
    let path = "/api/v1/namespaces/default/configmaps?labelSelector=name%20notin%20(b)";
    let (code, list) = bench.call("DELETE", path, Value::Null).await;
    assert_eq!((code, names(&list)), (200, vec!["a", "c"]));
    assert_eq!(names(&bench.get("/api/v1/configmaps").await.1), ["b"]);
}

#[tokio::test]
async fn objects_need_a_namespace_that_exists() {
    let bench = Bench::new();
    let (code, status) = bench.call("POST", "/api/v1/namespaces/nowhere/configmaps", config_map("a")).await;
    assert_eq!((code, &status["message"]), (404, &json!("namespaces \"nowhere\" not found")));
    let mut elsewhere = config_map("a");
    elsewhere["metadata"]["namespace"] = json!("kube-system");
    assert_eq!(bench.call("POST", "/api/v1/namespaces/default/configmaps", elsewhere).await.0, 400);
    assert_eq!(bench.call("POST", "/api/v1/configmaps", config_map("a")).await.0, 404);
}

#[tokio::test]
async fn names_are_generated_and_leases_created_by_update() {
    let bench = Bench::new();
    let mut object = config_map("");
    object["metadata"] = json!({"generateName": "map-"});
    let (code, created) = bench.call("POST", "/api/v1/namespaces/default/configmaps", object).await;
    assert_eq!((code, object::name(&created).len()), (201, "map-".len() + 5));
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x"}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/x";
    assert_eq!(bench.call("PUT", path, lease.clone()).await.0, 201);
    assert_eq!(bench.call("PUT", path, lease).await.0, 422, "without a version it is not updated");
}

#[tokio::test]
async fn nothing_is_stored_by_a_dry_run() {
    let bench = Bench::new();
    let before = bench.store().revision();
    let (code, _) = bench.call("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", config_map("a")).await;
    let (deleted, _) =
        bench.call("DELETE", "/api/v1/namespaces/default/services/kubernetes?dryRun=All", Value::Null).await;
    assert_eq!((code, deleted, bench.store().revision()), (201, 200, before));
}

#[tokio::test]
async fn every_kind_of_service_gets_its_own_defaults() {
    let bench = Bench::new();
    let spec = |name: &str, spec: Value| bench.store().create(service(name, spec)).unwrap()["spec"].clone();
    let headless = spec("headless", json!({"clusterIP": "None"}));
    assert_eq!(headless["clusterIPs"], json!(["None"]));
    let external = spec("external", json!({"type": "ExternalName", "externalName": "a.example", "ports": null}));
    assert!(external["clusterIP"].is_null() && external["ipFamilies"].is_null());
    let sticky = spec("sticky", json!({"sessionAffinity": "ClientIP"}));
    assert_eq!(sticky["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
    let six = spec("six", json!({"ipFamilies": ["IPv6"]}));
    assert!(six["clusterIP"].as_str().unwrap().starts_with("fd96::"));
    let chosen = spec("chosen", json!({"clusterIP": "10.96.0.77", "ipFamilyPolicy": "RequireDualStack"}));
    assert_eq!((&chosen["clusterIPs"][0], chosen["ipFamilies"].as_array().unwrap().len()), (&json!("10.96.0.77"), 2));
    let node_port = spec("port", json!({"type": "NodePort"}));
    assert_eq!(
        (&node_port["ports"][0]["nodePort"], &node_port["externalTrafficPolicy"]),
        (&json!(30000), &json!("Cluster"))
    );
    let unused = spec("bare", json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}));
    assert!(unused["ports"][0]["nodePort"].is_null());
}

#[tokio::test]
async fn an_update_keeps_the_cluster_address_and_may_not_change_it() {
    let bench = Bench::new();
    let created = bench.store().create(service("echo", json!({}))).unwrap();
    let updated = bench.store().update(service("echo", json!({"type": "LoadBalancer"}))).unwrap();
    assert_eq!(updated["spec"]["clusterIP"], created["spec"]["clusterIP"]);
    assert_eq!(updated["spec"]["ports"][0]["nodePort"], 30000);
    let error =
        bench.store().patch("services", "default", "echo", json!({"spec": {"clusterIP": "10.96.9.9"}})).unwrap_err();
    assert_eq!(error.code(), 422);
}

#[tokio::test]
async fn the_status_of_a_new_object_is_dropped_unless_it_is_written_after() {
    let bench = Bench::new();
    bench.store().create(pod("a", "echo", "10.0.0.1")).unwrap();
    let written = bench.store().create_with_status(pod("b", "echo", "10.0.0.2")).unwrap();
    let first = bench.store().get("pods", "default", "a").unwrap();
    assert_eq!((&first["status"]["phase"], &written["status"]["podIP"]), (&json!("Pending"), &json!("10.0.0.2")));
    assert_eq!(written["status"]["qosClass"], "BestEffort");
}

#[tokio::test]
async fn slices_appear_follow_their_pods_and_go_with_the_service() {
    let bench = Bench::new();
    bench.store().create(node("n1")).unwrap();
    bench.store().create(service("echo", json!({"ipFamilyPolicy": "PreferDualStack"}))).unwrap();
    let placeholders = bench.slices("echo").await;
    let families: BTreeSet<&str> = placeholders.iter().map(|slice| object::text(slice, "/addressType")).collect();
    assert_eq!(families, BTreeSet::from(["IPv4", "IPv6"]));
    assert!(placeholders.iter().all(|slice| slice["endpoints"].is_null()));
    bench.store().create_with_status(pod("a", "echo", "10.0.0.1")).unwrap();
    let mut host = pod("b", "echo", "10.9.0.1");
    host["spec"]["hostNetwork"] = json!(true);
    bench.store().create_with_status(host).unwrap();
    let slices = bench.slices("echo").await;
    let four = slices.iter().find(|slice| slice["addressType"] == "IPv4").unwrap();
    assert_eq!(four["endpoints"].as_array().unwrap().len(), 2, "pods of the host network are endpoints too");
    assert_eq!(four["endpoints"][0]["zone"], "z1");
    bench.store().patch("pods", "default", "a", json!({"metadata": {"labels": {"app": "other"}}})).unwrap();
    let slices = bench.slices("echo").await;
    let four = slices.iter().find(|slice| slice["addressType"] == "IPv4").unwrap();
    assert_eq!(four["endpoints"][0]["addresses"], json!(["10.9.0.1"]));
    bench.store().delete("services", "default", "echo").unwrap();
    assert_eq!(bench.slices("echo").await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_slice_that_somebody_deletes_or_edits_is_restored() {
    let bench = Bench::new();
    bench.store().create(node("n1")).unwrap();
    bench.store().create(service("echo", json!({}))).unwrap();
    bench.store().create_with_status(pod("a", "echo", "10.0.0.1")).unwrap();
    let name = object::name(&bench.slices("echo").await[0]).to_owned();
    bench.store().patch("endpointslices", "default", &name, json!({"endpoints": null})).unwrap();
    assert_eq!(bench.slices("echo").await[0]["endpoints"].as_array().unwrap().len(), 1);
    bench.store().delete("endpointslices", "default", &name).unwrap();
    let slices = bench.slices("echo").await;
    assert_eq!((slices.len(), slices[0]["endpoints"].as_array().unwrap().len()), (1, 1));
}

#[tokio::test]
async fn more_than_a_hundred_endpoints_are_spread_over_slices() {
    let bench = Bench::new();
    bench.store().create(node("n1")).unwrap();
    bench.store().create(service("echo", json!({"clusterIP": "None"}))).unwrap();
    for n in 0..130 {
        bench.store().create_with_status(pod(&format!("p{n}"), "echo", &format!("10.0.0.{n}"))).unwrap();
    }
    let slices = bench.slices("echo").await;
    let mut sizes: Vec<usize> = slices.iter().map(|slice| slice["endpoints"].as_array().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [30, 100]);
    assert_eq!(slices[0]["metadata"]["labels"]["service.kubernetes.io/headless"], "");
}

#[tokio::test]
async fn the_controller_can_be_left_out() {
    let options = Options { endpoint_slices: false, ..Options::default() };
    let server = ApiServer::start_local(options).unwrap();
    server.store().create(service("echo", json!({}))).unwrap();
    server.settled().await;
    assert_eq!(server.store().list("endpointslices").unwrap().len(), 1, "only that of the server itself");
}

#[tokio::test]
async fn methods_paths_and_media_types_that_are_not_served_are_refused() {
    let bench = Bench::new();
    assert_eq!(bench.call("PUT", "/api/v1/services", Value::Null).await.0, 404);
    assert_eq!(bench.call("PUT", "/api/v1/nodes", Value::Null).await.0, 405);
    assert_eq!(bench.get("/api/v1/namespaces/default/services/kubernetes/proxy").await.0, 404);
    assert_eq!(bench.get("/api/v1/namespaces/default/nodes").await.0, 404);
    let request =
        Request::patch("/api/v1/namespaces/default/services/kubernetes").header("Content-Type", "application/json");
    let response = bench.client.send(request.body(b"{}".to_vec().into()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 415);
}

#[tokio::test]
async fn the_service_networks_are_listed() {
    let bench = Bench::new();
    let (code, cidrs) = bench.get("/apis/networking.k8s.io/v1/servicecidrs").await;
    assert_eq!((code, object::name(&cidrs["items"][0])), (200, "kubernetes"));
    assert_eq!(cidrs["items"][0]["spec"], json!({"cidrs": ["10.96.0.0/16", "fd96::/112"]}));
    serde_json::from_value::<ServiceCIDR>(cidrs["items"][0].clone()).unwrap();
}
