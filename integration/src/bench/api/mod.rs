//! What changes cost the API server: requests, events of watches and bytes, and who writes when nothing changes.
//!
//! - [`Site`]: nodes with real agents and pods, two controllers, and a Service
//! - `far`: endpoints beyond the first ten, on nodes that exist in the API only
//! - `report`: the tables and the JSON lines

mod far;
mod report;
mod site;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use report::{Cost, Row, Steady};
pub use site::{REAL_PODS, Site};

/// Nothing more follows from a change when nobody has asked for anything for so long: agents tell of drains every 5 s.
const QUIET: Duration = Duration::from_secs(6);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments of `kst-lab bench api`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object per line and nothing else
    #[arg(long)]
    json: bool,
    /// Numbers of nodes
    #[arg(long, value_delimiter = ',', value_name = "N", default_value = "2,4,8,16")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=50))]
    nodes: Vec<u8>,
    /// Numbers of endpoints
    #[arg(long, value_delimiter = ',', value_name = "N", default_value = "10,1000")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1100))]
    endpoints: Vec<u16>,
    /// For how long it is counted what happens when nothing changes
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    steady: u64,
}

/// Measures, and prints tables and JSON lines.
///
/// # Errors
/// A cluster that does not come to rest.
pub async fn run(args: Args) -> Result<()> {
    let (mut rows, mut steady) = (Vec::new(), Vec::new());
    for endpoints in &args.endpoints {
        for nodes in &args.nodes {
            let measured = measure(*nodes, *endpoints, Duration::from_secs(args.steady)).await;
            let (changes, rest) = measured.with_context(|| format!("{nodes} nodes, {endpoints} endpoints"))?;
            for (change, cost) in changes {
                let row = Row { change, nodes: *nodes, endpoints: *endpoints, cost };
                eprintln!("{}", row.line());
                rows.push(row);
            }
            steady.push(Steady { nodes: *nodes, endpoints: *endpoints, writes: rest });
        }
    }
    if !args.json {
        println!("{}\n{}", report::table(&rows), report::steady_table(&steady));
    }
    print!("{}", report::json_lines(&rows, &steady)?);
    Ok(())
}

/// Costs by change, and how often a minute each kind of object is written when nothing changes.
type Measured = (Vec<(&'static str, Cost)>, BTreeMap<String, u64>);

async fn measure(nodes: u8, endpoints: u16, steady: Duration) -> Result<Measured> {
    let mut site = Site::build(nodes, endpoints).await?;
    quiet(&site).await?;
    let mut changes = Vec::new();
    for (change, added) in [("replaced pod", None), ("10 pods more", Some(REAL_PODS))] {
        let before = site.volumes();
        match added {
            None => site.replace_pod().await?,
            Some(count) => site.scale_up(count).await?,
        }
        quiet(&site).await?;
        let spent = site.volumes().since(&before);
        tracing::debug!("{change}:\n{}", report::text(&spent));
        changes.push((change, Cost::of(&spent)));
    }
    let before = site.volumes();
    sleep(steady).await;
    Ok((changes, report::writes_a_minute(&site.volumes().since(&before), steady)))
}

/// Waits until the cluster is at rest and nobody asks for anything but leases.
async fn quiet(site: &Site) -> Result<()> {
    site.settled().await?;
    let began = Instant::now();
    let (mut last, mut since) = (site.volumes(), began);
    while since.elapsed() < QUIET {
        ensure!(
            began.elapsed() < PATIENCE,
            "somebody asks the API server on and on:\n{}",
            report::text(&site.volumes().since(&last))
        );
        sleep(LOOK).await;
        let now = site.volumes();
        if Cost::of(&now.since(&last)) != Cost::default() {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}
