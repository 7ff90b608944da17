//! One node with an agent, a controller, the API server double, and a cluster in it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tunnel_router::model::Mode;

use super::cluster::{Endpoint, Fleet, listed, name, service, slice, vip};
use super::process::{busy, cpu};
use super::routes::Routes;
use crate::apiserver::Record;
use crate::lab::{LabSpec, NodeSpec, PodSpec};
use crate::world::{World, WorldSpec};

/// The only node that has a network, and an agent.
pub const NODE: &str = "ing1";
const CONTROLLER: &str = "controller";
/// What an agent has listed before it does anything.
const KINDS: [&str; 6] = ["services", "endpointslices", "servicecidrs", "nodes", "pods", "configmaps"];
/// Buckets of each VIP.
pub const BUCKETS: usize = 64;

/// Everything, running.
pub struct Site {
    /// The node, and the double.
    pub world: World,
    /// What the node's kernel says.
    pub routes: Routes,
    /// The endpoints of each Service with a VIP, by its number.
    pub services: Vec<Vec<Endpoint>>,
}

/// CPU time at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// When.
    pub at: Instant,
    /// Of the agent and of the processes that it started.
    pub agent: Duration,
    /// Of the controller.
    pub controller: Duration,
    /// Of this process: the double, and whoever reads the kernel's notices.
    pub double: Duration,
    /// Of everybody on this machine.
    pub all: Duration,
}

impl Site {
    /// A node without pods and the double, without Services.
    pub async fn build() -> Result<Site> {
        let lab = LabSpec { nodes: vec![NodeSpec::ingress(NODE)], ..LabSpec::default() };
        let world = World::build(WorldSpec { lab, endpoint_slices: false, ..WorldSpec::new(Mode::Vxlan) }).await?;
        let routes = Routes::listen(world.lab.node(NODE)?.netns())?;
        Ok(Site { world, routes, services: Vec::new() })
    }

    /// Makes the nodes of a fleet and what their agents report, or makes them report more.
    pub fn add_fleet(&self, fleet: Fleet) -> Result<()> {
        let store = self.world.api.store();
        for (node, report) in fleet.objects() {
            if store.get("nodes", "", node["metadata"]["name"].as_str().unwrap_or_default()).is_err() {
                store.create_with_status(node)?;
            }
            store.create(&report).or_else(|_| store.update(&report))?;
        }
        Ok(())
    }

    /// Starts pods on the node, all of which are ready.
    pub async fn add_pods(&mut self, count: u32) -> Result<Vec<Endpoint>> {
        let spec = |n: u32| PodSpec { raw: false, ..PodSpec::new(&format!("echo-{n}"), NODE) };
        self.world.add_pods((0..count).map(|n| (spec(n), "echo")).collect()).await?;
        let endpoint = |n: u32| {
            let pod = self.world.lab.pod(&format!("echo-{n}"))?;
            let address = IpAddr::from(pod.ip());
            Ok(Endpoint { uid: pod.uid().to_owned(), name: pod.name().to_owned(), node: NODE.into(), address })
        };
        (0..count).map(endpoint).collect()
    }

    /// A Service with a VIP and these endpoints.
    pub fn add_service(&mut self, endpoints: Vec<Endpoint>) -> Result<()> {
        let number = u32::try_from(self.services.len())?;
        self.add_plain(number, Some(vip(number)), &endpoints)?;
        self.services.push(endpoints);
        Ok(())
    }

    /// A Service of any kind.
    pub fn add_plain(&self, number: u32, vip: Option<Ipv4Addr>, endpoints: &[Endpoint]) -> Result<()> {
        self.world.api.store().create(slice(number, endpoints))?;
        self.world.api.store().create(service(number, vip))?;
        Ok(())
    }

    /// One endpoint of a Service with a VIP is not ready, or all are.
    pub fn set_ready(&self, number: u32, not_ready: Option<usize>) -> Result<()> {
        self.relist(number, listed(&self.services[usize::try_from(number)?], not_ready))
    }

    /// Changes the EndpointSlice of any Service.
    pub fn relist(&self, number: u32, endpoints: Value) -> Result<()> {
        let patch = json!({ "endpoints": endpoints });
        self.world.api.store().patch("endpointslices", "default", &name(number), patch)?;
        Ok(())
    }

    /// Deletes all Services with a VIP.
    pub fn remove_services(&self) -> Result<()> {
        for number in 0..u32::try_from(self.services.len())? {
            self.world.api.store().delete("services", "default", &name(number))?;
            self.world.api.store().delete("endpointslices", "default", &name(number))?;
        }
        Ok(())
    }

    /// UID of a Service.
    pub fn uid(&self, number: u32) -> Result<String> {
        let service = self.world.api.store().get("services", "default", &name(number))?;
        Ok(service["metadata"]["uid"].as_str().context("a Service has a UID")?.to_owned())
    }

    /// Starts the controller; returns when that was.
    pub fn start_controller(&mut self) -> Result<Instant> {
        self.world.start_controller(CONTROLLER, NODE, &[])?;
        Ok(Instant::now())
    }

    /// Ends the controller as a crash would.
    pub async fn end_controller(&mut self) -> Result<()> {
        self.world.kill_controller(CONTROLLER).await
    }

    /// Starts the agent, and returns when it had read every list to its end: only then it begins to watch.
    pub async fn start_agent(&mut self) -> Result<Instant> {
        self.world.api.journal().clear();
        self.world.start_agent(NODE)?;
        let watches = |records: &[Record], kind: &str| {
            let of_agent = |record: &&Record| record.info.user.name.ends_with(":tunnel-router");
            records.iter().filter(of_agent).any(|record| record.info.is("watch", kind))
        };
        self.world.api.journal().wait_for(|records| KINDS.iter().all(|kind| watches(records, kind))).await;
        Ok(Instant::now())
    }

    /// The process of the agent.
    pub fn agent(&mut self) -> Result<u32> {
        self.world.agent(NODE)?.pid().context("the agent has ended")
    }

    /// The process of the controller.
    pub fn controller(&mut self) -> Result<u32> {
        self.world.controller(CONTROLLER)?.pid().context("the controller has ended")
    }

    /// What everybody has used so far.
    pub fn used(&mut self) -> Result<Used> {
        let (agent, controller) = (cpu(self.agent()?)?, cpu(self.controller()?)?);
        Ok(Used { at: Instant::now(), agent, controller, double: cpu(std::process::id())?, all: busy()? })
    }

    /// Waits until ConfigMaps have been written so often, by create, update or delete; returns when.
    pub async fn until_written(&self, verb: &str, count: usize, limit: Duration) -> Option<Instant> {
        let deadline = Instant::now() + limit;
        while self.written(verb) < count {
            if Instant::now() > deadline {
                return None;
            }
            // Counting all requests anew for each one would be work of the square of their number.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(Instant::now())
    }

    /// How often ConfigMaps have been written since the journal was cleared.
    pub fn written(&self, verb: &str) -> usize {
        self.world.api.journal().count(verb, "configmaps")
    }
}
