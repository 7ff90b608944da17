//! One request on a resource: its query becomes options, its body an object or patch, and the verb's result an answer.

use std::time::Duration;

use axum::body::Bytes;
use axum::response::Response;
use serde_json::{Value, json};

use super::accept::Form;
use super::{App, json_response, watch_stream};
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::faults::Ears;
use crate::apiserver::journal::RequestInfo;
use crate::apiserver::object;
use crate::apiserver::patch::PatchKind;
use crate::apiserver::policy::Judge;
use crate::apiserver::resource::Resource;
use crate::apiserver::selector::Selection;
use crate::apiserver::verbs::{DeleteOptions, ListOptions, Patch, Target, WriteOptions};
use crate::apiserver::watch::{Watch, WatchOptions};

/// A request whose path named a resource that exists.
pub struct Call<'a> {
    pub app: &'a App,
    pub info: &'a RequestInfo,
    pub resource: &'static Resource,
    pub accept: &'a str,
    pub body: &'a Bytes,
    pub ears: Ears,
}

impl Call<'_> {
    /// Answers it.
    pub fn serve(self) -> ApiResult<Response> {
        let status = match self.info.subresource.as_str() {
            "" => false,
            "status" if self.resource.status => true,
            _ => return Err(ApiError::NoSuchPath),
        };
        // Writes to a namespaced kind need a namespace in the path, and cluster-scoped kinds must have none.
        let scope_fits = match &self.info.namespace {
            None => !self.resource.namespaced || ["list", "watch"].contains(&self.info.verb.as_str()),
            Some(_) => self.resource.namespaced,
        };
        if !scope_fits {
            return Err(ApiError::NoSuchPath);
        }
        let form = Form::negotiate(self.accept, self.query("includeObject"))?;
        match self.info.verb.as_str() {
            "get" => self.object(form, 200, self.app.verbs.get(&self.target(status))),
            "list" => self.list(form),
            "watch" => self.watch(form),
            "create" if self.info.name.is_empty() => {
                let created = self.app.verbs.create(&self.target(false), self.body()?, self.write_options());
                self.object(form, 201, created)
            }
            "update" if !self.info.name.is_empty() => {
                self.written(form, self.app.verbs.update(&self.target(status), self.body()?, self.write_options()))
            }
            "patch" if !self.info.name.is_empty() => self.patch(form, status),
            "delete" if !status => self.delete(),
            "deletecollection" if self.resource.delete_collection => self.delete_collection(form),
            _ => Err(ApiError::MethodNotAllowed),
        }
    }

    fn query(&self, name: &str) -> &str {
        self.info.query.get(name).map(String::as_str).unwrap_or_default()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.info.query.get(name).map(|value| ["true", "1"].contains(&value.as_str()))
    }

    fn target(&self, status: bool) -> Target {
        let (namespace, name) = (self.info.namespace.clone(), self.info.name.clone());
        Target { resource: self.resource, namespace, name, status }
    }

    fn write_options(&self) -> WriteOptions<'_> {
        WriteOptions {
            dry_run: !self.query("dryRun").is_empty(),
            strict: self.query("fieldValidation") == "Strict",
            judge: Some(Judge { policies: &self.app.policies, request: self.info }),
        }
    }

    fn selection(&self) -> ApiResult<Selection> {
        let mut fields = self.query("fieldSelector").to_owned();
        // A watch on a single object is a selection by name.
        if !self.info.name.is_empty() {
            fields = [fields, format!("metadata.name={}", self.info.name)].join(",");
        }
        Selection::parse(self.resource, self.info.namespace.as_deref(), self.query("labelSelector"), &fields)
    }

    fn body(&self) -> ApiResult<Value> {
        let media = self.info.content_type.split(';').next().unwrap_or_default().trim();
        if !["", "application/json", "application/yaml"].contains(&media) {
            let message = format!(
                "the body of the request was in an unknown format - accepted media types include: \
                                   application/json; got {media}"
            );
            return Err(ApiError::UnsupportedMediaType(message));
        }
        serde_json::from_slice(self.body).map_err(|error| {
            let reason = if error.is_eof() { "unexpected end of JSON input".to_owned() } else { error.to_string() };
            let text = String::from_utf8_lossy(self.body);
            let kind = self.resource.kind;
            ApiError::BadRequest(format!(
                "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; \
                 json parse error: {reason} ({text})"
            ))
        })
    }

    fn object(&self, form: Form, code: u16, object: ApiResult<Value>) -> ApiResult<Response> {
        Ok(json_response(code, &form.object(self.resource, object?, true)))
    }

    fn written(&self, form: Form, result: ApiResult<(Value, bool)>) -> ApiResult<Response> {
        let (object, created) = result?;
        self.object(form, if created { 201 } else { 200 }, Ok(object))
    }

    fn list(&self, form: Form) -> ApiResult<Response> {
        let options = ListOptions {
            revision: self.query("resourceVersion").to_owned(),
            revision_match: self.query("resourceVersionMatch").to_owned(),
            limit: self.query("limit").parse().unwrap_or_default(),
            continue_token: self.query("continue").to_owned(),
        };
        let page = self.app.verbs.list(self.resource, &self.selection()?, &options)?;
        Ok(json_response(200, &form.list(self.resource, page)))
    }

    fn watch(self, form: Form) -> ApiResult<Response> {
        let seconds = self.query("timeoutSeconds").parse().ok().filter(|seconds| *seconds > 0);
        let options = WatchOptions {
            revision: self.query("resourceVersion").to_owned(),
            revision_match: self.query("resourceVersionMatch").to_owned(),
            bookmarks: self.flag("allowWatchBookmarks").unwrap_or_default(),
            initial: self.flag("sendInitialEvents"),
            timeout: seconds.map(Duration::from_secs),
        };
        let watch = Watch::open(self.app.verbs.store.clone(), self.resource, self.selection()?, &options)?;
        Ok(watch_stream::respond(self.app, watch, form, self.ears, options.timeout))
    }

    fn patch(&self, form: Form, status: bool) -> ApiResult<Response> {
        let kind = PatchKind::of_content_type(&self.info.content_type)?;
        let patch = Patch { kind, body: kind.parse(self.body)? };
        self.written(form, self.app.verbs.patch(&self.target(status), &patch, self.write_options()))
    }

    fn delete_options(&self) -> ApiResult<DeleteOptions> {
        let body = if self.body.is_empty() { Value::Null } else { self.body()? };
        let mut options = DeleteOptions::from_body(&body);
        options.grace = options.grace.or(self.query("gracePeriodSeconds").parse().ok());
        options.dry_run |= !self.query("dryRun").is_empty();
        Ok(options)
    }

    fn delete(&self) -> ApiResult<Response> {
        let deleted = self.app.verbs.delete(&self.target(false), &self.delete_options()?)?;
        if self.resource.returns_deleted || !deleted.gone {
            return Ok(json_response(200, &deleted.object));
        }
        let mut details =
            json!({"name": self.info.name, "kind": self.resource.plural, "uid": object::uid(&deleted.object)});
        if !self.resource.group.is_empty() {
            details["group"] = json!(self.resource.group);
        }
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
        Ok(json_response(200, &status))
    }

    fn delete_collection(&self, form: Form) -> ApiResult<Response> {
        let options = self.delete_options()?;
        let items = self.app.verbs.delete_collection(&self.target(false), &self.selection()?, &options)?;
        let revision = self.app.verbs.store.read(|state| state.revision());
        let page = crate::apiserver::verbs::Page { revision, items, ..Default::default() };
        Ok(json_response(200, &form.list(self.resource, page)))
    }
}
