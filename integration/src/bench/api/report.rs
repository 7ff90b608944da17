//! The result: tables for people, and a line of JSON per change and per cluster for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use crate::apiserver::{Asked, Volume, Volumes};

/// The resource by which controllers agree on who leads.
const LEASES: &str = "leases";

/// What a change cost, without leases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Of the agents of all nodes.
    pub agents: Volume,
    /// Of both controllers.
    pub controllers: Volume,
}

impl Cost {
    /// What agents and controllers have asked for, but for leases.
    pub fn of(volumes: &Volumes) -> Cost {
        let of = |agents: bool| volumes.sum(|asked| asked.resource != LEASES && is_agent(asked) == agents);
        Cost { agents: of(true), controllers: of(false) }
    }
}

/// Agents have tokens that name their nodes.
fn is_agent(asked: &Asked) -> bool {
    !asked.node.is_empty()
}

/// One change in one cluster.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Row {
    pub change: &'static str,
    pub nodes: u8,
    pub endpoints: u16,
    #[serde(flatten)]
    pub cost: Cost,
}

/// What happens in one cluster when nothing changes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Steady {
    pub nodes: u8,
    pub endpoints: u16,
    /// A minute, by what is written and who writes.
    pub writes: BTreeMap<String, u64>,
}

impl Row {
    pub fn line(&self) -> String {
        let Cost { agents, controllers } = self.cost;
        let nodes = u64::from(self.nodes);
        format!(
            "{:<13} {:>9} {:>6} {:>9} {:>7} {:>8} {:>8} {:>9} {:>9} {:>7} {:>8}",
            self.change,
            self.endpoints,
            self.nodes,
            agents.requests,
            agents.events,
            kib(agents.received),
            kib(agents.sent),
            kib(agents.sent / nodes),
            controllers.requests,
            controllers.events,
            kib(controllers.received + controllers.sent),
        )
    }
}

/// The table of changes.
pub(super) fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<30} {:>9} {:>7} {:>8} {:>8} {:>9} {:>9}\n",
        "", "agents", "", "KiB", "KiB", "KiB sent", "controllers"
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{:<13} {:>9} {:>6} {:>9} {:>7} {:>8} {:>8} {:>9} {:>9} {:>7} {:>8}",
        "change", "endpoints", "nodes", "requests", "events", "asked", "sent", "each", "ctl. req.", "events", "KiB"
    );
    rows.iter().for_each(|row| {
        let _ = writeln!(out, "{}", row.line());
    });
    out
}

/// The table of writes a minute.
pub(super) fn steady_table(all: &[Steady]) -> String {
    let kinds: BTreeSet<&str> = all.iter().flat_map(|one| one.writes.keys().map(String::as_str)).collect();
    let mut out = format!("{:<30} {:>6}", "writes a minute, at rest", "nodes");
    for kind in &kinds {
        let _ = write!(out, " {kind:>20}");
    }
    for one in all {
        let _ = write!(out, "\n{:<30} {:>6}", format!("{} endpoints", one.endpoints), one.nodes);
        for kind in &kinds {
            let _ = write!(out, " {:>20}", one.writes.get(*kind).copied().unwrap_or_default());
        }
    }
    out + "\n"
}

/// A line per change and per cluster.
///
/// # Errors
/// A number that JSON cannot hold.
pub(super) fn json_lines(rows: &[Row], steady: &[Steady]) -> Result<String> {
    let mut out = String::new();
    for value in rows.iter().map(serde_json::to_value).chain(steady.iter().map(serde_json::to_value)) {
        let mut line = json!({ "bench": "api" });
        if let (Some(line), serde_json::Value::Object(value)) = (line.as_object_mut(), value?) {
            line.extend(value);
        }
        writeln!(out, "{line}")?;
    }
    Ok(out)
}

/// How often a minute each kind of object was written, and by whom.
pub(super) fn writes_a_minute(volumes: &Volumes, time: Duration) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::from([("agents".to_owned(), 0)]);
    for (asked, volume) in volumes.iter().filter(|(asked, _)| asked.is_write()) {
        let who = if is_agent(asked) { "agents".to_owned() } else { format!("controllers: {}", asked.resource) };
        *sums.entry(who).or_default() += volume.requests;
    }
    let seconds = time.as_secs().max(1);
    sums.into_iter().map(|(what, count)| (what, (count * 60).div_ceil(seconds))).collect()
}

/// Everything, a line for each kind of request.
pub(super) fn text(volumes: &Volumes) -> String {
    let line = |(asked, volume): (&Asked, &Volume)| {
        let Volume { requests, events, received, sent } = volume;
        let who = if asked.node.is_empty() { &asked.user } else { &asked.node };
        let what = format!("{who}: {} {}", asked.verb, asked.resource);
        format!("{what}: {requests} requests, {events} events, {received} bytes asked, {sent} sent\n")
    };
    volumes.iter().map(line).collect()
}

/// With one decimal.
fn kib(bytes: u64) -> String {
    let tenths = bytes * 10 / 1024;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let agents = Volume { requests: 4, events: 12, received: 2048, sent: 51_200 };
        let controllers = Volume { requests: 3, events: 9, received: 1024, sent: 1024 };
        Row { change: "replaced pod", nodes: 2, endpoints: 10, cost: Cost { agents, controllers } }
    }

    #[test]
    fn the_table_says_what_each_node_costs() {
        let words: Vec<String> =
            table(&[row()]).lines().last().unwrap().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["replaced", "pod", "10", "2", "4", "12", "2.0", "50.0", "25.0", "3", "9", "2.0"]);
    }

    #[test]
    fn a_line_of_json_per_change_and_per_cluster() {
        let steady = Steady { nodes: 2, endpoints: 10, writes: BTreeMap::from([("agents".to_owned(), 0)]) };
        let text = json_lines(&[row()], &[steady]).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            (lines.len(), &lines[0]["agents"]["sent"], &lines[1]["writes"]["agents"]),
            (2, &json!(51_200), &json!(0))
        );
        assert!(lines.iter().all(|line| line["bench"] == "api"), "{text}");
    }
}
