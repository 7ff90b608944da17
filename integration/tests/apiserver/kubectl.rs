//! The double in the hands of the real `kubectl`.

use std::collections::BTreeMap;

use integration::apiserver::Options;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::bench::{Bench, spawn};

const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: echo
  labels: {app: echo}
  annotations: {cmd.nu/tunnel: 192.0.2.10}
spec:
  selector: {app: echo}
  ipFamilyPolicy: PreferDualStack
  ports:
  - {name: web, port: 80, targetPort: web}
---
apiVersion: v1
kind: Pod
metadata: {name: echo-1, labels: {app: echo}}
spec:
  nodeName: worker-a
  containers:
  - name: server
    image: echo:1
    ports: [{name: web, containerPort: 8080}]
"#;

/// Gives the pod of the manifest an address and makes it ready.
async fn start_pod(bench: &Bench) {
    let status = json!({"status": {"phase": "Running", "podIP": "10.244.1.11", "podIPs": [{"ip": "10.244.1.11"}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    bench.server.store().patch_status("pods", "default", "echo-1", status).unwrap();
    bench.server.settled().await;
}

#[tokio::test]
async fn kubectl_sends_the_token_of_its_kubeconfig() {
    let options = || Options { tokens: BTreeMap::from([("secret".into(), "somebody".into())]), ..Options::default() };
    let bench = Bench::guarded(options(), "secret");
    assert!(bench.ok(&["get", "services"], "").await.contains("kubernetes"));
    assert!(bench.server.journal().requests().iter().all(|one| one.info.user.name == "somebody"));

    let stranger = Bench::guarded(options(), "guessed");
    let (got, text) = stranger.run(&["get", "services"], "").await;
    assert!(!got && text.contains("must be logged in"), "{text}");
}

#[tokio::test]
async fn objects_are_created_printed_and_deleted() {
    let bench = Bench::new();
    let created = bench.ok(&["create", "-f", "-"], MANIFEST).await;
    assert_eq!(created, "service/echo created\npod/echo-1 created\n");
    start_pod(&bench).await;

    let wide = bench.ok(&["get", "services,pods,nodes,namespaces,endpointslices", "-A", "-o", "wide"], "").await;
    for expected in [
        "service/echo",
        "10.96.0.10",
        "app=echo",
        "pod/echo-1",
        "10.244.1.11",
        "node/worker-a",
        "namespace/kube-system",
        "8080",
    ] {
        assert!(wide.contains(expected), "{expected} is not in\n{wide}");
    }
    let yaml = bench.ok(&["get", "service", "echo", "-o", "yaml"], "").await;
    assert!(yaml.contains("clusterIP: 10.96.0.10") && yaml.contains("kind: Service"), "{yaml}");
    let slices =
        bench.json(&["get", "endpointslices", "-l", "kubernetes.io/service-name in (echo)", "-o", "json"]).await;
    assert_eq!(slices["items"].as_array().unwrap().len(), 2);
    let pods = bench.ok(&["get", "pods", "--field-selector", "spec.nodeName=worker-a", "-o", "name"], "").await;
    assert_eq!(pods, "pod/echo-1\n");

    let deleted = bench.ok(&["delete", "service", "echo"], "").await;
    assert!(deleted.contains("service \"echo\" deleted"), "{deleted}");
    let (found, text) = bench.run(&["get", "service", "echo"], "").await;
    assert!(!found && text.contains("services \"echo\" not found"), "{text}");
}

#[tokio::test]
async fn apply_creates_changes_and_leaves_alone() {
    let bench = Bench::new();
    assert_eq!(bench.ok(&["apply", "-f", "-"], MANIFEST).await, "service/echo created\npod/echo-1 created\n");
    bench.server.settled().await;
    let before = bench.server.store().revision();
    let again = bench.ok(&["apply", "-f", "-"], MANIFEST).await;
    assert_eq!(again, "service/echo unchanged\npod/echo-1 unchanged\n");
    assert_eq!(bench.server.store().revision(), before);

    let other_port = MANIFEST.replace("port: 80,", "port: 81,");
    let changed = bench.ok(&["apply", "-f", "-"], &other_port).await;
    assert_eq!(changed, "service/echo configured\npod/echo-1 unchanged\n");
    let service = bench.json(&["get", "service", "echo", "-o", "json"]).await;
    let expected = json!([{"name": "web", "port": 81, "protocol": "TCP", "targetPort": "web"}]);
    assert_eq!(service["spec"]["ports"], expected);
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.10");
    bench.ok(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &other_port).await;
}

#[tokio::test]
async fn annotations_and_labels_are_set_and_removed() {
    let bench = Bench::new();
    bench.ok(&["create", "-f", "-"], MANIFEST).await;
    bench.ok(&["annotate", "service", "echo", "cmd.nu/tunnel-mode=vxlan", "cmd.nu/tunnel-"], "").await;
    bench.ok(&["label", "pod", "echo-1", "tier=front"], "").await;
    let service = bench.server.store().get("services", "default", "echo").unwrap();
    assert_eq!(service["metadata"]["annotations"], json!({"cmd.nu/tunnel-mode": "vxlan"}));
    let pod = bench.server.store().get("pods", "default", "echo-1").unwrap();
    assert_eq!(pod["metadata"]["labels"], json!({"app": "echo", "tier": "front"}));
}

#[tokio::test]
async fn describe_shows_addresses_endpoints_and_events() {
    let bench = Bench::new();
    bench.ok(&["create", "-f", "-"], MANIFEST).await;
    start_pod(&bench).await;
    let service = bench.server.store().get("services", "default", "echo").unwrap();
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "echo.1"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "cmd.nu/tunnel-router",
        "reportingInstance": "worker-a", "action": "Program", "reason": "InvalidTunnelIP", "note": "not an address",
        "type": "Warning", "regarding": {"apiVersion": "v1", "kind": "Service", "name": "echo", "namespace": "default",
        "uid": service["metadata"]["uid"]}});
    bench.server.store().create(event).unwrap();
    let description = bench.ok(&["describe", "service", "echo"], "").await;
    for expected in ["10.96.0.10,fd96::a", "web/TCP", "InvalidTunnelIP", "not an address", "cmd.nu/tunnel: 192.0.2.10"]
    {
        assert!(description.contains(expected), "{expected} is not in\n{description}");
    }
    let events = bench.ok(&["get", "events"], "").await;
    assert!(events.contains("service/echo") && events.contains("not an address"), "{events}");
    let pod = bench.ok(&["describe", "pod", "echo-1"], "").await;
    assert!(pod.contains("10.244.1.11"), "{pod}");
    let node = bench.server.store().get("nodes", "", "worker-a").unwrap();
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "worker-a.1"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "cmd.nu/tunnel-router",
        "reportingInstance": "worker-a", "action": "Program", "reason": "NotForwarding", "note": "it does not forward",
        "type": "Warning", "regarding": {"apiVersion": "v1", "kind": "Node", "name": "worker-a",
        "uid": node["metadata"]["uid"]}});
    bench.server.store().create(event).unwrap();
    let node = bench.ok(&["describe", "node", "worker-a"], "").await;
    assert!(node.contains("NotForwarding") && node.contains("it does not forward"), "{node}");
}

