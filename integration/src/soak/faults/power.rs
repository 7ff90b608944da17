//! Nodes with pods that lose their power. Their pods are gone with them; nobody says goodbye.

use std::time::Duration;

use anyhow::Result;
use tunnel_router::model::handover::NOT_READY;

use crate::soak::stage::{CONTROLLERS, SIDE, Stage, WORKERS};
use crate::world::echo::SERVICE;

/// After which time the endpoints of such a node become not ready.
pub(in crate::soak) const NOTICED: Duration = Duration::from_secs(5);
/// Pods on a node that is an ingress node, too.
const PODS: usize = 2;

impl Stage {
    pub(in crate::soak) async fn serving_lost(&mut self) -> Result<()> {
        let node = WORKERS[self.rng.usize(..WORKERS.len())];
        let controllers: Vec<&str> = CONTROLLERS.iter().filter(|(_, on)| *on == node).map(|(name, _)| *name).collect();
        self.world.lab.cut(node).await?;
        self.world.kill_agent(node).await?;
        for controller in &controllers {
            self.world.kill_controller(controller).await?;
            // It may be the one that led.
            self.traffic.may_wait(NOT_READY);
        }
        let lost = self.lose_pods(node).await?;
        self.observe(self.pace.outage).await?;
        self.forget_pods(&lost).await?;
        self.world.cleanup_node(node).await?;
        self.world.lab.heal(node).await?;
        self.world.start_agent(node)?;
        for controller in controllers {
            self.world.start_controller(controller, node, &["--drain-udp", self.pace.drain_udp])?;
        }
        for (service, _) in &lost {
            self.add_pods_on(service, &[node], 1).await?;
        }
        Ok(())
    }

    pub(in crate::soak) async fn ingress_and_serving_lost(&mut self) -> Result<()> {
        let (node, other) = self.pick_ingress();
        self.add_pods_on(SERVICE, &[node], PODS).await?;
        self.in_order().await?;
        self.traffic.all_answer().await?;
        self.power_off(node).await?;
        let lost = self.lose_pods(node).await?;
        self.announced_by(&[other]).await?;
        self.observe(self.pace.observe).await?;
        self.forget_pods(&lost).await?;
        self.power_on(node).await
    }

    /// The pods of a node that has just been cut off end; a while later the API says that they are not ready.
    async fn lose_pods(&mut self, node: &str) -> Result<Vec<(&'static str, String)>> {
        let mut lost = Vec::new();
        for service in [SERVICE, SIDE] {
            for pod in self.pods_of(service) {
                if self.world.lab.pod(&pod)?.spec().node == node {
                    lost.push((service, pod));
                }
            }
        }
        for (_, pod) in &lost {
            self.traffic.pod_ends(pod);
            self.traffic.leave(pod, Duration::ZERO, false);
            self.world.lab.pod_mut(pod)?.stop_process().await?;
        }
        self.observe(NOTICED).await?;
        self.traffic.told_now();
        lost.iter().try_for_each(|(_, pod)| self.world.set_ready(pod, false))?;
        Ok(lost)
    }

    /// Other pods take their place.
    pub(super) async fn forget_pods(&mut self, lost: &[(&'static str, String)]) -> Result<()> {
        for (service, pod) in lost {
            self.pods.entry(service).or_default().retain(|other| other != pod);
            self.world.remove_pod(pod).await?;
        }
        Ok(())
    }
}
