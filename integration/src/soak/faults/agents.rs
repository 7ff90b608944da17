//! Agents that die, and agents that are replaced.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::soak::stage::{FEW, Stage, WORKERS, agent_flags};
use crate::world::echo::SERVICE;
use crate::world::router_program;

/// The new binary does the same as the old: what is tried is that it finds the other's state.
const COPY: &str = "tunnel-router-upgrade";
/// How late agents are at most, and how often.
const LATEST: Duration = Duration::from_secs(5);
const LATE_TURNS: u32 = 4;

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

    /// Pods are replaced, and the router spreads flows in another way while each node hears of it at another time.
    pub(in crate::soak) async fn news_late(&mut self) -> Result<()> {
        let nodes: Vec<String> = self.world.lab.nodes().map(|node| node.name().to_owned()).collect();
        // An even number: the router hashes as before in the end.
        for turn in 0..LATE_TURNS {
            for node in &nodes {
                self.world.agent(node)?.signal(Signal::SIGSTOP)?;
            }
            let pod = self.pods_of(SERVICE).swap_remove(0);
            self.add_pods(SERVICE, 1).await?;
            self.end_pod(SERVICE, &pod, false)?;
            self.rehash(turn)?;
            let mut late: Vec<(Duration, &String)> =
                nodes.iter().map(|node| (LATEST.mul_f64(self.rng.f64()), node)).collect();
            late.sort_unstable();
            let began = Instant::now();
            for (late, node) in late {
                self.observe(late.saturating_sub(began.elapsed())).await?;
                self.world.agent(node)?.signal(Signal::SIGCONT)?;
            }
            // Otherwise the last one is stopped again before it has heard of anything: twice as late.
            self.converged().await?;
        }
        self.all_ended().await
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
