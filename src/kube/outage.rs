//! One outage is one warning, however many attempts fail, and one line when it is over.

use std::error::Error;
use std::fmt;
use std::time::Instant;

use tracing::{debug, info, warn};

/// Whether something that is tried again and again is failing, and since when.
#[derive(Debug)]
pub(super) struct Outage {
    /// What is tried, such as "watch Service".
    what: String,
    /// When the first attempt failed; `None` while it works.
    since: Option<Instant>,
}

impl Outage {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), since: None }
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, error: &impl fmt::Display) {
        if self.since.is_some() {
            debug!(what = self.what, %error, "kubernetes request failed again");
            return;
        }
        self.since = Some(Instant::now());
        warn!(what = self.what, %error, "kubernetes request failed, retrying until it works");
    }

    /// It works.
    pub(super) fn over(&mut self) {
        if let Some(since) = self.since.take() {
            info!(what = self.what, seconds = since.elapsed().as_secs(), "kubernetes request works again");
        }
    }
}

/// What the API answered.
pub(super) fn describe_status(status: &::kube::core::Status) -> String {
    format!("{} (HTTP {} {})", status.message, status.code, status.reason)
}

/// What went wrong in words fit for a log line: the client's own message repeats a status in its debug form.
pub(super) fn describe(error: &::kube::Error) -> String {
    if let ::kube::Error::Api(status) = error {
        return describe_status(status);
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
