//! Whether a table is listed as it was written. A release of nft may list in a form that we do not know; what to do about
//! that is for `reconcile`.

use super::script::{same_hook, same_rules};
use super::{Learning, ObservedChain, ObservedSet, ObservedTable, Set, Table};

impl Table {
    /// What is listed otherwise than it stands here, object by object, in words. Objects that are only listed do not count.
    pub fn unlike(&self, listed: Option<&ObservedTable>) -> Vec<String> {
        let Some(listed) = listed else { return vec!["the table is missing".to_owned()] };
        let sets = self.sets.iter().filter_map(|(name, set)| unlike_set(name, set, listed.sets.get(name)));
        let chains = self.chains.iter().filter_map(|(name, chain)| {
            let same =
                listed.chains.get(name).is_some_and(|listed| same_hook(chain, listed) && same_rules(chain, listed));
            (!same).then(|| format!("chain {name} has another hook or other rules"))
        });
        let timeouts = self.timeouts.iter().map(|timeout| timeout.name());
        let timeouts = timeouts.filter(|name| !listed.timeouts.contains(name));
        sets.chain(chains).chain(timeouts.map(|name| format!("ct timeout {name} is missing"))).collect()
    }

    /// How it is listed where every form is known.
    pub fn as_listed(&self) -> ObservedTable {
        let sets = self.sets.iter().map(|(name, set)| {
            let (kind, elements) = (set.kind.as_str().to_owned(), set.elements.clone());
            (name.clone(), ObservedSet { kind, counted: set.counted, elements, ..ObservedSet::default() })
        });
        let chains = self.chains.iter().map(|(name, chain)| {
            let base = chain.base.as_ref().map(|b| (b.kind.to_owned(), b.hook.to_owned(), b.priority));
            let comments = chain.rules.iter().map(super::Rule::comment).collect();
            (name.clone(), ObservedChain { base, comments, ..ObservedChain::default() })
        });
        let timeouts = self.timeouts.iter().map(|timeout| timeout.name());
        ObservedTable { timeouts: timeouts.collect(), sets: sets.collect(), chains: chains.collect() }
    }
}

fn unlike_set(name: &str, set: &Set, listed: Option<&ObservedSet>) -> Option<String> {
    let keyword = set.kind.keyword();
    let Some(listed) = listed else { return Some(format!("{keyword} {name} is missing")) };
    if listed.kind != set.kind.as_str() {
        return Some(format!("{keyword} {name} is listed with the type {}, not {}", listed.kind, set.kind.as_str()));
    }
    if listed.counted != set.counted {
        return Some(format!("{keyword} {name} is listed with{} counters", if listed.counted { "" } else { "out" }));
    }
    // Rules may have added and removed elements since.
    if set.learning != Learning::No {
        return None;
    }
    let lacking = set.elements.difference(&listed.elements).next().map(|e| format!("{keyword} {name} lacks {e}"));
    let surplus = || listed.elements.difference(&set.elements).next().map(|e| format!("{keyword} {name} lists {e}"));
    lacking.or_else(surplus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::plan::nft::{BaseChain, Chain, Rule, SetType, UdpTimeout};
    use std::collections::{BTreeMap, BTreeSet};

    fn table() -> Table {
        let base = BaseChain { kind: "filter", hook: "prerouting", device: None, priority: -300 };
        let vips = Set::new(SetType::Address(Family::V4), ["192.0.2.10"]).counted();
        let macs = Set::new(SetType::Ether, ["02:00:00:00:00:01"]).learning(Learning::Keep);
        let limit = UdpTimeout { family: Family::V4, seconds: 5 };
        Table {
            timeouts: BTreeSet::from([limit]),
            sets: BTreeMap::from([("vips".to_owned(), vips), ("macs".to_owned(), macs)]),
            chains: BTreeMap::from([(
                "raw".to_owned(),
                Chain { base: Some(base), rules: vec![Rule::new("nothing", "drop")] },
            )]),
        }
    }

    fn unlike(change: impl FnOnce(&mut ObservedTable)) -> Vec<String> {
        let mut listed = table().as_listed();
        change(&mut listed);
        table().unlike(Some(&listed))
    }

    #[test]
    fn a_table_is_like_itself_and_unlike_a_missing_one() {
        assert_eq!(unlike(|_| ()), [""; 0]);
        assert_eq!(table().unlike(None), ["the table is missing"]);
    }

    #[test]
    fn each_object_that_is_listed_otherwise_is_named() {
        let typed = |t: &mut ObservedTable| t.sets.get_mut("vips").unwrap().kind = r#"{"new":1}"#.to_owned();
        assert_eq!(unlike(typed), [r#"set vips is listed with the type {"new":1}, not ipv4_addr"#]);
        let spelled =
            |t: &mut ObservedTable| t.sets.get_mut("vips").unwrap().elements = ["192.0.2.10/32".into()].into();
        assert_eq!(unlike(spelled), ["set vips lacks 192.0.2.10"]);
        let uncounted = |t: &mut ObservedTable| t.sets.get_mut("vips").unwrap().counted = false;
        assert_eq!(unlike(uncounted), ["set vips is listed without counters"]);
        let unlimited = |t: &mut ObservedTable| t.timeouts.clear();
        assert_eq!(unlike(unlimited), ["ct timeout udp_5s_ip is missing"]);
        let unhooked = |t: &mut ObservedTable| t.chains.get_mut("raw").unwrap().base = None;
        assert_eq!(unlike(unhooked), ["chain raw has another hook or other rules"]);
    }

    #[test]
    fn elements_that_rules_add_are_no_difference() {
        let learnt = |t: &mut ObservedTable| t.sets.get_mut("macs").unwrap().elements.clear();
        assert_eq!(unlike(learnt), [""; 0]);
    }
}
