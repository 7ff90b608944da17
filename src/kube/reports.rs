//! Writing this node's report: the latest one, as soon as the API takes it.

use std::time::Duration;

use ::kube::api::PostParams;
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::outage::Outage;
use super::own::{RequestError, answer, config_map};
use crate::model::handover::{NodeName, NodeReport};
use crate::state::node_report::{REPORT_KEY, REPORT_LABEL, encode, report_name};

/// For one request.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two writes.
const PACE: Duration = Duration::from_secs(1);
/// Between two writes of which the second says that an announced move may be made: new pods wait for that.
const KNOWS: Duration = Duration::from_millis(100);
/// Between two writes of which the second says nothing new but that drains are over, or what was passed on: nobody waits for
/// that.
const DRAINS: Duration = Duration::from_secs(5);
/// Between two attempts, at most: the controller waits for what it says.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the report of a node as `wanted` says, from the first time that it changes until `shutdown`. Until then what an agent
/// before this one has reported is as true as it was. A report that says nothing is written like any other, and none is ever
/// deleted: that would take nothing away.
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
    let mut outage = Outage::new("report what this node has set up and which drains are over");
    if wanted.changed().await.is_err() {
        return;
    }
    // What an agent before this one has left is not known: the first one is written whatever it says.
    let mut last: Option<(NodeReport, Instant)> = None;
    loop {
        let report = wanted.borrow_and_update().clone();
        let wait = last.as_ref().map(|(written, at)| pace(written, &report).map(|pace| *at + pace));
        match wait {
            Some(Some(at)) if at > Instant::now() => tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = sleep_until(at) => {}
            },
            Some(None) => {
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            _ => match write(api, node, &report).await {
                Ok(()) => {
                    outage.over();
                    backoff.succeeded();
                    last = Some((report, Instant::now()));
                }
                Err(error) => {
                    outage.failed(&error);
                    sleep(backoff.failed()).await;
                }
            },
        }
    }
}

/// How long after one report another one is written; `None`: not at all, it says the same.
fn pace(written: &NodeReport, wanted: &NodeReport) -> Option<Duration> {
    let NodeReport { pods, over, ended, holds, knows, forwarding } = wanted;
    let same = *over == written.over && *forwarding == written.forwarding;
    let drains = Some(DRAINS).filter(|_| !same);
    let pods = Some(PACE).filter(|_| *pods != written.pods || *ended != written.ended || *holds != written.holds);
    let knows = Some(KNOWS).filter(|_| *knows != written.knows);
    knows.or(pods).or(drains)
}

/// The node is the only writer of its report: whatever is there is replaced.
async fn write(api: &Api<ConfigMap>, node: &str, report: &NodeReport) -> Result<(), RequestError> {
    let name = report_name(node);
    let object = config_map(&name, REPORT_LABEL, (REPORT_KEY, encode(&NodeName::from(node), report)), None);
    match answer(ANSWER, api.replace(&name, &PostParams::default(), &object)).await {
        Err(error) if error.is_not_found() => {
            answer(ANSWER, api.create(&PostParams::default(), &object)).await.map(drop)
        }
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Bucket;
    use crate::model::handover::{Generation, Over};

    #[test]
    fn what_nobody_waits_for_may_wait() {
        let none = NodeReport::default();
        let bucket = Bucket::new(1).unwrap();
        let over = Over { service: "s".into(), pod: "p".into(), generation: Generation(1), bucket };
        let over = NodeReport { over: [over].into(), ..none.clone() };
        let ended = NodeReport { ended: ["p".into()].into(), ..over.clone() };
        let holds = NodeReport { holds: [("s".into(), Generation(2))].into(), ..none.clone() };
        assert_eq!(pace(&none, &none), None);
        assert_eq!([pace(&none, &over), pace(&over, &none)], [Some(DRAINS); 2]);
        let knows = NodeReport { knows: Some(BTreeMap::from([("s".into(), Generation(2))])), ..ended.clone() };
        assert_eq!([pace(&none, &knows), pace(&knows, &none)], [Some(KNOWS); 2]);
        assert_eq!([pace(&over, &ended), pace(&none, &ended), pace(&none, &holds)], [Some(PACE); 3]);
    }
}
