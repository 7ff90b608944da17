//! Writing bucket maps, and deleting what is not needed any more: only by whoever has seen the version that is there.

use std::time::Duration;

use ::kube::api::{DeleteParams, PostParams, Preconditions};
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::ConfigMap;

use super::own::{RequestError, answer, config_map};
use crate::model::ServiceRef;
use crate::model::handover::Assignment;
use crate::state::assignment::{MAP_KEY, MAP_LABEL, decode, encode, map_name};

/// For one request.
const ANSWER: Duration = Duration::from_secs(10);

/// Writes and deletes the maps of one namespace.
#[derive(Clone)]
pub struct MapWriter {
    api: Api<ConfigMap>,
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
    /// [`RequestError::Conflict`] if there is another version by now, [`RequestError::Later`] if a later version of the program
    /// wrote it.
    pub async fn write(
        &self,
        service: &ServiceRef,
        map: &Assignment,
        version: Option<&str>,
    ) -> Result<ConfigMap, RequestError> {
        let name = map_name(&service.uid);
        let stored = object(service, map, version);
        if version.is_some() {
            return answer(ANSWER, self.api.replace(&name, &PostParams::default(), &stored)).await;
        }
        match answer(ANSWER, self.api.create(&PostParams::default(), &stored)).await {
            Err(RequestError::Conflict) => {}
            other => return other,
        }
        let there = answer(ANSWER, self.api.get(&name)).await?;
        let (label, value) = MAP_LABEL;
        if there.metadata.labels.as_ref().and_then(|l| l.get(label)).is_some_and(|v| v == value) {
            return Err(RequestError::Conflict);
        }
        let text = there.data.as_ref().and_then(|data| data.get(MAP_KEY)).map(String::as_str);
        let may_be_replaced =
            decode(text, &service.uid).map_or_else(|fault| fault.may_be_replaced(), |stored| stored.may_be_replaced());
        if !may_be_replaced {
            return Err(RequestError::Later);
        }
        let version = there.metadata.resource_version;
        let stored = object(service, map, version.as_deref());
        answer(ANSWER, self.api.replace(&name, &PostParams::default(), &stored)).await
    }

    /// Deletes a map or a report if it still has this version; one that is gone is no error.
    ///
    /// # Errors
    /// As [`MapWriter::write`].
    pub async fn delete(&self, name: &str, version: &str) -> Result<(), RequestError> {
        let preconditions = Preconditions { resource_version: Some(version.to_owned()), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match answer(ANSWER, self.api.delete(name, &params)).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

fn object(service: &ServiceRef, map: &Assignment, version: Option<&str>) -> ConfigMap {
    config_map(&map_name(&service.uid), MAP_LABEL, (MAP_KEY, encode(service, map)), version)
}
