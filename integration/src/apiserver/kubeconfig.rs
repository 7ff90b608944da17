//! The kubeconfig with which clients find the server.

use serde_json::json;

use super::certificate::Authority;

/// The content of the file; JSON is YAML, so every client reads it.
pub fn render(url: &str, authority: &Authority, token: &str) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": url, "certificate-authority-data": authority.data()}}],
        "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "default"}}],
        "current-context": "lab",
    });
    format!("{config:#}\n")
}
