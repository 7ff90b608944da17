//! What clients asked for: counts for "no list storm", and every write with its author for "who wrote what".
//!
//! Only requests over HTTP are recorded. What a test or a controller of the double does in process is not a client's doing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::user::User;
use super::volume::{Counters, Volumes};

/// One request as the server understood it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// get, list, watch, create, update, patch, delete or deletecollection; the method in lower case for other paths.
    pub verb: String,
    /// The path.
    pub path: String,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name of the resource; empty for paths like `/version`.
    pub resource: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Namespace of the path.
    pub namespace: Option<String>,
    /// Name of the path; empty for collections.
    pub name: String,
    /// Decoded query parameters.
    pub query: BTreeMap<String, String>,
    /// `User-Agent`.
    pub user_agent: String,
    /// Who the token says it is; nobody without tokens.
    pub user: User,
    /// `Content-Type`.
    pub content_type: String,
}

impl RequestInfo {
    /// Whether it asks for `verb` on `resource`.
    pub fn is(&self, verb: &str, resource: &str) -> bool {
        self.verb == verb && self.resource == resource
    }

    /// Whether it may change something.
    pub fn is_write(&self) -> bool {
        !self.resource.is_empty() && !["get", "list", "watch"].contains(&self.verb.as_str())
    }

    /// `fieldManager` of the query.
    pub fn field_manager(&self) -> &str {
        self.query.get("fieldManager").map(String::as_str).unwrap_or_default()
    }
}

/// A request, what it carried, and what it came to.
#[derive(Debug, Clone)]
pub struct Record {
    /// The request.
    pub info: RequestInfo,
    /// The body of a write; null otherwise.
    pub body: Value,
    /// HTTP status; absent while the answer is not decided.
    pub code: Option<u16>,
}

/// All records since the start or the last [`Journal::clear`], and counts since the start.
#[derive(Debug)]
pub struct Journal {
    records: Mutex<Vec<Record>>,
    changed: watch::Sender<usize>,
    counters: Counters,
}

impl Default for Journal {
    fn default() -> Self {
        Self { records: Mutex::default(), changed: watch::Sender::new(0), counters: Counters::default() }
    }
}

impl Journal {
    /// How many requests asked for `verb` on `resource` (a plural).
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        self.with(|records| records.iter().filter(|record| record.info.is(verb, resource)).count())
    }

    /// Every request.
    pub fn requests(&self) -> Vec<Record> {
        self.with(|records| records.clone())
    }

    /// The first request that came to this HTTP status.
    pub fn first_with(&self, code: u16) -> Option<RequestInfo> {
        self.with(|records| records.iter().find(|record| record.code == Some(code)).map(|record| record.info.clone()))
    }

    /// Every request that may have changed something, refused ones included.
    pub fn writes(&self) -> Vec<Record> {
        self.with(|records| records.iter().filter(|record| record.info.is_write()).cloned().collect())
    }

    /// How much has been asked for, and how much has been answered, so far.
    pub fn volumes(&self) -> Volumes {
        self.counters.look()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Forgets every request; the counts go on.
    pub fn clear(&self) {
        self.with(Vec::clear);
    }

    /// Waits until `done` holds for the requests so far, and returns them.
    pub async fn wait_for(&self, done: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(records) = self.with(|records| done(records).then(|| records.clone())) {
                return records;
            }
            if changed.changed().await.is_err() {
                return self.requests();
            }
        }
    }

    /// Enters a request; the index is for [`Journal::answered`].
    pub(super) fn enter(&self, info: RequestInfo, body: Value) -> usize {
        let index = self.with(|records| {
            records.push(Record { info, body, code: None });
            records.len() - 1
        });
        self.changed.send_modify(|version| *version += 1);
        index
    }

    /// Enters the answer.
    pub(super) fn answered(&self, index: usize, code: u16) {
        self.with(|records| {
            if let Some(record) = records.get_mut(index) {
                record.code = Some(code);
            }
        });
        self.changed.send_modify(|version| *version += 1);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Record>) -> T) -> T {
        act(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
