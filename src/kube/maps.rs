//! Writing bucket maps: only by whoever has seen the version that is there.

use std::collections::BTreeMap;
use std::time::Duration;

use ::kube::api::{DeleteParams, PostParams, Preconditions};
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::timeout;

use super::outage::describe;
use crate::model::{ServiceRef, SharedMap};
use crate::state::stored::{MAP_KEY, MAP_LABEL, encode, map_name};

/// For one request.
const ANSWER: Duration = Duration::from_secs(10);

/// Writes and deletes the maps of one namespace.
#[derive(Clone)]
pub struct MapWriter {
    api: Api<ConfigMap>,
}

/// Why a map was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody else has written it since: look again, then decide anew.
    #[error("somebody else has written it meanwhile")]
    Conflict,
    /// The server does not answer.
    #[error("no answer within {ANSWER:?}")]
    NoAnswer,
    /// It refuses.
    #[error("{}", describe(.0))]
    Client(::kube::Error),
}

impl From<::kube::Error> for WriteError {
    fn from(error: ::kube::Error) -> Self {
        match &error {
            ::kube::Error::Api(status) if status.code == 409 => WriteError::Conflict,
            _ => WriteError::Client(error),
        }
    }
}

impl MapWriter {
    /// For the maps of a namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        MapWriter { api: Api::namespaced(client, namespace) }
    }

    /// Stores the map of a Service in place of the one with this `resourceVersion`, or where there is none, and returns what
    /// is stored now. An object of that name without our label is not shown by the watch; it is taken over.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] if there is another version by now.
    pub async fn write(
        &self,
        service: &ServiceRef,
        map: &SharedMap,
        version: Option<&str>,
    ) -> Result<ConfigMap, WriteError> {
        let name = map_name(&service.uid);
        let object = object(&name, service, map, version);
        if version.is_some() {
            return answer(self.api.replace(&name, &PostParams::default(), &object)).await;
        }
        match answer(self.api.create(&PostParams::default(), &object)).await {
            Err(WriteError::Conflict) => {}
            other => return other,
        }
        let there = answer(self.api.get(&name)).await?;
        let (label, value) = MAP_LABEL;
        if there.metadata.labels.as_ref().and_then(|l| l.get(label)).is_some_and(|v| v == value) {
            return Err(WriteError::Conflict);
        }
        let version = there.metadata.resource_version;
        let object = self::object(&name, service, map, version.as_deref());
        answer(self.api.replace(&name, &PostParams::default(), &object)).await
    }

    /// Deletes a map if it still has this version; one that is gone is no error.
    ///
    /// # Errors
    /// As [`MapWriter::write`].
    pub async fn delete(&self, name: &str, version: &str) -> Result<(), WriteError> {
        let preconditions = Preconditions { resource_version: Some(version.to_owned()), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match answer(self.api.delete(name, &params)).await {
            Err(WriteError::Client(::kube::Error::Api(status))) if status.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }
}

fn object(name: &str, service: &ServiceRef, map: &SharedMap, version: Option<&str>) -> ConfigMap {
    let (label, value) = MAP_LABEL;
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
            resource_version: version.map(str::to_owned),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(MAP_KEY.to_owned(), encode(service, map))])),
        ..ConfigMap::default()
    }
}

async fn answer<T>(request: impl Future<Output = ::kube::Result<T>>) -> Result<T, WriteError> {
    Ok(timeout(ANSWER, request).await.map_err(|_| WriteError::NoAnswer)??)
}
