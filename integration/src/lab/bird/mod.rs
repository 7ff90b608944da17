//! Real BIRD on the router and on every ingress node: BGP and BFD between them, equal next hops on the router.
//!
//! A node announces the VIPs that its agent (or a test) has put into [`ANNOUNCE_TABLE`]. What counts is what the router's
//! kernel does with it, so that is where answers come from: `ip route` in its namespace. BIRD is asked only about its BFD
//! sessions: BGP does not wait for them, and a node that is cut off before they are up stays announced for the hold time.
//!
//! One session for each family, over that family. So nodes without IPv4 cannot announce in this way.

mod conf;
mod daemon;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Lab, Node};
use crate::netns::Netns;
pub use conf::BFD_INTERVAL;
use daemon::{Daemon, output_of};

/// The routing table that the nodes' daemons learn VIPs from.
pub const ANNOUNCE_TABLE: u32 = 10900;

/// The router's name among the daemons; no node can have it.
const ROUTER: &str = "router";
/// How long anything may take; the emulated CPU is slow. Waiting longer means that it never happens.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the kernel's table is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// The daemons of a lab. Dropping it kills them.
pub struct Bird {
    /// By node, and the router's.
    daemons: BTreeMap<String, Daemon>,
    router: Netns,
    nodes: BTreeMap<String, Peer>,
    directory: TempDir,
}

/// What the router knows of a node.
struct Peer {
    netns: Netns,
    /// IPv4, IPv6.
    addresses: [IpAddr; 2],
}

/// A route as `ip -j` prints it.
#[derive(Deserialize)]
struct Route {
    gateway: Option<IpAddr>,
    #[serde(default)]
    nexthops: Vec<Hop>,
}

/// One next hop of several.
#[derive(Deserialize)]
struct Hop {
    gateway: Option<IpAddr>,
}

impl Lab {
    /// Starts BIRD on the router and on all ingress nodes, and returns when each node has its BFD sessions. The router wants no
    /// more than one BFD packet in each `interval`.
    pub async fn start_bird(&self, interval: Duration) -> Result<Bird> {
        ensure!(self.spec.families.has_ipv4(), "BIRD's sessions run over IPv4 and IPv6: nodes of this lab lack IPv4");
        let nodes = self.nodes().filter(|node| node.is_ingress()).map(|node| (node.name().to_owned(), Peer::of(node)));
        let (router, directory) = (self.router().clone(), tempfile::tempdir()?);
        let mut bird = Bird { daemons: BTreeMap::new(), router, nodes: nodes.collect(), directory };
        bird.start_router(interval)?;
        let names: Vec<String> = bird.nodes.keys().cloned().collect();
        names.iter().try_for_each(|name| bird.start(name))?;
        for name in &names {
            bird.guarded(name).await?;
        }
        Ok(bird)
    }
}

impl Peer {
    fn of(node: &Node) -> Peer {
        Peer { netns: node.netns().clone(), addresses: [node.address().into(), node.address6().into()] }
    }
}

impl Bird {
    fn start_router(&mut self, interval: Duration) -> Result<()> {
        let conf = conf::of_router(interval, self.nodes.iter().map(|(name, peer)| (name.as_str(), peer.addresses)));
        let daemon = Daemon::start(ROUTER, &self.router, &conf, self.directory.path())?;
        self.daemons.insert(ROUTER.to_owned(), daemon);
        Ok(())
    }

    /// Starts the daemon of a node, where none runs.
    pub fn start(&mut self, node: &str) -> Result<()> {
        ensure!(!self.daemons.contains_key(node), "{node} has its daemon");
        let daemon = Daemon::start(node, &self.peer(node)?.netns, &conf::of_nodes(), self.directory.path())?;
        self.daemons.insert(node.to_owned(), daemon);
        Ok(())
    }

    /// Ends the daemon of a node as a crash would. The node's kernel then closes its BGP connections, which the router sees
    /// before BFD does; a node that falls silent is [`Lab::cut`].
    pub async fn kill(&mut self, node: &str) -> Result<()> {
        self.daemons.remove(node).with_context(|| format!("no daemon runs on {node}"))?.kill().await
    }

