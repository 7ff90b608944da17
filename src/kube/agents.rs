//! Whether a DaemonSet exists, of which agents come.

use std::time::Duration;

use ::kube::{Api, Client};
use k8s_openapi::api::apps::v1::DaemonSet;

use super::own::{RequestError, answer};
use crate::model::config::DaemonSetName;

/// For the answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Asks the API server once.
///
/// # Errors
/// There is no answer, or it is a refusal: it may exist.
pub async fn daemon_set_exists(client: Client, name: &DaemonSetName) -> Result<bool, RequestError> {
    let api: Api<DaemonSet> = Api::namespaced(client, &name.namespace);
    Ok(answer(ANSWER, api.get_metadata_opt(&name.name)).await?.is_some())
}
