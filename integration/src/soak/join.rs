//! `kst-lab soak-table`: the results of several runs in one table.
//!
//! Each fault has one row: counts are added up, and of times the longest is shown. What `--compare` printed of others has rows
//! of its own, and is no failure of ours.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use tunnel_router::model::Mode;

use super::row::{Numbers, Row, Run};
use super::table;

/// Arguments of `kst-lab soak-table`.
#[derive(Debug, Args)]
pub struct TableArgs {
    /// What `kst-lab soak --json` printed
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What the files hold.
#[derive(Debug, Default)]
struct Joined {
    runs: BTreeSet<Run>,
    /// In the order of their first appearance, with the number of rows that each was joined from.
    faults: Vec<(String, usize, Numbers)>,
    /// The same of other systems, by system and fault.
    others: Vec<(String, usize, Numbers)>,
    /// Lines that hold no row, and why.
    refused: Vec<String>,
}

/// Prints the table. It is a failure if connections broke although their pod lived, if a fault was never over for new clients, or if
/// a line is not a row.
///
/// # Errors
/// A file that cannot be read.
pub fn join(args: &TableArgs) -> Result<ExitCode> {
    let mut joined = Joined::default();
    for file in &args.files {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        joined.add(&file.display().to_string(), &text);
    }
    joined.refused.iter().for_each(|line| eprintln!("{line}"));
    print!("{}", joined.text());
    let passes = joined.faults.iter().all(|(_, _, numbers)| numbers.passes());
    Ok(if passes && joined.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Joined {
    fn add(&mut self, file: &str, text: &str) {
        for (n, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(row) => self.add_row(row),
                Err(error) => {
                    self.refused.push(format!("{file}:{n}: not a row of kst-lab soak --json, left out: {error}"));
                }
            }
        }
    }

    fn add_row(&mut self, Row { fault, run, numbers }: Row) {
        let (list, name) = match run.system.parse::<Mode>() {
            Ok(_) => (&mut self.faults, fault),
            Err(_) => (&mut self.others, format!("{}, {fault}", run.system)),
        };
        match list.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, rows, sum)) => (*rows, *sum) = (*rows + 1, sum.joined(&numbers)),
            None => list.push((name, 1, numbers)),
        }
        self.runs.insert(run);
    }

    fn text(&self) -> String {
        let run = |run: &Run| {
            let Run { system, pace, seed, connections, flows, bfd_ms } = run;
            format!(
                "run: {system}, {pace}, seed {seed}, {connections} connections, {flows} UDP flows, BFD {bfd_ms} ms\n"
            )
        };
        let runs: String = self.runs.iter().map(run).collect();
        let line = |(fault, rows, numbers): &(String, usize, Numbers)| {
            table::line(&if *rows == 1 { fault.clone() } else { format!("{fault} ×{rows}") }, numbers) + "\n"
        };
        let lines: String = self.faults.iter().chain(&self.others).map(line).collect();
        format!("{runs}\n{}\n{lines}", table::head())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(fault: &str, seed: u64, numbers: Numbers) -> String {
        let run =
            Run { system: "vxlan".to_owned(), pace: "short".to_owned(), seed, connections: 4, flows: 2, bfd_ms: 100 };
        serde_json::to_string(&Row { fault: fault.to_owned(), run, numbers }).unwrap()
    }

    fn numbers(held: usize, over: Option<u64>) -> Numbers {
        Numbers { held, tcp_over_ms: over, udp_over_ms: Some(1), ..Numbers::default() }
    }

    #[test]
    fn a_row_is_one_flat_object_that_says_its_run() {
        let value: serde_json::Value = serde_json::from_str(&json("churn", 7, numbers(3, None))).unwrap();
        let shown = ["fault", "seed", "pace", "held", "tcp_over_ms"].map(|key| value[key].to_string());
        assert_eq!(shown, ["\"churn\"", "7", "\"short\"", "3", "null"]);
    }

    #[test]
    fn rows_of_one_fault_are_added_up_and_the_longest_time_stays() {
        let mut joined = Joined::default();
        joined.add("a", &[json("churn", 1, numbers(3, Some(50))), json("scale-up", 1, numbers(1, Some(0)))].join("\n"));
        joined.add("b", &json("churn", 2, numbers(4, Some(20))));
        let faults: Vec<_> = joined.faults.iter().map(|(name, rows, n)| (name.as_str(), *rows, n.held)).collect();
        assert_eq!((faults, joined.runs.len()), (vec![("churn", 2, 7), ("scale-up", 1, 1)], 2));
        assert_eq!(joined.faults[0].2.tcp_over_ms, Some(50));
        assert!(joined.text().contains("churn ×2"), "{}", joined.text());
    }

    #[test]
    fn a_fault_that_was_not_over_once_is_not_over() {
        let [over, never] = [numbers(1, Some(5)), numbers(1, None)];
        assert_eq!([over.joined(&never), never.joined(&over)].map(|n| (n.tcp_over_ms, n.passes())), [(None, false); 2]);
        assert!(over.joined(&over).passes());
        assert!(!Numbers { broken_pod_alive: 1, ..over }.passes());
    }

    #[test]
    fn rows_of_other_systems_stand_apart_and_fail_nothing() {
        let mut joined = Joined::default();
        joined.add("a", &json("scale-up", 1, numbers(3, Some(1))));
        let other = json("scale-up", 1, Numbers { broken_pod_alive: 2, ..numbers(4, None) });
        joined.add("a", &other.replace("\"vxlan\"", "\"ecmp\""));
        let all = joined.faults.iter().chain(&joined.others).map(|(name, _, n)| (name.as_str(), n.held));
        assert_eq!(all.collect::<Vec<_>>(), [("scale-up", 3), ("ecmp, scale-up", 4)]);
        assert!(joined.faults.iter().all(|(_, _, numbers)| numbers.passes()), "{}", joined.text());
    }

    #[test]
    fn a_line_that_is_no_row_is_named_and_the_others_are_kept() {
        let mut joined = Joined::default();
        joined.add("a.json", &format!("soak: what\n\n{}", json("churn", 1, numbers(3, Some(1)))));
        assert!(joined.refused[0].starts_with("a.json:1: not a row"), "{:?}", joined.refused);
        assert_eq!((joined.refused.len(), joined.faults.len()), (1, 1));
    }
}
