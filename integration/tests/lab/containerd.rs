//! Pods as containerd, runc and CNI plugins make them; the test does what a kubelet does.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::containerd::{Containerd, RunningPod};
use integration::netns::Netns;
use integration::world::map::{drains, owners};
use integration::world::{World, WorldSpec, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tunnel_router::model::Mode;
use tunnel_router::netns::ProcFinder;

const NODE: &str = "wrk1";
const VIP: &str = "192.0.2.10";
const STATIC_VIP: &str = "192.0.2.11";
/// From the moment when the API names the address.
const SOON: Duration = Duration::from_secs(2);
/// For what a pod that is gone could still make an agent do.
const A_WHILE: Duration = Duration::from_secs(2);

/// Agents that no timer wakes, Services with a VIP each, and no pods yet.
async fn world() -> Result<World> {
    let mut spec = WorldSpec::new(Mode::Vxlan);
    spec.flags = vec!["--resync".to_owned(), "1h".to_owned()];
    let mut world = World::build(spec).await?;
    for (name, vip) in [("echo", VIP), ("static", STATIC_VIP)] {
        world.add_service(name, name, &[("cmd.nu/tunnel", vip)])?;
        world.route(vip).await?;
    }
    world.start_agents()?;
    Ok(world)
}

/// A process of a pod, as the host sees it, whose command line has this word.
fn process(uid: &str, word: &str) -> Result<u32> {
    let processes = ProcFinder::new("/proc").scan()?;
    let is_it = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|text| text.contains(word));
    processes.of(uid).find(is_it).with_context(|| format!("no process {word} of pod {uid}"))
}

/// The names of devices in the namespace of a pod.
fn links(uid: &str) -> Result<String> {
    World::run_in(&Netns::of_process(process(uid, "sleep")?)?, "ip -o link")
}

fn without_tunnel(uid: &str) -> Result<()> {
    ensure!(!links(uid)?.contains("kst-vxlan"), "pod {uid} has a tunnel");
    Ok(())
}

async fn told(world: &World, pod: RunningPod, vip: &str, what: &str) -> Result<RunningPod> {
    world.tell_running(&pod.sandbox.name, pod.address, &pod.container)?;
    let took = world.answers_within(vip, SOON).await.with_context(|| what.to_owned())?;
    println!("{what}: {vip} at {} after {took:?}", pod.address);
    world.tcp(vip, 10).await?;
    world.udp(vip, 10).await?;
    Ok(pod)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_real_runtime_keep_their_vip_whatever_becomes_of_them() -> Result<()> {
    let mut world = world().await?;
    let mut containerd = Containerd::start(&world.lab, world.lab.node(NODE)?).await?;

    let uid = world.create_pod("echo", NODE, "echo", json!({}))?;
    let pod = told(&world, containerd.run_pod("echo", &uid).await?, VIP, "a pod starts").await?;

    let pause = process(&uid, "sleep")?;
    kill(Pid::from_raw(i32::try_from(pause)?), Signal::SIGKILL)?;
    let before = pod.address;
    let pod = told(&world, containerd.make_again(pod).await?, VIP, "its sandbox is killed and made again").await?;
    ensure!(pod.address != before, "the sandbox has its old address {before}");

    let pod = told(&world, containerd.restart_container(pod).await?, VIP, "its container is restarted").await?;

    let log = world.agent(NODE)?.log().len();
    containerd.restart().await?;
    world.tcp(VIP, 20).await?;
    let pod = containerd.restart_container(pod).await?;
    let pod = told(&world, pod, VIP, "its container is restarted by another containerd").await?;
    let since = world.agent(NODE)?.log().split_off(log);
    ensure!(!since.contains("reconciled") && !since.contains("WARN"), "containerd's restart meant work:\n{since}");

    // The kubelet knows a static pod by 32 digits that no other node has; its mirror in the API has a UID like any other.
    let hash = uid.chars().rev().filter(char::is_ascii_hexdigit).collect::<String>();
    let mirror = json!({ "kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash });
    let own = world.create_pod("static", NODE, "static", mirror.clone())?;
    let fixed = told(&world, containerd.run_pod("static", &hash).await?, STATIC_VIP, "a static pod starts").await?;
    world.api.store().delete_now("pods", "default", "static")?;
    eventually("the tunnel goes", || without_tunnel(&hash)).await?;
    ensure!(world.create_pod("static", NODE, "static", mirror)? != own, "a mirror pod that is made again is another");
    let fixed = told(&world, fixed, STATIC_VIP, "its mirror is made again").await?;
    ensure!(links(&hash)?.contains("kst-vxlan"), "the static pod has no tunnel");

    for (pod, vip) in [(pod, VIP), (fixed, STATIC_VIP)] {
        world.api.store().delete_now("pods", "default", &pod.sandbox.name)?;
        containerd.remove(&pod.id).await?;
        world.unanswered(vip).await?;
    }
    world.converged().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_deleted_while_it_is_set_up_leaves_nothing() -> Result<()> {
    let mut world = world().await?;
    let cgroup = Path::new("/sys/fs/cgroup/pids").join(world.lab.prefix());
    let containerd = Containerd::start(&world.lab, world.lab.node(NODE)?).await?;
    // The agent is at a different point of its work each time.
    for (n, pause) in [0, 5, 20, 40, 60, 80, 120].into_iter().enumerate() {
        let name = format!("echo-{n}");
        let uid = world.create_pod(&name, NODE, "echo", json!({}))?;
        let (id, address) = containerd.run_sandbox(&name, &uid).await?;
        world.tell_running(&name, address, &id)?;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        world.api.store().delete_now("pods", "default", &name)?;
        containerd.remove(&id).await?;
    }
    // A node keeps what it does for a pod until the map has let go of it.
    world.stored_map("echo", |map| owners(map).iter().all(Option::is_none) && drains(map) == 0).await?;
    world.converged().await?;
    let before = world.agent(NODE)?.log().len();
    tokio::time::sleep(A_WHILE).await;
    let since = world.agent(NODE)?.log().split_off(before);
    ensure!(since.is_empty(), "the agent goes on about pods that are gone:\n{since}");
    let events = world.events("echo");
    ensure!(!events.iter().any(|(reason, _)| reason == "EndpointFailed"), "{events:?}");

    drop(containerd);
    ensure!(!cgroup.exists(), "{} is left", cgroup.display());
    Ok(())
}
