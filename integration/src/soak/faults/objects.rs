//! Objects of the API that somebody deletes, or restores from a backup.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tunnel_router::state::assignment::MAP_KEY;

use crate::soak::stage::{FEW, Stage, WORKERS};
use crate::world::NAMESPACE;
use crate::world::echo::SERVICE;
use crate::world::map::drains;

/// How far ahead the clock is, in seconds.
const AHEAD: u64 = 3600;

impl Stage {
    /// The nodes run on, and register again.
    pub(in crate::soak) async fn node_object_deleted(&mut self) -> Result<()> {
        let (ingress, _) = self.pick_ingress();
        let worker = WORKERS[self.rng.usize(..WORKERS.len())];
        let mut nodes = Vec::new();
        self.traffic.fault_now();
        for name in [ingress, worker] {
            nodes.push(registration(&self.world.api.store().get("nodes", "", name)?));
            self.world.api.store().delete_now("nodes", "", name)?;
        }
        self.observe(self.pace.observe).await?;
        self.traffic.fault_now();
        nodes.into_iter().try_for_each(|node| self.world.api.store().create_with_status(node).map(drop))?;
        self.observe(self.pace.observe).await
    }

    pub(in crate::soak) async fn maps_deleted(&mut self) -> Result<()> {
        self.traffic.fault_now();
        for object in self.own_config_maps()? {
            self.world.api.store().delete_now("configmaps", NAMESPACE, name(&object)?)?;
        }
        self.observe(self.pace.observe).await
    }

    /// A backup of maps and reports from before a pod was replaced.
    pub(in crate::soak) async fn backup_restored(&mut self) -> Result<()> {
        let backup = self.own_config_maps()?;
        let pod = self.pods_of(SERVICE).swap_remove(0);
        self.add_pods(SERVICE, 1).await?;
        self.end_pod(SERVICE, &pod, false)?;
        self.in_order().await?;
        self.traffic.fault_now();
        for object in &backup {
            let patch = json!({ "data": object["data"] });
            self.world.api.store().patch("configmaps", NAMESPACE, name(object)?, patch)?;
        }
        self.observe(self.pace.observe).await
    }

    /// As a controller stores it whose clock is ahead: in the middle of a scale-up, and the next controller's clock is right.
    pub(in crate::soak) async fn map_from_the_future(&mut self) -> Result<()> {
        self.scaled_to(SERVICE, FEW).await?;
        let old = self.pods_of(SERVICE);
        self.add_pods(SERVICE, FEW).await?;
        self.world.stored_map(SERVICE, |map| drains(map) > 0).await?;
        self.store_from_the_future()?;
        self.observe(self.pace.observe).await?;
        for pod in &old {
            self.traffic.fault_now();
            self.end_pod(SERVICE, pod, false)?;
            self.observe(self.pace.observe / 4).await?;
        }
        self.all_ended().await
    }

    /// Whoever wrote in between is not overwritten: then it is that map whose times are moved.
    fn store_from_the_future(&self) -> Result<()> {
        let (store, name) = (self.world.api.store(), self.world.map_name(SERVICE)?);
        loop {
            let mut object = store.get("configmaps", NAMESPACE, &name)?;
            let text = object["data"][MAP_KEY].as_str().context("a map has a text")?;
            object["data"][MAP_KEY] = json!(an_hour_later(text)?);
            self.traffic.fault_now();
            match store.update(object) {
                Err(error) if error.code() == 409 => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }

    fn own_config_maps(&self) -> Result<Vec<Value>> {
        let mut all = self.world.api.store().list("configmaps")?;
        all.retain(|object| object["metadata"]["namespace"] == NAMESPACE);
        Ok(all)
    }
}

fn name(object: &Value) -> Result<&str> {
    object["metadata"]["name"].as_str().context("an object has a name")
}

/// The next generation of a stored map, with all times moved. Those of buckets are counted back from `at`.
fn an_hour_later(text: &str) -> Result<String> {
    let mut map: Value = serde_json::from_str(text).context("a stored map")?;
    let add = |value: &mut Value, more: u64| -> Result<()> {
        *value = json!(value.as_u64().context("a number in a stored map")? + more);
        Ok(())
    };
    add(&mut map["generation"], 1)?;
    add(&mut map["at"], AHEAD)?;
    map["vips"].as_array_mut().into_iter().flatten().try_for_each(|vip| add(&mut vip[1], AHEAD))?;
    Ok(map.to_string())
}

/// A Node as its kubelet registers it: the server gives out the rest of its metadata.
fn registration(node: &Value) -> Value {
    let metadata = json!({ "name": node["metadata"]["name"], "labels": node["metadata"]["labels"] });
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": node["spec"], "status": node["status"] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_from_the_future_is_the_next_one_with_later_times() {
        let text = r#"{"at":100,"generation":7,"vips":[["192.0.2.10",50]],"seed":3}"#;
        let later: Value = serde_json::from_str(&an_hour_later(text).unwrap()).unwrap();
        assert_eq!(later, json!({ "at": 3700, "generation": 8, "vips": [["192.0.2.10", 3650]], "seed": 3 }));
        assert!(an_hour_later("{}").is_err());
    }
}
