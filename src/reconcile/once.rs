//! One round for one namespace: observe, compute what must be, diff, apply.
//!
//! A round runs from beginning to end on one throw-away thread inside the namespace, so that its netlink sockets, its sysctls
//! and the `nft` it starts all see the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::peers::Peers;
use super::ruleset::Ruleset;
use super::written::Written;
use crate::kernel::bpf::Programs;
use crate::kernel::{self, ApplyError, KernelError, Writer};
use crate::model::names::LinkPrefix;
use crate::model::{Cluster, Family, Mode, Problem, Reason};
use crate::netns::{Netns, NetnsError};
use crate::plan::conflict::rules;
use crate::plan::diff::{diff, tables};
use crate::plan::held::Held;
use crate::plan::in_use::{self, BGP, Use, Uses, used_vips};
use crate::plan::node::{RouteFact, Routes, addresses_of_interest, desired_node_holding, withdraw};
use crate::plan::pod::{PodInput, UnfitPod, desired_pod};
use crate::plan::programmed::{Around, Ask, Doubts, Programmed};
use crate::plan::saved::saved;
use crate::plan::surroundings;
use crate::plan::{Desired, Neighbour, Observed, Plan, Settings, Sysctl, set_withdrawn};

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
    /// What is known of the ruleset.
    ruleset: Ruleset,
    /// With whom this node speaks BGP.
    peers: Peers,
    /// Modes that cannot be had here, and why.
    lacking: BTreeMap<Mode, String>,
    /// What the node is known to hold; `None` when it has to be read.
    programmed: Option<Programmed>,
}

impl Memory {
    /// Of this memory only what spares a reader of the same namespace time.
    #[must_use]
    pub fn of_ruleset(&self) -> Memory {
        Memory { ruleset: self.ruleset.clone(), peers: self.peers.clone(), ..Memory::default() }
    }

    /// Takes note of elements of sets that a plan has changed, which has brought the ruleset to this generation.
    fn elements_written(&mut self, plan: &Plan, generation: Option<u32>) {
        let Some(generation) = generation else { return };
        self.written.iter_mut().for_each(|written| written.elements_written(plan, generation));
        self.ruleset.elements_written(plan, generation);
    }

    /// Whether the node is known to hold what it must.
    pub(super) fn is_known(&self) -> bool {
        self.programmed.is_some()
    }

    /// The node has to be read before anything is done there.
    pub(super) fn forget_programmed(&mut self) {
        self.programmed = None;
    }

    /// What somebody has to know who reads everything from the kernel, and writes nothing.
    pub(super) fn for_a_look(&self) -> Memory {
        Memory { saved: self.saved.clone(), written: self.written.clone(), ..Memory::default() }
    }

    /// Whether such a look has found what is known. If so, what it has seen of others is known from now on.
    pub(super) fn is_confirmed_by(&mut self, look: Outcome) -> bool {
        let is_same = |known: &&mut Programmed| known.problems() == look.problems;
        let known = self.programmed.as_mut().filter(is_same).filter(|_| look.plan.is_empty() && look.notes.is_empty());
        let is_confirmed = known.is_some();
        known.zip(look.around).into_iter().for_each(|(known, around)| known.see(around));
        is_confirmed
    }

    /// Everything is read from the kernel again, also what cannot have changed, and tried again, also what has failed.
    pub fn doubt(&mut self) {
        self.ruleset.forget();
        self.peers = Peers::default();
        self.lacking.clear();
        self.programmed = None;
    }
}

/// What a round does with its plan.
#[derive(Debug, Clone, Copy)]
pub enum Execution<'a> {
    /// Nothing.
    DryRun,
    /// It is carried out; these are the programs that may be attached.
    Apply(&'a Programs),
}

/// What a round did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The plan, carried out unless it was a dry run. What could not be done and does not matter to the rest is left out.
    pub plan: Plan,
    /// What is in place but not as asked for.
    pub problems: Vec<Problem>,
    /// What the owners of a pod's Services have to know.
    pub notes: Vec<Note>,
    /// Whether the program for second chances judges what comes in by each of a pod's tunnels.
    pub program: bool,
    /// Modes of a pod's VIPs in which it is not set up.
    pub lacking: BTreeSet<Mode>,
    /// What a node was seen to have of others, if everything was looked at.
    pub around: Option<Around>,
}

/// What is not as asked for in a pod. Which Services that concerns is known to those who gave the goal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Machine-readable reason.
    pub reason: Reason,
    /// Only Services of this mode are concerned; `None`: all.
    pub mode: Option<Mode>,
    /// What could not be done, and why.
    pub text: String,
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
    /// Nothing can be set up in the pod.
    #[error(transparent)]
    UnfitPod(#[from] UnfitPod),
}

