//! Just enough OpenAPI for kubectl to leave validation to the server.
//!
//! kubectl asks version 3 whether PATCH of a kind knows `fieldValidation` and, if so, sends objects unchecked. Older ones
//! ask version 2, in protobuf, and skip kinds they find no schema for: the empty message is a document without schemas.

use axum::response::Response;
use serde_json::{Map, Value, json};

use super::discovery::groups;
use super::{json_response, page_not_found, respond};
use crate::apiserver::resource::{RESOURCES, Resource};

/// Asked for with an `@`, which is no legal media type and therefore answered with a dot.
const PROTOBUF_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Answers a path below `/openapi`.
pub fn serve(rest: &[&str], accept: &str) -> Response {
    match rest {
        ["v2"] if accept.contains("proto-openapi.spec.v2") => respond(200, PROTOBUF_V2, ""),
        ["v2"] => json_response(200, &json!({"swagger": "2.0", "info": info(), "paths": {}})),
        ["v3"] => json_response(200, &json!({"paths": index()})),
        ["v3", "api", "v1"] => json_response(200, &document("")),
        ["v3", "apis", group, "v1"] if groups().contains(group) => json_response(200, &document(group)),
        _ => page_not_found(),
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.2"})
}

fn index() -> Map<String, Value> {
    let paths = groups().into_iter().map(|group| format!("apis/{group}/v1"));
    let paths = std::iter::once("api/v1".to_owned()).chain(paths);
    paths.map(|path| (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash=1")}))).collect()
}

fn document(group: &str) -> Value {
    let paths: Map<String, Value> = RESOURCES
        .iter()
        .filter(|resource| resource.group == group)
        .map(|resource| (path(resource), patch(resource)))
        .collect();
    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": {}}})
}

fn path(resource: &Resource) -> String {
    let root = if resource.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/v1", resource.group) };
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    format!("{root}{scope}/{}/{{name}}", resource.plural)
}

fn patch(resource: &Resource) -> Value {
    let parameter =
        |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation", "force"].map(parameter).into();
    json!({"patch": {"operationId": format!("patch{}", resource.kind), "parameters": parameters,
        "responses": {"200": {"description": "OK"}}, "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {"group": resource.group, "version": resource.version, "kind": resource.kind}}})
}
