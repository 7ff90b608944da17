//! What size costs the control plane: times, memory and CPU of one node's agent and of the controller.
//!
//! ```text
//!  this process:  API server double ◄──watches── agent ──netlink──► kernel of the node ──notices──► routes
//!                        ▲    └──────────watches── controller
//!                        └── Services, slices, Nodes, reports of nodes that do not exist
//! ```
//!
//! Agent and controller are the real processes. Endpoints are pods that nobody runs: an ingress node needs nothing of them but
//! their addresses, and the controller nothing but what their nodes' agents would have reported, which the product's own
//! encoder writes here. Only the scenario about pods runs some, each in a network namespace.
//!
//! A change is timed at three points: this process writes the slice; the controller's map is stored, at which moment its watch
//! event leaves; the kernel tells of the last of the routes that the map changes.
//!
//! - `cluster`: the objects; `seed`: maps, where no controller stores them; `site`: everything, running
//! - `routes`: the kernel's notices; `process`: CPU and memory
//! - `phases`: what is measured at rest; `changes`: what is measured of changes
//! - `report`: percentiles, the table and the JSON lines

mod changes;
mod cluster;
mod phases;
mod process;
mod report;
mod routes;
mod seed;
mod site;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use changes::Kind;
use cluster::Fleet;
use report::{Figure, Figures, doublings, json_lines, table};
use site::Site;

/// For what happens once: programming everything, removing everything.
const PATIENCE: Duration = Duration::from_secs(240);
/// Services without a VIP, and those with one beside them.
const PLAIN: u32 = 10_000;
const BESIDE: u32 = 100;
/// Pods that run, how many are behind the same Services, and VIPs of each.
const PODS: u32 = 200;
const TOGETHER: usize = 10;
const VIPS_OF_POD: usize = 20;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// VIPs with 10 endpoints each that run elsewhere, 64 buckets
    Vips,
    /// 200 pods on one node, with 20 VIPs each
    Pods,
    /// 10,000 Services without a VIP, of which 100 change each second
    Plain,
}

/// Arguments of `kst-lab bench scale`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object per figure and nothing else
    #[arg(long)]
    json: bool,
    /// Sizes of the first scenario
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    vips: Vec<u32>,
    /// Changes of one endpoint, one after the other
    #[arg(long, default_value_t = 100)]
    changes: u32,
    /// 1,000, 5,000 and 10,000 VIPs, and 1,000 changes
    #[arg(long, conflicts_with_all = ["vips", "changes"])]
    full: bool,
    /// New Services at once
    #[arg(long, default_value_t = 2000)]
    added: u32,
    /// For how long 100 changes are made each second, and at most single ones; seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What to measure [default: everything]
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
}

impl Args {
    fn has(&self, scenario: Scenario) -> bool {
        self.scenarios.is_empty() || self.scenarios.contains(&scenario)
    }

    fn sizes(&self) -> &[u32] {
        if self.full { &[1000, 5000, 10_000] } else { &self.vips }
    }

    fn changes(&self) -> u32 {
        if self.full { 1000 } else { self.changes }
    }

    /// Endpoints become not ready.
    fn unready(&self) -> Kind {
        Kind { name: "unready", count: self.changes(), limit: self.limit() }
    }

    /// How long changes go on; 1,000 of them must not be cut short.
    fn limit(&self) -> Duration {
        Duration::from_secs(if self.full { self.seconds.max(3600) } else { self.seconds })
    }
}

/// Measures, and prints a table and JSON lines.
///
/// # Errors
/// What could not be set up; what did not happen in time is a figure without a value.
pub async fn run(args: Args) -> Result<()> {
    let mut all = Vec::new();
    for size in args.sizes().iter().filter(|_| args.has(Scenario::Vips)) {
        all.extend(vips(*size, &args).await?);
    }
    if args.has(Scenario::Pods) {
        all.extend(pods(&args).await?);
    }
    if args.has(Scenario::Plain) {
        all.extend(plain(&args).await?);
    }
    let growth = doublings(&all);
    all.extend(growth);
    if !args.json {
        println!("{}", table(&all));
    }
    print!("{}", json_lines(&all)?);
    Ok(())
}

