//! What the manifests let agents and the controller write.

use std::collections::BTreeMap;

use integration::apiserver::{Grants, Options, Policies, RequestInfo, User, service_account};
use serde_json::{Value, json};
use tunnel_router::state::assignment::{MAP_LABEL, map_name};
use tunnel_router::state::node_report::{REPORT_LABEL, report_name};

use crate::bench::Bench;

const MANIFEST: &str = include_str!("../../../manifests/tunnel-router.yaml");
const BIRD: &str = include_str!("../../../manifests/bird/tunnel-router-bird.yaml");
const NAMESPACE: &str = "kube-service-tunnel";

fn agent() -> User {
    service_account(NAMESPACE, "tunnel-router").into()
}

/// A server with the manifest's rights; tokens: an agent's on `na`, that of an agent of an older server, the controller's.
fn guarded() -> Options {
    let controller = service_account(NAMESPACE, "tunnel-router-controller").into();
    let tokens =
        [("na", agent().on_node("na")), ("old", agent()), ("controller", controller), ("admin", "admin".into())];
    Options {
        tokens: BTreeMap::from(tokens.map(|(token, user)| (token.to_owned(), user))),
        grants: Some(Grants::of_manifest(MANIFEST).unwrap()),
        policies: Policies::of_manifest(MANIFEST).unwrap(),
        ..Options::default()
    }
}

fn config_map(name: &str, (label, value): (&str, &str)) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"by": "somebody"},
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {label: value}}})
}

struct Rights {
    bench: Bench,
}

impl Rights {
    /// With a map and the report of `nb` that are there.
    fn new() -> Rights {
        let bench = Bench::guarded(guarded(), "admin");
        let store = bench.server.store();
        store.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})).unwrap();
        store.create(config_map(&map_name("u1"), MAP_LABEL)).unwrap();
        store.create(config_map(&report_name("nb"), REPORT_LABEL)).unwrap();
        Rights { bench }
    }

    /// `kubectl VERB -f` with a token; what it complains about.
    async fn try_to(&self, verb: &str, token: &str, object: Value) -> Result<String, String> {
        let (succeeded, text) = self.bench.run(&["--token", token, verb, "-f", "-"], &object.to_string()).await;
        if succeeded { Ok(text) } else { Err(text) }
    }

    async fn refused(&self, verb: &str, token: &str, object: Value, why: &str) {
        let said = self.try_to(verb, token, object.clone()).await.expect_err(&format!("{token}: {verb} {object}"));
        assert!(said.contains("is forbidden: ") && said.contains(why), "{said}");
    }
}

#[tokio::test]
async fn an_agent_writes_the_report_of_its_own_node() {
    let rights = Rights::new();
    rights.try_to("create", "na", config_map(&report_name("na"), REPORT_LABEL)).await.unwrap();
    let mut changed = config_map(&report_name("na"), REPORT_LABEL);
    changed["data"]["by"] = json!("na");
    rights.try_to("replace", "na", changed).await.unwrap();
    let stored = rights.bench.server.store().get("configmaps", NAMESPACE, "node-na").unwrap();
    assert_eq!(stored["data"]["by"], "na");
}

#[tokio::test]
async fn an_agent_writes_no_report_of_another_node() {
    let rights = Rights::new();
    let why = "the token is that of node na, which may write its own report only";
    rights.refused("replace", "na", config_map(&report_name("nb"), REPORT_LABEL), why).await;
    rights.refused("create", "na", config_map(&report_name("nc"), REPORT_LABEL), why).await;
}

#[tokio::test]
async fn an_agent_writes_no_map_whatever_its_token_says() {
    let rights = Rights::new();
    let why = "agents write reports of nodes only";
    for token in ["na", "old"] {
        rights.refused("replace", token, config_map(&map_name("u1"), MAP_LABEL), why).await;
        rights.refused("create", token, config_map(&map_name("u2"), MAP_LABEL), why).await;
        // Agents find maps by their label.
        rights.refused("create", token, config_map(&report_name("na"), MAP_LABEL), why).await;
        rights.refused("replace", token, config_map(&map_name("u1"), REPORT_LABEL), why).await;
    }
    rights.try_to("replace", "controller", config_map(&map_name("u1"), MAP_LABEL)).await.unwrap();
}

#[tokio::test]
async fn a_token_without_a_node_may_write_any_report() {
    let rights = Rights::new();
    rights.try_to("replace", "old", config_map(&report_name("nb"), REPORT_LABEL)).await.unwrap();
    rights.try_to("create", "old", config_map(&report_name("nc"), REPORT_LABEL)).await.unwrap();
}

#[test]
fn no_role_lets_agents_or_the_controller_write_the_configuration_of_bird() {
    let documents: Vec<Value> = serde_saphyr::from_multiple(BIRD).unwrap();
    let configuration = documents.iter().find(|document| document["kind"] == "ConfigMap").unwrap();
    let grants = Grants::of_manifest(&format!("{MANIFEST}\n---\n{BIRD}")).unwrap();
    for (account, verb) in
        [("tunnel-router", "update"), ("tunnel-router", "create"), ("tunnel-router-controller", "update")]
    {
        let request = |namespace: &str| RequestInfo {
            verb: verb.into(),
            resource: "configmaps".into(),
            namespace: Some(namespace.into()),
            user: service_account(NAMESPACE, account).into(),
            ..RequestInfo::default()
        };
        assert!(grants.allow(&request(NAMESPACE)), "{account}");
        assert!(!grants.allow(&request(configuration["metadata"]["namespace"].as_str().unwrap())), "{account} {verb}");
    }
}

#[tokio::test]
async fn kubectl_learns_which_node_a_token_is_of() {
    let rights = Rights::new();
    let whoami = ["--token", "na", "auth", "whoami", "-o", "json"];
    let review: Value = serde_json::from_str(&rights.bench.ok(&whoami, "").await).unwrap();
    let user = &review["status"]["userInfo"];
    assert_eq!(user["username"], "system:serviceaccount:kube-service-tunnel:tunnel-router");
    assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["na"]));
}