impl ReconcileError {
    /// The mode that cannot be had here, if that is all that failed.
    fn mode(&self, link_prefix: &LinkPrefix) -> Option<Mode> {
        match self {
            ReconcileError::Apply(error) => error.mode(link_prefix),
            ReconcileError::UnfitPod(UnfitPod::ExternalGre { .. }) => Some(Mode::Gre),
            _ => None,
        }
    }

    /// Whether the pod is of a kind that cannot be served at all.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ReconcileError::UnfitPod(UnfitPod::VirtualMachine(_)))
    }
}

/// Runs one round.
///
/// # Errors
/// See [`ReconcileError`]; whatever was done before the error stays, and the next round starts from there.
pub fn reconcile(
    netns: &Netns,
    goal: &Goal,
    settings: &Settings,
    memory: &mut Memory,
    execution: Execution<'_>,
) -> Result<Outcome, ReconcileError> {
    memory.programmed = None;
    netns.run(|| round(goal, settings, memory, execution))?
}

/// One round where nothing has changed since the last one but the goal, and perhaps what there are `doubts` about: nothing is read but the
/// routes to new pods and to those in doubt. `None` if it takes more than is known.
///
/// # Errors
/// The namespace could not be entered, or the kernel refused a step; the next round has to be a whole one.
pub fn follow(
    netns: &Netns,
    (goal, doubts): (&Goal, &Doubts),
    settings: &Settings,
    memory: &mut Memory,
    writer: &mut Writer,
) -> Option<Result<Outcome, ReconcileError>> {
    let (Goal::Node(cluster), Some(mut programmed)) = (goal, memory.programmed.take()) else { return None };
    let mut inside = Inside { netns, settings, peers: &mut memory.peers };
    if !programmed.is_as_before(doubts, &mut inside) {
        return None;
    }
    let plan = programmed.step(cluster, settings, &mut inside)?;
    if !plan.is_empty() {
        let written = netns.run(|| {
            writer.apply(&plan)?;
            let has_elements = plan.transactions() > 0;
            Ok::<_, ReconcileError>(has_elements.then(kernel::nft_generation).transpose()?)
        });
        match written {
            Err(error) => return Some(Err(error.into())),
            Ok(Err(error)) => return Some(Err(error)),
            Ok(Ok(generation)) => memory.elements_written(&plan, generation),
        }
    }
    let problems = programmed.problems().to_vec();
    memory.programmed = Some(programmed);
    Some(Ok(Outcome { plan, problems, ..Outcome::default() }))
}

/// Answers about a node, from inside its namespace.
struct Inside<'a> {
    netns: &'a Netns,
    settings: &'a Settings,
    peers: &'a mut Peers,
}

impl Ask for Inside<'_> {
    fn routes(&mut self, to: &BTreeSet<IpAddr>) -> Option<Routes> {
        // What cannot be asked for is looked for again with everything else.
        self.netns.run(|| routes_to(to)).ok()?.ok()
    }

    fn depends_on(&mut self, vips: &BTreeSet<IpAddr>) -> bool {
        let Inside { netns, settings, peers } = self;
        let list: Vec<IpAddr> = vips.iter().copied().collect();
        let look = || (resolvers_and_peers(vips.clone(), settings, peers), kernel::routes_to(&list));
        // What cannot be asked for is looked for again with everything else.
        let Ok((uses, Ok(ways))) = netns.run(look) else { return true };
        let is_local = |way: &Result<kernel::RouteFact, KernelError>| way.as_ref().is_ok_and(|way| way.local);
        ways.iter().any(is_local) || list.iter().any(|vip| uses.contains_key(vip))
    }
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
        let programs = Programs::default();
        let execution = if dry_run { Execution::DryRun } else { Execution::Apply(&programs) };
        let mut outcome = carry_out(&Desired::default(), observed, &mut Memory::default(), link_prefix, execution)?;
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

/// A mode whose device or table cannot be made is left out until the next resync, with an Event: the VIPs of other modes go on. A pod
/// in which none would be left fails.
fn round(
    goal: &Goal,
    settings: &Settings,
    memory: &mut Memory,
    execution: Execution<'_>,
) -> Result<Outcome, ReconcileError> {
    loop {
        let done = match goal {
            Goal::Node(_) => {
                let unavailable = memory.lacking.clone().into_iter().chain(settings.unavailable.clone()).collect();
                attempt(goal, &Settings { unavailable, ..settings.clone() }, memory, execution)
            }
            Goal::Pod(input) => pod_round(input, settings, memory, execution),
            Goal::Nothing => attempt(goal, settings, memory, execution),
        };
        let Err(error) = &done else { return done };
        let mode = error.mode(&settings.link_prefix).filter(|mode| !memory.lacking.contains_key(mode));
        match mode.filter(|mode| can_do_without(goal, *mode, memory, settings)) {
            Some(mode) => drop(memory.lacking.insert(mode, error.to_string())),
            None => return done,
        }
    }
}

