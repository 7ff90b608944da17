//! What users would take instead, under the same traffic: router ECMP straight to the pods, and IPVS with tunnels.
//!
//! Both get what helps them: the router is told at once which pods are there, as if every pod spoke BGP; IPVS keeps its
//! connections to pods that are told to end (weight 0, as kube-router does), hashes alike on both nodes (`mh`), and takes up
//! connections that it does not know (`sloppy_tcp`).

mod ecmp;
mod ipvs;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::System;
use super::fault::Fault;
use super::pace::Pace;
use super::pods::{Ending, LOOK};
use super::stage::{FEW, INGRESS, PATIENCE, StageSpec, WORKERS};
use super::traffic::{Counts, Traffic, TrafficSpec};
use crate::lab::{Lab, LabSpec, NodeSpec, PodSpec, nft};
use crate::traffic::Client;
use crate::world::echo::{VIP, echo_at};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// the router's own ECMP, straight to the pods
    Ecmp,
    /// IPVS in tunnel mode by firewall mark on both ingress nodes, scheduler mh, `sloppy_tcp`
    Ipvs,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(&value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default())
    }
}

/// A lab with one of them, its pods, and traffic.
pub(super) struct PeerStage {
    traffic: Traffic,
    lab: Lab,
    peer: Peer,
    pace: Pace,
    bfd: Duration,
    pods: Vec<String>,
    ending: Vec<Ending>,
    started: u8,
    /// The ingress nodes that the router sends to.
    ingress: Vec<&'static str>,
}

impl PeerStage {
    pub async fn build(peer: Peer, spec: StageSpec) -> Result<PeerStage> {
        let nodes = INGRESS.map(NodeSpec::ingress).into_iter().chain(WORKERS.map(NodeSpec::worker)).collect();
        let lab = Lab::build(LabSpec { nodes, ..LabSpec::default() }).await?;
        for node in lab.nodes() {
            nft::load(node.netns(), &untracked())?;
            // Replies come from an address that no route of the node leads to through the pods' devices.
            for scope in ["all", "default", "eth0"] {
                node.netns().set_sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
            }
        }
        let traffic = Traffic::new(TrafficSpec {
            client: Client::new(lab.client()).with_patience(PATIENCE),
            sources: lab.client_addresses(),
            targets: vec![echo_at(VIP)?],
            connections: spec.connections,
            flows: spec.flows,
        });
        let (pods, ending, ingress) = (Vec::new(), Vec::new(), INGRESS.to_vec());
        let mut stage =
            PeerStage { traffic, lab, peer, pace: spec.pace, bfd: spec.bfd, pods, ending, started: 0, ingress };
        if peer == Peer::Ipvs {
            INGRESS.iter().try_for_each(|node| ipvs::furnish(stage.lab.node(node)?.netns()))?;
        }
        stage.add_pods(FEW).await?;
        stage.traffic.start().await?;
        stage.traffic.take();
        Ok(stage)
    }

    async fn add_pods(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let name = format!("echo-{}", self.started);
            let node = WORKERS[usize::from(self.started) % WORKERS.len()];
            let pod = self.lab.add_pod(PodSpec::new(&name, node)).await?.netns().clone();
            match self.peer {
                Peer::Ecmp => ecmp::add(self.lab.router(), &pod, self.started)?,
                Peer::Ipvs => ipvs::add(&pod)?,
            }
            self.started += 1;
            self.pods.push(name);
        }
        self.program().await
    }

    fn end_pod(&mut self, name: &str) {
        self.traffic.leave(name, self.pace.clients_leave, false);
        self.pods.retain(|pod| pod != name);
        self.ending.push(Ending::now(name));
    }

    /// Tells the router, or IPVS, which pods there are.
    async fn program(&self) -> Result<()> {
        let ready = self.pods.iter().map(|name| self.lab.pod(name)).collect::<Result<Vec<_>>>()?;
        let ending = self.ending.iter().map(|pod| self.lab.pod(&pod.name)).collect::<Result<Vec<_>>>()?;
        match self.peer {
            Peer::Ecmp => ecmp::route(self.lab.router(), &ready),
            Peer::Ipvs => {
                INGRESS.iter().try_for_each(|node| ipvs::program(self.lab.node(node)?.netns(), &ready, &ending))?;
                self.lab.route_vip(VIP.parse()?, &self.ingress).await
            }
        }
    }

    async fn all_ended(&mut self) -> Result<()> {
        while !self.ending.is_empty() {
            tokio::time::sleep(LOOK).await;
            let (traffic, pace) = (&self.traffic, self.pace);
            let done: Vec<Ending> = self.ending.extract_if(.., |pod| pod.is_done(pace, traffic)).collect();
            for pod in &done {
                self.traffic.pod_ends(&pod.name);
                self.lab.remove_pod(&pod.name).await?;
            }
            if !done.is_empty() {
                self.program().await?;
            }
        }
        Ok(())
    }

    async fn ingress_lost(&mut self) -> Result<()> {
        let [first, second] = INGRESS;
        self.lab.cut(first).await?;
        tokio::time::sleep(3 * self.bfd).await;
        self.ingress = vec![second];
        self.program().await?;
        tokio::time::sleep(self.pace.observe).await;
        self.lab.heal(first).await?;
        ipvs::forget(self.lab.node(first)?.netns())?;
        self.ingress = INGRESS.to_vec();
        self.program().await
    }
}

impl System for PeerStage {
    async fn inject(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::IngressLost if self.peer == Peer::Ipvs => self.ingress_lost().await,
            Fault::ScaleUp => {
                self.add_pods(FEW).await?;
                tokio::time::sleep(self.pace.observe).await;
                Ok(())
            }
            Fault::ScaleDown => {
                for name in self.pods.iter().take(FEW).cloned().collect::<Vec<_>>() {
                    self.end_pod(&name);
                }
                self.program().await?;
                self.all_ended().await
            }
            _ => bail!("{fault} is not tried with {}", self.peer),
        }
    }

    async fn well(&mut self) -> Result<()> {
        self.traffic.all_answer().await.context("with a peer")
    }

    fn take(&self) -> Counts {
        self.traffic.take()
    }

    fn connections_ever(&self) -> usize {
        self.traffic.opened_ever()
    }
}

/// Requests and replies take different ways: connection tracking would call them invalid.
fn untracked() -> String {
    format!(
        "table ip peer {{
            chain prerouting {{
                type filter hook prerouting priority raw;
                ip daddr {VIP} notrack
                ip saddr {VIP} notrack
            }}
        }}"
    )
}
