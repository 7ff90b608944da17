//! Whether the API server holds this agent to its own node, and an Event on the Node if it does not.
//!
//! The admission policy of the manifest lets an agent write the report of its own node only. It knows the node by a claim of the
//! agent's token, which servers make since Kubernetes 1.30. Without the claim the policy admits every node's report. A
//! `SelfSubjectReview` shows the claim as the policy sees it.

use std::time::Duration;

use ::kube::api::PostParams;
use ::kube::{Api, Client};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, UserInfo};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::backoff::Backoff;
use super::outage::Outage;
use super::own::{RequestError, answer};
use super::report::CONTROLLER;

/// The claim of a token that says for a pod of which node it was issued.
const NODE_CLAIM: &str = "authentication.kubernetes.io/node-name";
/// Events about objects without a namespace are kept there.
const NAMESPACE: &str = "default";
const REASON: &str = "NotBoundToNode";
/// For one request.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two attempts, at first and at most. Nobody waits for the Event.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Asks once who the agent of `node` is, until there is an answer, and tells if that binds it to no node or to another one.
pub async fn tell_unbound(client: Client, node: String, shutdown: CancellationToken) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut outage = Outage::new("ask for the node of this agent's token");
    let told = async {
        while let Err(error) = attempt(&client, &node).await {
            outage.failed(&error);
            sleep(backoff.failed()).await;
        }
        outage.over();
    };
    // Nobody needs the Event of an agent that ends.
    let _ = shutdown.run_until_cancelled(told).await;
}

async fn attempt(client: &Client, node: &str) -> Result<(), RequestError> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let user = match answer(ANSWER, reviews.create(&PostParams::default(), &SelfSubjectReview::default())).await {
        Ok(review) => review.status.and_then(|status| status.user_info).unwrap_or_default(),
        // Servers before 1.28 have no such review, and none of them makes the claim.
        Err(error) if error.is_not_found() => UserInfo::default(),
        Err(error) => return Err(error),
    };
    match unbound(&user, node) {
        Some(note) => tell(client, node, note).await,
        None => Ok(()),
    }
}

/// What is to be told of a user who writes the report of `node`.
fn unbound(user: &UserInfo, node: &str) -> Option<String> {
    let claim = user.extra.as_ref().and_then(|extra| extra.get(NODE_CLAIM)?.first());
    match claim {
        Some(claimed) if claimed == node => None,
        Some(claimed) => Some(format!(
            "the token of this agent was issued for a pod on node {claimed}, so the report of node {node} is refused: correct \
             --node-name"
        )),
        None => Some(
            "the token of this agent names no node, so nothing keeps it from writing the reports of other nodes: run it in a pod \
             of Kubernetes 1.30 or later"
                .to_owned(),
        ),
    }
}

async fn tell(client: &Client, node: &str, note: String) -> Result<(), RequestError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let uid = answer(ANSWER, nodes.get_metadata_opt(node)).await?.and_then(|found| found.metadata.uid);
    let event = event(node, uid, note);
    let events: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    match answer(ANSWER, events.create(&PostParams::default(), &event)).await {
        Ok(_) => warn!(node, reason = REASON, note = event.note, "agent is not bound to its node"),
        // An agent before this one has told.
        Err(RequestError::Conflict) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn event(node: &str, uid: Option<String>, note: String) -> Event {
    // Longer names are not accepted.
    let short = |limit: usize| node[..node.floor_char_boundary(limit)].trim_end_matches(['.', '-']).to_owned();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.not-bound-to-node", short(200))),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        type_: Some("Warning".to_owned()),
        reason: Some(REASON.to_owned()),
        action: Some("Report".to_owned()),
        note: Some(note),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            uid,
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(short(128)),
        ..Event::default()
    }
}
