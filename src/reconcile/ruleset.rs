//! What nft has listed, kept for as long as the ruleset stays as it is.
//!
//! Starting `nft` is the slowest part of a look. Every transaction, whoever makes it, counts the generation of the ruleset up by
//! one (`nf_tables_commit`, net/netfilter/nf_tables_api.c), so what was listed of the present generation is still right. What
//! was written is taken for what nft would list, too: once a listing has shown that this nft lists in a form that is known here.
//! Every resync forgets all of it.

use tracing::debug;

use super::written::{Written, follows};
use crate::kernel::{self, KernelError, Tables};
use crate::plan::nft::TableFamily;
use crate::plan::surroundings::{DropChain, Surroundings};
use crate::plan::{Observed, Plan};

/// What is known of a namespace's ruleset.
#[derive(Debug, Clone, Default)]
pub(super) struct Ruleset {
    /// Our tables.
    tables: Option<Tables>,
    /// Chains of others that drop by default, and the generation that has them.
    drops: Option<(u32, Vec<DropChain>)>,
    /// What was written has been listed as it was to be.
    is_readable: bool,
}

impl Ruleset {
    /// Reads the namespace of the calling thread.
    pub(super) fn observe(&mut self, link_prefix: &str) -> Result<Observed, KernelError> {
        let observed = kernel::observe_anew(std::iter::empty(), link_prefix, self.tables.as_ref())?;
        let ours = observed.nft.iter().map(|table| (TableFamily::Inet, table.clone()));
        self.tables = Some(Tables {
            tables: ours.chain(observed.frames.clone()).collect(),
            generation: observed.nft_generation,
            withdrawn: observed.withdrawn,
            paused: observed.paused,
        });
        Ok(observed)
    }

    /// What others have set up. It is only told to users: not being able to look is no reason to stop.
    pub(super) fn surroundings(&mut self, generation: Option<u32>) -> Surroundings {
        self.drops = self.drops.take().filter(|(of, _)| Some(*of) == generation);
        let drops = match &self.drops {
            Some((_, drops)) => drops.clone(),
            None => self.look_around(generation),
        };
        Surroundings { drops, unforwarded: kernel::unforwarded() }
    }

    fn look_around(&mut self, generation: Option<u32>) -> Vec<DropChain> {
        match kernel::drops() {
            Ok(drops) => {
                self.drops = generation.map(|generation| (generation, drops.clone()));
                drops
            }
            Err(error) => {
                debug!(%error, "cannot look at the firewall");
                Vec::new()
            }
        }
    }

    /// Something is about to be written.
    pub(super) fn unsettle(&mut self) {
        self.tables = None;
    }

    /// This was written where `observed` was.
    pub(super) fn wrote(&mut self, written: &Written, observed: &Observed) {
        let Some(generation) = written.generation() else { return };
        // Nobody else has written, so the chains of others are as before.
        let others = self.drops.take().filter(|(of, _)| Some(*of) == observed.nft_generation);
        self.drops = others.map(|(_, drops)| (generation, drops));
        if self.is_readable {
            let tables = written.as_listed();
            self.tables =
                Some(Tables { tables, generation: Some(generation), withdrawn: observed.withdrawn, paused: false });
        }
    }

    /// Elements of our sets were changed by transactions of their own, which have brought the ruleset to `generation`.
    pub(super) fn elements_written(&mut self, plan: &Plan, generation: u32) {
        let leads_here = |before| follows(before, plan.transactions(), generation);
        let mut tables = self.tables.take().filter(|tables| leads_here(tables.generation));
        if let Some(tables) = &mut tables {
            tables.generation = Some(generation);
            for (name, set) in tables.tables.get_mut(&TableFamily::Inet).into_iter().flat_map(|table| &mut table.sets) {
                plan.change_elements(name, &mut set.elements);
            }
        }
        self.tables = tables;
        let others = self.drops.take().filter(|(of, _)| leads_here(Some(*of)));
        self.drops = others.map(|(_, drops)| (generation, drops));
    }

    /// What was written has been listed, as it was to be or not.
    pub(super) fn compared(&mut self, is_alike: bool) {
        self.is_readable = is_alike;
    }

    /// Everything is listed again.
    pub(super) fn forget(&mut self) {
        (self.tables, self.drops) = (None, None);
    }
}
