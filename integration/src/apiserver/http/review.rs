//! `SelfSubjectReview`: the server says whom it takes the client for. Nothing is stored.

use axum::response::Response;
use serde_json::json;

use super::json_response;
use crate::apiserver::journal::RequestInfo;
use crate::apiserver::object;

/// Answers `POST /apis/authentication.k8s.io/v1/selfsubjectreviews`.
pub fn serve(info: &RequestInfo) -> Response {
    let user = &info.user;
    let mut answer = json!({
        "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": object::now()},
        "status": {"userInfo": {"username": user.name, "groups": user.groups()}},
    });
    if !user.extra.is_empty() {
        answer["status"]["userInfo"]["extra"] = json!(user.extra);
    }
    json_response(201, &answer)
}
