//! One kind: list, watch from the list's version, watch on from the last version seen, list again when that has
//! expired.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use ::kube::Api;
use ::kube::api::{ListParams, WatchEvent, WatchParams};
use ::kube::core::{DeserializeGuard, ObjectList, Resource, Status};
use futures::{Stream, StreamExt};
use k8s_openapi::Resource as Named;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::Pace;
use super::unreadable::Unreadable;
use crate::kube::backoff::Backoff;
use crate::kube::outage::{Outage, describe, describe_status};
use crate::state::{Change, ObjectKey, Watched};

/// Watches from one version that may bring nothing before the version itself is doubted: a server whose store was set
/// back stays silent about a version that is yet to come.
const MAX_DOUBTS: u32 = 3;

/// Follows one kind.
pub(super) struct Follower<K> {
    api: Api<DeserializeGuard<K>>,
    fields: Option<String>,
    labels: Option<String>,
    changes: mpsc::Sender<Change>,
    wrap: fn(Watched<K>) -> Change,
    pace: Pace,
    /// The version to watch from; `None` before the first list and when it has expired.
    version: Option<String>,
    /// Watches in a row that brought nothing and may have failed because of the version.
    doubts: u32,
    /// Whether the last request was a watch, and was granted.
    granted: bool,
    /// For requests that are refused or not answered.
    backoff: Backoff,
    /// For watches that are granted and bring nothing, and for versions that have expired.
    useless: Backoff,
    outage: Outage,
    unreadable: Unreadable,
}

/// Why a list or watch ended before its time.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("nobody wants the changes any more")]
    Unwanted,
    #[error("version is too old")]
    Expired,
    #[error("{}", describe(.0))]
    Client(::kube::Error),
    #[error("{}", describe_status(.0))]
    Status(Box<Status>),
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("list has no resourceVersion")]
    NoVersion,
    #[error("watch ended as soon as it began")]
    TooShort,
}

/// Why a kind that not every server has is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The server does not have it, in this version.
    Unknown,
    /// The server does not show it to us.
    Forbidden,
    /// Nobody wants the changes any more.
    Unwanted,
}

impl Ended {
    fn shown(&self) -> Option<Shown> {
        match self {
            Ended::Status(status) if status.code == 404 => Some(Shown::Unknown),
            Ended::Status(status) if status.code == 403 => Some(Shown::Forbidden),
            _ => None,
        }
    }

    /// Whether another version could help: the server answered, and not that it has too much to do.
    fn doubts_version(&self) -> bool {
        matches!(self, Ended::Status(status) if !matches!(status.code, 429 | 503))
    }
}

impl From<::kube::Error> for Ended {
    fn from(error: ::kube::Error) -> Self {
        match error {
            ::kube::Error::Api(status) => Self::from(status),
            other => Ended::Client(other),
        }
    }
}

impl From<Box<Status>> for Ended {
    /// 410 comes as the answer to a list or watch, or in the stream of a watch.
    fn from(status: Box<Status>) -> Self {
        if status.code == 410 { Ended::Expired } else { Ended::Status(status) }
    }
}

