//! The agent as `manifests/tunnel-router.yaml` runs it, and the clean-up as its overlay does: image, arguments, mounts and security
//! context, in a real containerd.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::containerd::{Containerd, ManifestPod, RunningPod};
use integration::netns::Netns;
use integration::world::drain::Held;
use integration::world::map::drains;
use integration::world::{NAMESPACE, World, WorldSpec, eventually, router_program};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};
use tempfile::TempDir;
use tunnel_router::model::Mode;
use tunnel_router::netns::ProcFinder;

const MANIFEST: &str = include_str!("../../../manifests/tunnel-router.yaml");
const README: &str = include_str!("../../../README.md");
const CLEANUP: &str = include_str!("../../../manifests/overlays/cleanup/cleanup.yaml");
/// UID of the agent's pod.
const AGENT: &str = "3f6b2c1e-8d4a-4c57-9e0b-5a7d1f2c6e84";
const AGENT_CLEANUP: &str = "7c1d9e20-45ab-4f3e-8b61-2e9f0a7c5d13";
const NODE: &str = "ing1";
const VIP: &str = "192.0.2.10";
const OPEN: usize = 48;
/// Commands, and what would be ours in what they print.
const LEFT: [(&str, &str); 6] = [
    ("nft list tables", "kube_service_tunnel"),
    ("ip -o link", "kst-"),
    ("ip -o address", "192.0.2.10"),
    ("ip rule", "proto 107"),
    ("ip nexthop show protocol 107", "id"),
    ("ip route show table all", "proto 107"),
];
/// For what must happen, whenever.
const PATIENCE: Duration = Duration::from_secs(60);

fn daemon_set(manifest: &str) -> Result<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifest)?;
    documents.into_iter().find(|document| document["kind"] == "DaemonSet").context("a DaemonSet")
}

fn pod_of(manifest: &str) -> Result<PodSpec> {
    let daemon_set: DaemonSet = serde_json::from_value(daemon_set(manifest)?)?;
    daemon_set.spec.and_then(|spec| spec.template.spec).context("the pod of a DaemonSet")
}

/// The agent's pod. Of all that the manifest says only the mode is another: not every kernel has GRE.
fn agent() -> Result<PodSpec> {
    let mut pod = pod_of(MANIFEST)?;
    let env = pod.containers[0].env.iter_mut().flatten();
    let mode = env.into_iter().find(|variable| variable.name == "TUNNEL_ROUTER_MODE").context("a mode")?;
    mode.value = Some(Mode::Vxlan.to_string());
    Ok(pod)
}

/// The image of the binary that was built last.
fn image(directory: &Path) -> Result<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/image");
    let output = Command::new(script).arg("--binary").arg(router_program()?).arg("--output").arg(directory).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let first = String::from_utf8(output.stdout)?.lines().next().map(PathBuf::from);
    first.context("hack/image prints the archive")
}

/// One node takes packets in and has all pods; its agent does not run yet.
struct Stage {
    world: World,
    containerd: Containerd,
}

impl Stage {
    async fn new() -> Result<Stage> {
        let world = World::build(WorldSpec::new(Mode::Vxlan)).await?;
        let containerd = Containerd::start(&world.lab, world.lab.node(NODE)?).await?;
        let directory = TempDir::new()?;
        containerd.import(&image(directory.path())?)?;
        let mut stage = Stage { world, containerd };
        stage.world.add_service("echo", "echo", &[("cmd.nu/tunnel", VIP)])?;
        stage.world.start_controller("controller", NODE, &["--drain-udp", "0"])?;
        stage.world.lab.route_vip(VIP.parse()?, &[NODE]).await?;
        Ok(stage)
    }

    async fn run_pod(&self, name: &str) -> Result<RunningPod> {
        let uid = self.world.create_pod(name, NODE, "echo", json!({}))?;
        let pod = self.containerd.run_pod(name, &uid).await?;
        self.world.tell_running(name, pod.address, &pod.container)?;
        Ok(pod)
    }

    async fn run_agent(&self, pod: &PodSpec) -> Result<ManifestPod> {
        let facts = self.world.kubelet_facts(NODE, "tunnel-router")?;
        self.containerd.run_manifest(("agent", AGENT), pod, &facts).await
    }

