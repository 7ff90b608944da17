//! One telling of the story: requests as recorded, answers compared, and what is learnt on the way.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use axum::body::Body;
use futures::StreamExt;
use http::{Request, Response};
use integration::apiserver::{ApiServer, Options};
use serde_json::{Value, json};

use super::normal::{as_recorded, difference, normal};

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/transcripts")
}

pub fn recording(name: &str) -> Value {
    let path = folder().join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

pub fn all_recordings() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder_entry in std::fs::read_dir(folder()).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir()) {
        for file in std::fs::read_dir(folder_entry.path()).unwrap().map(Result::unwrap) {
            let kind = folder_entry.file_name().into_string().unwrap();
            names.insert(format!("{kind}/{}", file.file_name().to_str().unwrap().trim_end_matches(".json")));
        }
    }
    names
}

/// The double, and what is known so far about how its story maps to the recorded one.
pub struct Story {
    pub server: ApiServer,
    pub client: kube::Client,
    /// Recorded uid or version to ours.
    pub ours: BTreeMap<String, String>,
    /// Per object: the recorded version and ours, as of the last answer about it.
    pub versions: BTreeMap<String, (u64, u64)>,
    pub replayed: BTreeSet<String>,
    pub faults: Vec<String>,
}

impl Story {
    pub fn begin() -> Self {
        let server = ApiServer::start_local(Options::default()).unwrap();
        let client = server.client().unwrap();
        Self {
            server,
            client,
            ours: BTreeMap::new(),
            versions: BTreeMap::new(),
            replayed: BTreeSet::new(),
            faults: Vec::new(),
        }
    }

    /// Sends the recorded request and compares the answer.
    pub async fn replay(&mut self, name: &str) -> Value {
        self.replay_as(name, |_| {}).await
    }

    /// The same with a change to the request.
    pub async fn replay_as(&mut self, name: &str, change: impl FnOnce(&mut Value)) -> Value {
        let recorded = recording(name);
        let mut request = recorded["request"].clone();
        self.translate(&mut request["body"]);
        change(&mut request);
        let response = self.send(&request).await;
        let body = self.compare(name, &recorded["response"], response).await;
        self.server.settled().await;
        body
    }

    /// A step of the story that was not recorded.
    pub async fn unrecorded(&self, method: &str, path: &str, body: Value) -> Value {
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = json!({"method": method, "path": path, "body": body,
            "headers": {"Accept": "application/json", "Content-Type": content_type}});
        let response = self.send(&request).await;
        assert!(response.status().is_success(), "{method} {path}: {}", response.status());
        self.server.settled().await;
        serde_json::from_slice(&bytes(response).await).unwrap()
    }

    pub async fn send(&self, request: &Value) -> Response<kube::client::Body> {
        let mut builder =
            Request::builder().method(request["method"].as_str().unwrap()).uri(request["path"].as_str().unwrap());
        for (name, value) in request["headers"].as_object().into_iter().flatten() {
            builder = builder.header(name, value.as_str().unwrap());
        }
        let body = match &request["body"] {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        };
        self.client.send(builder.body(body.into()).unwrap()).await.unwrap()
    }

    /// Opens a recorded watch; the events are compared by [`Story::finish_watch`].
    pub async fn open_watch(&mut self, name: &str, change: impl FnOnce(String) -> String) -> OpenWatch {
        let recorded = recording(name);
        let path = change(recorded["request"]["path"].as_str().unwrap().to_owned());
        let response = self.send(&json!({"method": "GET", "path": path})).await;
        let status = (recorded["response"]["status"].clone(), json!(response.status().as_u16()));
        self.expect(name, status.0 == status.1, || format!("status {} is {}", status.0, status.1));
        self.replayed.insert(name.to_owned());
        OpenWatch { name: name.to_owned(), recorded: recorded["response"]["stream"].clone(), response }
    }

    pub async fn finish_watch(&mut self, watch: OpenWatch) {
        let ends = |event: &Value| event["eof"] == true;
        let recorded = watch.recorded.as_array().unwrap();
        let expected: Vec<Value> =
            recorded.iter().filter(|event| !ends(event)).map(|event| event["event"].clone()).collect();
        let seen = events(watch.response).await;
        let (expected, seen) = (self.sequences(&expected, false), self.sequences(&seen, true));
        self.expect(&watch.name, expected == seen, || difference(&json!(expected), &json!(seen)));
    }

