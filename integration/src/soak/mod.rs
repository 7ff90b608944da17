//! The soak: connections that must survive everything, and a table of what became of them.
//!
//! `Traffic` never pauses. One [`Fault`] after the other is injected, each only when all is well after the
//! one before, and gets a row: what broke from its first moment until all was well again. First each alone, then all of them
//! in random order, so that each also meets what others have left behind (drains that go on, maps with a history).
//!
//! A connection that broke although its pod lived is a failure of the run.

mod compare;
mod cpu;
mod fault;
mod faults;
mod join;
mod pace;
mod peers;
mod pods;
mod row;
mod stage;
mod table;
mod traffic;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use tunnel_router::model::Mode;

use compare::{Contender, compare};
use cpu::CpuTime;
pub use fault::Fault;
use fault::Form;
pub use join::{TableArgs, join};
use pace::Pace;
use row::{Numbers, Row, Run};
use stage::{Stage, StageSpec};
use traffic::Counts;

/// The seed of the short form, which is to be the same each time.
const SHORT_SEED: u64 = 1;

/// Arguments of `kst-lab soak`.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// One fault of each kind once, in random order, with outages of seconds
    #[arg(long)]
    short: bool,
    /// With --short: also the faults that last long, and those that others stand for
    #[arg(long, requires = "short", conflicts_with = "fault")]
    all: bool,
    /// What the order, the victims and the moments are drawn from [default: the time; with --short 1]
    #[arg(long)]
    seed: Option<u64>,
    /// Encapsulation
    #[arg(long, default_value = "vxlan")]
    mode: Mode,
    /// Long-lived TCP connections, half of them busy
    #[arg(long, default_value_t = 400)]
    connections: usize,
    /// UDP flows
    #[arg(long, default_value_t = 200)]
    flows: usize,
    /// Milliseconds between two BFD packets; three that are missing are a silent node. An emulated CPU may need 1000
    #[arg(long, value_name = "MS", default_value_t = 100)]
    bfd_interval: u64,
    /// Pods that end take this many times as long. On an emulated CPU agents do, too
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    slow_ends: u32,
    /// Only these faults, in this order; may be repeated, or a list with commas
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    fault: Vec<Fault>,
    /// Fail where it takes longer, in milliseconds and less the time that was stolen, until 20 new connections in a row are answered
    /// [default: 1000 in the long form, unless pods end slowly; else no limit]
    #[arg(long, value_name = "MS", conflicts_with = "compare")]
    within: Option<u64>,
    /// Instead, a few rows, and the same with what others do
    #[arg(long, conflicts_with_all = ["fault", "list"])]
    compare: bool,
    /// With --compare: only these, in this order; may be repeated, or a list with commas
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',', requires = "compare")]
    system: Vec<Contender>,
    /// Leave the agents' logs behind, as after a failure. RUST_LOG=tunnel_router=debug,integration=debug has them say more, and shows
    /// stored maps and late answers here
    #[arg(long)]
    keep_logs: bool,
    /// Print an object of JSON for each row, a line each, instead of the table; `kst-lab soak-table` joins such files
    #[arg(long, conflicts_with = "list")]
    json: bool,
    /// Names all faults
    #[arg(long)]
    list: bool,
}

/// What the faults are injected into.
trait System {
    /// Injects a fault, lets it last, and makes good what does not heal by itself.
    async fn inject(&mut self, fault: Fault) -> Result<()>;

    /// Waits until all is well and every connection is answered.
    async fn well(&mut self) -> Result<()>;

    /// Ends the row and returns what it has counted.
    fn take(&self) -> Counts;

