//! The rows that are compared, as they befall a peer. They do what the same faults do to tunnel-router, at the same pace.

use std::time::Duration;

use anyhow::{Result, bail};

use super::{Peer, PeerStage, ecmp, ipvs, nft_dnat};
use crate::soak::fault::Fault;
use crate::soak::faults::NOTICED;
use crate::soak::stage::{FEW, INGRESS, WORKERS};

impl PeerStage {
    pub(super) async fn inject_row(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::ServingLost => self.serving_lost().await,
            Fault::AllUnready => self.all_unready().await,
            Fault::ScaleUp => self.scale_up().await,
            Fault::ScaleDown => self.scale_down().await,
            Fault::IngressLost if self.peer.has_ingress_nodes() => self.ingress_lost().await,
            _ => bail!("{fault} is not tried with {:?}", self.peer),
        }
    }

    /// The endpoints of the node become not ready as late as with tunnel-router.
    async fn serving_lost(&mut self) -> Result<()> {
        let node = WORKERS[self.rng.usize(..WORKERS.len())];
        self.lab.cut(node).await?;
        let mut lost = Vec::new();
        for pod in &self.pods {
            if self.lab.pod(pod)?.spec().node == node {
                lost.push(pod.clone());
            }
        }
        for pod in &lost {
            if self.peer == Peer::Ecmp {
                ecmp::cut(self.lab.router(), pod)?;
            }
            self.traffic.pod_ends(pod);
            self.traffic.leave(pod, Duration::ZERO, false);
            self.lab.pod_mut(pod)?.stop_process().await?;
        }
        tokio::time::sleep(NOTICED).await;
        self.traffic.told_now();
        self.unready.extend(lost.iter().cloned());
        self.program().await?;
        tokio::time::sleep(self.pace.outage).await;
        self.pods.retain(|pod| !lost.contains(pod));
        self.unready.clear();
        self.program().await?;
        for pod in &lost {
            self.lab.remove_pod(pod).await?;
        }
        self.lab.heal(node).await?;
        self.add_pods(&[node], lost.len()).await
    }

    async fn all_unready(&mut self) -> Result<()> {
        self.unready.extend(self.pods.iter().cloned());
        self.program().await?;
        tokio::time::sleep(self.pace.unready).await;
        self.traffic.fault_now();
        self.unready.clear();
        self.program().await?;
        tokio::time::sleep(self.pace.observe).await;
        Ok(())
    }

    async fn scale_up(&mut self) -> Result<()> {
        self.add_pods(&WORKERS, FEW).await?;
        self.traffic.fault_now();
        tokio::time::sleep(self.pace.observe).await;
        Ok(())
    }

    async fn scale_down(&mut self) -> Result<()> {
        self.traffic.fault_now();
        for name in self.pods.iter().take(FEW).cloned().collect::<Vec<_>>() {
            self.end_pod(&name);
        }
        self.program().await?;
        self.all_ended().await
    }

    /// The router hears of it as soon as BFD does.
    async fn ingress_lost(&mut self) -> Result<()> {
        let [first, second] = INGRESS;
        self.traffic.fault_now();
        self.lab.cut(first).await?;
        tokio::time::sleep(3 * self.bfd).await;
        self.ingress = vec![second];
        self.program().await?;
        tokio::time::sleep(self.pace.observe).await;
        self.lab.heal(first).await?;
        let node = self.lab.node(first)?.netns();
        match self.peer {
            Peer::Ecmp => {}
            Peer::Ipvs => ipvs::forget(node)?,
            Peer::NftDnat => nft_dnat::forget(node)?,
        }
        self.ingress = INGRESS.to_vec();
        self.program().await
    }
}
