//! The table, a line at a time, and what is to be said about connections that broke.

use super::row::Numbers;
use super::traffic::{Break, Counts};

/// How many broken connections a row tells of.
const TOLD: usize = 12;

/// The two lines above the rows.
pub(super) fn head() -> String {
    let line = |words: [&str; 15]| row(&words.map(str::to_owned));
    let first = line([
        "",
        "",
        "",
        "connections",
        "",
        "",
        "",
        "new connections",
        "",
        "20 new",
        "in a row",
        "longest",
        "UDP",
        "",
        "CPU",
    ]);
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
        "TCP ms",
        "UDP ms",
        "gap ms",
        "lost",
        "moved",
        "stolen",
    ]);
    format!("{first}\n{second}")
}

/// One row.
pub(super) fn line(fault: &str, numbers: &Numbers) -> String {
    let over = |ms: Option<u64>| ms.map_or_else(|| "never".to_owned(), |ms| ms.to_string());
    let tenths = numbers.took_ms / 100;
    row(&[
        fault.to_owned(),
        format!("{}.{}", tenths / 10, tenths % 10),
        numbers.held.to_string(),
        numbers.broken.to_string(),
        numbers.broken_pod_alive.to_string(),
        numbers.given_up.to_string(),
        numbers.tried.to_string(),
        numbers.failed.to_string(),
        numbers.slowest_ms.to_string(),
        over(numbers.tcp_over_ms),
        over(numbers.udp_over_ms),
        numbers.gap_ms.to_string(),
        format!("{}/{}", numbers.lost, numbers.datagrams),
        numbers.moved.to_string(),
        format!("{} %", numbers.stolen_percent),
    ])
}

fn row(cells: &[String; 15]) -> String {
    let [fault, took, held, broken, alive, given, tried, failed, slowest, tcp, udp, gap, lost, moved, stolen] = cells;
    let row = format!(
        "{fault:<26} {took:>6} {held:>6} {broken:>11} {alive:>9} {given:>9} {tried:>8} {failed:>15} {slowest:>10} {tcp:>8} \
         {udp:>8} {gap:>8} {lost:>11} {moved:>6} {stolen:>6}"
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
