//! How a refusal is put into words: always the object, what is wrong, and the remedy; never longer than an Event may
//! be, and never more of them than a reader can use.

use std::fmt;

use crate::model::cluster::printable;
use crate::model::{MAX_NOTE, Problem, Reason, ServiceRef};

/// Refusals of one kind that are named one by one for a Service; the rest are counted.
pub(super) const MAX_NAMED: usize = 10;

/// Characters of foreign text that are repeated in a note.
const MAX_SHOWN: usize = 48;

/// A problem whose note is `{what}: {remedy}`. When it is too long, `what` is cut: the remedy has to arrive.
pub fn problem(service: &ServiceRef, reason: Reason, what: impl fmt::Display, remedy: &str) -> Problem {
    let what = printable(&what.to_string());
    let remedy = cut(remedy, MAX_NOTE / 2);
    let room = MAX_NOTE - remedy.len() - ": ".len();
    let what = match what.len() <= room {
        true => what,
        false => format!("{}…", cut(&what, room - "…".len())),
    };
    Problem { subject: service.into(), reason, note: format!("{what}: {remedy}") }
}

/// Text that somebody else wrote, fit to be repeated: quoted, control characters escaped, shortened.
pub(super) fn shown(text: &str) -> String {
    let start: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    match text.chars().nth(MAX_SHOWN) {
        None => format!("\"{start}\""),
        Some(_) => format!("\"{start}…\" ({} bytes)", text.len()),
    }
}

/// The longest start of `text` that has at most `bytes` bytes and ends between characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Problems of one Service and reason: the first [`MAX_NAMED`] in full, then one that counts the others.
#[derive(Debug)]
pub(super) struct Limited {
    service: ServiceRef,
    reason: Reason,
    named: Vec<Problem>,
    more: usize,
}

impl Limited {
    pub(super) fn new(service: &ServiceRef, reason: Reason) -> Self {
        Self { service: service.clone(), reason, named: Vec::new(), more: 0 }
    }

    /// Adds one, unless it was named already.
    pub(super) fn push(&mut self, what: impl fmt::Display, remedy: &str) {
        if self.named.len() >= MAX_NAMED {
            self.more += 1;
            return;
        }
        let problem = problem(&self.service, self.reason, what, remedy);
        if !self.named.contains(&problem) {
            self.named.push(problem);
        }
    }

    /// All of them; `things` says what is counted, in the plural.
    pub(super) fn finish(mut self, things: &str) -> Vec<Problem> {
        if self.more > 0 {
            let what = format!("Service {}: and {} more {things} are refused", self.service, self.more);
            self.named.push(problem(&self.service, self.reason, what, "see the other events of the Service"));
        }
        self.named
    }
}
