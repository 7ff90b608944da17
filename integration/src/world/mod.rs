//! The whole system in one place: a lab, an API server double that knows the lab's nodes and pods, and one agent per node.
//!
//! A [`World`] says what there is and changes it the way a user would (through the API); what it never does is help the
//! agents. [`World::converged`] compares every namespace with what the product itself would make of it; that packets arrive
//! is for the tests to show.

mod accounts;
mod agent;
mod checks;
mod converge;
pub mod drain;
pub mod dual;
pub mod echo;
mod kubelet;
pub mod map;
pub(crate) mod objects;
mod witness;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tunnel_router::model::Mode;
use tunnel_router::model::handover::Assignment;
use tunnel_router::state::assignment::map_name;

use crate::apiserver::{ApiServer, Options, Ranges};
use crate::containerd::Facts;
use crate::lab::{Lab, LabSpec, PodSpec};

pub use agent::{Agent, CleanUp, Image, router_program};
pub use checks::{eventually, word_after};
pub use witness::Witness;

/// Port of the API server inside the lab.
const API_PORT: u16 = 6443;

/// Namespace of the agents and of what they store, as in the manifest.
pub const NAMESPACE: &str = "kube-service-tunnel";

/// Where controllers serve their pages: agents in the same namespace have the usual port.
pub const CONTROLLER_PAGES: &str = "127.0.0.1:9470";

/// Label of ingress nodes, as in the manifest.
pub const INGRESS_LABEL: &str = "node=tunnel";

/// What to build.
#[derive(Debug, Clone)]
pub struct WorldSpec {
    /// The lab.
    pub lab: LabSpec,
    /// Default mode of the agents.
    pub mode: Mode,
    /// More flags for every agent.
    pub flags: Vec<String>,
    /// What the agents' image holds.
    pub image: Image,
    /// Whether tokens name the node of their pod, as of Kubernetes 1.30.
    pub node_claims: bool,
    /// Whether EndpointSlices follow Services and Pods; else whoever makes a Service makes them.
    pub endpoint_slices: bool,
}

impl WorldSpec {
    /// The default lab in one mode.
    pub fn new(mode: Mode) -> Self {
        WorldSpec {
            lab: LabSpec::default(),
            mode,
            flags: Vec::new(),
            image: Image::default(),
            node_claims: true,
            endpoint_slices: true,
        }
    }
}

/// Everything, running.
pub struct World {
    /// The network. First, because agents and API server live in it and have to end before it.
    agents: BTreeMap<String, Agent>,
    controllers: BTreeMap<String, Agent>,
    /// The API server.
    pub api: ApiServer,
    /// The namespaces.
    pub lab: Lab,
    /// Flags of every agent, without those that differ from node to node.
    flags: Vec<String>,
    /// The agents' binary, where it is not the one that was built last.
    program: Option<PathBuf>,
    /// The agents' image.
    image: Image,
    /// What was last listed in each namespace.
    looks: converge::Looks,
    /// What was last resolved for each node.
    views: converge::Views,
    directory: TempDir,
}

