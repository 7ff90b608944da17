//! Status and trace for people.

use std::collections::BTreeSet;

use super::report::{DrainStatus, EndpointStatus, NodeStatus, PairStatus, ShortStatus, Source, VipStatus};
use super::trace::{Hop, Trace};

/// The status of a node, as tables.
pub fn status(status: &NodeStatus) -> String {
    let mut out = headline(status);
    out.extend(status.node_problems.iter().map(|problem| format!("  {}: {}\n", problem.reason, problem.note)));
    if status.any_address {
        out.push_str("any free address may become a VIP (--vip-cidrs limits that)\n");
    }
    if status.vips.is_empty() {
        out.push_str("\nno VIPs\n");
        return out + &lists(status);
    }
    out.push('\n');
    out.push_str(&table(&VIPS, status.vips.iter().map(vip).collect()));
    out.push('\n');
    let rows = status.vips.iter().flat_map(|v| v.endpoints.iter().map(move |endpoint| endpoint_row(v, endpoint)));
    out.push_str(&table(&ENDPOINTS, rows.collect()));
    out + &lists(status)
}

const VIPS: [&str; 7] = ["VIP", "SERVICE", "MODE", "BUCKETS", "DRAINING", "MAP", "ANNOUNCED"];
const ENDPOINTS: [&str; 8] = ["VIP", "ENDPOINT", "NODE", "ADDRESS", "STATE", "BUCKETS", "DRAINING", "CONNECTIONS"];

fn headline(status: &NodeStatus) -> String {
    let node = status.node.as_deref().unwrap_or("of unknown name");
    let role = if status.ingress { "ingress" } else { "no ingress" };
    let mut words = vec![role.to_owned()];
    words.extend(status.cordoned.then(|| "cordoned".to_owned()));
    words.extend(status.withdrawn.then(|| "drained (drain-node --undo ends it)".to_owned()));
    words.push(match (status.source, &status.version) {
        (Source::Agent, Some(version)) => format!("agent {version}"),
        (Source::Agent, None) => "agent".to_owned(),
        (Source::Kernel, _) => "as the kernel has it".to_owned(),
    });
    words.extend((status.source == Source::Agent && status.unready.is_empty()).then(|| "ready".to_owned()));
    format!("node {node}: {}\n", words.join(", "))
}

fn vip(vip: &VipStatus) -> Vec<String> {
    vec![
        vip.address.to_string(),
        or_dash(vip.service.as_ref()),
        or_dash(vip.mode.as_ref()),
        vip.buckets.to_string(),
        vip.draining.len().to_string(),
        vip.generation.map_or("-".to_owned(), |generation| format!("#{generation}")),
        if vip.announced { "yes" } else { "no" }.to_owned(),
    ]
}

fn endpoint_row(vip: &VipStatus, endpoint: &EndpointStatus) -> Vec<String> {
    let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
    let drains: Vec<&DrainStatus> = vip.draining.values().flatten().filter(|d| d.endpoint == endpoint.id).collect();
    let staying: usize = drains.iter().filter_map(|drain| drain.connections).sum();
    let connections = endpoint.connections.map(|all| match drains.is_empty() {
        true => all.to_string(),
        false => format!("{all} ({staying} draining)"),
    });
    let shares = endpoint.buckets.len();
    let percent = (100 * shares).checked_div(usize::try_from(vip.buckets).unwrap_or(0)).unwrap_or(0);
    vec![
        vip.address.to_string(),
        endpoint.pod.clone().unwrap_or_else(|| endpoint.id.clone()),
        or_dash(endpoint.node.as_ref()),
        if addresses.is_empty() { "-".to_owned() } else { addresses.join(",") },
        state(endpoint),
        format!("{shares} ({percent}%)"),
        drains.len().to_string(),
        or_dash(connections.as_ref()),
    ]
}

/// The endpoint's state, and what it lacks to own buckets or to give them away without loss.
fn state(endpoint: &EndpointStatus) -> String {
    let Some(state) = &endpoint.state else { return "-".to_owned() };
    let lacks = match (endpoint.set_up, endpoint.program) {
        (true, true) => "",
        (true, false) => ", no second chances",
        (false, _) => ", not set up",
    };
    format!("{state}{lacks}")
}