    async fn run_cleanup(&self, pod: &PodSpec) -> Result<ManifestPod> {
        let facts = self.world.kubelet_facts(NODE, "tunnel-router-cleanup")?;
        self.containerd.run_manifest(("cleanup", AGENT_CLEANUP), pod, &facts).await
    }

    /// The clean-up ends with this, and the VIP is served as before.
    async fn refused(&self, why: &str) -> Result<()> {
        let error = match self.run_cleanup(&pod_of(CLEANUP)?).await {
            Ok(_) => bail!("the clean-up did not refuse"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(error.contains(why), "not {why:?}: {error}");
        self.world.tcp(VIP, 10).await.map(drop)
    }

    /// Nothing of ours is on the node and in a pod.
    fn clean(&self, pod: &RunningPod) -> Result<()> {
        let first = ProcFinder::new("/proc").scan()?.of(&pod.sandbox.uid).next().context("a process of the pod")?;
        for netns in [self.world.lab.node(NODE)?.netns().clone(), Netns::of_process(first)?] {
            for (words, ours) in LEFT {
                let found = World::run_in(&netns, words)?;
                ensure!(!found.contains(ours), "{}: {words}:\n{found}", netns.name());
            }
        }
        Ok(())
    }

    /// `/proc/PID/status` of the agent.
    fn process(&self) -> Result<String> {
        let processes = ProcFinder::new("/proc").scan()?;
        let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).ok();
        let mut all = processes.of(AGENT).filter_map(status);
        all.find(|status| status.starts_with("Name:\ttunnel-router\n")).context("no process of the agent")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_of_the_manifest_carries_packets_and_drains() -> Result<()> {
    let stage = Stage::new().await?;
    for name in ["echo-1", "echo-2"] {
        stage.run_pod(name).await?;
    }
    let agent = stage.run_agent(&agent()?).await?;
    works(&stage, &agent).await.with_context(|| agent.log())
}

/// A log as `kubectl logs` shows it: each line of the runtime begins with a time, a stream and whether it is whole.
fn lines_of_kubelet(log: &str) -> Vec<String> {
    log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(str::to_owned).collect()
}

/// What README shows of a verb of kubectl is there, but for numbers, times and the width of columns.
fn is_as_in_readme(verb: &str, lines: &[String]) -> Result<()> {
    let command = format!("$ kubectl -n kube-service-tunnel {verb} daemonset/tunnel-router");
    let shown = README.lines().skip_while(|line| !line.starts_with(&command)).skip(1);
    let shown: Vec<&str> = shown.take_while(|line| !line.starts_with("$ ") && !line.starts_with("```")).collect();
    ensure!(shown.len() > 5, "README shows nothing of {command}");
    let seen: BTreeSet<String> = lines.iter().map(|line| shape(line)).collect();
    let unseen = shown.iter().find(|line| !seen.contains(&shape(line)) && !line.is_empty());
    ensure!(unseen.is_none(), "README shows {unseen:?}, which is not in:\n{}", lines.join("\n"));
    Ok(())
}

/// Every number as 0, and every gap as one blank.
fn shape(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut shape = words.join(" ").replace(|digit: char| digit.is_ascii_digit(), "0");
    while shape.contains("00") {
        shape = shape.replace("00", "0");
    }
    shape
}

async fn works(stage: &Stage, agent: &ManifestPod) -> Result<()> {
    let world = &stage.world;
    world.stored_map("echo", |map| map.counts().len() == 2).await?;
    world.answers_within(VIP, PATIENCE).await?;
    eventually("the log is as in README", || is_as_in_readme("logs", &lines_of_kubelet(&agent.log()))).await?;
    ensure!(!agent.log().contains('\u{1b}'), "a log in colours");
    let status = stage.containerd.exec(agent, &["tunnel-router", "status"]).await?;
    is_as_in_readme("exec", &status.lines().map(str::to_owned).collect::<Vec<_>>())?;
    let mut held = Held::open(world, VIP, 30_000, OPEN).await?;
    ensure!(held.on() == ["echo-1", "echo-2"].into(), "{:?}", held.on());
    // It takes buckets from both, whose pods pass on what is not theirs.
    stage.run_pod("echo-3").await?;
    world.stored_map("echo", |map| map.counts().len() == 3 && drains(map) > 0).await?;
    held.stay(world).await?;
    world.udp(VIP, 10).await?;

    let words = ["tunnel-router", "status", "-o", "json"];
    let status: Value = serde_json::from_str(&stage.containerd.exec(agent, &words).await?)?;
    ensure!(status["source"] == "agent" && status["differences"] == json!([]), "{status:#}");
    ensure!(status["problems"] == json!([]), "{status:#}");

    let process = stage.process()?;
    // NET_ADMIN, SYS_PTRACE, SYS_ADMIN; and a filter of system calls.
    for line in ["CapEff:\t0000000000281000", "CapBnd:\t0000000000281000", "Seccomp:\t2"] {
        ensure!(process.contains(line), "not {line:?}:\n{process}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_capability_of_the_agent_in_the_manifest_is_needed() -> Result<()> {
    let stage = Stage::new().await?;
    stage.run_pod("echo-1").await?;
    let whole = agent()?;
    let context = whole.containers[0].security_context.clone().context("a security context")?;
    let all = context.capabilities.and_then(|capabilities| capabilities.add).context("capabilities")?;
    for lacking in &all {
        let mut pod = whole.clone();
        let context = pod.containers[0].security_context.as_mut().context("a security context")?;
        let capabilities = context.capabilities.as_mut().context("capabilities")?;
        capabilities.add = Some(all.iter().filter(|other| *other != lacking).cloned().collect());
        let agent = stage.run_agent(&pod).await?;
        fails(&stage, &agent, lacking).await.with_context(|| format!("without {lacking}:\n{}", agent.log()))?;
        stage.world.unanswered(VIP).await?;
        stage.containerd.remove_manifest(agent).await?;
    }
    Ok(())
}

/// What is seen without one capability.
async fn fails(stage: &Stage, agent: &ManifestPod, lacking: &str) -> Result<()> {
    match lacking {
        "NET_ADMIN" | "SYS_ADMIN" => {
            let code = stage.containerd.ended(agent).await?;
            let named = format!("CAP_{lacking}");
            ensure!(code != 0 && agent.log().contains(&named), "it ended with {code} and did not name {named}");
        }
        "SYS_PTRACE" => {
            let told = stage.world.event("echo", "EndpointFailed").await?;
            ensure!(told.contains("CAP_SYS_PTRACE"), "{told}");
        }
        other => bail!("nothing shows that {other} is needed"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cleanup_refuses_while_agents_exist_and_then_leaves_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let world = &stage.world;
    let pod = stage.run_pod("echo-1").await?;
    world.api.store().create(daemon_set(MANIFEST)?)?;
    let agent = stage.run_agent(&self::agent()?).await?;
    world.answers_within(VIP, PATIENCE).await.with_context(|| agent.log())?;
    ensure!(stage.clean(&pod).is_err(), "nothing would be seen of what is left");

    stage.refused("DaemonSet kube-service-tunnel/tunnel-router exists").await?;
    world.api.store().delete_now("daemonsets", NAMESPACE, "tunnel-router")?;
    stage.refused("an agent runs on this node").await?;
    stage.containerd.remove_manifest(agent).await?;
    let done = stage.run_cleanup(&pod_of(CLEANUP)?).await?;
    stage.clean(&pod)?;
    world.unanswered(VIP).await?;
    stage.containerd.remove_manifest(done).await?;

    // The same without the API.
    let agent = stage.run_agent(&self::agent()?).await?;
    world.answers_within(VIP, PATIENCE).await.with_context(|| agent.log())?;
    stage.containerd.remove_manifest(agent).await?;
    world.api.stop();
    let mut alone = pod_of(CLEANUP)?;
    let init = alone.init_containers.iter_mut().flatten().next().context("the clean-up")?;
    init.args = Some(vec!["cleanup".to_owned()]);
    stage.run_cleanup(&alone).await?;
    stage.clean(&pod)
}
