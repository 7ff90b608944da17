//! Agents that die, and agents that are replaced.

use std::fs;

use anyhow::{Context, Result};

use crate::soak::stage::{FEW, Stage, WORKERS, agent_flags};
use crate::world::echo::SERVICE;
use crate::world::router_program;

/// The new binary does the same as the old: what is tried is that it finds the other's state.
const COPY: &str = "tunnel-router-upgrade";

impl Stage {
    pub(in crate::soak) async fn agent_killed(&mut self) -> Result<()> {
        let (ingress, _) = self.pick_ingress();
        let worker = WORKERS[self.rng.usize(..WORKERS.len())];
        self.traffic.fault_now();
        for node in [ingress, worker] {
            self.world.kill_agent(node).await?;
        }
        self.observe(self.pace.observe).await?;
        self.world.start_agent(ingress)?;
        self.world.start_agent(worker)
    }

    /// Pods come and go meanwhile, also where nobody sets them up.
    pub(in crate::soak) async fn half_of_agents_stopped(&mut self) -> Result<()> {
        self.scaled_to(SERVICE, FEW).await?;
        let (ingress, _) = self.pick_ingress();
        let worker = WORKERS[self.rng.usize(..WORKERS.len())];
        self.traffic.fault_now();
        for node in [ingress, worker] {
            self.world.stop_agent(node).await?;
        }
        for pod in self.pods_of(SERVICE) {
            self.add_pods(SERVICE, 1).await?;
            self.end_pod(SERVICE, &pod, false)?;
            self.observe(self.pace.outage / 4).await?;
        }
        self.traffic.fault_now();
        self.world.start_agent(ingress)?;
        self.world.start_agent(worker)
    }

    /// There and, the next time, back again.
    pub(in crate::soak) async fn agent_upgraded(&mut self) -> Result<()> {
        self.upgraded = !self.upgraded;
        let built = router_program()?;
        let copy = self.directory.path().join(COPY);
        if self.upgraded {
            fs::copy(&built, &copy).context("copy the agent's binary")?;
        }
        self.world.set_program(if self.upgraded { copy } else { built });
        self.world.set_flags(&agent_flags(self.upgraded));
        let nodes: Vec<String> = self.world.lab.nodes().map(|node| node.name().to_owned()).collect();
        for node in nodes {
            let before = self.world.agent(&node)?.log().len();
            self.traffic.fault_now();
            self.world.stop_agent(&node).await?;
            self.world.start_agent(&node)?;
            self.world.agent(&node)?.line_after(before, "first pass complete").await?;
        }
        self.observe(self.pace.observe).await
    }
}
