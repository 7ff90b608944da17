//! HTTP in front of the verbs: who asks for what, in which form the answer is wanted, and the faults on the way.

mod accept;
mod discovery;
mod duration;
pub(super) mod listener;
mod openapi;
mod request;
mod resource_call;
mod review;
mod table;
mod watch_stream;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::faults::{Ears, Faults};
use super::journal::{Journal, RequestInfo};
use super::policy::Policies;
use super::rbac::Grants;
use super::user::User;
use super::verbs::Verbs;

/// The largest body that is read, like etcd's limit for a request.
const MAX_BODY: usize = 3 << 20;

/// What a request needs.
#[derive(Debug)]
pub(super) struct App {
    pub verbs: Verbs,
    pub faults: Arc<Faults>,
    pub journal: Arc<Journal>,
    /// Whose tokens these are; empty admits everybody.
    pub tokens: BTreeMap<String, User>,
    /// What ServiceAccounts may do; anything if absent.
    pub grants: Option<Grants>,
    /// What is admitted of that.
    pub policies: Policies,
    /// Host and port as clients reach them.
    pub address: String,
    /// How often an idle watch gets a bookmark.
    pub bookmark_interval: std::time::Duration,
}

/// The application as a router.
pub(super) fn router(app: Arc<App>) -> axum::Router {
    axum::Router::new().fallback(answer).with_state(app)
}

async fn answer(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let user = authenticate(&app, &parts.headers);
    let mut info = request::parse(&parts);
    info.user = user.clone().unwrap_or_default();
    let body = axum::body::to_bytes(body, MAX_BODY).await;
    let shown = if info.is_write() { body.as_ref().ok().map(readable) } else { None };
    let received = body.as_ref().map_or(0, Bytes::len);
    let ears = app.faults.listen();
    let entry = app.journal.enter(info.clone(), shown.unwrap_or_default());
    app.faults.pause().await;
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let result = match (body, user) {
        (Err(_), _) => Err(ApiError::BadRequest("the request body could not be read".into())),
        (_, None) => Err(ApiError::Unauthorized),
        (Ok(body), Some(_)) => match forbidden(&app, &info).or_else(|| app.faults.refusal(&info)) {
            Some(error) => Err(error),
            None => serve(&app, &info, accept, &body, ears),
        },
    };
    let response = result.unwrap_or_else(|error| refused(&error));
    app.journal.answered(entry, response.status().as_u16());
    app.journal.counters().count(&info, received, response)
}

fn serve(app: &App, info: &RequestInfo, accept: &str, body: &Bytes, ears: Ears) -> ApiResult<Response> {
    if info.resource.is_empty() {
        return discovery::serve(app, info, accept);
    }
    match super::resource::by_path(&info.group, &info.version, &info.resource) {
        None if info.path == "/apis/authentication.k8s.io/v1/selfsubjectreviews" && info.verb == "create" => {
            Ok(review::serve(info))
        }
        Some(resource) => resource_call::Call { app, info, resource, accept, body, ears }.serve(),
        None => Ok(page_not_found()),
    }
}

/// The user behind the token; nobody when tokens are demanded and this is none of them.
fn authenticate(app: &App, headers: &HeaderMap) -> Option<User> {
    if app.tokens.is_empty() {
        return Some(User::default());
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    app.tokens.get(value.strip_prefix("Bearer ")?).cloned()
}

/// The refusal, if the user may not do this.
fn forbidden(app: &App, info: &RequestInfo) -> Option<ApiError> {
    app.grants.as_ref().filter(|grants| !grants.allow(info))?;
    let resource = super::resource::by_path(&info.group, &info.version, &info.resource)?;
    Some(ApiError::forbidden(resource, info))
}

/// A body for the journal: JSON if it is that, else text.
fn readable(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
}

fn respond(code: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

fn json_response(code: u16, body: &Value) -> Response {
    respond(code, "application/json", body.to_string())
}

fn text_response(code: u16, body: &'static str) -> Response {
    respond(code, "text/plain; charset=utf-8", body)
}

/// What the server says where there is nothing at all, not even a kind.
fn page_not_found() -> Response {
    text_response(404, "404 page not found\n")
}

fn refused(error: &ApiError) -> Response {
    let status = error.status();
    let mut response = json_response(error.code(), &status);
    if let Some(seconds) = status.pointer("/details/retryAfterSeconds").and_then(Value::as_u64) {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    }
    response
}
