//! How much clients have asked for, and how much they were told: requests, events of watches, and bytes of bodies.
//!
//! The counts only grow, also while a watch goes on whose request is long past. A measurement is the difference of two looks
//! ([`Volumes::since`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use futures::StreamExt;
use serde::Serialize;

use super::journal::RequestInfo;

/// How the line of a bookmark ends.
const BOOKMARK: &[u8] = b"\"type\":\"BOOKMARK\"}\n";

/// A kind of request, and whose.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// The name of the user.
    pub user: String,
    /// The node that the user's token names; empty if it names none.
    pub node: String,
    /// As in [`RequestInfo::verb`].
    pub verb: String,
    /// Plural name of the resource; empty for other paths.
    pub resource: String,
}

/// Counts, without what HTTP and TLS add.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Requests that have been answered, or that are being answered.
    pub requests: u64,
    /// Events that watches have brought. Bookmarks, which come by the clock, are not counted.
    pub events: u64,
    /// Bytes of the bodies of requests.
    pub received: u64,
    /// Bytes of the bodies of answers.
    pub sent: u64,
}

/// All counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volumes(BTreeMap<Asked, Volume>);

/// Counts that are being made.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters(Arc<Mutex<Volumes>>);

impl Volume {
    fn since(self, before: Volume) -> Volume {
        Volume {
            requests: self.requests - before.requests,
            events: self.events - before.events,
            received: self.received - before.received,
            sent: self.sent - before.sent,
        }
    }
}

impl std::ops::AddAssign for Volume {
    fn add_assign(&mut self, other: Volume) {
        self.requests += other.requests;
        self.events += other.events;
        self.received += other.received;
        self.sent += other.sent;
    }
}

impl Volumes {
    /// What has come after an earlier look.
    #[must_use]
    pub fn since(&self, before: &Volumes) -> Volumes {
        let one = |(asked, volume): (&Asked, &Volume)| {
            let more = volume.since(before.0.get(asked).copied().unwrap_or_default());
            (more != Volume::default()).then(|| (asked.clone(), more))
        };
        Volumes(self.0.iter().filter_map(one).collect())
    }

    /// The sum of those that fit.
    pub fn sum(&self, fits: impl Fn(&Asked) -> bool) -> Volume {
        let mut sum = Volume::default();
        self.0.iter().filter(|(asked, _)| fits(asked)).for_each(|(_, volume)| sum += *volume);
        sum
    }

    /// Each kind of request.
    pub fn iter(&self) -> impl Iterator<Item = (&Asked, &Volume)> {
        self.0.iter()
    }
}

impl Asked {
    /// Whether it may change something.
    pub fn is_write(&self) -> bool {
        !self.resource.is_empty() && !["get", "list", "watch"].contains(&self.verb.as_str())
    }

    fn new(info: &RequestInfo) -> Asked {
        Asked {
            user: info.user.name.clone(),
            node: info.user.node().to_owned(),
            verb: info.verb.clone(),
            resource: info.resource.clone(),
        }
    }
}

impl Counters {
    /// What has been counted so far.
    pub fn look(&self) -> Volumes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a request and its answer. Where the length of an answer is not known, it is a watch, which is counted on its way.
    pub fn count(&self, info: &RequestInfo, received: usize, response: Response) -> Response {
        let asked = Asked::new(info);
        let known = response.body().size_hint().exact();
        self.add(&asked, Volume { requests: 1, received: length(received), sent: known.unwrap_or(0), events: 0 });
        if known.is_some() {
            return response;
        }
        let counters = self.clone();
        response.map(|body| {
            let stream = body.into_data_stream().inspect(move |chunk| {
                if let Ok(chunk) = chunk {
                    counters.add(&asked, event(chunk));
                }
            });
            Body::from_stream(stream)
        })
    }

    fn add(&self, asked: &Asked, volume: Volume) {
        let mut volumes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *volumes.0.entry(asked.clone()).or_default() += volume;
    }
}

/// A watch sends each event as a chunk of its own.
fn event(chunk: &Bytes) -> Volume {
    match chunk.ends_with(BOOKMARK) {
        true => Volume::default(),
        false => Volume { events: 1, sent: length(chunk.len()), ..Volume::default() },
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
