//! What was written with nft, against what nft lists.
//!
//! A difference means that somebody has changed the table, and is mended; or that this nft lists in a form that we do not
//! know, and writing it again would never end. The generation of the ruleset tells the two apart: every transaction, whoever
//! makes it, counts it up by one (`nf_tables_commit`, net/netfilter/nf_tables_api.c).

use std::collections::BTreeMap;

use crate::plan::nft::{ObservedTable, Table, TableFamily};
use crate::plan::{NFT_TABLE, Observed, Plan};

/// Our tables as a round has written them.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// Of the ruleset right after that; `None` if somebody else has written meanwhile.
    generation: Option<u32>,
    tables: BTreeMap<TableFamily, Table>,
    /// What is known to be listed in an unknown form.
    misread: Vec<String>,
}

/// nft lists what was written in a form that we do not know.
#[derive(Debug, thiserror::Error)]
#[error(
    "this nft lists table {NFT_TABLE} in a form that is not known here, so that changes by others may stay unnoticed: {} \
     (install an nft between 1.0.6 and 1.1.7, or a later tunnel-router)",
    objects.join(", ")
)]
pub struct Misread {
    /// The objects and how they are listed.
    objects: Vec<String>,
}

/// Objects that an error names.
const NAMED: usize = 3;

impl Written {
    /// After a plan that was made for `observed` has been carried out, the ruleset has come to `generation`.
    pub fn new(
        tables: BTreeMap<TableFamily, Table>,
        observed: &Observed,
        plan: &Plan,
        generation: u32,
        before: Option<Written>,
    ) -> Self {
        let misread = before.map(|written| written.misread).unwrap_or_default();
        let alone = follows(observed.nft_generation, plan.transactions(), generation);
        Written { generation: alone.then_some(generation), tables, misread }
    }

    /// Elements of sets were changed by transactions of their own, which have brought the ruleset to `generation`.
    pub fn elements_written(&mut self, plan: &Plan, generation: u32) {
        self.generation = Some(generation).filter(|now| follows(self.generation, plan.transactions(), *now));
        for (name, set) in self.tables.get_mut(&TableFamily::Inet).into_iter().flat_map(|table| &mut table.sets) {
            plan.change_elements(name, &mut set.elements);
        }
    }

    /// The generation of the ruleset right after that; `None` if somebody else has written meanwhile.
    pub fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// Our tables as nft lists them.
    pub fn as_listed(&self) -> BTreeMap<TableFamily, ObservedTable> {
        self.tables.iter().map(|(family, table)| (*family, table.as_listed())).collect()
    }

    /// Says what nft lists in an unknown form, and puts what was written in its place, so that the plan goes by that.
    pub fn misread(&mut self, observed: &mut Observed) -> Option<Misread> {
        let objects = self.unlike(observed);
        let untouched = self.generation.is_some() && self.generation == observed.nft_generation;
        if objects.is_empty() || !(untouched || objects == self.misread) {
            self.misread.clear();
            return None;
        }
        for (family, table) in &self.tables {
            match family {
                TableFamily::Inet => observed.nft = Some(table.as_listed()),
                other => drop(observed.frames.insert(*other, table.as_listed())),
            }
        }
        self.misread.clone_from(&objects);
        Some(Misread { objects: objects.into_iter().take(NAMED).collect() })
    }

    fn unlike(&self, observed: &Observed) -> Vec<String> {
        self.tables.iter().flat_map(|(family, table)| table.unlike(listed(observed, *family))).collect()
    }
}

/// Whether so many transactions lead from one generation to another, so that nobody else has written in between.
pub(super) fn follows(before: Option<u32>, transactions: usize, now: u32) -> bool {
    let led_to = |before: u32| Some(before.wrapping_add(transactions.try_into().ok()?));
    before.and_then(led_to) == Some(now)
}

fn listed(observed: &Observed, family: TableFamily) -> Option<&ObservedTable> {
    match family {
        TableFamily::Inet => observed.nft.as_ref(),
        other => observed.frames.get(&other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::plan::Step;
    use crate::plan::nft::{Set, SetType};

    fn table() -> Table {
        let vips = Set::new(SetType::Address(Family::V4), ["192.0.2.10"]);
        Table { sets: BTreeMap::from([("vips".to_owned(), vips)]), ..Table::default() }
    }

    fn observed(generation: u32, kind: &str) -> Observed {
        let mut nft = table().as_listed();
        nft.sets.get_mut("vips").unwrap().kind = kind.to_owned();
        Observed { nft: Some(nft), nft_generation: Some(generation), ..Observed::default() }
    }

    /// Written by two transactions on top of generation 5.
    fn written(generation: u32) -> Written {
        let plan = Plan { steps: vec![Step::Nft(Vec::new()), Step::LinkUp("lo".into()), Step::Nft(Vec::new())] };
        let before = Observed { nft_generation: Some(5), ..Observed::default() };
        Written::new(BTreeMap::from([(TableFamily::Inet, table())]), &before, &plan, generation, None)
    }

    #[test]
    fn an_unknown_form_is_reported_and_taken_for_what_was_written() {
        let (mut written, mut observed) = (written(7), observed(7, "new_addr"));
        let misread = written.misread(&mut observed).unwrap().to_string();
        assert!(misread.contains("set vips is listed with the type new_addr, not ipv4_addr"), "{misread}");
        assert!(misread.contains("install an nft between 1.0.6 and 1.1.7"), "{misread}");
        assert_eq!(observed.nft, Some(table().as_listed()));
    }

    #[test]
    fn an_unknown_form_stays_one_when_others_change_their_rules() {
        let mut written = written(7);
        assert!(written.misread(&mut observed(7, "new_addr")).is_some());
        assert!(written.misread(&mut observed(8, "new_addr")).is_some());
        assert!(written.misread(&mut observed(9, "ipv4_addr")).is_none());
    }

    #[test]
    fn a_table_that_somebody_changes_is_mended() {
        let mut gone = Observed { nft_generation: Some(8), ..Observed::default() };
        assert!(written(7).misread(&mut gone).is_none());
        assert!(gone.nft.is_none());
        // In between, which no generation tells from a change by ourselves.
        assert!(written(8).misread(&mut observed(8, "new_addr")).is_none());
        let mut unsettled = Observed { nft_generation: None, ..observed(7, "new_addr") };
        assert!(written(7).misread(&mut unsettled).is_none());
    }
}