fn can_do_without(goal: &Goal, mode: Mode, memory: &Memory, settings: &Settings) -> bool {
    let lacks = |other| other == mode || memory.lacking.contains_key(&other);
    match goal {
        Goal::Node(_) => true,
        Goal::Pod(input) => !input.without(lacks, settings).0.vips.is_empty(),
        Goal::Nothing => false,
    }
}

/// One round without the VIPs of modes that the pod lacks.
fn pod_round(
    input: &PodInput,
    settings: &Settings,
    memory: &mut Memory,
    execution: Execution<'_>,
) -> Result<Outcome, ReconcileError> {
    let (rest, left_out) = input.without(|mode| memory.lacking.contains_key(&mode), settings);
    let mut outcome = attempt(&Goal::Pod(rest), settings, memory, execution)?;
    for mode in &left_out {
        let why = settings.needs(*mode).find_map(|needed| memory.lacking.get(&needed)).cloned().unwrap_or_default();
        outcome.notes.push(Note { reason: Reason::EndpointFailed, mode: Some(*mode), text: why });
    }
    outcome.lacking = left_out;
    Ok(outcome)
}

fn attempt(
    goal: &Goal,
    settings: &Settings,
    memory: &mut Memory,
    execution: Execution<'_>,
) -> Result<Outcome, ReconcileError> {
    let prefix = settings.link_prefix.as_str();
    let observed = memory.ruleset.observe(prefix)?;
    let Computed { desired, problems, of } = match compute(goal, &observed, settings, memory) {
        Err(refusal) if refusal.is_refusal() => {
            // What turns out to be a virtual machine's only later has been set up before.
            carry_out(&Desired::default(), observed, memory, prefix, execution)?;
            return Err(refusal);
        }
        computed => computed?,
    };
    let around = of.as_ref().map(|(_, _, around)| around.clone());
    let is_known = matches!(execution, Execution::Apply(_)) && memory.lacking.is_empty();
    let programmed =
        of.filter(|_| is_known).and_then(|of| Programmed::new(of, (&desired, &observed), problems.clone(), settings));
    let outcome = carry_out(&desired, observed, memory, prefix, execution)?;
    memory.programmed = programmed;
    Ok(Outcome { problems, around, ..outcome })
}

/// What a namespace is to hold.
struct Computed {
    desired: Desired,
    problems: Vec<Problem>,
    /// What it follows from, if it follows from nothing else.
    of: Option<(Arc<Cluster>, Routes, Around)>,
}

impl Computed {
    fn just(desired: Desired) -> Computed {
        Computed { desired, problems: Vec::new(), of: None }
    }
}

fn carry_out(
    desired: &Desired,
    mut observed: Observed,
    memory: &mut Memory,
    link_prefix: &str,
    execution: Execution<'_>,
) -> Result<Outcome, ReconcileError> {
    let misread = memory.written.as_mut().and_then(|written| written.misread(&mut observed));
    if memory.written.is_some() {
        memory.ruleset.compared(misread.is_none());
    }
    let in_table = saved(observed.nft.as_ref());
    let keys = desired.sysctls.keys().chain(in_table.keys()).chain(memory.saved.keys());
    observed.sysctls = kernel::read_sysctls(keys.cloned())?;
    memory.saved.extend(in_table);
    let mut plan = diff(desired, &observed, &memory.saved, link_prefix);
    let mut notes = Vec::new();
    if let Execution::Apply(programs) = execution
        && !plan.is_empty()
    {
        let writes_nft = |plan: &Plan| plan.transactions() > 0;
        if writes_nft(&plan) {
            memory.ruleset.unsettle();
        }
        notes.extend(apply(&mut plan, programs)?);
        if writes_nft(&plan) {
            let tables = tables(desired, &observed, &memory.saved, link_prefix);
            let generation = kernel::nft_generation()?;
            let written = Written::new(tables, &observed, &plan, generation, memory.written.take());
            memory.ruleset.wrote(&written, &observed);
            memory.written = Some(written);
        }
        memory.saved.retain(|key, _| desired.sysctls.contains_key(key));
    }
    let attached = !desired.filters.is_empty() && notes.is_empty();
    let program = attached && matches!(execution, Execution::Apply(_));
    // Everything is done, as far as can be known.
    notes.extend(misread.map(|misread| Note { reason: Reason::UnknownListing, mode: None, text: misread.to_string() }));
    Ok(Outcome { plan, notes, program, ..Outcome::default() })
}

