//! A watch as a chunked body: one JSON line per event, bookmarks when it is idle, and the faults that end it.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::App;
use super::accept::Form;
use crate::apiserver::faults::{Ears, Signals};
use crate::apiserver::watch::{Watch, WatchEvent};

/// Longer than any test; the real server ends watches after some tens of minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

type Chunk = Result<Bytes, io::Error>;

struct Stream {
    watch: Watch,
    form: Form,
    changed: watch::Receiver<u64>,
    ears: Ears,
    bookmarks: Interval,
    deadline: Instant,
    pending: VecDeque<Chunk>,
    first: bool,
    ended: bool,
}

/// The answer that carries the events.
pub fn respond(app: &App, watch: Watch, form: Form, ears: Ears, timeout: Option<Duration>) -> Response {
    let mut bookmarks = interval_at(Instant::now() + app.bookmark_interval, app.bookmark_interval);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = Stream {
        watch,
        form,
        changed: app.verbs.store.subscribe(),
        ears,
        bookmarks,
        deadline: Instant::now() + timeout.unwrap_or(DEFAULT_TIMEOUT),
        pending: VecDeque::new(),
        first: true,
        ended: false,
    };
    let body = futures::stream::unfold(stream, |mut stream| async move { Some((stream.next().await?, stream)) });
    super::respond(200, "application/json", Body::from_stream(body))
}

impl Stream {
    async fn next(&mut self) -> Option<Chunk> {
        loop {
            if let Some(chunk) = self.pending.pop_front() {
                return Some(chunk);
            }
            if self.ended {
                return None;
            }
            self.changed.borrow_and_update();
            let events = self.watch.catch_up();
            if !events.is_empty() {
                self.push(events);
                continue;
            }
            tokio::select! {
                changed = self.changed.changed() => self.ended |= changed.is_err(),
                fault = self.ears.next() => match fault {
                    Some((before, now)) => self.obey(before, now),
                    None => self.ended = true,
                },
                _ = self.bookmarks.tick(), if self.watch.bookmarks => self.push(vec![self.watch.bookmark()]),
                () = tokio::time::sleep_until(self.deadline) => self.ended = true,
            }
        }
    }

    /// Queues events; an ERROR is the last one.
    fn push(&mut self, events: Vec<WatchEvent>) {
        for event in events {
            self.ended |= event.kind == "ERROR";
            let object = match event.kind {
                "ERROR" => event.object,
                _ => self.form.object(self.watch.resource(), event.object, std::mem::replace(&mut self.first, false)),
            };
            let line = format!("{}\n", json!({"type": event.kind, "object": object}));
            self.pending.push_back(Ok(Bytes::from(line)));
        }
    }

    /// Acts on the faults that were injected since the last look.
    fn obey(&mut self, before: Signals, now: Signals) {
        if now.bookmark != before.bookmark && self.watch.bookmarks {
            self.push(vec![self.watch.bookmark()]);
        }
        if now.expire != before.expire {
            self.push(vec![self.watch.expired()]);
        }
        if now.cut != before.cut {
            self.pending.push_back(Ok(Bytes::from_static(b"{\"type\":\"MODIFIED\",\"object\":{\"kind\":\"")));
        }
        if now.cut != before.cut || now.reset != before.reset {
            self.pending.push_back(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.ended |= now != Signals { bookmark: now.bookmark, ..before };
    }
}
