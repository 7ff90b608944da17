//! The result: a table for people and a line of JSON per case for programs.

use std::fmt::{self, Write};

use anyhow::Result;
use serde::Serialize;

use super::case::Case;

/// What one case cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Instructions per packet, the mean of all runs.
    pub instructions: f64,
    /// Difference of the dearest run and the cheapest, as a share of the mean.
    pub spread: f64,
}

impl Measured {
    /// Sums up the runs of one case, at least one.
    pub fn of(runs: &[f64]) -> Measured {
        let count: f64 = runs.iter().map(|_| 1.0).sum();
        let instructions = runs.iter().sum::<f64>() / count;
        let (low, high) = runs.iter().fold((f64::INFINITY, 0.0_f64), |(l, h), run| (l.min(*run), h.max(*run)));
        Measured { instructions, spread: (high - low) / instructions }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} instructions per packet, spread {:.2} %", self.instructions, 100.0 * self.spread)
    }
}

/// One case and what it cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// What it cost.
    pub measured: Measured,
}

/// One line of JSON.
#[derive(Debug, Serialize)]
struct Line {
    bench: &'static str,
    case: String,
    instructions: i64,
    #[serde(flatten)]
    compared: Compared,
}

/// What a case is compared with.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
enum Compared {
    /// A way of forwarding: as a share of plain forwarding, and of IPVS, of the same family.
    Node { vs_plain: f64, vs_ipvs: f64 },
    /// What becomes of a packet in a pod: how much more than without the program.
    Pod { over_none: i64 },
}

/// A table of what nodes do, and one of what pods do.
pub fn table(rows: &[Row]) -> String {
    let (mut nodes, mut pods) = (Vec::new(), Vec::new());
    for (row, compared) in rows.iter().filter_map(|row| Some((row, compared(rows, row)?))) {
        let (name, m) = (row.case.to_string(), row.measured);
        let spread = format!("{:.2} %", 100.0 * m.spread);
        match compared {
            Compared::Node { vs_plain, vs_ipvs } => {
                nodes.push(format!("{name:<24} {:>12.0} {vs_plain:>9.2} {vs_ipvs:>9.2} {spread:>8}\n", m.instructions))
            }
            Compared::Pod { over_none } => {
                pods.push(format!("{name:<24} {:>12.0} {over_none:>+19} {spread:>8}\n", m.instructions));
            }
        }
    }
    let titles = [
        format!("{:<24} {:>12} {:>9} {:>9} {:>8}\n", "case", "instructions", "vs plain", "vs IPVS", "spread"),
        format!("{:<24} {:>12} {:>19} {:>8}\n", "case", "instructions", "over no program", "spread"),
    ];
    let tables = titles.into_iter().zip([nodes, pods]).filter(|(_, lines)| !lines.is_empty());
    tables.map(|(title, lines)| title + &lines.concat()).collect::<Vec<_>>().join("\n")
}

/// A line per case.
///
/// # Errors
/// A number that JSON cannot hold.
pub fn json_lines(rows: &[Row]) -> Result<String> {
    let mut out = String::new();
    for (row, compared) in rows.iter().filter_map(|row| Some((row, compared(rows, row)?))) {
        let (case, instructions) = (row.case.to_string(), whole(row.measured.instructions));
        writeln!(out, "{}", serde_json::to_string(&Line { bench: "packet", case, instructions, compared })?)?;
    }
    Ok(out)
}

/// `None` if what it is compared with has not been measured.
fn compared(rows: &[Row], row: &Row) -> Option<Compared> {
    let of = |case: Case| rows.iter().find(|r| r.case == case).map(|r| r.measured.instructions);
    let own = row.measured.instructions;
    Some(match row.case {
        Case::Node(forwarding) => {
            let [plain, ipvs] = [forwarding.plain(), forwarding.ipvs()].map(Case::Node);
            Compared::Node { vs_plain: rounded(own / of(plain)?), vs_ipvs: rounded(own / of(ipvs)?) }
        }
        Case::Pod(pod) => Compared::Pod { over_none: whole(own - of(Case::Pod(pod.reference()))?) },
    })
}

#[allow(clippy::cast_possible_truncation, reason = "some thousands")]
fn whole(instructions: f64) -> i64 {
    instructions.round() as i64
}

/// To three decimals: more than the spread allows.
fn rounded(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, runs: &[f64]) -> Row {
        Row { case: case.parse().unwrap(), measured: Measured::of(runs) }
    }

    fn rows() -> Vec<Row> {
        vec![row("plain", &[4999.0, 5001.0]), row("ipvs-tun-mh", &[8000.0]), row("gre-v4-64", &[16000.4])]
    }

    #[test]
    fn a_line_of_json_per_case() {
        let text = json_lines(&rows()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let want = r#"{"bench":"packet","case":"gre-v4-64","instructions":16000,"vs_plain":3.2,"vs_ipvs":2.0}"#;
        assert_eq!(lines[2], want);
    }

    #[test]
    fn the_table_compares_with_plain_forwarding_and_with_ipvs() {
        let text = table(&rows());
        assert!(text.contains("plain                            5000      1.00      0.62   0.04 %\n"), "{text}");
        assert!(text.contains("gre-v4-64                       16000      3.20      2.00   0.00 %\n"), "{text}");
    }

    #[test]
    fn pods_are_compared_with_the_pod_without_the_program() {
        let rows = [row("pod-gre-v4-none", &[10_000.2]), row("pod-gre-v4-steady", &[10_375.4])];
        let want = "case                     instructions     over no program   spread\n\
                    pod-gre-v4-none                 10000                  +0   0.00 %\n\
                    pod-gre-v4-steady               10375                +375   0.00 %\n";
        assert_eq!(table(&rows), want);
        let line = r#"{"bench":"packet","case":"pod-gre-v4-steady","instructions":10375,"over_none":375}"#;
        assert_eq!(json_lines(&rows).unwrap().lines().last(), Some(line));
    }
}
