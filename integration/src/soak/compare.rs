//! `kst-lab soak --compare`: the rows in which designs differ most, here and with what users would take instead.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::fault::Fault;
use super::peers::{Peer, PeerStage};
use super::row::{Numbers, Run};
use super::stage::{Stage, StageSpec};
use super::{Output, Sum, go_through};

/// The rows. A departure follows the arrival: it takes the pods that the arrival has brought.
const FAULTS: [Fault; 5] =
    [Fault::ServingLost, Fault::AllUnready, Fault::ScaleUp, Fault::ScaleDown, Fault::IngressLost];

/// Whoever takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Contender {
    /// this
    TunnelRouter,
    /// the router's own ECMP, straight to the pods; it has no ingress nodes that could be lost
    Ecmp,
    /// IPVS in tunnel mode by firewall mark on both ingress nodes, scheduler mh, `sloppy_tcp`; the kernel must have it
    Ipvs,
    /// destination NAT on both ingress nodes, as in kube-proxy's nftables mode
    NftDnat,
}

impl Contender {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn peer(self) -> Option<Peer> {
        match self {
            Contender::TunnelRouter => None,
            Contender::Ecmp => Some(Peer::Ecmp),
            Contender::Ipvs => Some(Peer::Ipvs),
            Contender::NftDnat => Some(Peer::NftDnat),
        }
    }

    fn faults(self) -> Vec<Fault> {
        let has_ingress_nodes = self.peer().is_none_or(Peer::has_ingress_nodes);
        FAULTS.into_iter().filter(|fault| *fault != Fault::IngressLost || has_ingress_nodes).collect()
    }
}

/// The rows of one of them.
type Rows = (Contender, Vec<(Fault, Numbers)>);

/// The same faults on all of them, one after the other. What breaks with others is no failure of ours.
pub(super) async fn compare(spec: StageSpec, only: &[Contender], output: &Output) -> Result<ExitCode> {
    let contenders = if only.is_empty() { Contender::value_variants() } else { only };
    if let Some(missing) = contenders.iter().find_map(|one| one.peer()?.missing()) {
        bail!("this kernel has no {missing}: hack/soak --compare takes a VM for it, and --system leaves it out");
    }
    let (mut results, mut broken): (Vec<Rows>, usize) = (Vec::new(), 0);
    for one in contenders {
        let mut sum = Sum::default();
        let outcome = run(*one, spec, output, &mut sum).await.with_context(|| one.name());
        if *one == Contender::TunnelRouter {
            sum.complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
            broken += sum.broken;
        } else {
            sum.complaints.iter().for_each(|complaint| tracing::debug!("{complaint}"));
        }
        outcome?;
        results.push((*one, sum.rows));
    }
    output.text(&format!("\nbroken although their pod lived, of all that were held\n{}", summary(&results)));
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(one: Contender, spec: StageSpec, output: &Output, sum: &mut Sum) -> Result<()> {
    let title = one.name();
    let rounds = [(title.as_str(), one.faults())];
    match one.peer() {
        None => {
            go_through(&mut Stage::build(spec).await.context("build the stage")?, &rounds, (output, None), sum).await
        }
        Some(peer) => {
            let output = Output { run: Run { system: title.clone(), ..output.run.clone() }, ..output.clone() };
            go_through(&mut PeerStage::build(peer, spec).await?, &rounds, (&output, None), sum).await
        }
    }
}

/// A line for each contender, a column for each fault.
fn summary(results: &[Rows]) -> String {
    let mut text = format!("{:<15}", "");
    // Writing to a String cannot fail.
    for fault in FAULTS {
        let _ = write!(text, " {:>13}", fault.name());
    }
    for (contender, rows) in results {
        let _ = write!(text, "\n{:<15}", contender.name());
        for fault in FAULTS {
            let numbers = rows.iter().find(|(of, _)| *of == fault).map(|(_, numbers)| numbers);
            let cell = numbers.map(|n| format!("{} of {}", n.broken_pod_alive, n.held));
            let _ = write!(text, " {:>13}", cell.unwrap_or_else(|| "-".to_owned()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rows_stand_in_one_table() {
        let row = |fault, held, broken_pod_alive| (fault, Numbers { held, broken_pod_alive, ..Numbers::default() });
        let ours = FAULTS.map(|fault| row(fault, 60, 0)).into();
        let theirs = vec![row(Fault::ServingLost, 90, 31), row(Fault::AllUnready, 60, 0)];
        let text = summary(&[(Contender::TunnelRouter, ours), (Contender::Ecmp, theirs)]);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect()).collect();
        let words: Vec<String> =
            lines.iter().map(|line| line.iter().map(|cell| cell.trim()).collect::<Vec<_>>().join("|")).collect();
        assert_eq!(words[0], "serving-lost|all-unready|scale-up|scale-down|ingress-lost");
        assert_eq!(words[1], "tunnel-router|0 of 60|0 of 60|0 of 60|0 of 60|0 of 60");
        assert_eq!(words[2], "ecmp|31 of 90|0 of 60|-|-|-");
    }

    #[test]
    fn only_what_has_ingress_nodes_loses_one() {
        let with: Vec<Contender> = Contender::value_variants()
            .iter()
            .copied()
            .filter(|one| one.faults().contains(&Fault::IngressLost))
            .collect();
        assert_eq!(with, [Contender::TunnelRouter, Contender::Ipvs, Contender::NftDnat]);
    }
}
