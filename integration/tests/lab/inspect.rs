//! `tunnel-router status` and `trace`: what they say is what packets do.
//!
//! Witnesses: the pods that answer connections, and rules, routes and nexthops that somebody has changed by hand.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::lab::PodSpec;
use integration::traffic::{Connections, Sources, Tally};
use integration::world::echo::{SERVICE, VIP, VIP6, echo_at};
use integration::world::{World, WorldSpec, router_program};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::NamedTempFile;
use tunnel_router::model::Mode;

const FLOWS: usize = 48;

async fn world(mode: Mode) -> Result<World> {
    let mut world = World::build(WorldSpec::new(mode)).await?;
    let pods = [("echo-1", "wrk1"), ("echo-2", "wrk2"), ("echo-3", "ing1")];
    world.add_pods(pods.map(|(name, node)| (PodSpec::new(name, node), "echo")).into()).await?;
    world.add_dual_service(SERVICE, "echo", &[])?;
    world.start_controller("ctl-a", "wrk1", &[])?;
    world.serve(&[VIP, VIP6]).await?;
    world.stored_map(SERVICE, |_| true).await?;
    world.converged().await?;
    Ok(world)
}

/// What the program prints and complains about, and whether it succeeds.
fn run(world: &World, node: &str, arguments: &str) -> Result<(String, String, bool)> {
    let mut command = Command::new(router_program()?);
    command.args(arguments.split_whitespace()).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let netns = world.lab.node(node)?.netns();
    let output = tokio::task::block_in_place(|| netns.spawn(&mut command)?.wait_with_output().context("wait"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&output.stdout), text(&output.stderr), output.status.success()))
}

fn json(world: &World, node: &str, arguments: &str) -> Result<Value> {
    let (printed, complaint, succeeded) = run(world, node, &format!("{arguments} -o json"))?;
    ensure!(succeeded, "{node}: {arguments}: {complaint}{printed}");
    Ok(serde_json::from_str(&printed)?)
}

/// The complaint of a run that must fail, and what it has printed.
fn refused(world: &World, node: &str, arguments: &str) -> Result<(String, String)> {
    let (printed, complaint, succeeded) = run(world, node, arguments)?;
    ensure!(!succeeded, "{node}: {arguments} succeeds: {printed}");
    Ok((complaint, printed))
}

async fn open(world: &World, vip: &str) -> Result<(Connections, Tally)> {
    let client = world.client().with_sources(Sources::fixed(world.lab.client_addresses(), 30_000));
    let (connections, tally) = Connections::open(&client, FLOWS, echo_at(vip)?).await?;
    Ok((connections, tally.perfect()?))
}

/// Every flow goes to the pod that the trace names, on either ingress node; returns the traces.
async fn traced(world: &World, tally: &Tally, vip: &str, named: impl Fn(&Value, &str) -> bool) -> Result<()> {
    let target: SocketAddr = echo_at(vip)?;
    for (n, (source, pod)) in tally.owners().into_iter().enumerate().take(12) {
        let node = ["ing1", "ing2"][n % 2];
        let trace = json(world, node, &format!("trace {source} {target}"))?;
        ensure!(named(&trace, pod), "{source} is answered by {pod}: {trace:#}");
        ensure!(trace["disagreements"].as_array().is_some_and(Vec::is_empty), "{trace:#}");
        ensure!(trace["owner"]["mtu"].as_u64().is_some_and(|mtu| mtu >= 1280), "{trace:#}");
    }
    Ok(())
}

