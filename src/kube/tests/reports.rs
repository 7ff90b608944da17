use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::server::{Reply, Server, until};
use crate::kube::keep_report;
use crate::model::Bucket;
use crate::model::handover::{Generation, NodeReport, Over};

/// A server that takes everything, and an agent that keeps its report there.
async fn keeper() -> (Server, watch::Sender<NodeReport>) {
    let server = Server::start(|_| Reply::Json(200, json!({ "kind": "ConfigMap", "metadata": {} }))).await;
    let (wanted, report) = watch::channel(NodeReport::default());
    let (namespace, node) = ("tunnels".to_owned(), "worker-a".to_owned());
    tokio::spawn(keep_report(server.client(), namespace, node, report, CancellationToken::new()));
    // It has been asked what to do, and waits.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    (server, wanted)
}

fn over(bucket: u32) -> Over {
    let bucket = Bucket::new(bucket).unwrap();
    Over { service: "s".into(), pod: "p".into(), generation: Generation(1), bucket }
}

/// Waits for the write number `n` from 0, and returns what it says.
async fn write(server: &Server, n: usize) -> String {
    until("a write", || server.requests(|_| true).len() > n).await;
    let text = &server.requests(|_| true)[n].body["data"]["report.json"];
    text.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_empty_report_is_written_after_the_first_change() {
    let (server, wanted) = keeper().await;
    assert!(server.requests(|_| true).is_empty(), "what an agent before has reported stands");
    wanted.send_modify(|report| *report = NodeReport::default());
    until("the first request", || !server.requests(|_| true).is_empty()).await;
    let first = server.requests(|_| true).swap_remove(0);
    assert_eq!((first.method.as_str(), first.path.ends_with("/node-worker-a")), ("PUT", true), "{first:?}");
    assert!(write(&server, 0).await.contains("\"version\":2"), "{first:?}");
}

#[tokio::test]
async fn news_of_pods_are_written_once_a_second_and_drains_wait() {
    let (server, wanted) = keeper().await;
    let start = Instant::now();
    wanted.send_modify(|report| *report = NodeReport::default());
    write(&server, 0).await;
    wanted.send_if_modified(|report| report.over.insert(over(1)));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(server.requests(|_| true).len(), 1, "nobody waits for what is over");
    wanted.send_if_modified(|report| report.ended.insert("p".into()));
    let second = write(&server, 1).await;
    assert!(second.contains("\"buckets\":[1]") && second.contains("\"ended\":[\"p\"]"), "{second}");
    wanted.send_if_modified(|report| report.ended.insert("q".into()));
    write(&server, 2).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "two writes within a second");
}
