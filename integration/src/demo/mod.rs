//! The demonstration: the main job in every mode, told step by step, with the numbers in a table.
//!
//! It does what a user does (apply a Service, annotate it, connect) and checks what a user would check. Anything that is not
//! perfect is an error.

pub mod hints;
mod matrix;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tunnel_router::model::Mode;

use crate::pod::DEFAULT_PORT;
use crate::traffic::{Client, Sources, Tally};
use crate::world::echo::{ANNOTATION, SERVICE, VIP, five_pods};
use crate::world::{World, WorldSpec};
use hints::Hint;

const FLOWS: usize = 200;

/// Arguments of `kst-lab demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Modes to show, in this order
    #[arg(long, value_delimiter = ',', default_value = "gre,mpls,vxlan")]
    modes: Vec<Mode>,
    /// Leave the lab of the last mode up until interrupted
    #[arg(long)]
    keep: bool,
    /// Instead, try every mode with every IP protocol, IPv4 and IPv6 VIPs over IPv4 and IPv6
    #[arg(long, conflicts_with = "keep")]
    matrix: bool,
}

/// What one mode showed.
struct Shown {
    tcp: Tally,
    udp: Tally,
}

/// Runs the demonstration and prints its last line.
///
/// # Errors
/// Anything that did not work, with the reason.
pub async fn run(args: DemoArgs) -> Result<ExitCode> {
    if args.matrix {
        return Ok(matrix::run(&args.modes).await);
    }
    let (mut tcp, mut udp, mut pods) = ((0, 0), (0, 0), 0);
    for (n, mode) in args.modes.iter().enumerate() {
        println!("\n── {mode} ── ({} of {})", n + 1, args.modes.len());
        let world = build(*mode).await.with_context(|| format!("mode {mode}"))?;
        let shown = show(&world).await.with_context(|| format!("mode {mode}"))?;
        print_table(&world, &shown);
        let (t, u) = (shown.tcp.perfect()?, shown.udp.perfect()?);
        ensure!(t.per_pod().len() == world.lab.pods().count(), "not every pod got connections: {t}");
        tcp = (tcp.0 + t.answered(), tcp.1 + t.tried());
        udp = (udp.0 + u.answered(), udp.1 + u.tried());
        pods = world.lab.pods().count();
        if args.keep && n + 1 == args.modes.len() {
            keep(&world).await?;
        }
    }
    let modes: Vec<String> = args.modes.iter().map(ToString::to_string).collect();
    println!(
        "\ndemo: ok modes={} tcp={}/{} udp={}/{} pods={pods} source-ip=preserved",
        modes.join(","),
        tcp.0,
        tcp.1,
        udp.0,
        udp.1
    );
    Ok(ExitCode::SUCCESS)
}

/// A lab with everything that a user sets up, told step by step.
///
/// # Errors
/// What could not be set up.
pub async fn build(mode: Mode) -> Result<World> {
    step("a client, a DC router with ECMP, two ingress nodes, two more nodes, an API server");
    let mut world = World::build(WorldSpec::new(mode)).await?;
    step("five pods on three nodes: a TCP and UDP echo server on 0.0.0.0:12345, replying in capitals");
    world.add_pods(five_pods()).await?;
    step("tunnel-router controller, twice: one leads, decides who gets which share of the flows, and stores it");
    world.start_controller("controller-a", "wrk1", &[])?;
    world.start_controller("controller-b", "wrk2", &[])?;
    step(&format!("tunnel-router agent --mode {mode} on every node"));
    world.start_agents()?;
    step("kubectl apply: a Service with TCP and UDP port 12345");
    world.add_service(SERVICE, "echo", &[])?;
    step(&format!("kubectl annotate service {SERVICE} {ANNOTATION}={VIP}"));
    world.annotate(SERVICE, ANNOTATION, Some(VIP))?;
    world.stored_map(SERVICE, |map| map.counts().len() == five_pods().len()).await?;
    world.converged().await?;
    step(&format!("the router: ip route add {VIP} nexthop via ing1 nexthop via ing2"));
    world.route(VIP).await?;
    Ok(world)
}

async fn show(world: &World) -> Result<Shown> {
    let target: SocketAddr = format!("{VIP}:{DEFAULT_PORT}").parse()?;
    let sources = Sources::fixed(world.lab.client_addresses(), 20_000);
    let client = Client::new(world.lab.client()).with_sources(sources).with_patience(Duration::from_secs(10));
    step(&format!("the client opens {FLOWS} TCP connections to {target}"));
    let tcp = client.tcp_exchanges(FLOWS, target).await?;
    step(&format!("the client sends {FLOWS} UDP datagrams to {target}"));
    let udp = client.udp_exchanges(FLOWS, target).await?;
    Ok(Shown { tcp, udp })
}

fn print_table(world: &World, shown: &Shown) {
    let (tcp, udp) = (shown.tcp.per_pod(), shown.udp.per_pod());
    let count = |tally: &BTreeMap<&str, usize>, pod: &str| tally.get(pod).copied().unwrap_or(0);
    println!("\n   {:<8} {:<6} {:<12} {:>5} {:>5}", "pod", "node", "address", "tcp", "udp");
    for pod in world.lab.pods() {
        let (name, ip) = (pod.name(), pod.ip().to_string());
        println!("   {name:<8} {:<6} {ip:<12} {:>5} {:>5}", pod.spec().node, count(&tcp, name), count(&udp, name));
    }
    for (protocol, tally) in [("tcp", &shown.tcp), ("udp", &shown.udp)] {
        println!(
            "   {protocol}: {}/{} answered, {} from another address than the VIP, {} with the client's address changed",
            tally.answered(),
            tally.tried(),
            tally.wrong_source().len(),
            tally.translated().len()
        );
    }
    if let Some(flow) = shown.tcp.flows.first()
        && let Ok(answer) = &flow.outcome
    {
        println!("   for example: client {} was seen by pod {} as {}", flow.source, answer.pod, answer.peer);
    }
}

/// Holds the lab until somebody has seen enough.
async fn keep(world: &World) -> Result<()> {
    println!("\nThe lab stays up until you press Ctrl-C. Look inside from another shell:");
    for Hint { command, shows } in hints::hints(world) {
        println!("   # {shows}\n   {command}");
    }
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = term.recv() => {}
    }
    Ok(())
}

fn step(text: &str) {
    println!("   • {text}");
}
