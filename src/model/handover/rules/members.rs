//! Who is set up, and who has a name.

use std::collections::BTreeSet;

use super::{Said, Step, merged};
use crate::model::EndpointId;
use crate::model::handover::endpoint::{contradict, usable};
use crate::model::handover::{EndpointState, Member, Name, NodeName};

impl Step<'_> {
    /// Writes down what the nodes have said, and who may own buckets.
    pub(super) fn take_reports(&mut self) {
        for endpoint in self.inputs.endpoints {
            let said = self.inputs.witness.said(endpoint, self.inputs.service, self.inputs.now.instant);
            let mut known = false;
            let mut program = false;
            if let Some(member) = self.map.members.get_mut(&endpoint.id) {
                if contradict(member.addresses, endpoint.addresses) {
                    self.reborn.insert(endpoint.id.clone());
                    (member.addresses, member.set_up) = (endpoint.addresses, false);
                }
                member.addresses = merged(member.addresses, endpoint.addresses);
                member.set_up = match said {
                    Said::Stands { .. } => true,
                    Said::Fell => false,
                    Said::Nothing => member.set_up,
                };
                if let Said::Stands { program } = said {
                    member.program = program;
                }
                (known, program) = (member.set_up, member.program);
            } else if let Said::Stands { program: attached } = said {
                (known, program) = (true, attached);
            }
            if known && !self.has_ended(&endpoint.id) {
                self.set_up.insert(endpoint.id.clone(), program);
            } else if endpoint.state == EndpointState::Ready {
                self.waiting.not_set_up.insert(endpoint.id.clone(), endpoint.node.clone());
            }
        }
        self.eligible = usable(self.inputs.endpoints, |e| self.set_up.contains_key(&e.id));
    }

    /// Writes down what the nodes know. Owners are replaced before that: nodes choose stand-ins by what was stored. Nothing that
    /// is absent takes anything away.
    pub(super) fn take_knowledge(&mut self) {
        let nodes: BTreeSet<NodeName> = self.map.members.values().map(|member| member.node.clone()).collect();
        for node in nodes {
            let announced = self.before.announced;
            let said = self.inputs.witness.knows(&node, self.inputs.service, announced);
            let said = said.map(|knows| knows.min(announced));
            let knows = said.max(self.map.knows.remove(&node));
            self.map.knows.extend(knows.map(|knows| (node, knows)));
        }
    }

    /// Notes whom nodes have to hear of.
    pub(super) fn take_note_of_news(&mut self) {
        let (map, before) = (&mut self.map, self.before);
        let generation = map.generation;
        for (id, member) in &mut map.members {
            if before.members.get(id).is_none_or(|before| before.addresses != member.addresses) {
                (member.named, map.announced) = (Some(generation), generation);
            }
        }
        if map.moves().any(|(_, next)| next.generation == generation) {
            map.announced = generation;
        }
    }

    /// Names for owners, former owners, and for as many of the others as may soon own a bucket: together not more than two for
    /// each bucket, so that the map has a limit whatever the number of endpoints.
    pub(super) fn give_names(&mut self) {
        let holdings = self.map.holdings.iter();
        let listed = holdings.flat_map(|h| h.owner.iter().chain(h.former.iter().map(|former| &former.endpoint)));
        let next = self.map.moves().map(|(_, next)| &next.endpoint);
        let mut named: BTreeSet<EndpointId> = listed.chain(next).cloned().collect();
        let most = 2 * self.map.holdings.len();
        let (old, new): (Vec<_>, Vec<_>) = self.set_up.keys().partition(|id| self.map.members.contains_key(*id));
        for id in old.into_iter().chain(new) {
            if named.len() < most {
                named.insert(id.clone());
            }
        }
        self.map.members.retain(|id, _| named.contains(id));
        let members = &self.map.members;
        self.map.knows.retain(|node, _| members.values().any(|member| member.node == *node));
        let mut taken: BTreeSet<Name> = self.map.members.values().map(|member| member.name).collect();
        for id in named {
            if self.map.members.contains_key(&id) {
                continue;
            }
            let Some(endpoint) = self.endpoints.get(&id) else { continue };
            // At most four names for each of 128 buckets: there is always a free one.
            let mut name = self.map.last_name.next();
            while !taken.insert(name) {
                name = name.next();
            }
            self.map.last_name = name;
            let program = self.set_up.get(&id).copied().unwrap_or_default();
            let (node, addresses) = (endpoint.node.clone(), endpoint.addresses);
            self.map.members.insert(id, Member { name, node, addresses, set_up: true, program, named: None });
        }
        let owners = self.map.holdings.iter().filter_map(|holding| holding.owner.clone());
        self.waiting.without_program = owners.filter(|id| !self.has_program(id)).collect();
    }
}