impl World {
    /// Builds the lab and starts the API server; there are nodes, but no pods, Services or agents yet.
    pub async fn build(spec: WorldSpec) -> Result<World> {
        let lab = Lab::build(spec.lab).await.context("build the lab")?;
        let listener = lab.api_listener(API_PORT)?.into_std()?;
        let families = lab.spec().families.published().iter().map(|family| family.name().to_owned()).collect();
        let ranges = Ranges { families, ..Ranges::default() };
        let endpoint_slices = spec.endpoint_slices;
        let options = Options { ranges, endpoint_slices, ..accounts::options(lab.nodes(), spec.node_claims)? };
        let tokens: Vec<String> = options.tokens.keys().cloned().collect();
        let api = ApiServer::start(listener, options)?;
        let directory = tempfile::tempdir()?;
        for token in &tokens {
            api.write_kubeconfig(&directory.path().join(token), token)?;
        }
        api.store().create(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }))?;
        for node in lab.nodes() {
            api.store().create_with_status(objects::node(node))?;
        }
        let mut flags =
            vec!["--mode".to_owned(), spec.mode.to_string(), "--ingress-nodes".into(), INGRESS_LABEL.into()];
        flags.extend(spec.flags);
        Ok(World {
            agents: BTreeMap::new(),
            controllers: BTreeMap::new(),
            api,
            lab,
            flags,
            program: None,
            image: spec.image,
            looks: converge::Looks::default(),
            views: converge::Views::default(),
            directory,
        })
    }

    /// Starts pods, in the lab and in the API, ready.
    pub async fn add_pods(&mut self, pods: Vec<(PodSpec, &str)>) -> Result<()> {
        let mut specs = Vec::new();
        for (spec, app) in pods {
            // The server gives out the UID, by which the agent finds the pod's processes.
            let created = self.api.store().create(objects::pod(&spec, app))?;
            let uid = created["metadata"]["uid"].as_str().context("a pod has a UID")?.to_owned();
            specs.push(PodSpec { uid: Some(uid), ..spec });
        }
        let names: Vec<(String, String)> = specs.iter().map(|s| (s.namespace.clone(), s.name.clone())).collect();
        self.lab.add_pods(specs).await?;
        for (namespace, name) in names {
            let status = objects::running(&self.lab.pod(&name)?.addresses());
            self.api.store().patch_status("pods", &namespace, &name, status)?;
        }
        Ok(())
    }

    /// Removes a pod at once, from the API and then from the lab.
    pub async fn remove_pod(&mut self, name: &str) -> Result<()> {
        let namespace = self.lab.pod(name)?.spec().namespace.clone();
        self.api.store().delete_now("pods", &namespace, name)?;
        self.lab.remove_pod(name).await
    }

    /// Says that a pod is ready for new connections, or is not.
    pub fn set_ready(&self, pod: &str, ready: bool) -> Result<()> {
        let pod = self.lab.pod(pod)?;
        let mut status = objects::running(&pod.addresses());
        for condition in status["status"]["conditions"].as_array_mut().into_iter().flatten() {
            if condition["type"] == "Ready" {
                condition["status"] = json!(if ready { "True" } else { "False" });
            }
        }
        self.api.store().patch_status("pods", &pod.spec().namespace, pod.name(), status)?;
        Ok(())
    }

    /// `app=NAME` on port 12345, TCP and UDP.
    pub fn add_service(&self, name: &str, app: &str, annotations: &[(&str, &str)]) -> Result<Value> {
        Ok(self.api.store().create(objects::service(name, app, annotations))?)
    }

    /// The same, dual stack where the cluster is: one EndpointSlice, or more, for each family.
    pub fn add_dual_service(&self, name: &str, app: &str, annotations: &[(&str, &str)]) -> Result<Value> {
        let mut service = objects::service(name, app, annotations);
        service["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
        Ok(self.api.store().create(service)?)
    }

    /// `kubectl annotate service NAME KEY=VALUE`; `None` removes it.
    pub fn annotate(&self, service: &str, key: &str, value: Option<&str>) -> Result<()> {
        let patch = json!({ "metadata": { "annotations": { key: value } } });
        self.api.store().patch("services", "default", service, patch)?;
        Ok(())
    }

    /// Routes a VIP from the DC router to all ingress nodes.
    pub async fn route(&self, vip: &str) -> Result<()> {
        let ingress: Vec<&str> = self.lab.nodes().filter(|n| n.is_ingress()).map(|n| n.name()).collect();
        self.lab.route_vip(vip.parse()?, &ingress).await
    }

    /// Starts the agents of all nodes.
    pub fn start_agents(&mut self) -> Result<()> {
        let names: Vec<String> = self.lab.nodes().map(|n| n.name().to_owned()).collect();
        if let Some(first) = names.first().filter(|_| self.controllers.is_empty()) {
            // Tests of drains have controllers of their own.
            self.start_controller("controller", first, &["--drain-udp", "0"])?;
        }
        names.iter().try_for_each(|name| self.start_agent(name))
    }

    /// Starts the agent of one node.
    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        let program = self.program.clone().map_or_else(router_program, Ok)?;
        let agent = Agent::start(
            (&program, &self.image),
            self.lab.node(node)?,
            &self.agent_flags(node),
            self.directory.path(),
        )?;
        self.agents.insert(node.to_owned(), agent);
        Ok(())
    }

    /// The flags of one node's agent.
    pub fn agent_flags(&self, node: &str) -> Vec<String> {
        let mut flags = self.flags.clone();
        flags.extend(["--node-name".to_owned(), node.to_owned()]);
        flags.extend(["--kubeconfig".to_owned(), self.kubeconfig_of(&accounts::of_agent(node)).display().to_string()]);
        flags
    }

    /// Where the kubeconfig is of one who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of(accounts::ADMIN)
    }

    fn kubeconfig_of(&self, token: &str) -> PathBuf {
        self.directory.path().join(token)
    }

    /// What the kubelet of a node gives to a pod of this ServiceAccount.
    pub fn kubelet_facts(&self, node: &str, account: &str) -> Result<Facts> {
        let service_account = self.directory.path().join(format!("pod-{node}-{account}"));
        // The tokens of agents name their nodes.
        let token = if account == accounts::AGENT { accounts::of_agent(node) } else { account.to_owned() };
        self.api.write_service_account(&service_account, &token, NAMESPACE)?;
        let (node, namespace) = (node.to_owned(), NAMESPACE.to_owned());
        Ok(Facts { node, namespace, api: self.api.address(), service_account })
    }

    /// The agent of a node.
    pub fn agent(&mut self, node: &str) -> Result<&mut Agent> {
        self.agents.get_mut(node).with_context(|| format!("no agent runs on {node}"))
    }

    /// Starts a controller, on a node of the same network.
    pub fn start_controller(&mut self, name: &str, node: &str, flags: &[&str]) -> Result<()> {
        self.start_controller_as(Command::new(agent::router_program()?), name, node, flags)
    }

    /// The same, with a clock that is an hour ahead.
    pub fn start_controller_ahead(&mut self, name: &str, node: &str, flags: &[&str]) -> Result<()> {
        let mut command = Command::new(agent::router_program()?);
        agent::ahead(&mut command)?;
        self.start_controller_as(command, name, node, flags)
    }

    fn start_controller_as(&mut self, program: Command, name: &str, node: &str, flags: &[&str]) -> Result<()> {
        let own = ["--metrics-address", CONTROLLER_PAGES, "--kubeconfig"].map(str::to_owned);
        let mut all: Vec<String> =
            own.into_iter().chain([self.kubeconfig_of(accounts::CONTROLLER).display().to_string()]).collect();
        all.extend(flags.iter().map(ToString::to_string));
        let controller = Agent::start_controller((program, name), self.lab.node(node)?, &all, self.directory.path())?;
        self.controllers.insert(name.to_owned(), controller);
        Ok(())
    }

    /// A controller.
    pub fn controller(&mut self, name: &str) -> Result<&mut Agent> {
        self.controllers.get_mut(name).with_context(|| format!("no controller {name} runs"))
    }

    /// Ends a controller as a crash would.
    pub async fn kill_controller(&mut self, name: &str) -> Result<()> {
        self.controllers.remove(name).with_context(|| format!("no controller {name} runs"))?.kill().await
    }

    /// Replaces the flags of all agents that are started from now on, but for the mode and the ingress nodes.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags.truncate(4);
        self.flags.extend(flags.iter().map(ToString::to_string));
    }

    /// Makes agents that are started from now on run this binary.
    pub fn set_program(&mut self, program: PathBuf) {
        self.program = Some(program);
    }

    /// Stops the agent of one node, politely; kernel state stays.
    pub async fn stop_agent(&mut self, node: &str) -> Result<()> {
        self.agents.remove(node).with_context(|| format!("no agent runs on {node}"))?.stop().await
    }

    /// Stops all agents, politely; kernel state stays.
    pub async fn stop_agents(&mut self) -> Result<()> {
        for (_, agent) in std::mem::take(&mut self.agents) {
            agent.stop().await?;
        }
        Ok(())
    }

    /// Ends all agents as a crash of every node's agent would.
    pub async fn kill_agents(&mut self) -> Result<()> {
        for (_, agent) in std::mem::take(&mut self.agents) {
            agent.kill().await?;
        }
        Ok(())
    }

    /// Ends the agent of one node as a crash would.
    pub async fn kill_agent(&mut self, node: &str) -> Result<()> {
        self.agents.remove(node).with_context(|| format!("no agent runs on {node}"))?.kill().await
    }

    /// Runs `tunnel-router cleanup` on one node.
    pub async fn cleanup_node(&self, node: &str) -> Result<CleanUp> {
        agent::cleanup(&self.lab, self.lab.node(node)?).await
    }

    /// Runs `tunnel-router cleanup` on every node.
    pub async fn cleanup(&self) -> Result<Vec<CleanUp>> {
        let mut all = Vec::new();
        for node in self.lab.nodes() {
            all.push(agent::cleanup(&self.lab, node).await?);
        }
        Ok(all)
    }

    /// Reasons and notes of all Events about a Service.
    pub fn events(&self, service: &str) -> Vec<(String, String)> {
        self.events_about("Service", service)
    }

    /// Reasons and notes of all Events about a Node.
    pub fn node_events(&self, node: &str) -> Vec<(String, String)> {
        self.events_about("Node", node)
    }

    fn events_about(&self, kind: &str, name: &str) -> Vec<(String, String)> {
        let object =
            |e: &Value| if e["regarding"].is_null() { e["involvedObject"].clone() } else { e["regarding"].clone() };
        let about = |e: &&Value| object(e)["kind"] == kind && object(e)["name"] == name;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let events = self.api.store().list("events").unwrap_or_default();
        let note = |e: &Value| if e["note"].is_null() { text(&e["message"]) } else { text(&e["note"]) };
        events.iter().filter(about).map(|e| (text(&e["reason"]), note(e))).collect()
    }

    /// Waits for an Event with this reason about a Service and returns its note.
    pub async fn event(&self, service: &str, reason: &str) -> Result<String> {
        self.event_with(service, reason, "").await
    }

    /// The same for an Event whose note has this text.
    pub async fn event_with(&self, service: &str, reason: &str, text: &str) -> Result<String> {
        self.event_about("Service", service, (reason, text)).await
    }

    /// Waits for an Event with this reason about a Node and returns its note.
    pub async fn node_event(&self, node: &str, reason: &str) -> Result<String> {
        self.event_about("Node", node, (reason, "")).await
    }

    async fn event_about(&self, kind: &str, name: &str, (reason, text): (&str, &str)) -> Result<String> {
        let wanted = |(r, note): &(String, String)| r == reason && note.contains(text);
        let look = || self.events_about(kind, name).into_iter().find(wanted).map(|(_, note)| note);
        let found = tokio::time::timeout(converge::PATIENCE, self.api.store().wait_for(|_| look())).await;
        found.ok().flatten().with_context(|| {
            format!(
                "no Event {reason} about {kind} {name}; there are {:?}\n{}",
                self.events_about(kind, name),
                self.logs()
            )
        })
    }

    /// Name of the ConfigMap with the bucket map of a Service.
    pub fn map_name(&self, service: &str) -> Result<String> {
        Ok(map_name(&self.service_uid(service)?))
    }

    /// UID of a Service.
    pub fn service_uid(&self, service: &str) -> Result<String> {
        let service = self.api.store().get("services", "default", service)?;
        Ok(service["metadata"]["uid"].as_str().context("a Service has a UID")?.to_owned())
    }

    /// The stored bucket map of a Service, once it is as it should be.
    pub async fn stored_map(&self, service: &str, fits: impl Fn(&Assignment) -> bool) -> Result<Assignment> {
        let (name, uid) = (self.map_name(service)?, self.service_uid(service)?);
        let look = || self.map_of(&uid).filter(|map| fits(map));
        let found = tokio::time::timeout(converge::PATIENCE, self.api.store().wait_for(|_| look())).await;
        found.ok().flatten().with_context(|| format!("{name} did not become so\n{}", self.logs()))
    }

    /// The stored bucket map of the Service with this UID, as it is now.
    pub fn map_of(&self, uid: &str) -> Option<Assignment> {
        map::stored(self.api.store(), uid)
    }

    /// Leaves the logs of agents and controllers behind when the world ends, and says in which directory.
    pub fn keep_logs(&mut self) -> &Path {
        self.directory.disable_cleanup(true);
        self.directory.path()
    }

    /// What the agent of a node, or a controller, has logged so far, whether it runs or not.
    pub fn log_of(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// The last lines of every agent's log, for a failed test.
    pub fn logs(&self) -> String {
        let all = self.agents.values().chain(self.controllers.values());
        all.map(|a| format!("--- {}\n{}", a.node(), a.tail(30))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::accounts::{AGENT, CONTROLLER, MANIFEST};
    use super::*;

    #[test]
    fn the_manifest_runs_agents_and_controllers_as_the_accounts_that_the_lab_gives_them() {
        let documents: Vec<Value> = serde_saphyr::from_multiple(MANIFEST).unwrap();
        for (kind, account) in [("DaemonSet", AGENT), ("Deployment", CONTROLLER)] {
            let workloads: Vec<&Value> = documents.iter().filter(|document| document["kind"] == kind).collect();
            assert_eq!(workloads.len(), 1, "{kind}");
            assert_eq!(workloads[0]["metadata"]["namespace"], NAMESPACE);
            assert_eq!(workloads[0]["spec"]["template"]["spec"]["serviceAccountName"], account);
        }
    }
}
