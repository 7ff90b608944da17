//! Objects of the API that somebody deletes, or restores from a backup.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::soak::stage::{Stage, WORKERS};
use crate::world::NAMESPACE;
use crate::world::echo::SERVICE;

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

    fn own_config_maps(&self) -> Result<Vec<Value>> {
        let mut all = self.world.api.store().list("configmaps")?;
        all.retain(|object| object["metadata"]["namespace"] == NAMESPACE);
        Ok(all)
    }
}

fn name(object: &Value) -> Result<&str> {
    object["metadata"]["name"].as_str().context("an object has a name")
}

/// A Node as its kubelet registers it: the server gives out the rest of its metadata.
fn registration(node: &Value) -> Value {
    let metadata = json!({ "name": node["metadata"]["name"], "labels": node["metadata"]["labels"] });
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": node["spec"], "status": node["status"] })
}