async fn says_what_packets_do(mode: Mode) -> Result<()> {
    let mut world = world(mode).await?;
    for vip in [VIP, VIP6] {
        let (_held, tally) = open(&world, vip).await?;
        let by_name = |trace: &Value, pod: &str| {
            trace["owner"]["endpoint"].as_str().is_some_and(|text| text.starts_with(&format!("default/{pod} ")))
        };
        traced(&world, &tally, vip, by_name).await?;
        let status = json(&world, "ing1", "status")?;
        ensure!(status["source"] == "agent" && status["differences"] == serde_json::json!([]), "{status:#}");
        let of_vip = vip_of(&status, vip)?;
        let mine = tally.owners().values().filter(|pod| **pod == "echo-3").count();
        let counted = endpoint(of_vip, |e| e["pod"] == "default/echo-3")?["connections"].clone();
        ensure!(counted == mine, "{mine} connections are on echo-3: {of_vip:#}");
        let buckets: usize = endpoints(of_vip).filter_map(|e| Some(e["buckets"].as_array()?.len())).sum();
        ensure!(buckets == 64, "{of_vip:#}");
    }
    // The same without agents: pods have no names then, but addresses.
    world.kill_agents().await?;
    for vip in [VIP, VIP6] {
        let (_held, tally) = open(&world, vip).await?;
        let status = json(&world, "ing2", "status")?;
        ensure!(status["source"] == "kernel" && status["node"] == "ing2", "{status:#}");
        let of_vip = vip_of(&status, vip)?;
        ensure!(of_vip["mode"] == mode.as_str() && of_vip["buckets"] == 64, "{of_vip:#}");
        let buckets: usize = endpoints(of_vip).filter_map(|e| Some(e["buckets"].as_array()?.len())).sum();
        ensure!(buckets == 64 && endpoints(of_vip).count() == 3, "{of_vip:#}");
        // A label does not say whose it is.
        if mode != Mode::Mpls {
            let named = |trace: &Value, pod: &str| {
                let addresses = world.lab.pod(pod).map(|pod| pod.addresses()).unwrap_or_default();
                addresses.iter().any(|address| trace["owner"]["endpoint"] == address.to_string())
            };
            traced(&world, &tally, vip, named).await?;
        }
    }
    Ok(())
}

fn vip_of<'a>(status: &'a Value, vip: &str) -> Result<&'a Value> {
    let found = status["vips"].as_array().into_iter().flatten().find(|v| v["address"] == vip);
    found.with_context(|| format!("{vip} is not in {status:#}"))
}

fn endpoints(vip: &Value) -> impl Iterator<Item = &Value> {
    vip["endpoints"].as_array().into_iter().flatten()
}

fn endpoint(vip: &Value, which: impl Fn(&Value) -> bool) -> Result<&Value> {
    endpoints(vip).find(|e| which(e)).with_context(|| format!("no such endpoint in {vip:#}"))
}

