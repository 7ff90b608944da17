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
    instructions: u64,
    vs_plain: f64,
    vs_ipvs: f64,
}

/// The table.
pub fn table(rows: &[Row]) -> String {
    let mut out = format!("{:<20} {:>12} {:>9} {:>9} {:>8}\n", "case", "instructions", "vs plain", "vs IPVS", "spread");
    for row in rows {
        if let Some((plain, ipvs)) = ratios(rows, row) {
            let (name, m) = (row.case.to_string(), row.measured);
            let spread = format!("{:.2} %", 100.0 * m.spread);
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<20} {:>12.0} {plain:>9.2} {ipvs:>9.2} {spread:>8}", m.instructions);
        }
    }
    out
}

/// A line per case.
///
/// # Errors
/// A number that JSON cannot hold.
pub fn json_lines(rows: &[Row]) -> Result<String> {
    let mut out = String::new();
    for row in rows {
        if let Some((plain, ipvs)) = ratios(rows, row) {
            let line = Line {
                bench: "packet",
                case: row.case.to_string(),
                instructions: whole(row.measured.instructions),
                vs_plain: rounded(plain),
                vs_ipvs: rounded(ipvs),
            };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        }
    }
    Ok(out)
}

/// Compared with plain forwarding and with IPVS of the same family.
fn ratios(rows: &[Row], row: &Row) -> Option<(f64, f64)> {
    let of = |case: Case| rows.iter().find(|r| r.case == case).map(|r| r.measured.instructions);
    let own = row.measured.instructions;
    Some((own / of(row.case.plain())?, own / of(row.case.ipvs())?))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands, never negative")]
fn whole(instructions: f64) -> u64 {
    instructions.round() as u64
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
        assert!(text.contains("plain                        5000      1.00      0.62   0.04 %\n"), "{text}");
        assert!(text.contains("gre-v4-64                   16000      3.20      2.00   0.00 %\n"), "{text}");
    }
}
