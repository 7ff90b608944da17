//! Endpoints that come, go, and cannot decide.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::soak::stage::{FEW, SIDE, Stage};
use crate::world::echo::SERVICE;

/// Between two changes of churning endpoints.
const CHURN: Duration = Duration::from_millis(100);
/// Between two changes of flapping ones.
const FLAP: Duration = Duration::from_millis(900);

impl Stage {
    pub(in crate::soak) async fn scale_up(&mut self) -> Result<()> {
        self.scaled_to(SERVICE, FEW).await?;
        self.add_pods(SERVICE, FEW).await?;
        self.traffic.fault_now();
        self.observe(self.pace.observe).await
    }

    pub(in crate::soak) async fn scale_down(&mut self) -> Result<()> {
        self.scaled_to(SERVICE, 2 * FEW).await?;
        self.traffic.fault_now();
        // The oldest first; the clients of one of them stay to its bitter end.
        for (n, pod) in self.pods_of(SERVICE).iter().take(FEW).enumerate() {
            self.end_pod(SERVICE, pod, n == 0)?;
        }
        self.all_ended().await
    }

    pub(in crate::soak) async fn rolling_replacement(&mut self) -> Result<()> {
        for pod in self.pods_of(SERVICE) {
            self.add_pods(SERVICE, 1).await?;
            self.traffic.fault_now();
            self.end_pod(SERVICE, &pod, false)?;
            self.observe(self.pace.observe / 2).await?;
        }
        self.all_ended().await
    }

    /// No Service is left without a ready pod.
    pub(in crate::soak) async fn churn(&mut self) -> Result<()> {
        let mut unready: Vec<(&str, String)> = Vec::new();
        let until = Instant::now() + self.pace.churn;
        for service in [SERVICE, SIDE].into_iter().cycle() {
            if Instant::now() >= until {
                break;
            }
            let pods = self.pods_of(service);
            self.traffic.fault_now();
            let pod = pods[self.rng.usize(..pods.len())].clone();
            let others = unready.iter().filter(|(of, other)| *of == service && *other != pod).count();
            match unready.iter().position(|(_, other)| *other == pod) {
                Some(index) => {
                    unready.swap_remove(index);
                    self.world.set_ready(&pod, true)?;
                }
                None if others + 1 < pods.len() => {
                    self.world.set_ready(&pod, false)?;
                    unready.push((service, pod));
                }
                None => {}
            }
            self.observe(CHURN).await?;
        }
        unready.iter().try_for_each(|(_, pod)| self.world.set_ready(pod, true))
    }

    pub(in crate::soak) async fn readiness_flapping(&mut self) -> Result<()> {
        let pods = self.pods_of(SERVICE);
        let half = &pods[..pods.len() / 2];
        let until = Instant::now() + self.pace.churn;
        while Instant::now() < until {
            for ready in [false, true] {
                self.traffic.fault_now();
                half.iter().try_for_each(|pod| self.world.set_ready(pod, ready))?;
                self.observe(FLAP).await?;
            }
        }
        Ok(())
    }
}
