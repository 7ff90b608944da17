//! The program that gives packets their second chance: loaded once, its tables as the maps say.

use tracing::{debug, info, warn};

use super::event::Prepare;
use crate::kernel;
use crate::kernel::bpf::{BpfError, Programs, SecondChance, Sizes};
use crate::model::Cluster;
use crate::model::config::KernelObjects;
use crate::model::second_chance::{Counts, Forwarding, Pairs, Tables, VipNames};
use crate::netns::{PodQuery, ProcFinder};
use crate::plan::filter::ObservedFilter;

/// The program of this node.
#[derive(Default)]
pub(super) struct SecondChances {
    programs: Programs,
    loaded: Option<SecondChance>,
    /// Pods have been looked at for what an agent before this one has left.
    looked: bool,
}

impl SecondChances {
    /// Where targets find the program.
    pub(super) fn programs(&self) -> Programs {
        self.programs.clone()
    }

    /// Makes the tables hold what the pods of this node have to know. Blocks.
    pub(super) fn serve(
        &mut self,
        Prepare { here, pods }: &Prepare,
        node: &str,
        kernel: &KernelObjects,
    ) -> Result<(), BpfError> {
        if pods.is_empty() {
            return Ok(());
        }
        if !std::mem::replace(&mut self.looked, true) {
            self.loaded = find(pods, kernel);
            self.loaded.iter().for_each(|found| self.programs.insert(found.handle()));
        }
        let known = self.loaded.as_ref().map(|loaded| loaded.tables());
        self.write(&wanted(here, node, known))
    }

    /// The kernel's id of the program that is to be attached; `None`: none can be loaded, or nobody has needed it.
    pub(super) fn program(&self) -> Option<u32> {
        self.loaded.as_ref().map(SecondChance::id)
    }

    /// The program, and what it has counted.
    pub(super) fn counts(&self) -> Option<(u32, Counts)> {
        let loaded = self.loaded.as_ref()?;
        let counts = loaded.counts().inspect_err(|error| debug!(%error, "cannot read its counters")).ok()?;
        Some((loaded.id(), counts))
    }

    /// Packets that pods of this node have passed on to others, and received from others.
    pub(super) fn pairs(&self) -> Pairs {
        let read = |loaded: &SecondChance| loaded.pairs().inspect_err(|error| debug!(%error, "cannot read its pairs"));
        self.loaded.as_ref().and_then(|loaded| read(loaded).ok()).unwrap_or_default()
    }

    /// The same, as far as it is told: between pods that maps name.
    pub(super) fn forwarding(&self, cluster: &Cluster) -> Forwarding {
        let maps = cluster.vips().filter_map(|vip| vip.map.as_ref());
        let named = maps.flat_map(|map| map.members.values()).flat_map(|member| member.addresses.iter());
        self.pairs().told(&named.collect())
    }

    /// Tables that have become too small are replaced together with their program: filters follow one by one.
    fn write(&mut self, tables: &Tables) -> Result<(), BpfError> {
        if let Some(loaded) = self.loaded.as_mut().filter(|loaded| loaded.sizes().can_hold(tables)) {
            return loaded.write(tables);
        }
        let mut new = SecondChance::load(Sizes::holding(tables))?;
        new.write(tables)?;
        info!(program = new.id(), "BPF program for second chances loaded");
        self.programs.insert(new.handle());
        // Filters hold it until they are replaced.
        self.loaded.replace(new).iter().for_each(|old| self.programs.remove(old.id()));
        Ok(())
    }
}

/// What the tables have to hold: the VIPs with pods on this node. One without a map keeps what is `known` of it.
fn wanted(cluster: &Cluster, node: &str, known: Option<&Tables>) -> Tables {
    let served = cluster.vips().filter(|vip| !vip.pods_of(node).is_empty());
    let names = served.filter_map(|vip| {
        let names = match &vip.intent {
            Some(intent) => VipNames::of(intent),
            None => known.and_then(|tables| tables.get(&vip.address)).cloned(),
        };
        Some((vip.address, names?))
    });
    names.collect()
}

/// The program of our version that an agent before this one has attached to pods.
fn find(pods: &[PodQuery], kernel: &KernelObjects) -> Option<SecondChance> {
    let finder = ProcFinder::new(kernel.proc_root.clone());
    let processes = finder.scan().inspect_err(|error| debug!(%error, "cannot look for a program")).ok()?;
    let filters = pods.iter().filter_map(|pod| {
        let netns = finder.find_among(&processes, pod).ok()?;
        let filters = netns.run(|| kernel::filters(kernel.link_prefix.as_str())).ok()?.ok()?;
        Some(filters.into_values().collect::<Vec<ObservedFilter>>())
    });
    let open = |filter: ObservedFilter| match SecondChance::open(&filter) {
        Ok(found) => found,
        Err(error) => {
            warn!(%error, "its tables cannot be found again, another one is loaded");
            None
        }
    };
    filters.flatten().find_map(open)
}
