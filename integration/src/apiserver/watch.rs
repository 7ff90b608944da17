//! A watch as a cursor into the history, without any transport.
//!
//! [`Watch::open`] decides where it starts, [`Watch::catch_up`] turns the changes since then into events. A selector makes
//! its own creations and deletions: an object that enters the selection is ADDED, one that leaves is DELETED.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult, Cause};
use super::object;
use super::resource::Resource;
use super::selector::Selection;
use super::shape;
use super::store::{Change, State, Store};
use super::verbs::{self, invalid_options, unreadable_version};

/// The part of the query that is about watching.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// `resourceVersion`, as sent.
    pub revision: String,
    /// `resourceVersionMatch`.
    pub revision_match: String,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial: Option<bool>,
    /// `timeoutSeconds`.
    pub timeout: Option<Duration>,
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvent {
    /// ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
    pub kind: &'static str,
    /// The object, or a Status for ERROR.
    pub object: Value,
}

impl WatchEvent {
    /// The end of a watch whose version is gone.
    pub fn expired(revision: u64, oldest: u64) -> Self {
        let error = ApiError::Expired(format!("too old resource version: {revision} ({oldest})"));
        Self { kind: "ERROR", object: error.status() }
    }
}

/// An open watch.
#[derive(Debug)]
pub struct Watch {
    store: Arc<Store>,
    resource: &'static Resource,
    selection: Selection,
    /// Everything up to this version was delivered.
    cursor: u64,
    /// What comes before the changes.
    initial: Vec<WatchEvent>,
    /// Whether the client wants bookmarks.
    pub bookmarks: bool,
}

impl Watch {
    /// Opens a watch.
    pub fn open(
        store: Arc<Store>,
        resource: &'static Resource,
        selection: Selection,
        options: &WatchOptions,
    ) -> ApiResult<Self> {
        let from = start(options)?;
        let bookmarks = options.bookmarks;
        let mut watch =
            Self { store: Arc::clone(&store), resource, selection, cursor: 0, initial: Vec::new(), bookmarks };
        store.read(|state| match from {
            Start::Everything { mark_end } => {
                watch.cursor = state.revision();
                watch.initial = watch.everything(state, mark_end);
            }
            Start::At(revision) => watch.cursor = revision,
            Start::Now => watch.cursor = state.revision(),
        });
        Ok(watch)
    }

    /// What is watched.
    pub fn resource(&self) -> &'static Resource {
        self.resource
    }

    /// The events since the last call. An ERROR is the last event of a watch.
    pub fn catch_up(&mut self) -> Vec<WatchEvent> {
        if !self.initial.is_empty() {
            return std::mem::take(&mut self.initial);
        }
        let store = Arc::clone(&self.store);
        store.read(|state| {
            if self.cursor < state.compacted() {
                return vec![WatchEvent::expired(self.cursor, state.compacted())];
            }
            let events = state.since(self.cursor).filter_map(|change| self.event(change)).collect();
            self.cursor = self.cursor.max(state.revision());
            events
        })
    }

    /// A bookmark for what was delivered so far.
    pub fn bookmark(&self) -> WatchEvent {
        let mut object = shape::empty(self.resource);
        object::set_revision(&mut object, self.cursor);
        WatchEvent { kind: "BOOKMARK", object }
    }

    /// An ERROR for this watch, as after a compaction.
    pub fn expired(&self) -> WatchEvent {
        WatchEvent::expired(self.cursor, self.store.read(State::compacted))
    }

    fn everything(&self, state: &State, mark_end: bool) -> Vec<WatchEvent> {
        let objects = state.all(self.resource.storage).map(|(_, object)| verbs::shown(self.resource, object));
        let mut events: Vec<WatchEvent> = objects
            .filter(|object| self.selection.matches(object))
            .map(|object| WatchEvent { kind: "ADDED", object })
            .collect();
        if mark_end && self.bookmarks {
            let mut end = self.bookmark();
            object::metadata(&mut end.object)
                .insert("annotations".into(), json!({"k8s.io/initial-events-end": "true"}));
            events.push(end);
        }
        events
    }

    fn event(&self, change: &Change) -> Option<WatchEvent> {
        if change.key.storage != self.resource.storage {
            return None;
        }
        let selected = |object: &Option<Arc<Value>>| {
            let object = verbs::shown(self.resource, object.as_ref()?);
            self.selection.matches(&object).then_some(object)
        };
        let event = |kind, object| Some(WatchEvent { kind, object });
        match (selected(&change.before), selected(&change.after)) {
            (None, None) => None,
            (None, Some(object)) => event("ADDED", object),
            (Some(_), Some(object)) => event("MODIFIED", object),
            (Some(mut object), None) => {
                object::set_revision(&mut object, change.revision);
                event("DELETED", object)
            }
        }
    }
}

enum Start {
    /// From the present, after everything that exists was sent as ADDED.
    Everything {
        mark_end: bool,
    },
    Now,
    At(u64),
}

fn start(options: &WatchOptions) -> ApiResult<Start> {
    let revision = match options.revision.as_str() {
        "" => 0,
        text => text.parse().map_err(|_| ApiError::Internal(unreadable_version(text)))?,
    };
    let matched = options.revision_match.as_str();
    match options.initial {
        Some(_) if matched != "NotOlderThan" => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            Err(invalid_options(Cause::forbidden("resourceVersionMatch", why)))
        }
        None if !matched.is_empty() => {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            Err(invalid_options(Cause::forbidden("resourceVersionMatch", why)))
        }
        Some(true) => Ok(Start::Everything { mark_end: true }),
        None if revision == 0 => Ok(Start::Everything { mark_end: false }),
        Some(false) if revision == 0 => Ok(Start::Now),
        _ => Ok(Start::At(revision)),
    }
}