#[tokio::test]
async fn get_watches() {
    let bench = Bench::new();
    let mut child = spawn(bench.command(&["get", "services", "--watch", "--no-headers"]));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("kubernetes"));
    let watched =
        |requests: &[integration::apiserver::Record]| requests.iter().any(|one| one.info.is("watch", "services"));
    bench.server.journal().wait_for(watched).await;
    bench.ok(&["create", "-f", "-"], MANIFEST).await;
    let line = lines.next_line().await.unwrap().unwrap();
    assert!(line.starts_with("echo") && line.contains("80/TCP"), "{line}");
    bench.ok(&["delete", "service", "echo"], "").await;
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("echo"));
    child.kill().await.unwrap();
}

#[tokio::test]
async fn deleting_a_pod_waits_for_its_kubelet() {
    let bench = Bench::new();
    bench.ok(&["create", "-f", "-"], MANIFEST).await;
    let kubelet = async {
        let terminating = |store: &integration::apiserver::Objects| {
            let pod = store.get("pods", "default", "echo-1").ok()?;
            (!pod["metadata"]["deletionTimestamp"].is_null()).then_some(pod)
        };
        let pod = bench.server.store().wait_for(terminating).await.unwrap();
        assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 7);
        bench.server.store().delete_now("pods", "default", "echo-1").unwrap();
    };
    let (deleted, ()) = tokio::join!(bench.ok(&["delete", "pod", "echo-1", "--grace-period=7"], ""), kubelet);
    assert!(deleted.contains("pod \"echo-1\" deleted"), "{deleted}");
}

#[tokio::test]
async fn a_namespace_goes_with_its_content() {
    let bench = Bench::new();
    bench.ok(&["create", "-f", "-"], "apiVersion: v1\nkind: Namespace\nmetadata: {name: lab}\n").await;
    bench.ok(&["-n", "lab", "create", "-f", "-"], MANIFEST).await;
    bench.ok(&["delete", "namespace", "lab"], "").await;
    assert!(bench.server.store().get("pods", "lab", "echo-1").unwrap_err().is_not_found());
    let (created, text) = bench.run(&["-n", "lab", "create", "-f", "-"], MANIFEST).await;
    assert!(!created && text.contains("namespaces \"lab\" not found"), "{text}");
}

#[tokio::test]
async fn the_other_kinds_in_use_are_known_by_their_short_names() {
    let bench = Bench::new();
    for (kind, spec) in [
        ("ConfigMap", "data: {a: b}"),
        ("Secret", "stringData: {a: b}"),
        ("Lease", "spec: {holderIdentity: worker-a}"),
        ("NetworkPolicy", "spec: {podSelector: {matchLabels: {app: echo}}, ingress: [{}]}"),
    ] {
        let version = match kind {
            "Lease" => "coordination.k8s.io/v1",
            "NetworkPolicy" => "networking.k8s.io/v1",
            _ => "v1",
        };
        let manifest = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n{spec}\n");
        bench.ok(&["create", "-f", "-"], &manifest).await;
    }
    for (name, expected) in [
        ("cm", "x"),
        ("secret", "Opaque"),
        ("lease", "worker-a"),
        ("netpol", "app=echo"),
        ("no", "worker-a"),
        ("servicecidr", "10.96.0.0/16"),
    ] {
        let table = bench.ok(&["get", name], "").await;
        assert!(table.contains(expected), "{table}");
    }
    assert!(bench.ok(&["version"], "").await.contains("1.36"));
}
