//! Writing this node's report: the latest one, as soon as the API takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::kube::api::{DeleteParams, PostParams};
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::outage::{Outage, describe};
use crate::state::report::{Drained, REPORT_KEY, REPORT_LABEL, encode, report_name};

/// For one request.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two writes.
const PACE: Duration = Duration::from_secs(1);
/// Between two attempts, at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a report is not written.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("no answer within {ANSWER:?}")]
    NoAnswer,
    #[error("{}", describe(.0))]
    Client(#[from] ::kube::Error),
}

impl ReportError {
    fn is_not_found(&self) -> bool {
        matches!(self, ReportError::Client(::kube::Error::Api(status)) if status.code == 404)
    }
}

/// Keeps the report of a node as `wanted` says until `shutdown`; one that says nothing is deleted.
pub async fn keep_report(
    client: Client,
    namespace: String,
    node: String,
    wanted: watch::Receiver<BTreeSet<Drained>>,
    shutdown: CancellationToken,
) {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    // It ends by itself only when nobody wants reports any more.
    let _ = shutdown.run_until_cancelled(keep(&api, &node, wanted)).await;
}

async fn keep(api: &Api<ConfigMap>, node: &str, mut wanted: watch::Receiver<BTreeSet<Drained>>) {
    let mut backoff = Backoff::new(PACE, PATIENCE);
    let mut outage = Outage::new("report which drains are over");
    // An agent before this one may have left a report: the first one is written whatever it says.
    let mut written: Option<BTreeSet<Drained>> = None;
    loop {
        let report = wanted.borrow_and_update().clone();
        if written.as_ref() != Some(&report) {
            if let Err(error) = write(api, node, &report).await {
                outage.failed(&error);
                sleep(backoff.failed()).await;
                continue;
            }
            outage.over();
            backoff.succeeded();
            written = Some(report);
        }
        if wanted.changed().await.is_err() {
            return;
        }
        sleep(PACE).await;
    }
}

/// The node is the only writer of its report: whatever is there is replaced.
async fn write(api: &Api<ConfigMap>, node: &str, report: &BTreeSet<Drained>) -> Result<(), ReportError> {
    let name = report_name(node);
    if report.is_empty() {
        return match answer(api.delete(&name, &DeleteParams::default())).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        };
    }
    let (label, value) = REPORT_LABEL;
    let object = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(REPORT_KEY.to_owned(), encode(node, report))])),
        ..ConfigMap::default()
    };
    match answer(api.replace(&name, &PostParams::default(), &object)).await {
        Err(error) if error.is_not_found() => answer(api.create(&PostParams::default(), &object)).await.map(drop),
        other => other.map(drop),
    }
}

async fn answer<T>(request: impl Future<Output = ::kube::Result<T>>) -> Result<T, ReportError> {
    Ok(timeout(ANSWER, request).await.map_err(|_| ReportError::NoAnswer)??)
}
