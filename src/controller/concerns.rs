//! Which Services a piece of news concerns.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::EndpointId;
use crate::model::handover::{NodeReport, ServiceUid};
use crate::state::Multimap;

/// Things that Services mention, both ways.
#[derive(Debug, Clone)]
pub(super) struct Mentions<T> {
    services: Multimap<T, ServiceUid>,
    things: BTreeMap<ServiceUid, BTreeSet<T>>,
}

impl<T> Default for Mentions<T> {
    fn default() -> Self {
        Self { services: Multimap::default(), things: BTreeMap::new() }
    }
}

impl<T: Ord + Clone> Mentions<T> {
    /// Takes what a Service mentions now, in place of what it mentioned before.
    pub(super) fn set(&mut self, service: &ServiceUid, things: BTreeSet<T>) {
        let before = self.things.remove(service).unwrap_or_default();
        before.difference(&things).for_each(|thing| self.services.remove(thing, service));
        things.difference(&before).for_each(|thing| self.services.insert(thing.clone(), service.clone()));
        if !things.is_empty() {
            self.things.insert(service.clone(), things);
        }
    }

    /// Services that mention a thing.
    pub(super) fn of(&self, thing: &T) -> &[ServiceUid] {
        self.services.get(thing)
    }

    /// Everything that is mentioned.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.services.keys()
    }
}

/// What another report of a node concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Concerns {
    /// Every Service with a pod on the node.
    pub(super) node: bool,
    /// Services with these pods.
    pub(super) pods: BTreeSet<EndpointId>,
    /// These Services.
    pub(super) services: BTreeSet<ServiceUid>,
}

impl Concerns {
    /// Compares two reports of a node; `None` says nothing.
    pub(super) fn of(old: Option<&NodeReport>, new: Option<&NodeReport>) -> Concerns {
        let nothing = NodeReport::default();
        let is_there = old.is_some() && new.is_some();
        let (old, new) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
        let knows = old.knows.as_ref().zip(new.knows.as_ref());
        let knows_alike = knows.is_some() || old.knows == new.knows;
        let node =
            !is_there || !knows_alike || old.forwarding != new.forwarding || old.pods.is_empty() != new.pods.is_empty();
        let pods = differing(&old.pods, &new.pods).chain(old.ended.symmetric_difference(&new.ended));
        let over = old.over.symmetric_difference(&new.over).map(|over| &over.service);
        let knows = knows.into_iter().flat_map(|(old, new)| differing(old, new));
        let services = over.chain(differing(&old.holds, &new.holds)).chain(knows);
        Concerns { node, pods: pods.cloned().collect(), services: services.cloned().collect() }
    }
}

/// Keys whose values are not the same in both, or are there in one only.
fn differing<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let gone = old.keys().filter(|key| !new.contains_key(key));
    gone.chain(new.iter().filter(|(key, value)| old.get(key) != Some(value)).map(|(key, _)| key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::handover::{Generation, SetUp};
    use crate::model::second_chance::Pair;

    fn knows(generation: u64) -> NodeReport {
        NodeReport { knows: Some([("s".into(), Generation(generation))].into()), ..NodeReport::default() }
    }

    #[test]
    fn what_a_service_mentions_no_longer_does_not_lead_to_it() {
        let (mut mentions, service) = (Mentions::default(), ServiceUid::from("s"));
        mentions.set(&service, ["a", "b"].into());
        mentions.set(&"t".into(), ["b"].into());
        mentions.set(&service, ["b", "c"].into());
        assert_eq!((mentions.of(&"a"), mentions.of(&"b").len(), mentions.of(&"c")), (&[][..], 2, &[service][..]));
        assert_eq!(mentions.all().collect::<Vec<_>>(), [&"b", &"c"]);
    }

    #[test]
    fn a_report_concerns_the_pods_and_services_of_which_it_says_something_else() {
        let pod = |program| NodeReport {
            pods: [("p".into(), SetUp { program, ..SetUp::default() }), ("q".into(), SetUp::default())].into(),
            ..knows(1)
        };
        let one = Concerns::of(Some(&pod(true)), Some(&pod(false)));
        assert_eq!(one, Concerns { pods: ["p".into()].into(), ..Concerns::default() });
        let one = Concerns::of(Some(&knows(1)), Some(&knows(2)));
        assert_eq!(one, Concerns { services: ["s".into()].into(), ..Concerns::default() });
        assert_eq!(Concerns::of(Some(&pod(true)), Some(&pod(true))), Concerns::default());
    }

    #[test]
    fn a_report_that_appears_goes_or_names_other_pairs_concerns_the_whole_node() {
        assert!(Concerns::of(None, Some(&NodeReport::default())).node);
        assert!(Concerns::of(Some(&NodeReport::default()), None).node);
        assert!(Concerns::of(Some(&knows(1)), Some(&NodeReport::default())).node);
        let mut forwarding = knows(1);
        let [from, to] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(std::net::IpAddr::from);
        forwarding.forwarding.passed.insert(Pair { from, to });
        assert!(Concerns::of(Some(&knows(1)), Some(&forwarding)).node);
    }
}
