//! What is heard between two decisions, and which Services it concerns.

use std::collections::BTreeSet;
use std::time::Instant;

use tracing::warn;

use super::Decider;
use crate::controller::concerns::Concerns;
use crate::model::handover::{NodeName, NodeReport};
use crate::state::Index;

impl Decider {
    /// Takes in what is known now. Controllers that do not lead do it, too, so that the next leader knows since when a node has
    /// been absent.
    pub(in crate::controller) fn observe(&mut self, index: &mut Index, now: Instant) {
        if !index.knows_reports() || index.node_names().is_none() {
            return;
        }
        let news = index.take_news();
        self.hear(&news.reports, index, now);
        for service in news.maps {
            let members = index.assignment(service.as_str()).into_iter().flat_map(|map| map.members.values());
            self.members.set(&service, members.map(|member| member.node.clone()).collect());
            self.dirty.insert(service);
        }
        self.look_for_nodes(index, now);
        let fell = self.looked.map(|before| self.witness.fell_after(before, now));
        self.dirty.extend(fell.into_iter().flatten().flat_map(|pod| self.pods.of(pod)).cloned());
        self.writes.look(|name| index.stored_version(name), now);
        self.looked = Some(now);
    }

    fn hear(&mut self, nodes: &BTreeSet<String>, index: &Index, now: Instant) {
        for node in nodes {
            let report = index.stored_report(node).map(|stored| stored.report);
            if self.heard.get(node) == report.as_ref() {
                continue;
            }
            if let Some(Err(fault)) = &report {
                warn!(node, %fault, "report of a node says nothing");
            }
            let said = report.as_ref().and_then(|report| report.as_ref().ok()).map(|said| NodeReport::clone(said));
            let name = NodeName::from(node.as_str());
            self.mark(&name, Concerns::of(self.witness.report(&name), said.as_ref()));
            self.witness.hear(&name, said, now);
            match report {
                Some(report) => drop(self.heard.insert(node.clone(), report)),
                None => drop(self.heard.remove(node)),
            }
        }
        if !self.witness.is_complete() {
            self.witness.complete();
            self.mark_all();
        }
    }

    fn mark(&mut self, node: &NodeName, concerns: Concerns) {
        if concerns.node {
            self.dirty.extend(self.nodes.of(node).iter().cloned());
        }
        self.dirty.extend(concerns.pods.iter().flat_map(|pod| self.pods.of(pod)).cloned());
        self.dirty.extend(concerns.services);
    }

    pub(in crate::controller) fn mark_all(&mut self) {
        self.dirty.extend(self.cases.keys().cloned());
    }

    /// What is decided about a Service with members on a node that goes or comes back is another thing.
    fn look_for_nodes(&mut self, index: &Index, now: Instant) {
        let mentioned = self.members.all().map(NodeName::as_str).chain(self.heard.keys().map(String::as_str));
        self.absent.look(mentioned, &index.node_names().unwrap_or_default(), now);
        let gone: BTreeSet<String> = self.absent.gone(now).map(str::to_owned).collect();
        for node in gone.symmetric_difference(&self.gone) {
            self.dirty.extend(self.members.of(&node.as_str().into()).iter().cloned());
        }
        self.gone = gone;
    }
}
