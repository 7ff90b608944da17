//! Ingress nodes that vanish, come and are drained, and routers that change their mind.

use anyhow::Result;
use serde_json::json;

use crate::soak::stage::{FEW, INGRESS, Stage, THIRD, label};
use crate::world::World;
use crate::world::echo::SERVICE;
use crate::world::map::drains;

/// The router's hash: what of a packet, and with which seed. Kernels before 6.11 have no seed.
const POLICIES: [&str; 2] = ["net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy"];
const SEED: &str = "net/ipv4/fib_multipath_hash_seed";
/// How often it changes.
const TURNS: u32 = 4;

impl Stage {
    pub(in crate::soak) async fn ingress_lost(&mut self) -> Result<()> {
        let (node, other) = self.pick_ingress();
        self.power_off(node).await?;
        self.announced_by(&[other]).await?;
        self.observe(self.pace.observe).await?;
        self.power_on(node).await
    }

    /// First the links: nobody can say goodbye.
    pub(super) async fn power_off(&mut self, node: &str) -> Result<()> {
        self.traffic.fault_now();
        self.world.lab.cut(node).await?;
        self.world.kill_agent(node).await?;
        self.bird.kill(node).await
    }

    /// A kernel that has just booted has nothing of ours.
    pub(super) async fn power_on(&mut self, node: &str) -> Result<()> {
        self.world.cleanup_node(node).await?;
        self.world.lab.heal(node).await?;
        self.world.start_agent(node)?;
        self.bird.start(node)
    }

    pub(in crate::soak) async fn ingress_added(&mut self) -> Result<()> {
        self.bird.start(THIRD)?;
        self.traffic.fault_now();
        label(&self.world, THIRD, Some("tunnel"))?;
        let [first, second] = INGRESS;
        self.announced_by(&[first, second, THIRD]).await?;
        self.observe(self.pace.observe).await?;
        self.traffic.fault_now();
        label(&self.world, THIRD, None)?;
        self.announced_by(&INGRESS).await?;
        self.bird.kill(THIRD).await
    }

    pub(in crate::soak) async fn ingress_drained(&mut self) -> Result<()> {
        let (node, other) = self.pick_ingress();
        self.traffic.fault_now();
        self.drain_node(node, "")?;
        self.announced_by(&[other]).await?;
        self.observe(self.pace.observe).await?;
        self.traffic.fault_now();
        self.drain_node(node, "--undo")
    }

    fn drain_node(&self, node: &str, more: &str) -> Result<()> {
        let program = crate::world::router_program()?;
        World::run_in(self.world.lab.node(node)?.netns(), &format!("{} drain-node {more}", program.display())).map(drop)
    }

    /// Only the cordoned one is left, and the API says so a while after the other has gone: it announces again.
    pub(in crate::soak) async fn cordoned_and_lost(&mut self) -> Result<()> {
        let (cordoned, lost) = self.pick_ingress();
        self.cordon(cordoned, true)?;
        self.announced_by(&[lost]).await?;
        self.observe(self.pace.observe).await?;
        self.power_off(lost).await?;
        self.observe(self.pace.observe).await?;
        self.traffic.told_now();
        self.node_ready(lost, "Unknown")?;
        self.announced_by(&[cordoned]).await?;
        self.observe(self.pace.observe).await?;
        self.power_on(lost).await?;
        self.node_ready(lost, "True")?;
        self.announced_by(&[lost]).await?;
        self.cordon(cordoned, false)
    }

    fn cordon(&self, node: &str, cordoned: bool) -> Result<()> {
        self.traffic.fault_now();
        let patch = json!({ "spec": { "unschedulable": cordoned } });
        self.world.api.store().patch("nodes", "", node, patch)?;
        Ok(())
    }

    fn node_ready(&self, node: &str, status: &str) -> Result<()> {
        let patch = json!({ "status": { "conditions": [{ "type": "Ready", "status": status, "reason": "Told" }] } });
        self.world.api.store().patch_status("nodes", "", node, patch)?;
        Ok(())
    }

    pub(in crate::soak) async fn bird_killed(&mut self) -> Result<()> {
        let (node, other) = self.pick_ingress();
        self.traffic.fault_now();
        self.bird.kill(node).await?;
        self.announced_by(&[other]).await?;
        self.observe(self.pace.observe).await?;
        self.bird.start(node)
    }

    pub(in crate::soak) async fn ecmp_rehashed(&mut self) -> Result<()> {
        for turn in 0..TURNS {
            self.rehash(turn)?;
            self.observe(self.pace.observe).await?;
        }
        Ok(())
    }

    /// Addresses only in even turns; with ports, as in the beginning, in odd ones.
    pub(super) fn rehash(&mut self, turn: u32) -> Result<()> {
        let router = self.world.lab.router();
        let policy = if turn % 2 == 1 { "1" } else { "0" };
        self.traffic.fault_now();
        POLICIES.iter().try_for_each(|key| router.set_sysctl(key, policy))?;
        if router.sysctl(SEED).is_ok() {
            router.set_sysctl(SEED, &self.rng.u32(1..).to_string())?;
        }
        Ok(())
    }

    pub(in crate::soak) async fn ingress_lost_in_drain(&mut self) -> Result<()> {
        self.scaled_to(SERVICE, 2 * FEW).await?;
        for pod in self.pods_of(SERVICE).iter().take(FEW) {
            self.end_pod(SERVICE, pod, false)?;
        }
        self.world.stored_map(SERVICE, |map| drains(map) > 0).await?;
        self.ingress_lost().await
    }

    pub(in crate::soak) async fn ingress_lost_in_scale_up(&mut self) -> Result<()> {
        self.scaled_to(SERVICE, FEW).await?;
        let before = self.world.stored_map(SERVICE, |_| true).await?;
        self.add_pods(SERVICE, FEW).await?;
        // The other nodes are about to follow.
        self.world.stored_map(SERVICE, |map| *map != before).await?;
        self.ingress_lost().await
    }
}
