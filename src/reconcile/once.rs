//! One round for one namespace: observe, compute what must be, diff, apply.
//!
//! A round runs from beginning to end on one throw-away thread inside the namespace, so that its netlink sockets, its sysctls
//! and the `nft` it starts all see the same one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tracing::debug;

use super::written::{Misread, Written};
use crate::kernel::{self, ApplyError, KernelError};
use crate::model::{Cluster, Problem};
use crate::netns::{Netns, NetnsError};
use crate::plan::diff::{diff, tables};
use crate::plan::node::{RouteFact, Routes, addresses_of_interest, desired_node, withdraw};
use crate::plan::pod::{PodInput, UnfitPod, desired_pod};
use crate::plan::saved::saved;
use crate::plan::surroundings::{self, Surroundings};
use crate::plan::{Desired, Neighbour, Observed, Plan, Settings, Step, Sysctl, set_withdrawn};

/// What one namespace is to become.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal {
    /// This node's own namespace.
    Node(Arc<Cluster>),
    /// A pod with VIPs.
    Pod(PodInput),
    /// Nothing of ours: a pod that has lost its last VIP, or a clean-up.
    Nothing,
}

/// What has to be remembered of a namespace between rounds.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Old sysctl values that our nft table held when it was last seen.
    saved: BTreeMap<Sysctl, u32>,
    /// Our nft tables as they were last written.
    written: Option<Written>,
}

/// What a round did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The plan, carried out unless it was a dry run.
    pub plan: Plan,
    /// What is in place but not as asked for.
    pub problems: Vec<Problem>,
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The namespace could not be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel refused a step.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Everything is done, as far as can be known.
    #[error(transparent)]
    Misread(#[from] Misread),
    /// Nothing can be set up in the pod.
    #[error(transparent)]
    UnfitPod(#[from] UnfitPod),
}

impl ReconcileError {
    /// Whether the pod is of a kind that cannot be served at all.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ReconcileError::UnfitPod(UnfitPod::VirtualMachine(_)))
    }
}

/// Runs one round; with `dry_run` the plan is made and not carried out.
///
/// # Errors
/// See [`ReconcileError`]; whatever was done before the error stays, and the next round starts from there.
pub fn reconcile(
    netns: &Netns,
    goal: &Goal,
    settings: &Settings,
    memory: &mut Memory,
    dry_run: bool,
) -> Result<Outcome, ReconcileError> {
    netns.run(|| round(goal, settings, memory, dry_run))?
}

/// One round with [`Goal::Nothing`], which needs to know no more than how our links are called; what `drain-node` has left
/// goes, too.
///
/// # Errors
/// See [`ReconcileError`].
pub fn clear(netns: &Netns, link_prefix: &str, dry_run: bool) -> Result<Outcome, ReconcileError> {
    netns.run(|| {
        let observed = kernel::observe(std::iter::empty(), link_prefix)?;
        let withdrawn = observed.withdrawn;
        let mut outcome = carry_out(&Desired::default(), observed, &mut Memory::default(), link_prefix, dry_run)?;
        if withdrawn {
            let wish = Plan { steps: vec![set_withdrawn(false)] };
            if !dry_run {
                kernel::apply(&wish)?;
            }
            outcome.plan.steps.extend(wish.steps);
        }
        Ok(outcome)
    })?
}

fn round(goal: &Goal, settings: &Settings, memory: &mut Memory, dry_run: bool) -> Result<Outcome, ReconcileError> {
    let observed = kernel::observe(std::iter::empty(), settings.link_prefix.as_str())?;
    let prefix = settings.link_prefix.as_str();
    let (desired, problems) = match compute(goal, &observed, settings) {
        Err(refusal) if refusal.is_refusal() => {
            // What turns out to be a virtual machine's only later has been set up before.
            carry_out(&Desired::default(), observed, memory, prefix, dry_run)?;
            return Err(refusal);
        }
        computed => computed?,
    };
    let outcome = carry_out(&desired, observed, memory, prefix, dry_run)?;
    Ok(Outcome { problems, ..outcome })
}

fn carry_out(
    desired: &Desired,
    mut observed: Observed,
    memory: &mut Memory,
    link_prefix: &str,
    dry_run: bool,
) -> Result<Outcome, ReconcileError> {
    let misread = memory.written.as_mut().and_then(|written| written.misread(&mut observed));
    let in_table = saved(observed.nft.as_ref());
    let keys = desired.sysctls.keys().chain(in_table.keys()).chain(memory.saved.keys());
    observed.sysctls = kernel::read_sysctls(keys.cloned())?;
    memory.saved.extend(in_table);
    let plan = diff(desired, &observed, &memory.saved, link_prefix);
    if !dry_run && !plan.is_empty() {
        kernel::apply(&plan)?;
        if plan.steps.iter().any(|step| matches!(step, Step::Nft(_))) {
            let tables = tables(desired, &observed, &memory.saved, link_prefix);
            let generation = kernel::nft_generation()?;
            memory.written = Some(Written::new(tables, &observed, &plan, generation, memory.written.take()));
        }
        memory.saved.retain(|key, _| desired.sysctls.contains_key(key));
    }
    match misread {
        Some(misread) => Err(misread.into()),
        None => Ok(Outcome { plan, problems: Vec::new() }),
    }
}

fn compute(goal: &Goal, observed: &Observed, settings: &Settings) -> Result<(Desired, Vec<Problem>), ReconcileError> {
    Ok(match goal {
        Goal::Nothing => (Desired::default(), Vec::new()),
        Goal::Pod(input) => (desired_pod(input, observed, settings)?, Vec::new()),
        Goal::Node(cluster) => {
            let (mut desired, mut problems) = desired_node(cluster, &routes(cluster, observed)?, settings);
            // Without a VIP nobody has to be told, and nft need not be started.
            if !cluster.vips.is_empty() {
                let around = looked_around();
                withdraw(&mut desired, settings, |family| !observed.withdrawn && !around.unforwarded.contains(&family));
                problems.extend(surroundings::problems(cluster, &around, settings));
            }
            (desired, problems)
        }
    })
}

/// What is around us is only told to users: not being able to look is no reason to stop.
fn looked_around() -> Surroundings {
    kernel::surroundings().unwrap_or_else(|error| {
        debug!(%error, "cannot look at the firewall");
        Surroundings::default()
    })
}

/// How this namespace reaches what the cluster is made of. An address without a route is left out: `plan` says so to the user.
fn routes(cluster: &Cluster, observed: &Observed) -> Result<Routes, KernelError> {
    let addresses: Vec<IpAddr> = addresses_of_interest(cluster).into_iter().collect();
    let facts = kernel::routes_to(&addresses)?;
    let known = addresses.into_iter().zip(facts).filter_map(|(address, fact)| {
        let fact = fact.ok()?;
        let bare = !observed.addresses.iter().any(|(a, _, ours)| a.dev == fact.dev && a.address.is_ipv4() && !ours);
        let bridge = observed.links.get(&fact.dev).is_some_and(|link| link.kind_name.as_deref() == Some("bridge"));
        let neighbour = Neighbour { dev: fact.dev.clone(), address };
        let mac = observed.neighbours.get(&neighbour).and_then(|known| known.mac);
        Some((address, RouteFact { dev: fact.dev, gateway: fact.gateway, mtu: fact.mtu, bare, bridge, mac }))
    });
    Ok(known.collect())
}