fn lists(status: &NodeStatus) -> String {
    let problems = status.problems.iter().map(|p| format!("{} {}: {}", p.service, p.reason, p.note));
    let problems: Vec<String> = problems.collect::<BTreeSet<_>>().into_iter().collect();
    let mut out = String::new();
    if let Some(second_chances) = &status.second_chances {
        let counted = second_chances.packets.iter().filter(|(_, packets)| **packets > 0);
        let counted: Vec<String> = counted.map(|(kind, packets)| format!("{kind} {packets}")).collect();
        out.push_str(&format!("\nsecond chances (program {}): {}\n", second_chances.program, or_none(&counted)));
        out.extend(second_chances.pairs.iter().map(|pair| format!("  {}\n", passed_on(pair))));
    }
    let waiting: Vec<String> =
        status.vips.iter().flat_map(|vip| vip.short.iter().map(move |one| short(vip, one))).collect();
    for (title, lines) in [
        ("waiting for their share", &waiting),
        ("not ready", &status.unready),
        ("pending", &status.pending),
        ("problems", &problems),
        ("the kernel differs from what the agent means", &status.differences),
    ] {
        if !lines.is_empty() {
            out.push_str(&format!("\n{title}:\n"));
            out.extend(lines.iter().map(|line| format!("  {line}\n")));
        }
    }
    out
}

/// What an endpoint with fewer buckets than its share waits for.
fn short(vip: &VipStatus, short: &ShortStatus) -> String {
    let called = |id: &String| vip.endpoint(id).and_then(|e| e.pod.clone()).unwrap_or_else(|| id.clone());
    let has = vip.endpoint(&short.endpoint).map_or(0, |endpoint| endpoint.buckets.len());
    let former: Vec<String> = short.former.iter().map(called).collect();
    let until = match (short.announced, former.is_empty()) {
        (0, true) => "the controller decides".to_owned(),
        (0, false) => format!("connections of {} end", former.join(", ")),
        (announced, _) => format!("nodes know of {announced} more"),
    };
    format!("{} {} has {has} of {} buckets until {until}", vip.address, called(&short.endpoint), short.share)
}

/// What one pod passes on to another one, as far as this node has seen it.
fn passed_on(pair: &PairStatus) -> String {
    let count = |packets: Option<u64>, what: &str| packets.map(|packets| format!("{what} {packets}"));
    let counts = [count(pair.passed, "passed on"), count(pair.received, "received")];
    format!("from {} to {}: {}", pair.from, pair.to, counts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn or_none(all: &[String]) -> String {
    if all.is_empty() { "no packets".to_owned() } else { all.join(", ") }
}

fn or_dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

/// Columns as wide as their widest cell, two blanks apart.
fn table<const N: usize>(titles: &[&str; N], rows: Vec<Vec<String>>) -> String {
    let mut all = vec![titles.iter().map(ToString::to_string).collect::<Vec<_>>()];
    all.extend(rows);
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..N).filter_map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    all.iter().map(line).collect()
}

/// A trace, a line each.
pub fn trace(trace: &Trace) -> String {
    let mut lines = vec![("flow", trace.flow.clone())];
    lines.extend(trace.service.clone().map(|service| ("service", service)));
    lines.push(("bucket", format!("{} ({})", trace.bucket, trace.hash)));
    lines.extend(hop(&trace.owner));
    lines.extend(
        trace.refused.then(|| ("refused", "connections that are not open yet: no endpoint is ready".to_owned())),
    );
    let then = trace.then.join(", then ");
    lines.extend((!then.is_empty()).then(|| ("then", format!("{then}, for connections that are not its own"))));
    if trace.disagreements.is_empty() {
        let tables =
            if trace.tables_agree == Some(true) { ", and so do the tables of the program in its pods" } else { "" };
        lines.push(("kernel", format!("agrees{tables}")));
    }
    lines.extend(trace.disagreements.iter().map(|line| ("DISAGREES", line.clone())));
    lines.iter().map(|(what, text)| format!("{what:<14} {text}\n")).collect()
}

fn hop(hop: &Hop) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(mark) = hop.mark {
        let table = hop.table.map_or("no table".to_owned(), |table| format!("table {table}"));
        lines.push(("mark", format!("{mark:#x}, which leads to {table}")));
    }
    let nobody = || "none: the sender is told that it is unreachable".to_owned();
    let endpoint = hop.endpoint.clone().unwrap_or_else(nobody);
    lines.push(("endpoint", hop.node.as_ref().map_or(endpoint.clone(), |node| format!("{endpoint} on {node}"))));
    lines.extend(hop.encapsulation.clone().map(|text| ("encapsulation", text)));
    if let (Some(mtu), Some(why)) = (hop.mtu, &hop.mtu_reason) {
        lines.push(("path MTU", format!("{mtu}: {why}")));
    }
    lines
}
