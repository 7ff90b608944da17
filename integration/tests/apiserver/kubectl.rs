//! The double in the hands of the real `kubectl` (`KUBECTL` names another binary, e.g. an older one).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use integration::apiserver::{ApiServer, Options};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

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

struct Bench {
    server: ApiServer,
    /// Holds the kubeconfig and kubectl's cache.
    home: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::guarded(Options::default(), "anybody")
    }

    /// With this token in its kubeconfig.
    fn guarded(options: Options, token: &str) -> Self {
        let server = ApiServer::start_local(options).unwrap();
        let home = TempDir::new().unwrap();
        server.write_kubeconfig(&home.path().join("config"), token).unwrap();
        server.store().create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-a"}})).unwrap();
        Self { server, home }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let binary = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let mut command = Command::new(binary);
        command.args(arguments).env("HOME", self.home.path()).env("KUBECONFIG", self.home.path().join("config"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs kubectl; returns whether it succeeded and what it printed, both streams.
    async fn run(&self, arguments: &[&str], stdin: &str) -> (bool, String) {
        let mut child = spawn(self.command(arguments));
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let text = [output.stdout, output.stderr].map(|stream| String::from_utf8(stream).unwrap()).concat();
        (output.status.success(), text)
    }

    async fn ok(&self, arguments: &[&str], stdin: &str) -> String {
        let (success, text) = self.run(arguments, stdin).await;
        assert!(success, "kubectl {arguments:?}: {text}");
        text
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments, "").await).unwrap()
    }

    /// Gives the pod of the manifest an address and makes it ready.
    async fn start_pod(&self) {
        let status = json!({"status": {"phase": "Running", "podIP": "10.244.1.11", "podIPs": [{"ip": "10.244.1.11"}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
        self.server.store().patch_status("pods", "default", "echo-1", status).unwrap();
        self.server.settled().await;
    }
}

fn spawn(mut command: Command) -> tokio::process::Child {
    command.spawn().unwrap_or_else(|error| {
        panic!("kubectl cannot be started ({error}): install Debian's package `kubernetes-client`, or set KUBECTL")
    })
}

#[tokio::test]
async fn kubectl_sends_the_token_of_its_kubeconfig() {
    let options = || Options { tokens: BTreeMap::from([("secret".into(), "somebody".into())]), ..Options::default() };
    let bench = Bench::guarded(options(), "secret");
    assert!(bench.ok(&["get", "services"], "").await.contains("kubernetes"));
    assert!(bench.server.journal().requests().iter().all(|one| one.info.user == "somebody"));

    let stranger = Bench::guarded(options(), "guessed");
    let (got, text) = stranger.run(&["get", "services"], "").await;
    assert!(!got && text.contains("must be logged in"), "{text}");
}

#[tokio::test]
async fn objects_are_created_printed_and_deleted() {
    let bench = Bench::new();
    let created = bench.ok(&["create", "-f", "-"], MANIFEST).await;
    assert_eq!(created, "service/echo created\npod/echo-1 created\n");
    bench.start_pod().await;

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
    bench.start_pod().await;
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