    /// Events by object, since the order among objects of a controller is a race; without the bookmarks of the clock.
    pub fn sequences(&self, events: &[Value], ours: bool) -> BTreeMap<String, Vec<Value>> {
        let mut sequences: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for event in events {
            let object = &event["object"];
            if event["type"] == "BOOKMARK" && object["metadata"]["annotations"].is_null() {
                continue;
            }
            let version = version_of(object);
            let event = self.normalised(event.clone(), ours);
            let group = match event["object"]["kind"].as_str() {
                Some("EndpointSlice") => {
                    format!("{} {}", event["object"]["metadata"]["name"], event["object"]["addressType"])
                }
                _ => "all".to_owned(),
            };
            assert!(event["type"] == "ERROR" || group == "all" || last.insert(group.clone(), version) < Some(version));
            sequences.entry(group).or_default().push(event);
        }
        sequences
    }

    pub async fn compare(&mut self, name: &str, recorded: &Value, response: Response<kube::client::Body>) -> Value {
        self.replayed.insert(name.to_owned());
        let code = json!(response.status().as_u16());
        self.expect(name, recorded["status"] == code, || format!("status {} is {code}", recorded["status"]));
        for header in ["Content-Type", "Retry-After"] {
            let seen = response.headers().get(header).map_or(Value::Null, |value| json!(value.to_str().unwrap()));
            let expected = &recorded["headers"][header];
            self.expect(name, *expected == seen, || format!("{header} {expected} is {seen}"));
        }
        let body = bytes(response).await;
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        let body: Value = serde_json::from_slice(&body).unwrap_or_else(|_| text());
        self.learn(name, &recorded["body"], &body);
        let (expected, seen) = (self.normalised(recorded["body"].clone(), false), self.normalised(body.clone(), true));
        self.expect(name, expected == seen, || difference(&expected, &seen));
        body
    }

    /// Notes which of our uids and versions stand for the recorded ones, and whether versions moved alike.
    pub fn learn(&mut self, name: &str, recorded: &Value, body: &Value) {
        for pointer in ["/metadata/uid", "/metadata/resourceVersion", "/metadata/continue"] {
            let pair =
                (recorded.pointer(pointer).and_then(Value::as_str), body.pointer(pointer).and_then(Value::as_str));
            if let (Some(recorded), Some(ours)) = pair {
                self.ours.insert(recorded.to_owned(), ours.to_owned());
            }
        }
        let Some(uid) = recorded.pointer("/metadata/uid").and_then(Value::as_str) else { return };
        let now = (version_of(recorded), version_of(body));
        if let Some(before) = self.versions.insert(uid.to_owned(), now) {
            let moved = |before: u64, now: u64| now.cmp(&before);
            let (expected, seen) = (moved(before.0, now.0), moved(before.1, now.1));
            self.expect(name, expected == seen, || format!("version moved {seen:?} instead of {expected:?}"));
            assert_ne!(expected, Ordering::Less, "the recorded story goes forward");
        }
    }

    /// Puts our uids and versions into a recorded body.
    pub fn translate(&self, value: &mut Value) {
        match value {
            Value::Object(map) => map.values_mut().for_each(|inner| self.translate(inner)),
            Value::Array(items) => items.iter_mut().for_each(|inner| self.translate(inner)),
            Value::String(text) => {
                if let Some(ours) = self.ours.get(text) {
                    ours.clone_into(text);
                }
            }
            _ => {}
        }
    }

    pub fn normalised(&self, mut value: Value, ours: bool) -> Value {
        if ours {
            as_recorded(&mut value, self.server.address());
        }
        normal(&mut value, "");
        value
    }

    pub fn expect(&mut self, name: &str, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(format!("{name}: {}", otherwise()));
        }
    }
}

pub struct OpenWatch {
    name: String,
    recorded: Value,
    response: Response<kube::client::Body>,
}

pub async fn bytes(response: Response<kube::client::Body>) -> axum::body::Bytes {
    axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap()
}

/// The events of a watch up to its end.
pub async fn events(response: Response<kube::client::Body>) -> Vec<Value> {
    let mut text = Vec::new();
    let mut stream = Body::new(response.into_body()).into_data_stream();
    while let Some(chunk) = stream.next().await {
        text.extend_from_slice(&chunk.unwrap());
    }
    serde_json::Deserializer::from_slice(&text).into_iter().map(Result::unwrap).collect()
}

pub fn version_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}
