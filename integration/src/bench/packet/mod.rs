//! What one forwarded packet costs, in instructions.
//!
//! ```text
//!  generator ── e0 ═══ c0 ── ingress ── p0 ═══ eth0 ── sink
//!  (pktgen)               the path in question          (drop at the ingress hook)
//! ```
//!
//! pktgen sends 20,000 datagrams of 64 flows to a VIP; the node in the middle takes them to ten endpoints by the way that
//! is measured; the sink drops them before anything else looks at them. On one CPU all of it happens within pktgen's own
//! loop, so its own result is the cost, generator and sink included, which are the same in every case. Under QEMU's
//! `-icount shift=0` the clock counts instructions, so the result hardly depends on the machine or on what else it does;
//! all cases run in one boot, so their ratios mean something.
//!
//! A number is only printed for packets that went the way that the case is named after: before and after each measurement
//! a packet socket at the sink looks at every packet of a short run. It is closed in between, for it costs, too.
//!
//! Pods are measured by themselves, with packets that pktgen cannot make: see `pod`.
//!
//! - [`Case`]: what there is to measure; `way`: the ways of forwarding
//! - `site`: the three namespaces, new for every case
//! - `ours`: the product's own code programs the node; the only file that knows the product's types
//! - `peers`: plain forwarding, IPVS and kube-proxy
//! - `pktgen`: the generator; `witness` and `frame`: the verification; `clock`: what a nanosecond is
//! - `report`: the table and the JSON lines

pub mod case;
mod clock;
mod frame;
mod ours;
mod peers;
mod pktgen;
mod pod;
mod report;
mod site;
mod tool;
mod way;
mod witness;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use case::Case;
use pktgen::Generator;
use report::{Measured, Row};
use site::{FLOWS, Site};
use way::{Forwarding, Way};

/// Packets of a measured run.
const PACKETS: usize = 20_000;
/// Packets of a run that is looked at, or that warms up: each flow ten times.
const FEW: usize = 10 * FLOWS as usize;
/// How often each case is measured.
const RUNS: usize = 2;
/// What the kernel does in the background after a change (grace periods, multicast reports) is over by then. It costs no
/// real time: while the CPU has nothing to do the clock leaps to the next timer.
const SETTLING: Duration = Duration::from_secs(5);

/// Loaded before the first case: a module adds its devices and hooks to every later namespace, and the last case shall
/// meet the same kernel as the first. And while the machine waits for a module's file its clock leaps, so that whatever has a
/// time limit runs into it.
const MODULES: &[&str] = &[
    "ip_gre",
    "ip6_gre",
    "vxlan",
    "ipip",
    "ip6_tunnel",
    "mpls_router",
    "mpls_iptunnel",
    "ip_vs_mh",
    "cls_bpf",
    "nfnetlink_cttimeout",
    "nft_ct",
    "nft_fib_inet",
    "nft_hash",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_reject_inet",
    "nft_socket",
    "pktgen",
    "sch_ingress",
];

/// Arguments of `kst-lab bench packet`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object per case and nothing else
    #[arg(long)]
    json: bool,
    /// What to measure, besides what it is compared with: plain forwarding and IPVS, or the pod without the program
    /// [default: everything]
    #[arg(value_name = "CASE")]
    cases: Vec<Case>,
}

/// Measures, and prints a table and JSON lines.
///
/// # Errors
/// The case that could not be set up, or whose packets did not go the intended way.
pub async fn run(args: Args) -> Result<()> {
    let nanoseconds = clock::nanoseconds_per_instruction()?;
    eprintln!("clock: {nanoseconds:.4} ns per instruction");
    tool::run_here("modprobe", &[&["-a"], MODULES].concat(), "")?;
    let mut rows = Vec::new();
    for case in case::selection(&args.cases) {
        let measured = measure(case).await.with_context(|| format!("case {case}"))?;
        eprintln!("{case}: {measured}");
        rows.push(Row { case, measured });
    }
    if !args.json {
        print!("{}", report::table(&rows));
        println!();
    }
    print!("{}", report::json_lines(&rows)?);
    Ok(())
}

async fn measure(case: Case) -> Result<Measured> {
    match case {
        Case::Node(forwarding) => measure_node(forwarding).await,
        Case::Pod(pod) => pod::measure(pod).await,
    }
}

async fn measure_node(case: Forwarding) -> Result<Measured> {
    let site = Site::build(case).await?;
    program(case, &site).await?;
    let generator = Generator::new(&site, &site.uplink_mac().await?)?;
    look(case, &site, &generator)?;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(instructions_per_packet(&site, &generator)?);
    }
    look(case, &site, &generator)?;
    Ok(Measured::of(&runs))
}

async fn program(case: Forwarding, site: &Site) -> Result<()> {
    match case.way {
        Way::Plain => peers::plain(site).await,
        Way::Ipvs => peers::ipvs(site),
        Way::KubeProxy => peers::kube_proxy(site),
        Way::Ours { mode, buckets, sources, draining } => ours::program(site, (mode, buckets), sources, draining),
    }
}

/// A short run whose packets are all looked at.
fn look(case: Forwarding, site: &Site, generator: &Generator) -> Result<()> {
    std::thread::sleep(SETTLING);
    let witness = site.witness()?;
    generator.send(FEW)?;
    witness::verify(&witness.seen()?, case.way, site, FEW)
}

fn instructions_per_packet(site: &Site, generator: &Generator) -> Result<f64> {
    std::thread::sleep(SETTLING);
    // Connection tracking and IPVS have their entries, and caches are filled, when the measured run begins.
    generator.send(FEW)?;
    let before = site.arrived()?;
    let spent = generator.send(PACKETS)?;
    let arrived = site.arrived()? - before;
    ensure!(arrived == PACKETS, "{PACKETS} packets were sent and {arrived} arrived");
    #[allow(clippy::cast_precision_loss, reason = "20,000 is exact in 53 bits")]
    Ok(spent.as_secs_f64() * 1e9 / PACKETS as f64)
}
