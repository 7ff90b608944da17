//! The kubeconfig with which clients find the server.

use std::io;
use std::path::Path;

use serde_json::json;

/// Writes a kubeconfig for `url`; JSON is YAML, so every client reads it.
pub fn write(path: &Path, url: &str, token: Option<&str>) -> io::Result<()> {
    std::fs::write(path, render(url, token))
}

/// The content of the file.
pub fn render(url: &str, token: Option<&str>) -> String {
    let user = token.map_or_else(|| json!({}), |token| json!({ "token": token }));
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "default"}}],
        "current-context": "lab",
    });
    format!("{config:#}\n")
}