/// Carries a plan out, and takes from it what could not be done: a pod without the program is served all the same.
fn apply(plan: &mut Plan, programs: &Programs) -> Result<Option<Note>, ApplyError> {
    let Err(mut error) = kernel::apply_with(plan, programs) else { return Ok(None) };
    let note = Note { reason: Reason::NoSecondChance, mode: None, text: error.to_string() };
    while error.is_attachment() {
        plan.steps.remove(error.done);
        let rest = Plan { steps: plan.steps[error.done..].to_vec() };
        match kernel::apply_with(&rest, programs) {
            Ok(_) => return Ok(Some(note)),
            Err(next) => error = ApplyError { done: error.done + next.done, ..next },
        }
    }
    Err(error)
}

fn compute(
    goal: &Goal,
    observed: &Observed,
    settings: &Settings,
    memory: &mut Memory,
) -> Result<Computed, ReconcileError> {
    Ok(match goal {
        Goal::Nothing => Computed::just(Desired::default()),
        Goal::Pod(input) => Computed::just(desired_pod(input, observed, settings)?),
        Goal::Node(all) => {
            let used = used_vips(all, uses(all, observed, settings, &mut memory.peers));
            let cluster = &*in_use::without(all, &used);
            let routes = routes(cluster, observed)?;
            let holding = cluster.vips().filter(|vip| vip.holds).map(|vip| vip.address).collect();
            let held = Held::of(&holding, observed);
            let (mut desired, mut problems) = desired_node_holding(&held, cluster, &routes, settings);
            problems.extend(in_use::problems(all, &used, settings));
            let mut around = Around::default();
            // Without a VIP nobody has to be told, and nft need not be started.
            if !cluster.vips.is_empty() {
                let found = memory.ruleset.surroundings(observed.nft_generation);
                let local = surroundings::local_vips(cluster, observed);
                around = surroundings::around(&found, observed);
                let serves = |vip| around.announces.contains(&Family::of(vip)) && !local.contains_key(&vip);
                withdraw(&mut desired, settings, serves);
                problems.extend(surroundings::local_problems(cluster, &local, settings));
                problems.extend(surroundings::rule_problems(cluster, &rules(observed, settings), settings));
                problems.extend(surroundings::problems(cluster, &found, settings));
            }
            let of = used.is_empty().then(|| (all.clone(), routes, around));
            Computed { desired, problems, of }
        }
    })
}

/// What this node depends on; nothing while there is no VIP that might be it.
fn uses(cluster: &Cluster, observed: &Observed, settings: &Settings, peers: &mut Peers) -> Uses {
    if cluster.vips.is_empty() {
        return Uses::default();
    }
    let mut uses = resolvers_and_peers(cluster.vips.keys().copied().collect(), settings, peers);
    uses.extend(observed.next_hops.iter().map(|(address, dev)| (*address, Use::NextHop(dev.clone()))));
    uses
}

/// What this node depends on although no route of its leads through it, for a judgement of these VIPs.
fn resolvers_and_peers(vips: BTreeSet<IpAddr>, settings: &Settings, peers: &mut Peers) -> Uses {
    let neighbours = peers.for_vips(vips, Instant::now(), || kernel::peers_at(BGP));
    let neighbours = neighbours.into_iter().map(|address| (address, Use::BgpNeighbour));
    let resolvers = kernel::resolvers(&settings.proc_root).into_iter();
    neighbours.chain(resolvers.map(|(address, file)| (address, Use::Resolver(file)))).collect()
}

/// How this namespace reaches what the cluster is made of. An address without a route is left out: `plan` says so to the user.
fn routes(cluster: &Cluster, observed: &Observed) -> Result<Routes, KernelError> {
    let mut routes = routes_to(&addresses_of_interest(cluster))?;
    for (address, fact) in &mut routes {
        fact.bare = !observed.addresses.iter().any(|(a, _, ours)| a.dev == fact.dev && a.address.is_ipv4() && !ours);
        fact.bridge = observed.links.get(&fact.dev).is_some_and(|link| link.kind_name.as_deref() == Some("bridge"));
        let neighbour = Neighbour { dev: fact.dev.clone(), address: *address };
        fact.mac = observed.neighbours.get(&neighbour).and_then(|known| known.mac);
    }
    Ok(routes)
}

/// How this namespace reaches these addresses, without what is to be known of devices and neighbours.
fn routes_to(addresses: &BTreeSet<IpAddr>) -> Result<Routes, KernelError> {
    let addresses: Vec<IpAddr> = addresses.iter().copied().collect();
    let facts = kernel::routes_to(&addresses)?;
    let known = addresses.into_iter().zip(facts).filter_map(|(address, fact)| {
        let kernel::RouteFact { dev, gateway, mtu, .. } = fact.ok()?;
        Some((address, RouteFact { dev, gateway, mtu, bare: false, bridge: false, mac: None }))
    });
    Ok(known.collect())
}