integration::modes! {
    vxlan_status_and_trace_say_what_packets_do: says_what_packets_do(Mode::Vxlan);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_status_and_trace_say_what_packets_do: says_what_packets_do(Mode::Gre);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_status_and_trace_say_what_packets_do: says_what_packets_do(Mode::Mpls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vxlan_draining_is_shown_with_its_connections() -> Result<()> {
    let world = world(Mode::Vxlan).await?;
    let (mut held, tally) = open(&world, VIP).await?;
    world.set_ready("echo-3", false)?;
    world.converged().await?;
    held.probe_all().await.perfect()?;
    let status = json(&world, "ing1", "status")?;
    let vip = vip_of(&status, VIP)?;
    let echo3 = endpoint(vip, |e| e["pod"] == "default/echo-3")?;
    let mine: BTreeSet<SocketAddr> =
        tally.owners().into_iter().filter(|(_, pod)| *pod == "echo-3").map(|(source, _)| source).collect();
    ensure!(echo3["state"] == "not ready" && echo3["buckets"] == serde_json::json!([]), "{echo3:#}");
    ensure!(echo3["connections"] == mine.len(), "{} are open: {echo3:#}", mine.len());
    let drains = vip["draining"].as_object().into_iter().flatten().flat_map(|(_, all)| all.as_array()).flatten();
    let drained: u64 = drains.filter(|d| d["endpoint"] == echo3["id"]).filter_map(|d| d["connections"].as_u64()).sum();
    ensure!(drained == mine.len() as u64, "{vip:#}");

    // Both open connections and new ones go to the owner, and the trace says whom it asks.
    let source = mine.first().context("echo-3 has none")?;
    let trace = json(&world, "ing2", &format!("trace {source} {}", echo_at(VIP)?))?;
    let is_echo3 = |name: &Value| name.as_str().is_some_and(|name| name.starts_with("default/echo-3 "));
    ensure!(!is_echo3(&trace["owner"]["endpoint"]), "{trace:#}");
    ensure!(trace["then"].as_array().and_then(|asked| asked.first()).is_some_and(is_echo3), "{trace:#}");
    ensure!(trace["disagreements"] == serde_json::json!([]), "{trace:#}");
    ensure!(trace["tablesAgree"].is_null(), "no pod of the Service is on ing2: {trace:#}");
    let trace = json(&world, "ing1", &format!("trace {source} {}", echo_at(VIP)?))?;
    ensure!(trace["tablesAgree"] == true && is_echo3(&trace["then"][0]), "{trace:#}");
    let (text, _, _) = run(&world, "ing1", "status")?;
    ensure!(text.contains("not ready") && text.contains("default/echo-3"), "{text}");
    // The pods' nodes have counted what was passed on, and to whom.
    let [mut all, mut left, mut arrived] = [0; 3];
    for node in ["ing1", "wrk1", "wrk2"] {
        let counted = &json(&world, node, "status")?["secondChances"];
        all += counted["packets"]["passed"].as_u64().context("no program")?;
        for pair in counted["pairs"].as_array().context("no pairs")? {
            left += pair["passed"].as_u64().unwrap_or_default();
            arrived += pair["received"].as_u64().unwrap_or_default();
        }
    }
    ensure!(
        all > 0 && [left, arrived] == [all; 2],
        "{all} were passed on, {left} have left, and {arrived} have arrived"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vxlan_whoever_disagrees_is_named_and_nobody_waits_for_ever() -> Result<()> {
    let mut world = world(Mode::Vxlan).await?;
    let flow = format!("198.51.100.9:4000 {}", echo_at(VIP)?);
    let complaint = |node: &str, arguments: &str| Ok::<_, anyhow::Error>(refused(&world, node, arguments)?.0);
    ensure!(complaint("ing1", "trace 198.51.100.9:1 192.0.2.99:80")?.contains("192.0.2.99 is no VIP on this node"));
    ensure!(complaint("ing1", &format!("trace 198.51.100.9 {VIP}"))?.contains(":PORT"));
    ensure!(complaint("wrk1", &format!("trace {flow}"))?.contains("these do: ing1, ing2"));

    // Somebody's rule takes the packets away.
    let mark = json(&world, "ing1", &format!("trace {flow}"))?["owner"]["mark"].as_u64().context("a mark")?;
    let netns = world.lab.node("ing1")?.netns();
    World::run_in(netns, &format!("ip rule add fwmark {mark:#x} lookup main priority 50"))?;
    let (_, printed) = refused(&world, "ing1", &format!("trace {flow}"))?;
    ensure!(printed.contains("DISAGREES") && printed.contains("answers from table 254"), "{printed}");
    World::run_in(netns, "ip rule del priority 50")?;
    json(&world, "ing1", &format!("trace {flow}"))?;

    // The local socket is a name that everybody on the node can connect to.
    let program = NamedTempFile::new()?.into_temp_path();
    // Not by this process: a child that another thread is just starting would hold the file open, and it could not be run.
    World::run_in(netns, &format!("install -m 755 {} {}", router_program()?.display(), program.display()))?;
    let nobody = format!("setpriv --reuid 65534 --regid 65534 --clear-groups {} status", program.display());
    let error = World::run_in(netns, &nobody).err().context("nobody is answered")?;
    ensure!(error.to_string().contains("only root is answered"), "{error}");

    // An agent that hangs.
    world.agent("ing1")?.signal(Signal::SIGSTOP)?;
    let (printed, complaint, succeeded) = run(&world, "ing1", "status")?;
    ensure!(succeeded && complaint.contains("the agent does not answer"), "{complaint}{printed}");
    ensure!(printed.contains("as the kernel has it") && printed.contains(VIP), "{printed}");
    world.agent("ing1")?.signal(Signal::SIGCONT)?;
    ensure!(json(&world, "ing1", "status")?["source"] == "agent");
    Ok(())
}
