//! The lab: a data centre of network namespaces with a client, a router, nodes and pods.
//!
//! ```text
//!  client ── router ══ fabric (bridge, 10.0.0.0/24) ══╦══ node ing1 (10.0.0.11) ── pods 10.244.1.0/24
//!  198.51.100.2    │                                  ╠══ node ing2 (10.0.0.12) ── pods 10.244.2.0/24
//!                  │                                  ╠══ …
//!  stranger ───────┘                                  ╠══ api (10.0.0.5)
//!  203.0.113.66                                       ╚══ stranger (10.0.0.66)
//! ```
//!
//! The same in IPv6, with the same digits: 2001:db8:51::2, fd00:10::11, fd00:244:1::/64 and so on. [`Families`] says what
//! the cluster is made of.
//!
//! It is built over netlink from one process, because starting processes is slow where the lab usually runs; only the
//! pods' servers, nft and BIRD are processes. Everything is named by a prefix that no other lab has (`kst3f-client`), so labs
//! run side by side, and nothing of the host's own namespace is touched. A lab is removed when it is dropped; what a
//! killed owner left is removed by the next one ([`Lab::remove_stale`]).
//!
//! Nodes and pods start with the settings that are hardest on us: strict reverse path filtering everywhere, a kube-proxy
//! that drops what connection tracking calls invalid, objects of other owners all around.

mod address;
pub mod bird;
pub mod cgroup;
mod claim;
mod cut;
mod fabric;
mod family;
pub mod foreign;
pub mod nft;
mod node;
mod pod;
pub(crate) mod process;
mod register;
mod remove;
mod settle;
pub mod snapshot;
mod spec;
pub mod stack;
mod topology;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;

use crate::netns::Netns;
use address::host_prefix;
use claim::Claim;
use stack::Stack;

pub use address::{
    API, API_CLUSTER_IP, API_CLUSTER_IP6, API6, CLIENTS, CLIENTS6, FABRIC, FABRIC6, INTRUDER, INTRUDER6, OUTSIDE,
    OUTSIDE6, PODS, PODS6, STRANGER, STRANGER6, host, host6,
};
pub use bird::Bird;
pub use fabric::Fabric;
pub use family::{Families, Family};
pub use node::Node;
pub use pod::Pod;
pub use register::remaining as remaining_cgroups;
pub use remove::names as namespaces_of;
pub use snapshot::Snapshot;
pub use spec::{Attach, LabSpec, NodeSpec, PodSpec, Qos};
pub use topology::{print_topology, topology};

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    claim: Option<Claim>,
    prefix: String,
    spec: LabSpec,
    pod_program: PathBuf,
    fabric: Fabric,
    nodes: BTreeMap<String, Node>,
    pods: BTreeMap<String, Pod>,
    /// Counts pods ever started: one that comes back under an old name is a new pod.
    serial: u32,
    /// By node, the address that a pod got last without asking for one.
    last_given: BTreeMap<String, Ipv4Addr>,
}

/// Removes what was built so far when building fails or its future is dropped.
struct Scaffold(Option<Claim>);

impl Drop for Scaffold {
    fn drop(&mut self) {
        if let Some(claim) = self.0.take() {
            remove_or_complain(&claim);
        }
    }
}

impl Lab {
    /// Builds a lab without pods. Removes the leftovers of dead labs first.
    pub async fn build(spec: LabSpec) -> Result<Lab> {
        require_root()?;
        Self::remove_stale()?;
        let pod_program = pod::program(spec.pod_program.as_deref())?;
        let claim = Claim::take()?;
        let prefix = claim.prefix().to_owned();
        let mut scaffold = Scaffold(Some(claim));
        let fabric = Fabric::build(&prefix, &spec).await?;
        let nodes = node::build_all(&prefix, &spec, &fabric).await?;
        let (claim, pods) = (None, BTreeMap::new());
        let mut lab =
            Lab { claim, prefix, spec, pod_program, fabric, nodes, pods, serial: 0, last_given: BTreeMap::new() };
        futures::future::try_join_all(lab.stacks().map(Stack::settle)).await?;
        lab.claim = scaffold.0.take();
        Ok(lab)
    }

    /// Removes the labs of processes that died without doing so, and says which. Labs that run or were kept stay.
    pub fn remove_stale() -> Result<Vec<String>> {
        require_root()?;
        remove::remove_stale()
    }

    /// Removes a lab that was kept.
    pub fn remove_kept(prefix: &str) -> Result<()> {
        require_root()?;
        let claim = Claim::take_over(prefix)?.with_context(|| format!("lab {prefix} is in use: end its process"))?;
        remove::remove(&claim)
    }

    /// Removes every lab that was kept; labs that somebody runs stay.
    pub fn remove_all_kept() -> Result<()> {
        for prefix in Self::all()? {
            if let Some(claim) = Claim::take_over(&prefix)? {
                remove::remove(&claim)?;
            }
        }
        Ok(())
    }

    /// Prefixes of all labs on this machine.
    pub fn all() -> Result<Vec<String>> {
        require_root()?;
        claim::prefixes()
    }

    /// Removes everything, and says what could not be removed; dropping the lab does the same and only complains.
    pub fn remove(mut self) -> Result<()> {
        self.pods.clear();
        self.claim.take().map_or(Ok(()), |claim| remove::remove(&claim))
    }

    /// Leaves the lab standing when this process ends; needs `detached` in the specification.
    pub fn keep(mut self) -> Result<String> {
        if !self.spec.detached {
            bail!("the pods of this lab end with this process: build it detached");
        }
        std::mem::take(&mut self.pods).into_values().for_each(Pod::leave);
        self.claim.take().map_or(Ok(()), Claim::keep)?;
        Ok(self.prefix.clone())
    }

