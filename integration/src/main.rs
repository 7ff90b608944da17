//! `kst-lab`: the lab by hand, and the server that runs in its pods.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use integration::bench::{self, BenchCommand};
use integration::demo::{self, DemoArgs};
use integration::lab::{Lab, LabSpec, NodeSpec, PodSpec, print_topology};
use integration::pod;
use integration::soak::{self, SoakArgs, TableArgs};
use integration::upgrade;
use tracing_subscriber::EnvFilter;
use tunnel_router::model::Mode;

#[derive(Debug, Parser)]
#[command(name = "kst-lab", about = "A cluster of network namespaces to try tunnel-router in")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The server inside a pod of the lab.
    #[command(hide = true)]
    Pod(pod::Args),
    /// Show the whole path in every mode.
    Demo(DemoArgs),
    /// Keep connections open through every fault, and count those that break; hack/soak does it on the right kernel.
    Soak(SoakArgs),
    /// Join the results of several runs of `soak --json` into one table.
    SoakTable(TableArgs),
    /// Record what the binary that KST_TUNNEL_ROUTER names leaves behind, as a fixture for upgrades.
    Record {
        /// Encapsulation.
        #[arg(long, default_value = "vxlan")]
        mode: Mode,
        /// The version's directory.
        version: PathBuf,
    },
    /// Measure; hack/bench does it on the right kernel.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Build or remove a lab.
    #[command(subcommand)]
    Lab(LabCommand),
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Build a lab, print it, and remove it on Ctrl-C.
    Up {
        /// Number of ingress nodes (ing1, ing2, …).
        #[arg(long, default_value_t = 2)]
        ingress: u8,
        /// Number of other nodes (wrk1, wrk2, …).
        #[arg(long, default_value_t = 2)]
        workers: u8,
        /// Pods per node (echo-NODE-1, …).
        #[arg(long, default_value_t = 1)]
        pods: u8,
        /// Leave the lab standing.
        #[arg(long)]
        keep: bool,
    },
    /// Remove labs that were kept, and leftovers of dead ones.
    Down {
        /// Prefix of the lab, as `up` printed it.
        prefix: Option<String>,
        /// All labs that nobody runs.
        #[arg(long)]
        all: bool,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Pod(args) => pod::run(args).await?,
        Command::Demo(args) => return demo::run(args).await,
        Command::Soak(args) => return soak::run(args).await,
        Command::SoakTable(args) => return soak::join(&args),
        Command::Record { mode, version } => upgrade::record(&version, mode).await?,
        Command::Bench(command) => bench::run(command).await?,
        Command::Lab(LabCommand::Up { ingress, workers, pods, keep }) => up(ingress, workers, pods, keep).await?,
        Command::Lab(LabCommand::Down { prefix, all }) => down(prefix.as_deref(), all)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn up(ingress: u8, workers: u8, pods: u8, keep: bool) -> Result<()> {
    let takers = (1..=ingress).map(|n| NodeSpec::ingress(&format!("ing{n}")));
    let nodes: Vec<_> = takers.chain((1..=workers).map(|n| NodeSpec::worker(&format!("wrk{n}")))).collect();
    let on_node = |node: &NodeSpec| (1..=pods).map(move |n| (node.name.clone(), n)).collect::<Vec<_>>();
    let names: Vec<_> = nodes.iter().flat_map(on_node).collect();
    let mut lab = Lab::build(LabSpec { nodes, detached: keep, ..LabSpec::default() }).await?;
    lab.add_pods(names.iter().map(|(node, n)| PodSpec::new(&format!("echo-{node}-{n}"), node)).collect()).await?;
    print_topology(&lab);
    if keep {
        println!("remove it with: kst-lab lab down {}", lab.keep()?);
        return Ok(());
    }
    println!("Ctrl-C removes it");
    tokio::signal::ctrl_c().await?;
    lab.remove()
}

fn down(prefix: Option<&str>, all: bool) -> Result<()> {
    for stale in Lab::remove_stale()? {
        println!("removed {stale}, whose owner had died");
    }
    match prefix {
        Some(prefix) => Lab::remove_kept(prefix),
        None if all => Lab::remove_all_kept(),
        None => bail!("which lab? Known: {}", Lab::all()?.join(" ")),
    }
}
