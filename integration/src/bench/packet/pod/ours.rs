//! The pod as tunnel-router would have it, set up by tunnel-router's own code.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use tunnel_router::kernel::bpf::{Programs, SecondChance, Sizes};
use tunnel_router::model::second_chance::{Counts, Name, Tables, VipNames};
use tunnel_router::model::{Addresses, BucketCount, Mode};
use tunnel_router::netns::Netns;
use tunnel_router::plan::pod::PodInput;
use tunnel_router::reconcile::{Execution, Goal, Memory, reconcile};

use super::super::ours::settings;
use super::case::PodCase;
use super::site::PodSite;

/// Name of the pod.
const OWNER: u32 = 1;
/// Name of the former owner.
pub const FORMER: u32 = 2;

/// The program of the pod, if it has one.
pub struct Programmed(Option<SecondChance>);

impl Programmed {
    /// What the program has counted so far; nothing without one.
    pub fn counts(&self) -> Result<Counts> {
        Ok(self.0.as_ref().map(SecondChance::counts).transpose()?.unwrap_or_default())
    }
}

/// Does one round of the agent for the pod, with the program or without it.
pub fn program(site: &PodSite, case: PodCase) -> Result<Programmed> {
    let (programs, program) = (Programs::default(), case.fate.has_program().then(|| load(site)).transpose()?);
    program.iter().for_each(|program| programs.insert(program.handle()));
    let goal = Goal::Pod(input(site, case.mode, program.as_ref().map(SecondChance::id)));
    let settings = settings(BucketCount::DEFAULT)?;
    let netns = Netns::open(site.pod().path())?;
    let outcome = reconcile(&netns, &goal, &settings, &mut Memory::default(), Execution::Apply(&programs))?;
    ensure!(outcome.problems.is_empty() && outcome.lacking.is_empty(), "tunnel-router refuses: {outcome:?}");
    ensure!(outcome.program == program.is_some(), "the program is not as the case says: {:?}", outcome.notes);
    Ok(Programmed(program))
}

fn load(site: &PodSite) -> Result<SecondChance> {
    let endpoints = [(OWNER, site.pod_address()), (FORMER, site.former_address())];
    let endpoints = endpoints.map(|(name, address)| Ok((Name::new(name)?, Addresses::from(address))));
    let endpoints: BTreeMap<Name, Addresses> = endpoints.into_iter().collect::<Result<_>>()?;
    let names = VipNames { last: Name::new(FORMER)?, endpoints, present: None };
    let tables = Tables::from([(site.vip(), names)]);
    let mut program = SecondChance::load(Sizes::holding(&tables))?;
    program.write(&tables)?;
    Ok(program)
}

fn input(site: &PodSite, mode: Mode, program: Option<u32>) -> PodInput {
    PodInput {
        vips: BTreeMap::from([(site.vip(), mode)]),
        addresses: Addresses::from(site.pod_address()),
        outer: BTreeSet::from([site.family]),
        nodes: BTreeSet::from([site.node_address()]),
        underlay_mtu: None,
        peers: BTreeSet::from([site.former_address()]),
        program,
    }
}
