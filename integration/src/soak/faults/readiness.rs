//! Readiness that is lost, and labels and selectors that change: pods that are no endpoints any more, and live on.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::soak::stage::{FEW, Stage};
use crate::world::echo::SERVICE;

/// How many pods become unready one after the other within [`TURNS`], and how many there are: some stay ready.
const SOME: (u32, usize) = (10, 12);
const MANY: (u32, usize) = (50, 60);
/// Within which time they do.
const TURNS: Duration = Duration::from_secs(10);

impl Stage {
    /// Open connections stay with their pods, and new ones are refused until the first pod is ready again.
    pub(in crate::soak) async fn all_unready(&mut self) -> Result<()> {
        let pods = self.pods_of(SERVICE);
        pods.iter().try_for_each(|pod| self.world.set_ready(pod, false))?;
        self.observe(self.pace.unready).await?;
        self.traffic.fault_now();
        pods.iter().try_for_each(|pod| self.world.set_ready(pod, true))?;
        self.observe(self.pace.observe).await
    }

    pub(in crate::soak) async fn some_unready_in_turn(&mut self) -> Result<()> {
        self.unready_in_turn(SOME).await
    }

    pub(in crate::soak) async fn many_unready_in_turn(&mut self) -> Result<()> {
        self.unready_in_turn(MANY).await
    }

    async fn unready_in_turn(&mut self, (count, of): (u32, usize)) -> Result<()> {
        self.scaled_to(SERVICE, of).await?;
        self.in_order().await?;
        let pods: Vec<String> = self.pods_of(SERVICE).into_iter().take(count as usize).collect();
        for ready in [false, true] {
            for pod in &pods {
                self.traffic.fault_now();
                self.world.set_ready(pod, ready)?;
                self.observe(TURNS / count).await?;
            }
        }
        self.scaled_to(SERVICE, FEW).await
    }

    pub(in crate::soak) async fn pods_relabelled(&mut self) -> Result<()> {
        let pods = self.pods_of(SERVICE);
        let half = &pods[..pods.len() / 2];
        for app in ["elsewhere", SERVICE] {
            self.traffic.fault_now();
            half.iter().try_for_each(|pod| self.label_pod(pod, json!({ "app": app })))?;
            self.observe(self.pace.observe).await?;
        }
        Ok(())
    }

    /// Blue and green: the pods of the next release run before the Service selects them, and it does so for all at once.
    pub(in crate::soak) async fn selector_changed(&mut self) -> Result<()> {
        self.scaled_to(SERVICE, FEW).await?;
        let old = self.pods_of(SERVICE);
        let [blue, green] = ["blue", "green"].map(|color| format!("{color}-{}", self.started));
        old.iter().try_for_each(|pod| self.label_pod(pod, json!({ "release": blue })))?;
        self.select_release(Some(&blue))?;
        self.add_pods(SERVICE, FEW).await?;
        for pod in self.pods_of(SERVICE).iter().filter(|pod| !old.contains(pod)) {
            self.label_pod(pod, json!({ "release": green }))?;
        }
        self.traffic.fault_now();
        self.select_release(Some(&green))?;
        self.observe(self.pace.observe).await?;
        for pod in &old {
            self.end_pod(SERVICE, pod, false)?;
        }
        self.all_ended().await?;
        self.select_release(None)
    }

    fn label_pod(&self, pod: &str, labels: Value) -> Result<()> {
        self.world.api.store().patch("pods", "default", pod, json!({ "metadata": { "labels": labels } }))?;
        Ok(())
    }

    fn select_release(&self, release: Option<&str>) -> Result<()> {
        let patch = json!({ "spec": { "selector": { "release": release } } });
        self.world.api.store().patch("services", "default", SERVICE, patch)?;
        Ok(())
    }
}