impl<K> Follower<K>
where
    K: Named + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    pub(super) fn new(
        api: Api<DeserializeGuard<K>>,
        changes: &mpsc::Sender<Change>,
        wrap: fn(Watched<K>) -> Change,
        pace: Pace,
    ) -> Self {
        Self {
            api,
            fields: None,
            labels: None,
            changes: changes.clone(),
            wrap,
            pace,
            version: None,
            doubts: 0,
            granted: false,
            backoff: Backoff::new(pace.retry, pace.retry_limit),
            useless: Backoff::new(pace.retry, pace.useless_limit),
            outage: Outage::new(format!("watch {}", K::KIND)),
            unreadable: Unreadable::new(K::KIND),
        }
    }

    /// Only objects that match this field selector.
    pub(super) fn fields(mut self, selector: String) -> Self {
        self.fields = Some(selector);
        self
    }

    /// Only objects that match this label selector.
    pub(super) fn labels(mut self, selector: String) -> Self {
        self.labels = Some(selector);
        self
    }

    /// Goes on until nobody wants the changes any more.
    pub(super) async fn run(mut self) {
        while let Err(error) = self.until_failure().await {
            let pause = self.pause(&error);
            self.failed(error);
            sleep(pause).await;
        }
    }

    /// The same for a kind that a server may not have, or not show to everybody: says so then.
    pub(super) async fn run_while_shown(&mut self) -> Shown {
        while let Err(error) = self.until_failure().await {
            let shown = error.shown();
            let pause = self.pause(&error);
            self.version = self.version.take().filter(|_| shown.is_none());
            match shown {
                // A server without the kind is as good as any.
                Some(Shown::Unknown) => self.outage.over(),
                _ => self.failed(error),
            }
            if let Some(shown) = shown {
                return shown;
            }
            sleep(pause).await;
        }
        Shown::Unwanted
    }

    /// Lists and watches until that fails. `Ok` when nobody wants the changes any more.
    async fn until_failure(&mut self) -> Result<(), Ended> {
        loop {
            self.granted = false;
            let ended = match self.version.clone() {
                None => self.list().await,
                Some(version) => self.watch(&version).await,
            };
            match ended {
                Ok(()) => {}
                Err(Ended::Unwanted) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// How long to wait after a failure. From a server that grants watches but keeps none open, one hears of changes only
    /// by asking again, so that waits are shorter there.
    fn pause(&mut self, error: &Ended) -> Duration {
        match error {
            // A list costs the server more than a watch.
            Ended::Expired => self.useless.failed_within(self.pace.retry_limit),
            Ended::Status(status) if status.code == 429 => self.backoff.failed_within(self.pace.busy_limit),
            _ if self.granted => self.useless.failed(),
            _ => self.backoff.failed(),
        }
    }

    fn failed(&mut self, error: Ended) {
        if matches!(error, Ended::Expired) {
            debug!(kind = K::KIND, "version has expired, listing again");
            self.version = None;
            return;
        }
        self.doubt(error.doubts_version());
        self.outage.failed(&error);
    }

    fn doubt(&mut self, doubtful: bool) {
        self.doubts += u32::from(doubtful);
        if self.doubts >= MAX_DOUBTS {
            debug!(kind = K::KIND, "watches bring nothing, listing again");
            self.doubts = 0;
            self.version = None;
        }
    }

    async fn send(&self, change: Watched<K>) -> Result<(), Ended> {
        self.changes.send((self.wrap)(change)).await.map_err(|_| Ended::Unwanted)
    }

    /// Receives the whole list, page by page.
    async fn list(&mut self) -> Result<(), Ended> {
        let mut params = ListParams {
            field_selector: self.fields.clone(),
            label_selector: self.labels.clone(),
            ..ListParams::default()
        }
        .limit(self.pace.page);
        let mut page = self.page(&params).await?;
        self.send(Watched::Init).await?;
        loop {
            for object in std::mem::take(&mut page.items) {
                self.listed(object).await?;
            }
            match page.metadata.continue_.take().filter(|token| !token.is_empty()) {
                None => break,
                token => params.continue_token = token,
            }
            page = self.page(&params).await?;
        }
        let version = page.metadata.resource_version.filter(|v| !v.is_empty()).ok_or(Ended::NoVersion)?;
        self.send(Watched::InitDone).await?;
        self.version = Some(version);
        self.outage.over();
        Ok(())
    }

    async fn page(&self, params: &ListParams) -> Result<ObjectList<DeserializeGuard<K>>, Ended> {
        let answer = timeout(self.pace.answer, self.api.list(params)).await;
        Ok(answer.map_err(|_| Ended::NoAnswer(self.pace.answer))??)
    }

    async fn listed(&mut self, object: DeserializeGuard<K>) -> Result<(), Ended> {
        let Some(key) = ObjectKey::of(object.meta()) else { return Ok(()) };
        match object.0 {
            Ok(object) => {
                self.unreadable.decoded(Some(key));
                self.send(Watched::InitApply(Box::new(object))).await
            }
            Err(invalid) => {
                self.unreadable.found(&key, &invalid);
                self.send(Watched::InitKeep(key)).await
            }
        }
    }

    /// Watches until the server ends it, which is no failure, unless it was at once.
    async fn watch(&mut self, version: &str) -> Result<(), Ended> {
        let seconds = u32::try_from(self.pace.watch.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams {
            field_selector: self.fields.clone(),
            label_selector: self.labels.clone(),
            ..WatchParams::default()
        }
        .timeout(seconds);
        let api = self.api.clone();
        let stream = timeout(self.pace.answer, api.watch(&params, version)).await;
        let stream = stream.map_err(|_| Ended::NoAnswer(self.pace.answer))??;
        self.granted = true;
        self.backoff.succeeded();
        let begun = Instant::now();
        self.events(stream).await?;
        if begun.elapsed() < self.pace.settled && self.version.as_deref() == Some(version) {
            return Err(Ended::TooShort);
        }
        Ok(())
    }

    async fn events(
        &mut self,
        stream: impl Stream<Item = ::kube::Result<WatchEvent<DeserializeGuard<K>>>>,
    ) -> Result<(), Ended> {
        let mut stream = pin!(stream);
        let mut settled = false;
        loop {
            let patience = if settled { self.pace.quiet } else { self.pace.settled };
            match timeout(patience, stream.next()).await {
                Ok(Some(event)) => self.event(event).await?,
                Ok(None) => return Ok(()),
                Err(_) if settled => {
                    self.doubt(true);
                    return Ok(());
                }
                Err(_) => {
                    settled = true;
                    self.works();
                }
            }
        }
    }

    fn works(&mut self) {
        self.useless.succeeded();
        self.outage.over();
    }

    async fn event(&mut self, event: ::kube::Result<WatchEvent<DeserializeGuard<K>>>) -> Result<(), Ended> {
        let event = match event {
            Err(error) if is_undecodable(&error) => {
                // One line of the stream, without even readable metadata: the next one may be good.
                warn!(kind = K::KIND, error = describe(&error), "watch event cannot be decoded and is skipped");
                return Ok(());
            }
            event => event?,
        };
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => self.applied(object).await?,
            WatchEvent::Deleted(object) => self.deleted(&object).await?,
            WatchEvent::Bookmark(bookmark) => self.saw(Some(bookmark.metadata.resource_version)),
            WatchEvent::Error(status) => return Err(Ended::from(status)),
        }
        self.doubts = 0;
        self.works();
        Ok(())
    }

    async fn applied(&mut self, object: DeserializeGuard<K>) -> Result<(), Ended> {
        self.saw(object.meta().resource_version.clone());
        let Some(key) = ObjectKey::of(object.meta()) else { return Ok(()) };
        match object.0 {
            Ok(object) => {
                self.unreadable.decoded(Some(key));
                self.send(Watched::Apply(Box::new(object))).await
            }
            Err(invalid) => {
                self.unreadable.found(&key, &invalid);
                Ok(())
            }
        }
    }

    async fn deleted(&mut self, object: &DeserializeGuard<K>) -> Result<(), Ended> {
        self.saw(object.meta().resource_version.clone());
        let Some(key) = ObjectKey::of(object.meta()) else { return Ok(()) };
        self.unreadable.gone(&key);
        self.send(Watched::Delete(key)).await
    }

    fn saw(&mut self, version: Option<String>) {
        if let Some(version) = version.filter(|v| !v.is_empty()) {
            self.version = Some(version);
        }
    }
}

/// Whether one line of a watch is not what it should be. The client takes any other object for a status, one without a
/// code.
fn is_undecodable(error: &::kube::Error) -> bool {
    match error {
        ::kube::Error::SerdeError(_) => true,
        ::kube::Error::Api(status) => status.code == 0 && status.status.is_none(),
        _ => false,
    }
}
