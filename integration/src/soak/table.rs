//! The table, a line at a time, and what is to be said about connections that broke.

use super::traffic::{Break, Counts};

/// How many broken connections a row tells of.
const TOLD: usize = 12;

/// The two lines above the rows.
pub(super) fn head() -> String {
    let line = |words: [&str; 13]| row(&words.map(str::to_owned));
    let first = line(["", "", "", "connections", "", "", "", "new connections", "", "longest", "UDP", "", "CPU"]);
    let second = line([
        "fault",
        "s",
        "held",
        "broken",
        "pod alive",
        "given up",
        "tried",
        "failed",
        "slowest ms",
        "gap ms",
        "lost",
        "moved",
        "stolen",
    ]);
    format!("{first}\n{second}")
}

/// One row, and what the hypervisor took of the CPU time meanwhile, in percent.
pub(super) fn line(fault: &str, counts: &Counts, stolen: u64) -> String {
    row(&[
        fault.to_owned(),
        format!("{:.1}", counts.took.as_secs_f64()),
        counts.held.to_string(),
        counts.broken.len().to_string(),
        counts.broken_alive().count().to_string(),
        counts.given_up().count().to_string(),
        counts.tried.to_string(),
        counts.failed.len().to_string(),
        counts.slowest.as_millis().to_string(),
        counts.gap.0.as_millis().to_string(),
        format!("{}/{}", counts.lost, counts.datagrams),
        counts.moved.to_string(),
        format!("{stolen} %"),
    ])
}

fn row(cells: &[String; 13]) -> String {
    let [fault, took, held, broken, alive, given, tried, failed, slowest, gap, lost, moved, stolen] = cells;
    let row = format!(
        "{fault:<26} {took:>6} {held:>6} {broken:>11} {alive:>9} {given:>9} {tried:>8} {failed:>15} {slowest:>10} {gap:>8} \
         {lost:>11} {moved:>6} {stolen:>6}"
    );
    row.trim_end().to_owned()
}

/// What broke and why, a line each.
pub(super) fn complaints(fault: &str, counts: &Counts) -> Vec<String> {
    let told = |what: &str, all: Vec<&Break>| {
        let more = all.len().saturating_sub(TOLD);
        let lines = all.into_iter().take(TOLD).map(|one| format!("{fault}: {what}: {one}"));
        lines.chain((more > 0).then(|| format!("{fault}: {what}: and {more} more"))).collect::<Vec<_>>()
    };
    let broken = told("broken although its pod lived", counts.broken_alive().collect());
    let given_up = told("given up, as an Event has said", counts.given_up().collect());
    broken.into_iter().chain(given_up).chain(told("new connection failed", counts.failed.iter().collect())).collect()
}