    fn peer(&self, node: &str) -> Result<&Peer> {
        self.nodes.get(node).with_context(|| format!("no ingress node {node}"))
    }

    /// The next hops of the VIP's route in the router's kernel: names of nodes, or addresses that no node has.
    pub async fn routes_at_router(&self, vip: IpAddr) -> Result<BTreeSet<String>> {
        let mut command = Command::new("ip");
        command.args(["-j", if vip.is_ipv4() { "-4" } else { "-6" }, "route", "show", "exact", &vip.to_string()]);
        let text = output_of(&self.router, &mut command).await?;
        let routes: Vec<Route> = serde_json::from_str(&text).with_context(|| format!("ip route: {text}"))?;
        let gateways =
            routes.iter().flat_map(|r| r.gateway.into_iter().chain(r.nexthops.iter().filter_map(|h| h.gateway)));
        Ok(gateways.map(|gateway| self.name_of(gateway)).collect())
    }

    fn name_of(&self, address: IpAddr) -> String {
        let node = self.nodes.iter().find(|(_, peer)| peer.addresses.contains(&address));
        node.map_or_else(|| address.to_string(), |(name, _)| name.clone())
    }

    /// Waits until the router sends packets for the VIP to exactly these nodes; returns how long that took.
    pub async fn announced_by(&self, vip: IpAddr, nodes: &[&str]) -> Result<Duration> {
        let wanted: BTreeSet<String> = nodes.iter().map(|name| (*name).to_owned()).collect();
        let started = Instant::now();
        loop {
            let hops = self.routes_at_router(vip).await?;
            if hops == wanted {
                return Ok(started.elapsed());
            }
            self.pause(started, &format!("{vip} goes to {hops:?}, not to {wanted:?}")).await?;
        }
    }

    /// Waits until the router would notice by BFD that the node has fallen silent, in both families.
    pub async fn guarded(&self, node: &str) -> Result<()> {
        let addresses = self.peer(node)?.addresses.map(|address| address.to_string());
        let started = Instant::now();
        loop {
            // A daemon that has only just begun does not answer yet.
            let sessions = self.ask(ROUTER, "show bfd sessions").await.unwrap_or_default();
            if addresses.iter().all(|address| is_up(&sessions, address)) {
                return Ok(());
            }
            self.pause(started, &format!("{node} has no BFD sessions with the router")).await?;
        }
    }

    /// Between two looks; fails when looking has begun too long ago.
    async fn pause(&self, started: Instant, complaint: &str) -> Result<()> {
        if started.elapsed() > PATIENCE {
            bail!("{complaint}\n{}", self.report().await);
        }
        tokio::time::sleep(INTERVAL).await;
        Ok(())
    }

    async fn ask(&self, name: &str, question: &str) -> Result<String> {
        self.daemons.get(name).with_context(|| format!("no daemon runs on {name}"))?.ask(question).await
    }

    /// What every daemon says of its protocols and BFD sessions, and the end of its log, for a failed test.
    pub async fn report(&self) -> String {
        let mut text = String::new();
        for (name, daemon) in &self.daemons {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "--- bird of {name}");
            for question in ["show protocols", "show bfd sessions", "show route"] {
                let answer = daemon.ask(question).await;
                text += &answer.unwrap_or_else(|error| format!("{question}: {error:#}\n"));
            }
            text += &daemon.tail(10);
        }
        text
    }
}

/// Whether a line of `show bfd sessions` says so: address, interface, state and more.
fn is_up(sessions: &str, address: &str) -> bool {
    sessions.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words[..], [first, _, "Up", ..] if first == address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_counts_when_it_is_up() {
        let sessions = "BIRD 2.0.12 ready.\nbfd1:\nIP address  Interface  State  Since  Interval  Timeout\n\
            10.0.0.11   fabric     Up     16:37:42.515    0.100    0.300\n\
            fd00:10::11 fabric     Down   16:37:42.515    1.000    0.000\n";
        assert!(is_up(sessions, "10.0.0.11"));
        assert!(!is_up(sessions, "10.0.0.1") && !is_up(sessions, "fd00:10::11"));
    }
}
