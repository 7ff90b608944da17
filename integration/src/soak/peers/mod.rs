//! What users would take instead, under the same traffic: router ECMP straight to the pods, IPVS with tunnels, and the
//! destination NAT of kube-proxy.
//!
//! Each gets what helps it. The router is told at once which pods are ready, as if every pod spoke BGP. IPVS keeps its
//! connections to pods that are not ready (weight 0, as kube-router does), hashes alike on both nodes (`mh`), and takes up
//! connections that it does not know (`sloppy_tcp`). Servers behind both are bound to the VIP. kube-proxy's rules are loaded in
//! one transaction, and without its delay of a second between two of them.
//!
//! A small stand-in for their control planes ([`PeerStage::program`]) follows every change of the endpoints.

mod ecmp;
mod ipvs;
mod nft_dnat;
mod rows;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};

use super::System;
use super::fault::Fault;
use super::pace::Pace;
use super::pods::{Ending, LOOK};
use super::stage::{FEW, INGRESS, PATIENCE, StageSpec, WORKERS, keep_hashes};
use super::traffic::{Counts, Traffic, TrafficSpec};
use crate::lab::{Lab, LabSpec, NodeSpec, Pod, PodSpec, nft};
use crate::netns::Netns;
use crate::traffic::Client;
use crate::world::echo::{VIP, echo_at};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Ecmp,
    Ipvs,
    NftDnat,
}

impl Peer {
    /// What it needs and this kernel does not have.
    pub fn missing(self) -> Option<&'static str> {
        (self == Peer::Ipvs && !ipvs::is_here()).then_some("IPVS (modules ip_vs_mh, ipip)")
    }

    /// Where servers have to listen. One on the wildcard address would answer datagrams from the pod's own address.
    fn bound_to(self) -> Result<Vec<IpAddr>> {
        Ok(vec![if self == Peer::NftDnat { Ipv4Addr::UNSPECIFIED.into() } else { VIP.parse()? }])
    }

    /// Whether anything stands between the router and the pods.
    pub fn has_ingress_nodes(self) -> bool {
        self != Peer::Ecmp
    }
}

/// What the API says of the pods.
struct Endpoints<'a> {
    ready: Vec<&'a Pod>,
    /// Those that are not ready, or have been told to end.
    others: Vec<&'a Pod>,
}

/// A lab with one of them, its pods, and traffic.
pub(super) struct PeerStage {
    traffic: Traffic,
    lab: Lab,
    peer: Peer,
    pace: Pace,
    bfd: Duration,
    rng: fastrand::Rng,
    /// Pods that have not been told to end.
    pods: Vec<String>,
    /// Those of them that the API calls not ready.
    unready: BTreeSet<String>,
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
            prepare(peer, node.netns())?;
        }
        keep_hashes(&lab)?;
        let traffic = Traffic::new(TrafficSpec {
            client: Client::new(lab.client()).with_patience(PATIENCE),
            sources: lab.client_addresses(),
            targets: vec![echo_at(VIP)?],
            connections: spec.connections,
            flows: spec.flows,
        });
        let mut stage = PeerStage {
            traffic,
            lab,
            peer,
            pace: spec.pace,
            bfd: spec.bfd,
            rng: fastrand::Rng::with_seed(spec.seed),
            pods: Vec::new(),
            unready: BTreeSet::new(),
            ending: Vec::new(),
            started: 0,
            ingress: INGRESS.to_vec(),
        };
        if peer == Peer::Ipvs {
            INGRESS.iter().try_for_each(|node| ipvs::furnish(stage.lab.node(node)?.netns()))?;
        }
        stage.add_pods(&WORKERS, FEW).await?;
        stage.traffic.start().await?;
        stage.traffic.take();
        Ok(stage)
    }

    /// Starts pods on these nodes, in turn.
    async fn add_pods(&mut self, nodes: &[&str], count: usize) -> Result<()> {
        for _ in 0..count {
            let name = format!("echo-{}", self.started);
            let node = nodes[usize::from(self.started) % nodes.len()];
            let spec = PodSpec { bind: self.peer.bound_to()?, ..PodSpec::new(&name, node) };
            let pod = self.lab.add_pod(spec).await?.netns().clone();
            match self.peer {
                Peer::Ecmp => ecmp::add(self.lab.router(), &pod, self.started)?,
                Peer::Ipvs => ipvs::add(&pod)?,
                Peer::NftDnat => {}
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

    /// Does what a control plane does when it hears of the endpoints.
    async fn program(&self) -> Result<()> {
        let (unready, ready): (Vec<&String>, Vec<&String>) =
            self.pods.iter().partition(|pod| self.unready.contains(*pod));
        let others = unready.into_iter().chain(self.ending.iter().map(|pod| &pod.name));
        let endpoints = Endpoints {
            ready: ready.into_iter().map(|name| self.lab.pod(name)).collect::<Result<_>>()?,
            others: others.map(|name| self.lab.pod(name)).collect::<Result<_>>()?,
        };
        for node in INGRESS.iter().filter(|_| self.peer.has_ingress_nodes()) {
            let node = self.lab.node(node)?.netns();
            match self.peer {
                Peer::Ecmp => {}
                Peer::Ipvs => ipvs::program(node, &endpoints)?,
                Peer::NftDnat => nft_dnat::program(node, &endpoints).await?,
            }
        }
        match self.peer {
            Peer::Ecmp => ecmp::route(self.lab.router(), &endpoints.ready),
            Peer::Ipvs | Peer::NftDnat => self.lab.route_vip(VIP.parse()?, &self.ingress).await,
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
}

impl System for PeerStage {
    async fn inject(&mut self, fault: Fault) -> Result<()> {
        self.inject_row(fault).await
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

/// What a node has once and for all.
fn prepare(peer: Peer, node: &Netns) -> Result<()> {
    if peer != Peer::NftDnat {
        nft::load(node, &untracked())?;
    }
    // Replies come from an address that no route of the node leads to through the pods' devices.
    for scope in ["all", "default", "eth0"] {
        node.set_sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
    }
    Ok(())
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
