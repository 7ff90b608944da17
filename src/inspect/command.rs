//! The two commands, as they run in a process of their own beside the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use tracing::{debug, warn};

use super::ask::ask;
use super::connections::count;
use super::report::NodeStatus;
use super::trace::{Ask, differences};
use super::{Seen, text};
use crate::kernel::bpf::names_of;
use crate::kernel::{self, Connection, KernelError, MarkedRoute};
use crate::model::config::{Output, StatusConfig, TraceConfig};
use crate::model::names::LinkPrefix;
use crate::model::second_chance::VipNames;
use crate::netns::{addresses_in, all_netns};
use crate::plan::Observed;

/// `tunnel-router status`
///
/// # Errors
/// There is no agent, and the kernel could not be read either.
pub fn status(config: &StatusConfig) -> anyhow::Result<()> {
    let observed = observe(&config.link_prefix);
    let status = match (asked(), &observed) {
        (Some(mut status), Ok(observed)) => {
            compare(&mut status, &Seen::new(observed));
            status
        }
        (Some(mut status), Err(error)) => {
            status.differences.push(format!("cannot be told: {error:#}"));
            status
        }
        (None, Ok(observed)) => {
            let mut status = Seen::new(observed).status();
            let open = open_connections(&status, &config.proc_root);
            count(&mut status, |endpoint| endpoint.addresses.iter().find_map(|a| open.get(a)).map(Vec::as_slice));
            status
        }
        (None, Err(_)) => return observed.map(drop),
    };
    print(config.output, &status, text::status)
}

/// `tunnel-router trace`
///
/// # Errors
/// The kernel could not be read, there is nothing to trace, or somebody disagrees.
pub fn trace(config: &TraceConfig) -> anyhow::Result<()> {
    let observed = observe(&config.link_prefix)?;
    let seen = Seen::new(&observed);
    let status = asked().unwrap_or_else(|| seen.status());
    let traced = super::trace::trace(&config.flow, &status, &seen, &Kernel)?;
    print(config.output, &traced, text::trace)?;
    let disagreements = traced.disagreements.len();
    anyhow::ensure!(disagreements == 0, "{disagreements} disagreements; the next reconcile should end them");
    Ok(())
}

/// What the agent says, if one runs here and can be heard; else a warning says why.
fn asked() -> Option<NodeStatus> {
    ask().inspect_err(|error| warn!("{error}: this is what the kernel holds")).ok()
}

fn observe(prefix: &LinkPrefix) -> anyhow::Result<Observed> {
    kernel::observe(std::iter::empty(), prefix.as_str()).context("cannot read this node's kernel state (as root?)")
}

fn compare(status: &mut NodeStatus, seen: &Seen<'_>) {
    status.withdrawn = seen.withdrawn();
    status.vips.iter_mut().for_each(|vip| vip.announced = seen.announces(vip.address));
    if status.ingress {
        status.differences = differences(status, seen);
    }
}

/// The connections of all namespaces of the machine that have one of the VIPs, by every address that they have.
fn open_connections(status: &NodeStatus, proc_root: &Path) -> BTreeMap<IpAddr, Vec<Connection>> {
    let vips: BTreeSet<IpAddr> = status.vips.iter().map(|vip| vip.address).collect();
    let mut all = BTreeMap::new();
    for netns in all_netns(proc_root) {
        let look = || {
            let own = addresses_in(&netns)?;
            if own.is_disjoint(&vips) {
                return Ok(Vec::new());
            }
            let open = netns.run(kernel::connections)??;
            let own = own.into_iter().filter(|address| !address.is_loopback());
            Ok::<_, KernelError>(own.map(|address| (address, open.clone())).collect())
        };
        match look() {
            Ok(found) => all.extend(found),
            Err(error) => debug!(netns = %netns.path().display(), %error, "cannot count its connections"),
        }
    }
    all
}

/// The kernel of this node.
struct Kernel;

impl Ask for Kernel {
    fn marked_route(&self, vip: IpAddr, mark: u32) -> Result<MarkedRoute, KernelError> {
        kernel::marked_route(vip, mark)
    }

    fn underlay(&self, to: IpAddr) -> Result<(u32, String), KernelError> {
        kernel::route_to(to).map(|fact| (fact.mtu, fact.dev))
    }

    fn names(&self, program: u32, vip: IpAddr) -> Result<Option<VipNames>, String> {
        names_of(program, vip).map_err(|error| error.to_string())
    }
}

fn print<T: Serialize>(output: Output, value: &T, as_text: impl Fn(&T) -> String) -> anyhow::Result<()> {
    let text = match output {
        Output::Text => as_text(value),
        Output::Json => serde_json::to_string_pretty(value)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the answer")
}