/// Another endpoint of the Service is not ready than before.
fn unready(site: &mut Site, number: u32, lap: usize) -> Result<()> {
    site.set_ready(number, Some(lap))
}

async fn vips(size: u32, args: &Args) -> Result<Vec<Figure>> {
    let (mut site, mut figures) = (Site::build().await?, Figures::of(&format!("vips-{size}")));
    let whole = Fleet::of(size + args.added);
    let fleet = whole.reporting(size);
    site.add_fleet(fleet)?;
    (0..size).try_for_each(|number| site.add_service(fleet.endpoints(number)))?;
    phases::decided(&mut site, &mut figures).await?;
    phases::programmed(&mut site, &mut figures).await?;
    phases::restarted(&mut site, &mut figures).await?;
    changes::one_by_one(&mut site, &mut figures, args.unready(), unready).await?;
    let (replaced, mut spare) =
        (Kind { name: "replaced", count: args.changes().min(fleet.spares()), ..args.unready() }, 0..);
    let replace = |site: &mut Site, number: u32, lap: usize| {
        let new = spare.next().map(|spare| fleet.spare(spare));
        // The first one is not ready any more.
        site.services[number as usize][1 + lap] = new.context("no pod is spare")?;
        site.set_ready(number, Some(0))
    };
    changes::one_by_one(&mut site, &mut figures, replaced, replace).await?;
    let toggle = |site: &Site, tick: u32| {
        // Every other time around the endpoint is ready again.
        let (lap, number) = (tick / size, tick % size);
        site.set_ready(number, (lap % 2 == 0).then_some((lap / 2) as usize % 10))
    };
    changes::in_a_stream(&mut site, &mut figures, Duration::from_secs(args.seconds), toggle).await?;
    phases::added(&mut site, &mut figures, whole, args.added).await?;
    phases::removed(&mut site, &mut figures).await?;
    Ok(figures.all)
}

async fn pods(args: &Args) -> Result<Vec<Figure>> {
    let (mut site, mut figures) = (Site::build().await?, Figures::of("pods"));
    let pods = site.add_pods(PODS).await?;
    for together in pods.chunks(TOGETHER) {
        (0..VIPS_OF_POD).try_for_each(|_| site.add_service(together.to_vec()))?;
    }
    site.start_controller()?;
    phases::programmed(&mut site, &mut figures).await?;
    phases::restarted(&mut site, &mut figures).await?;
    changes::one_by_one(&mut site, &mut figures, args.unready(), unready).await?;
    phases::removed(&mut site, &mut figures).await?;
    Ok(figures.all)
}

async fn plain(args: &Args) -> Result<Vec<Figure>> {
    let (mut site, mut figures) = (Site::build().await?, Figures::of("plain"));
    let fleet = Fleet::of(BESIDE + PLAIN);
    site.add_fleet(fleet.reporting(BESIDE))?;
    (0..BESIDE).try_for_each(|number| site.add_service(fleet.endpoints(number)))?;
    (BESIDE..BESIDE + PLAIN).try_for_each(|number| site.add_plain(number, None, &fleet.endpoints(number)))?;
    phases::decided(&mut site, &mut figures).await?;
    phases::programmed(&mut site, &mut figures).await?;
    let churn = |site: &Site, tick: u32| {
        let (lap, number) = (tick / PLAIN, BESIDE + tick % PLAIN);
        site.relist(number, cluster::listed(&fleet.endpoints(number), (lap % 2 == 0).then_some(0)))
    };
    changes::in_a_stream(&mut site, &mut figures, Duration::from_secs(args.seconds), churn).await?;
    Ok(figures.all)
}
