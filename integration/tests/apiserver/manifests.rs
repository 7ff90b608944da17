//! The manifests: strictly of the API's form, applied as a user would, and one and the same as a file and by kustomize.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bench::Bench;

const FILE: &str = include_str!("../../../manifests/tunnel-router.yaml");
const CLEANUP: &str = include_str!("../../../manifests/overlays/cleanup/cleanup.yaml");
const LABEL: &str = "app.kubernetes.io";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn manifests(path: &str) -> String {
    repository().join("manifests").join(path).display().to_string()
}

/// The base, another mode, what BIRD needs; and what removes everything.
const OVERLAYS: [&str; 5] = ["gre", "mpls", "vxlan", "bird", "cleanup"];

/// What `kubectl apply -k` of a directory would apply. Older forms of kustomize do not know everything that stands there.
async fn rendered(bench: &Bench, directory: &str) -> Vec<Value> {
    let version: Value = bench.json(&["version", "--client", "-o", "json"]).await;
    let kustomize = version["kustomizeVersion"].as_str().unwrap_or("before v4.0.5");
    assert!(kustomize.starts_with("v5."), "kubectl has kustomize {kustomize}: a kubectl of 1.27 or later has v5");
    serde_saphyr::from_multiple(&bench.ok(&["kustomize", &manifests(directory)], "").await).unwrap()
}

async fn overlays(bench: &Bench) -> BTreeMap<&'static str, Vec<Value>> {
    let mut all = BTreeMap::new();
    for overlay in OVERLAYS {
        all.insert(overlay, rendered(bench, &format!("overlays/{overlay}")).await);
    }
    all
}

fn of_file() -> Vec<Value> {
    serde_saphyr::from_multiple(FILE).unwrap()
}

