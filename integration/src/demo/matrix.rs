//! The matrix: every mode, VIPs of both families over nodes and pods of either family, every IP protocol.
//!
//! A cell is a number of flows of one protocol to one VIP. It passes if each of them was answered, from the VIP, by a pod
//! that saw the client's own address, and if, where the protocol has no ports, each client got the same pod each time.

use std::process::ExitCode;

use anyhow::Result;
use tunnel_router::model::Mode;

use super::step;
use crate::lab::{Families, Family, LabSpec};
use crate::protocol::Protocol;
use crate::traffic::{Answer, Tally};
use crate::world::echo::{ANNOTATION, VIP, VIP6, echo_world_in};
use crate::world::{World, WorldSpec};

/// Four of each of the client's addresses.
const FLOWS: usize = 32;

/// One mode, one family of VIP over one family of nodes and pods.
struct Row {
    mode: Mode,
    vip: Family,
    underlay: Family,
    /// In the order of [`Protocol::ALL`]: what is wrong, if anything.
    cells: Vec<Option<String>>,
}

/// Fills the matrix and prints it, with the count as the last line; fails if a cell does.
pub(super) async fn run(modes: &[Mode]) -> ExitCode {
    let mut rows = Vec::new();
    for (underlay, mode) in Family::ALL.into_iter().flat_map(|underlay| modes.iter().map(move |m| (underlay, *m))) {
        println!("\n── {mode} over {} ──", underlay.name());
        rows.extend(rows_of(mode, underlay).await);
    }
    print_table(&rows);
    let cells = rows.iter().map(|row| row.cells.len()).sum::<usize>();
    let failed = rows.iter().flat_map(Row::failures).count();
    println!("matrix: {}/{cells} cells passed", cells - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One world with the VIPs of both families. What goes wrong in building it is wrong in every cell.
async fn rows_of(mode: Mode, underlay: Family) -> [Row; 2] {
    let world = build(mode, underlay).await.map_err(|error| format!("{error:#}"));
    if let Err(error) = &world {
        println!("   {error}");
    }
    let world = world.as_ref().map_err(|error| first_line(error));
    let mut rows = Family::ALL.map(|vip| Row { mode, vip, underlay, cells: Vec::new() });
    for row in &mut rows {
        for protocol in Protocol::ALL {
            let fault = match &world {
                Ok(world) => cell(world, row.vip, protocol).await,
                Err(error) => Some(error.clone()),
            };
            println!("   {} {protocol}: {}", vip_of(row.vip), verdict(fault.as_deref()));
            row.cells.push(fault);
        }
    }
    rows
}

async fn build(mode: Mode, underlay: Family) -> Result<World> {
    let families = if underlay == Family::V4 { Families::V4 } else { Families::V6 };
    let lab = LabSpec { families, ..LabSpec::default() };
    step(&format!("five pods, agents, a Service with {ANNOTATION}={VIP},{VIP6}"));
    echo_world_in(WorldSpec { lab, ..WorldSpec::new(mode) }, &[VIP, VIP6]).await
}

fn vip_of(family: Family) -> &'static str {
    match family {
        Family::V4 => VIP,
        Family::V6 => VIP6,
    }
}

/// What is wrong with the flows of one protocol to one VIP.
async fn cell(world: &World, vip: Family, protocol: Protocol) -> Option<String> {
    match world.exchanges(protocol, vip_of(vip), FLOWS).await {
        Ok(tally) => fault(protocol, &tally),
        Err(error) => Some(format!("{error:#}")),
    }
}

fn fault(protocol: Protocol, tally: &Tally) -> Option<String> {
    if !tally.is_perfect() {
        return Some(tally.to_string());
    }
    if tally.per_pod().contains_key(Answer::UNKNOWN) {
        return Some(format!("some answers left no pod towards the client: {tally}"));
    }
    let scattered = tally.scattered();
    (!protocol.has_ports() && !scattered.is_empty()).then(|| format!("one client, several pods: {scattered:?}"))
}

fn verdict(fault: Option<&str>) -> &'static str {
    if fault.is_none() { "ok" } else { "FAIL" }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl Row {
    fn failures(&self) -> impl Iterator<Item = (Protocol, &str)> {
        Protocol::ALL.into_iter().zip(&self.cells).filter_map(|(protocol, fault)| Some((protocol, fault.as_deref()?)))
    }

    fn title(&self) -> String {
        let digit = |family| if family == Family::V4 { 4 } else { 6 };
        format!("{:<6} IPv{} over IPv{}", self.mode.to_string(), digit(self.vip), digit(self.underlay))
    }
}

fn print_table(rows: &[Row]) {
    let line = |title: &str, cells: &[&str]| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>6}")).collect();
        println!("   {title:<22}{cells}");
    };
    let names = Protocol::ALL.map(|protocol| protocol.to_string());
    println!();
    line("", &names.each_ref().map(String::as_str));
    for row in rows {
        let cells: Vec<&str> = row.cells.iter().map(|fault| verdict(fault.as_deref())).collect();
        line(&row.title(), &cells);
    }
    println!();
    for (row, (protocol, fault)) in rows.iter().flat_map(|row| row.failures().map(move |failure| (row, failure))) {
        println!("   {}, {protocol}: {fault}", row.title());
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::traffic::Flow;

    fn tally(answers: &[(&str, &str)]) -> Tally {
        let target: SocketAddr = "192.0.2.10:0".parse().unwrap();
        let flow = |(source, pod): &(&str, &str)| {
            let source: SocketAddr = source.parse().unwrap();
            let answer = Answer { pod: (*pod).to_owned(), peer: source, local: target.ip(), answered_from: target };
            Flow { source, outcome: Ok(answer) }
        };
        Tally { target, flows: answers.iter().map(flow).collect() }
    }

    #[test]
    fn a_client_with_two_pods_fails_a_protocol_without_ports_only() {
        let tally = tally(&[("198.51.100.2:0", "a"), ("198.51.100.2:0", "b")]);
        assert_eq!(fault(Protocol::Tcp, &tally), None);
        assert!(fault(Protocol::Esp, &tally).is_some());
    }

    #[test]
    fn an_answer_of_nobody_fails() {
        assert!(fault(Protocol::Icmp, &tally(&[("198.51.100.2:7", Answer::UNKNOWN)])).is_some());
    }
}
