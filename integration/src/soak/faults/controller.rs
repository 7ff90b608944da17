//! Controllers that are gone, and maps that are not theirs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::apiserver::Record;
use crate::soak::stage::{CONTROLLERS, FEW, Stage};
use crate::world::NAMESPACE;
use crate::world::echo::SERVICE;
use crate::world::map::owners;

/// How long the leader's write is under way.
const WRITING: Duration = Duration::from_millis(500);
/// How long a write may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

impl Stage {
    pub(in crate::soak) async fn controller_killed(&mut self) -> Result<()> {
        self.scaled_to(SERVICE, FEW).await?;
        let api = &self.world.api;
        api.journal().clear();
        api.faults().delay_all(WRITING);
        self.add_pods(SERVICE, 1).await?;
        let writes = self.world.api.journal().wait_for(|records| records.iter().any(is_being_written));
        tokio::time::timeout(PATIENCE, writes).await.context("the controller writes no map")?;
        self.traffic.fault_now();
        for (name, _) in CONTROLLERS {
            self.world.kill_controller(name).await?;
        }
        self.world.api.faults().heal();

        let first = self.pods_of(SERVICE).swap_remove(0);
        self.traffic.fault_now();
        self.end_pod(SERVICE, &first, false)?;
        self.observe(self.pace.outage / 2).await?;
        self.add_pods(SERVICE, 1).await?;
        self.observe(self.pace.outage / 2).await?;
        for (name, node) in CONTROLLERS {
            self.world.start_controller(name, node, &["--drain-udp", self.pace.drain_udp])?;
        }
        Ok(())
    }

    /// It leads while pods come, and dies before they have all they shall have.
    pub(in crate::soak) async fn controller_clock_ahead(&mut self) -> Result<()> {
        self.scaled_to(SERVICE, FEW).await?;
        self.in_order().await?;
        for (name, _) in CONTROLLERS {
            self.world.kill_controller(name).await?;
        }
        let [(ahead, node), _] = CONTROLLERS;
        let flags = ["--drain-udp", self.pace.drain_udp];
        self.world.start_controller_ahead(ahead, node, &flags)?;
        self.world.controller(ahead)?.line("leadership has changed").await?;
        let old = self.pods_of(SERVICE);
        self.traffic.fault_now();
        self.add_pods(SERVICE, FEW).await?;
        self.world.stored_map(SERVICE, |map| map.members.len() >= 2 * FEW).await?;
        self.observe(self.pace.observe / 2).await?;
        self.world.kill_controller(ahead).await?;
        for (name, node) in CONTROLLERS {
            self.world.start_controller(name, node, &flags)?;
        }
        for pod in &old {
            self.traffic.fault_now();
            self.end_pod(SERVICE, pod, false)?;
            self.observe(self.pace.observe / 4).await?;
        }
        self.all_ended().await
    }

    pub(in crate::soak) async fn stale_map(&mut self) -> Result<()> {
        let name = self.world.map_name(SERVICE)?;
        let old = self.world.stored_map(SERVICE, |_| true).await?;
        let backup = self.world.api.store().get("configmaps", NAMESPACE, &name)?["data"].clone();
        let pod = self.pods_of(SERVICE).swap_remove(0);
        self.traffic.fault_now();
        self.world.set_ready(&pod, false)?;
        self.world.stored_map(SERVICE, |map| owners(map) != owners(&old)).await?;
        self.converged().await?;
        self.observe(self.pace.observe).await?;

        let new = self.world.stored_map(SERVICE, |_| true).await?;
        self.traffic.fault_now();
        self.world.api.store().patch("configmaps", NAMESPACE, &name, json!({ "data": backup }))?;
        let again = self.world.stored_map(SERVICE, |map| map.generation >= new.generation).await?;
        ensure!(owners(&again) == owners(&new), "another map was made:\n{again:?}\ninstead of\n{new:?}");
        self.observe(self.pace.observe).await?;
        self.world.set_ready(&pod, true)
    }
}

fn is_being_written(record: &Record) -> bool {
    let map = |value: &Value| value["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("map-"));
    let info = &record.info;
    info.is_write() && info.resource == "configmaps" && (info.name.starts_with("map-") || map(&record.body))
}
