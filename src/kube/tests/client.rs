use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::Node;
use kube::Api;

use super::super::client::{ClientError, client};

const GOOD: &str = r#"
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: me, user: {token: s3cret}}]
"#;

/// The error that a kubeconfig with this text leads to.
async fn error(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    fs::write(&path, text).unwrap();
    let error = client(Some(&path)).await.map(drop).unwrap_err().to_string();
    assert!(error.contains(&*path.to_string_lossy()), "{error}");
    assert!(!error.contains("s3cret") && !error.contains('\n'), "{error}");
    error
}

#[tokio::test]
async fn an_api_that_does_not_answer_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    fs::write(&path, GOOD).unwrap();
    let client = client(Some(&path)).await.unwrap();
    assert!(Api::<Node>::all(client).get("worker-a").await.is_err());
}

#[tokio::test]
async fn a_kubeconfig_that_is_missing_or_cannot_be_read_is_named() {
    for path in ["/does/not/exist", "/"] {
        let error = client(Some(Path::new(path))).await.map(drop).unwrap_err();
        assert!(matches!(error, ClientError::Kubeconfig { .. }));
        let error = error.to_string();
        assert!(error.starts_with(&format!("cannot use kubeconfig {path}: failed to read")), "{error}");
        assert!(error.ends_with("give a file that exists and can be read"), "{error}");
    }
}

#[tokio::test]
async fn a_kubeconfig_that_is_no_yaml_is_named_without_its_secrets() {
    for text in ["users: [{name: me, user: {token: s3cret}}", "token: s3cret: s3cret", "users: s3cret", "\0"] {
        let error = error(text).await;
        assert!(error.contains("correct it"), "{error}");
    }
}

#[tokio::test]
async fn a_kubeconfig_without_a_current_context_is_named() {
    let error = error(&GOOD.replace("current-context: here", "")).await;
    assert!(error.ends_with("set current-context in it"), "{error}");
}

#[tokio::test]
async fn a_context_that_does_not_exist_is_named() {
    let wrong = error(&GOOD.replace("current-context: here", "current-context: there")).await;
    assert!(wrong.contains("there") && wrong.contains("name a context of it"), "{wrong}");
    let wrong = error(&GOOD.replace("{cluster: here, user: me}", "{cluster: there, user: me}")).await;
    assert!(wrong.contains("there"), "{wrong}");
}

#[tokio::test]
async fn a_server_that_is_no_url_is_named() {
    let wrong = error(&GOOD.replace("http://127.0.0.1:1", "http://[::")).await;
    assert!(wrong.contains("server to a URL"), "{wrong}");
}

#[tokio::test]
async fn credentials_that_cannot_be_used_are_named() {
    let wrong = error(&GOOD.replace("{token: s3cret}", "{client-certificate-data: AAAA, client-key-data: AAAA}")).await;
    assert!(wrong.contains("certificate") || wrong.contains("credentials"), "{wrong}");
}
