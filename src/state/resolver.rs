//! The cluster, Service by Service: what has changed is resolved anew, and everything else is the same object as before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::dirty::Dirty;
use super::key::Key;
use super::local_pods::{LocalPod, local_pods};
use super::resolve::Outcome;
use super::settings::Settings;
use super::view::View;
use super::vips::{AskedFor, wanted};
use crate::model::{Cluster, Node, Problem, Vip, Vips};

/// What the objects ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// VIPs, nodes and problems.
    pub cluster: Cluster,
    /// Pods of the own node by UID, whoever they belong to: where to find the pod of a local endpoint.
    pub local_pods: BTreeMap<String, LocalPod>,
}

/// What was resolved last.
#[derive(Debug, Clone, Default)]
pub(super) struct Resolver {
    /// With what; `None` before the first time.
    settings: Option<Settings>,
    /// What followed from each annotated Service.
    outcomes: BTreeMap<Key, Outcome>,
    /// Its VIPs.
    vips: Vips,
    /// Its problems, and how many Services have each.
    problems: BTreeMap<Problem, usize>,
    /// Every node.
    nodes: BTreeMap<String, Node>,
    /// The pods of the own node.
    local_pods: BTreeMap<String, LocalPod>,
}

impl Resolver {
    /// Resolves what is dirty, and says what is known now.
    pub(super) fn resolve(&mut self, view: View<'_>, dirty: Dirty) -> Resolved {
        let is_known = self.settings.as_ref() == Some(view.settings);
        let dirty = if is_known { dirty } else { Dirty::everything() };
        if !is_known {
            self.settings = Some(view.settings.clone());
        }
        self.resolve_services(view, if dirty.all { self.every_service(view) } else { dirty.services });
        if dirty.nodes {
            self.nodes = view.nodes();
        }
        if dirty.pods {
            self.local_pods = local_pods(view.stores);
        }
        self.resolved()
    }

    fn resolved(&self) -> Resolved {
        let (vips, nodes) = (self.vips.clone(), self.nodes.clone());
        let problems = self.problems.iter().flat_map(|(problem, count)| std::iter::repeat_n(problem, *count));
        let cluster = Cluster { vips, nodes, problems: problems.cloned().collect() };
        Resolved { cluster, local_pods: self.local_pods.clone() }
    }

    /// Every Service that is annotated, or was when it was resolved last.
    fn every_service(&self, view: View<'_>) -> BTreeSet<Key> {
        let annotated = view.stores.services.iter().filter(|(_, record)| record.vips.is_some()).map(|(key, _)| key);
        annotated.chain(self.outcomes.keys()).cloned().collect()
    }

    fn resolve_services(&mut self, view: View<'_>, services: BTreeSet<Key>) {
        let records = services.iter().filter_map(|key| view.stores.services.get(key));
        let addresses: BTreeSet<IpAddr> = records.flat_map(|record| wanted(record)).collect();
        let asked: AskedFor = addresses.into_iter().map(|address| (address, view.asked(address))).collect();
        let resolved = services.into_iter().map(|key| {
            let old = self.outcomes.remove(&key).unwrap_or_default();
            let new = sharing(view.resolve(&key, &asked), &old);
            (key, old, new)
        });
        let resolved: Vec<(Key, Outcome, Outcome)> = resolved.collect();
        // A VIP that goes from one Service to another is taken away first.
        for vip in resolved.iter().flat_map(|(_, old, _)| &old.vips) {
            self.vips.remove(&vip.address);
        }
        for (key, old, new) in resolved {
            self.vips.extend(new.vips.iter().map(|vip| (vip.address, vip.clone())));
            self.replace_problems(&old.problems, &new.problems);
            if new != Outcome::default() {
                self.outcomes.insert(key, new);
            }
        }
    }

    fn replace_problems(&mut self, old: &[Problem], new: &[Problem]) {
        if old == new {
            return;
        }
        for problem in new {
            *self.problems.entry(problem.clone()).or_default() += 1;
        }
        for problem in old {
            let left = self.problems.get_mut(problem).map(|count| {
                *count -= 1;
                *count
            });
            if left == Some(0) {
                self.problems.remove(problem);
            }
        }
    }
}

/// The same, where a VIP that has not changed is the same object as before.
fn sharing(new: Outcome, old: &Outcome) -> Outcome {
    let before = |vip: &Arc<Vip>| old.vips.iter().find(|before| *before == vip).cloned();
    let vips = new.vips.into_iter().map(|vip| before(&vip).unwrap_or(vip)).collect();
    Outcome { vips, ..new }
}
