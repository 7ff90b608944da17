use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::server::{Reply, Server, until};
use crate::kube::keep_report;
use crate::model::Progress;
use crate::state::report::NodeReport;

#[tokio::test]
async fn what_an_agent_before_has_reported_stands_until_there_is_something_to_say() {
    let server = Server::start(|_| Reply::Json(200, json!({ "kind": "Status", "status": "Success" }))).await;
    let of_s = Progress { prepared: 4, ..Progress::default() };
    let prepared = NodeReport { progress: [("s".to_owned(), of_s)].into(), ..NodeReport::default() };
    let (wanted, report) = watch::channel(prepared);
    let (namespace, node) = ("tunnels".to_owned(), "worker-a".to_owned());
    let keeper = tokio::spawn(keep_report(server.client(), namespace, node, report, CancellationToken::new()));
    // It has been asked what to do, and waits.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    wanted.send_modify(|report| *report = NodeReport::default());
    until("the first request", || !server.requests(|_| true).is_empty()).await;
    let first = server.requests(|_| true).swap_remove(0);
    assert_eq!((first.method.as_str(), first.path.ends_with("/node-worker-a")), ("DELETE", true), "{first:?}");
    drop(wanted);
    keeper.await.unwrap();
}
