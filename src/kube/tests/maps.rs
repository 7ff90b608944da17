use serde_json::json;

use super::server::{Reply, Server};
use crate::kube::{MapWriter, RequestError};
use crate::model::handover::{Assignment, FlowHash, HashKey};
use crate::model::{BucketCount, ServiceRef};

/// Writes where nothing was seen, while there is a map with this version that has lost its label.
async fn write_over(version: u64) -> (Server, Result<(), RequestError>) {
    let status = |code: u16| json!({ "kind": "Status", "status": "Failure", "code": code });
    let server = Server::start(move |request| match request.method.as_str() {
        "POST" => Reply::Json(409, status(409)),
        _ => {
            let text = json!({ "version": version }).to_string();
            let metadata = json!({ "name": "map-u-1", "resourceVersion": "7" });
            Reply::Json(200, json!({ "kind": "ConfigMap", "metadata": metadata, "data": { "map.json": text } }))
        }
    })
    .await;
    let service = ServiceRef { namespace: "shop".into(), name: "echo".into(), uid: "u-1".into() };
    let hash = FlowHash { buckets: BucketCount::DEFAULT, seed: 1, key: HashKey::Ports };
    let map = Assignment::begin(hash, &"u-1".into(), 1, None);
    let written = MapWriter::new(server.client(), "tunnels").write(&service, &map, None).await;
    (server, written.map(drop))
}

#[tokio::test]
async fn a_map_without_its_label_is_taken_over() {
    let (server, written) = write_over(1).await;
    assert!(written.is_ok(), "{written:?}");
    let put = server.requests(|request| request.method == "PUT").remove(0);
    assert_eq!(put.body["metadata"]["resourceVersion"], "7");
}

#[tokio::test]
async fn a_map_of_a_later_version_without_its_label_is_left_alone() {
    let (server, written) = write_over(3).await;
    assert!(matches!(written, Err(RequestError::Later)), "{written:?}");
    assert!(server.requests(|request| request.method == "PUT").is_empty());
}
