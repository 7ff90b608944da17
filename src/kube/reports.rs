//! Writing this node's report: the latest one, as soon as the API takes it.

use std::time::Duration;

use ::kube::api::{DeleteParams, PostParams};
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::outage::Outage;
use super::own::{RequestError, answer, config_map};
use crate::state::report::{NodeReport, REPORT_KEY, REPORT_LABEL, encode, report_name};

/// For one request.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two writes.
const PACE: Duration = Duration::from_secs(1);
/// Between two attempts, at most: others wait for what it says.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the report of a node as `wanted` says, from the first time that it changes until `shutdown`; one that says nothing is
/// deleted. Until then what an agent before this one has reported is as true as it was.
pub async fn keep_report(
    client: Client,
    namespace: String,
    node: String,
    wanted: watch::Receiver<NodeReport>,
    shutdown: CancellationToken,
) {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    // It ends by itself only when nobody wants reports any more.
    let _ = shutdown.run_until_cancelled(keep(&api, &node, wanted)).await;
}

async fn keep(api: &Api<ConfigMap>, node: &str, mut wanted: watch::Receiver<NodeReport>) {
    let mut backoff = Backoff::new(PACE, PATIENCE);
    let mut outage = Outage::new("report what this node is prepared for and which drains are over");
    if wanted.changed().await.is_err() {
        return;
    }
    // An agent before this one may have left a report: the first one is written whatever it says.
    let mut written: Option<NodeReport> = None;
    let mut next = Instant::now();
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
            (written, next) = (Some(report), Instant::now() + PACE);
        }
        if wanted.changed().await.is_err() {
            return;
        }
        sleep_until(next).await;
    }
}

/// The node is the only writer of its report: whatever is there is replaced.
async fn write(api: &Api<ConfigMap>, node: &str, report: &NodeReport) -> Result<(), RequestError> {
    let name = report_name(node);
    if report.is_empty() {
        return match answer(ANSWER, api.delete(&name, &DeleteParams::default())).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        };
    }
    let object = config_map(&name, REPORT_LABEL, (REPORT_KEY, encode(node, report)), None);
    match answer(ANSWER, api.replace(&name, &PostParams::default(), &object)).await {
        Err(error) if error.is_not_found() => {
            answer(ANSWER, api.create(&PostParams::default(), &object)).await.map(drop)
        }
        other => other.map(drop),
    }
}
