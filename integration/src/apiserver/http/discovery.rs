//! The paths that are about the server itself: what it serves, which version it is, whether it is well.

use axum::response::Response;
use serde_json::{Value, json};

use super::{App, json_response, openapi, page_not_found, text_response};
use crate::apiserver::error::ApiResult;
use crate::apiserver::journal::RequestInfo;
use crate::apiserver::resource::{RESOURCES, Resource};

/// Answers a path without a resource.
pub fn serve(app: &App, info: &RequestInfo, accept: &str) -> ApiResult<Response> {
    let segments: Vec<&str> = info.path.split('/').filter(|segment| !segment.is_empty()).collect();
    let document = match segments.as_slice() {
        ["healthz" | "readyz" | "livez", ..] => return Ok(text_response(200, "ok")),
        ["openapi", rest @ ..] => return Ok(openapi::serve(rest, accept)),
        [] => {
            json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz",
            "/version"]})
        }
        ["version"] => version(),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": app.address}]}),
        ["apis"] => {
            let groups: Vec<Value> = groups().into_iter().map(group).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["api", "v1"] => resources("", "v1"),
        ["apis", name] if groups().contains(name) => {
            let mut document = group(name);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        ["apis", name, "v1"] if groups().contains(name) => resources(name, "v1"),
        _ => return Ok(page_not_found()),
    };
    Ok(json_response(200, &document))
}

/// The named groups, each once.
pub fn groups() -> Vec<&'static str> {
    let mut names: Vec<&str> =
        RESOURCES.iter().map(|resource| resource.group).filter(|group| !group.is_empty()).collect();
    names.dedup();
    names
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str, version: &str) -> Value {
    let rows = RESOURCES.iter().filter(|resource| (resource.group, resource.version) == (group, version));
    let resources: Vec<Value> = rows.flat_map(entries).collect();
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut document = json!({"kind": "APIResourceList", "groupVersion": name, "resources": resources});
    if !group.is_empty() {
        document["apiVersion"] = json!("v1");
    }
    document
}

fn entries(resource: &Resource) -> Vec<Value> {
    let mut main = json!({"name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": resource.verbs(), "storageVersionHash": resource.storage_hash});
    if !resource.short.is_empty() {
        main["shortNames"] = json!(resource.short);
    }
    if resource.in_all {
        main["categories"] = json!(["all"]);
    }
    let mut entries = vec![main];
    if resource.status {
        entries.push(json!({"name": format!("{}/status", resource.plural), "singularName": "",
            "namespaced": resource.namespaced, "kind": resource.kind, "verbs": ["get", "patch", "update"]}));
    }
    entries
}

fn version() -> Value {
    json!({"major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64"})
}