fn identity(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

fn by_identity(objects: Vec<Value>) -> BTreeMap<(String, String, String), Value> {
    objects.into_iter().map(|object| (identity(&object), object)).collect()
}

/// The agent's environment, by name.
fn environment(objects: &[Value]) -> BTreeMap<&str, &str> {
    let agent =
        objects.iter().find(|object| object["kind"] == "DaemonSet" && object["metadata"]["name"] == "tunnel-router");
    let env = agent.unwrap()["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    env.iter().filter_map(|variable| Some((variable["name"].as_str()?, variable["value"].as_str()?))).collect()
}

#[tokio::test]
async fn kustomize_makes_of_the_base_what_stands_in_the_one_file() {
    let bench = Bench::new();
    assert_eq!(by_identity(rendered(&bench, "base").await), by_identity(of_file()));
}

#[tokio::test]
async fn an_overlay_changes_what_its_name_says() {
    let bench = Bench::new();
    let overlays = overlays(&bench).await;
    let of_base = environment(&overlays["gre"]);
    for mode in ["gre", "mpls", "vxlan"] {
        let mut expected = of_base.clone();
        expected.insert("TUNNEL_ROUTER_MODE", mode);
        assert_eq!(environment(&overlays[mode]), expected, "{mode}");
    }
    let mut expected = of_base.clone();
    expected.extend([("TUNNEL_ROUTER_INGRESS_NODES", "node=tunnel"), ("TUNNEL_ROUTER_ANNOUNCE_TABLE", "10900")]);
    assert_eq!(environment(&overlays["bird"]), expected);
    let added: BTreeSet<_> = by_identity(overlays["bird"].clone()).into_keys().collect();
    let base: BTreeSet<_> = by_identity(overlays["gre"].clone()).into_keys().collect();
    assert_eq!(added.difference(&base).count(), 3, "{added:?}");
}

#[tokio::test]
async fn every_manifest_applies_strictly_and_again_without_a_change() {
    let files = ["tunnel-router.yaml", "bird/tunnel-router-bird.yaml"].map(|file| ("-f", file.to_owned()));
    let overlays = OVERLAYS.map(|overlay| ("-k", format!("overlays/{overlay}")));
    for (flag, path) in files.into_iter().chain(overlays) {
        let bench = Bench::new();
        let apply = ["apply", "--server-side", "--validate=strict", flag, &manifests(&path)];
        bench.ok(&apply, "").await;
        bench.server.settled().await;
        let revision = bench.server.store().revision();
        bench.ok(&apply, "").await;
        assert_eq!(bench.server.store().revision(), revision, "{path}");
    }
}

#[tokio::test]
async fn every_overlay_is_removed_by_one_command() {
    let bench = Bench::new();
    for overlay in OVERLAYS {
        let directory = manifests(&format!("overlays/{overlay}"));
        bench.ok(&["apply", "--server-side", "-k", &directory], "").await;
        assert!(bench.ok(&["get", "-k", &directory, "-o", "name"], "").await.contains("daemonset"), "{overlay}");
        bench.ok(&["delete", "--ignore-not-found", "-k", &directory], "").await;
        let left = bench.ok(&["get", "-k", &directory, "-o", "name", "--ignore-not-found"], "").await;
        assert_eq!(left, "", "{overlay}");
    }
}

#[tokio::test]
async fn a_misspelt_field_is_refused_wherever_it_stands() {
    let bench = Bench::new();
    let apply = ["apply", "--server-side", "--validate=strict", "-f", "-"];
    bench.ok(&apply, FILE).await;
    for field in ["readOnlyRootFilesystem", "hostNetwork", "maxUnavailable", "apiGroups", "failurePolicy", "subjects"] {
        let misspelt = FILE.replace(&format!("{field}:"), &format!("{field}s:"));
        assert_ne!(misspelt, FILE, "{field}");
        let (succeeded, text) = bench.run(&apply, &misspelt).await;
        assert!(!succeeded && text.contains(&format!("{field}s\"")), "{field}: {text}");
    }
}

/// Every object of the manifests, once.
async fn everything(bench: &Bench) -> Vec<Value> {
    by_identity(overlays(bench).await.into_values().flatten().collect()).into_values().collect()
}

#[tokio::test]
async fn every_object_says_what_it_belongs_to() {
    let bench = Bench::new();
    for object in everything(&bench).await {
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels[format!("{LABEL}/part-of")], "kube-service-tunnel", "{}", identity(&object).0);
        assert!(labels[format!("{LABEL}/name")].as_str().is_some_and(|name| name.starts_with("tunnel-router")));
        match object["kind"].as_str() {
            Some("Namespace") => {
                for mode in ["enforce", "audit", "warn"] {
                    assert_eq!(labels[format!("pod-security.kubernetes.io/{mode}")], "privileged", "{mode}");
                }
            }
            _ => assert!(labels[format!("{LABEL}/component")].is_string(), "{labels}"),
        }
    }
}

/// Where it runs and what goes first when a node is full is the same in all of them.
#[tokio::test]
async fn every_workload_is_scheduled_as_a_part_of_the_system() {
    let bench = Bench::new();
    let all = everything(&bench).await;
    let workloads: Vec<&Value> = all.iter().filter(|object| object["spec"]["template"].is_object()).collect();
    assert_eq!(workloads.len(), 4);
    for workload in workloads {
        let (kind, _, name) = identity(workload);
        let pod = &workload["spec"]["template"]["spec"];
        assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux", "{name}");
        assert!(pod["priorityClassName"].as_str().is_some_and(|class| class.starts_with("system-")), "{name}");
        assert!(pod["tolerations"].is_array(), "{name}");
        if kind == "DaemonSet" {
            assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]), "{name}");
        }
        let containers =
            ["initContainers", "containers"].map(|field| pod[field].as_array().cloned().unwrap_or_default());
        for container in containers.concat() {
            let context = &container["securityContext"];
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            for resource in ["cpu", "memory"] {
                assert!(container["resources"]["requests"][resource].is_string(), "{name}: {resource}");
            }
        }
        assert_eq!(pod["hostPID"], Value::Null, "{name}");
    }
}

#[test]
fn the_version_is_that_of_the_program() {
    let version = env!("CARGO_PKG_VERSION");
    for (text, versions) in [(FILE, 4), (CLEANUP, 2)] {
        assert_eq!(text.matches("image: ").count(), text.matches(&format!("image: tunnel-router:{version}\n")).count());
        assert_eq!(text.matches(&format!("{LABEL}/version: \"{version}\"\n")).count(), versions);
    }
}