    /// Pods of which an Event has said since the last row that connections were given up.
    fn given_up(&mut self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// How many long-lived connections there have ever been.
    fn connections_ever(&self) -> usize;
}

/// What a run prints, and how.
#[derive(Debug, Clone)]
struct Output {
    run: Run,
    json: bool,
}

/// What the last line says.
#[derive(Debug, Default)]
struct Sum {
    faults: usize,
    /// Broken although their pods lived.
    broken: usize,
    /// Given up by rule: two later owners of their buckets have connections, too.
    given_up: usize,
    /// Rows in which new connections were answered too late.
    late: usize,
    complaints: Vec<String>,
    rows: Vec<(Fault, Numbers)>,
}

/// Until 20 new connections in a row are answered, in the long form.
const WITHIN_MS: u64 = 1000;

/// Runs the soak and prints its table; the last line is the sum.
///
/// # Errors
/// The lab, or a fault after which not all gets well again.
pub async fn run(args: SoakArgs) -> Result<ExitCode> {
    if args.list {
        Fault::value_variants().iter().for_each(|fault| println!("{fault:<26} {}", fault.help()));
        return Ok(ExitCode::SUCCESS);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let seed = args.seed.unwrap_or(if args.short { SHORT_SEED } else { now });
    let pace = if args.short { Pace::SHORT } else { Pace::LONG }.with_slow_ends(args.slow_ends);
    let (mode, connections, flows) = (args.mode, args.connections, args.flows);
    let run = Run {
        system: mode.to_string(),
        pace: if args.short { "short" } else { "long" }.to_owned(),
        seed,
        connections,
        flows,
        bfd_ms: args.bfd_interval,
    };
    let output = Output { run, json: args.json };
    output.text(&format!("soak: mode {mode}, {connections} connections, {flows} UDP flows, seed {seed}\n"));
    output.text(&table::head());
    let bfd = Duration::from_millis(args.bfd_interval);
    let spec = StageSpec { mode, connections, flows, seed, pace, bfd };
    if args.compare {
        return compare(spec, &args.system, &output).await;
    }
    let mut stage = Stage::build(spec).await.context("build the stage")?;
    let mut sum = Sum::default();
    let result = go_through(&mut stage, &rounds(&args, seed), (&output, args.limit()), &mut sum).await;
    sum.complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
    // A new connection that is refused is none of the promise, and stands in the table.
    let failed = sum.broken + sum.late > 0 || result.is_err();
    if failed {
        eprintln!("{}", stage.world.logs());
    }
    if failed || args.keep_logs {
        eprintln!("logs of agents and controllers: {}", stage.world.keep_logs().display());
    }
    result?;
    let (faults, given_up) = (sum.faults, sum.given_up);
    let (ever, broken) = (stage.connections_ever(), sum.broken);
    output.text(&format!("soak: {faults} faults, {ever} connections, {given_up} given up, {broken} broken"));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl SoakArgs {
    /// How late new connections may be answered.
    fn limit(&self) -> Option<u64> {
        self.within.or((!self.short && self.slow_ends == 1).then_some(WITHIN_MS))
    }
}

/// The faults of each round.
fn rounds(args: &SoakArgs, seed: u64) -> Vec<(&'static str, Vec<Fault>)> {
    if !args.fault.is_empty() {
        return vec![("as told", args.fault.clone())];
    }
    let alone = Fault::of(match (args.short, args.all) {
        (false, _) => Form::Long,
        (true, false) => Form::Short,
        (true, true) => Form::ShortAll,
    });
    let mut mixed = alone.clone();
    fastrand::Rng::with_seed(seed).shuffle(&mut mixed);
    if args.short { vec![("in random order", mixed)] } else { vec![("each alone", alone), ("in random order", mixed)] }
}

impl Output {
    /// A line that is not a row.
    fn text(&self, line: &str) {
        if !self.json {
            println!("{line}");
        }
    }

    fn row(&self, fault: Fault, numbers: &Numbers) -> Result<()> {
        let fault = fault.name();
        let line = match self.json {
            true => serde_json::to_string(&Row { fault, run: self.run.clone(), numbers: numbers.clone() })?,
            false => table::line(&fault, numbers),
        };
        println!("{line}");
        Ok(())
    }
}

async fn go_through(
    system: &mut impl System,
    rounds: &[(&str, Vec<Fault>)],
    (output, limit): (&Output, Option<u64>),
    sum: &mut Sum,
) -> Result<()> {
    for (title, faults) in rounds {
        output.text(&format!("── {title}"));
        for fault in faults {
            tracing::debug!(%fault, "injected");
            let before = CpuTime::now()?;
            let mut outcome = system.inject(*fault).await;
            if outcome.is_ok() {
                outcome = system.well().await;
            }
            let mut counts = system.take();
            counts.mark_given_up(&system.given_up());
            let numbers = Numbers::new(&counts, CpuTime::now()?.stolen_since(before));
            if let Some(late) = limit.and_then(|limit| numbers.late(limit)) {
                sum.late += 1;
                sum.complaints.push(format!("{fault}: {late}"));
            }
            output.row(*fault, &numbers)?;
            sum.rows.push((*fault, numbers));
            sum.faults += 1;
            sum.broken += counts.broken_alive().count();
            sum.given_up += counts.given_up().count();
            sum.complaints.extend(table::complaints(&fault.name(), &counts));
            outcome.with_context(|| fault.name())?;
        }
    }
    Ok(())
}
