//! Our own objects in the API: what is the same about writing each of them.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::timeout;

use super::outage::describe;

/// Why an object was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Somebody else has written it since: look again, then decide anew.
    #[error("somebody else has written it meanwhile")]
    Conflict,
    /// A later version of the program wrote it.
    #[error("a later version of tunnel-router wrote it, and it is left as it is")]
    Later,
    /// The server does not answer.
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    /// It refuses.
    #[error("{}", describe(.0))]
    Client(::kube::Error),
}

impl RequestError {
    /// The object is not there.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, RequestError::Client(::kube::Error::Api(status)) if status.code == 404)
    }
}

impl From<::kube::Error> for RequestError {
    fn from(error: ::kube::Error) -> Self {
        match &error {
            ::kube::Error::Api(status) if status.code == 409 => RequestError::Conflict,
            _ => RequestError::Client(error),
        }
    }
}

/// The answer to a request, if it comes in time.
pub(super) async fn answer<T, E>(
    limit: Duration,
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, RequestError>
where
    RequestError: From<E>,
{
    Ok(timeout(limit, request).await.map_err(|_| RequestError::NoAnswer(limit))??)
}

/// A ConfigMap that carries our label and one text.
pub(super) fn config_map(
    name: &str,
    (label, value): (&str, &str),
    (key, text): (&str, String),
    version: Option<&str>,
) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
            resource_version: version.map(str::to_owned),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(key.to_owned(), text)])),
        ..ConfigMap::default()
    }
}