    /// What the names of the lab's namespaces start with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The `kst-lab` binary that serves in the pods.
    pub fn pod_program(&self) -> &Path {
        &self.pod_program
    }

    /// What the lab was built from.
    pub fn spec(&self) -> &LabSpec {
        &self.spec
    }

    /// The client's namespace: 198.51.100.2, 2001:db8:51::2 and more.
    pub fn client(&self) -> &Netns {
        self.fabric.client.netns()
    }

    /// The client's addresses, the IPv4 ones first.
    pub fn client_addresses(&self) -> Vec<IpAddr> {
        Family::ALL.into_iter().flat_map(|family| fabric::client_addresses(&self.spec, family)).collect()
    }

    /// The router's namespace.
    pub fn router(&self) -> &Netns {
        self.fabric.router.netns()
    }

    /// The namespace of somebody who has no business here: [`STRANGER`] and [`STRANGER6`] outside, [`INTRUDER`] and
    /// [`INTRUDER6`] on the fabric.
    pub fn stranger(&self) -> &Netns {
        self.fabric.stranger.netns()
    }

    /// The namespace of the API server, [`API`] and [`API6`] on the fabric.
    pub fn api(&self) -> &Netns {
        self.fabric.api.netns()
    }

    /// A listener on the API server's address of the cluster's primary family.
    pub fn api_listener(&self, port: u16) -> Result<TcpListener> {
        let address = match self.spec.families.primary() {
            Family::V4 => SocketAddr::from((API, port)),
            Family::V6 => SocketAddr::from((API6, port)),
        };
        Ok(self.api().tcp_listener(address)?)
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.get(name).with_context(|| format!("no node {name}"))
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A pod by name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).with_context(|| format!("no pod {name}"))
    }

    /// A pod by name, to end its process.
    pub fn pod_mut(&mut self, name: &str) -> Result<&mut Pod> {
        self.pods.get_mut(name).with_context(|| format!("no pod {name}"))
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Starts a pod and returns when its servers listen.
    pub async fn add_pod(&mut self, spec: PodSpec) -> Result<&Pod> {
        let name = spec.name.clone();
        self.add_pods(vec![spec]).await?;
        self.pod(&name)
    }

    /// Starts several pods at once.
    pub async fn add_pods(&mut self, specs: Vec<PodSpec>) -> Result<()> {
        let mut plans = Vec::new();
        for spec in specs {
            let plan = self.plan_pod(spec, &plans)?;
            self.node(&plan.spec.node)?.prepare(plan.spec.attach).await?;
            plans.push(plan);
        }
        let started = plans.into_iter().map(|plan| Pod::start(self, plan));
        for pod in futures::future::try_join_all(started).await? {
            self.pods.insert(pod.name().to_owned(), pod);
        }
        Ok(())
    }

    fn plan_pod(&mut self, spec: PodSpec, planned: &[pod::Plan]) -> Result<pod::Plan> {
        if self.pods.contains_key(&spec.name) || planned.iter().any(|p| p.spec.name == spec.name) {
            bail!("pod {} exists", spec.name);
        }
        let used: Vec<Ipv4Addr> = self.pods.values().map(Pod::ip).chain(planned.iter().map(|p| p.ip)).collect();
        self.serial += 1;
        let node = self.node(&spec.node)?;
        let last = self.last_given.get(&spec.node).copied();
        let ip = spec.ip.map_or_else(|| node.free_pod_address(&used, last), Ok)?;
        let plan = pod::Plan::new(&self.prefix, self.serial, spec, node, ip);
        if plan.spec.ip.is_none() {
            self.last_given.insert(plan.spec.node.clone(), ip);
        }
        Ok(plan)
    }

    /// Ends the pod's process and removes its namespace, veth and control groups.
    pub async fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pods.remove(name).with_context(|| format!("no pod {name}"))?;
        let node = self.node(&pod.spec().node)?.stack().clone();
        pod.remove(&node).await
    }

    /// Routes a VIP to nodes, as BGP with multipath would: `ip route replace VIP nexthop via N1 nexthop via N2 …`. To nodes
    /// without IPv4 an IPv4 VIP goes `via inet6`.
    pub async fn route_vip(&self, vip: IpAddr, nodes: &[&str]) -> Result<()> {
        let over_ipv4 = vip.is_ipv4() && self.spec.families.has_ipv4();
        let address = |node: &Node| if over_ipv4 { node.address().into() } else { IpAddr::from(node.address6()) };
        let gateways = nodes.iter().map(|name| Ok(address(self.node(name)?)));
        self.fabric.router.replace_multipath(host_prefix(vip), &gateways.collect::<Result<Vec<IpAddr>>>()?).await
    }

    /// Takes the VIP's route away.
    pub async fn unroute_vip(&self, vip: IpAddr) -> Result<()> {
        self.fabric.router.del_route(host_prefix(vip)).await
    }

    /// Every stack: infrastructure, nodes, pods.
    pub fn stacks(&self) -> impl Iterator<Item = &Stack> {
        let nodes = self.nodes.values().map(Node::stack);
        self.fabric.stacks().into_iter().chain(nodes).chain(self.pods.values().map(Pod::stack))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.pods.clear();
        if let Some(claim) = self.claim.take() {
            remove_or_complain(&claim);
        }
    }
}

fn remove_or_complain(claim: &Claim) {
    if let Err(e) = remove::remove(claim) {
        tracing::error!(lab = claim.prefix(), error = format!("{e:#}"), "could not remove the lab");
    }
}

fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab makes network namespaces and control groups: run it as root");
    }
    Ok(())
}
