//! Which namespaces of this node have to become what: one target per namespace, each in a task of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tracing::info;

use super::event::Effect;
use super::goals::{PodGoal, is_out_of_reach, pod_target, query};
use crate::netns::Netns;
use crate::reconcile::target::NODE;
use crate::reconcile::{Goal, Order, Site};
use crate::state::Resolved;

/// A target that has not ended.
#[derive(Debug)]
struct Running {
    site: Site,
    /// It has been told to end and leave everything as it is.
    released: bool,
}

/// The running targets.
#[derive(Debug)]
pub(super) struct Targets {
    node_netns: Netns,
    /// Targets that have not ended.
    running: HashMap<String, Running>,
    /// Pods that served nothing when the agent started have been looked at once for leftovers.
    swept: bool,
}

impl Targets {
    /// No targets yet.
    pub(super) fn new(node_netns: Netns) -> Self {
        Targets { node_netns, running: HashMap::new(), swept: false }
    }

    /// Hands out the goals of a new state of the cluster.
    pub(super) fn dispatch(
        &mut self,
        resolved: &Resolved,
        pods: &BTreeMap<String, PodGoal>,
        effects: &mut Vec<Effect>,
    ) {
        let goal = Goal::Node(Arc::new(resolved.cluster.clone()));
        self.set(NODE.to_owned(), Order { goal, site: Site::Node(self.node_netns.clone()) }, effects);
        let wanted: BTreeMap<String, Order> =
            pods.iter().map(|(target, pod)| (target.clone(), order_of(pod))).collect();
        self.let_go(&wanted, effects);
        for (name, order) in wanted {
            self.set(name, order, effects);
        }
        // A map that is missing may name pods that no slice lists.
        if !self.swept && !resolved.cluster.vips().any(|vip| vip.holds) {
            self.swept = true;
            self.sweep(resolved, effects);
        }
    }

    /// A target has ended: its next goal starts a new one.
    pub(super) fn ended(&mut self, target: &str, effects: &mut Vec<Effect>) {
        self.running.remove(target);
        effects.push(Effect::Release(target.to_owned()));
    }

    /// Pods that lost their VIP while no agent ran still carry it.
    fn sweep(&mut self, resolved: &Resolved, effects: &mut Vec<Effect>) {
        let mut looked_at = 0;
        for pod in resolved.local_pods.values().filter(|p| !p.host_network && !is_out_of_reach(p)) {
            let name = pod_target(&pod.uid);
            if !self.running.contains_key(&name) {
                let Some(query) = query(&pod.uid, Some(pod), None) else { continue };
                self.set(name, Order { goal: Goal::Nothing, site: Site::Pod(query) }, effects);
                looked_at += 1;
            }
        }
        info!(pods = looked_at, "looking for leftovers in pods without a VIP");
    }

    /// Ends the targets of pods that serve nothing any more. The namespace of a static pod whose mirror is made again is left to
    /// the new one's target.
    fn let_go(&mut self, wanted: &BTreeMap<String, Order>, effects: &mut Vec<Effect>) {
        let others = self.running.iter_mut().filter(|(name, _)| *name != NODE && !wanted.contains_key(*name));
        for (name, running) in others.filter(|(_, running)| !running.released) {
            if wanted.values().any(|order| order.site.is_same_static_pod(&running.site)) {
                running.released = true;
                effects.push(Effect::Release(name.clone()));
            } else {
                let order = Order { goal: Goal::Nothing, site: running.site.clone() };
                effects.push(Effect::Order(name.clone(), order));
            }
        }
    }

    fn set(&mut self, name: String, order: Order, effects: &mut Vec<Effect>) {
        if let Some(running) = self.running.get_mut(&name) {
            running.site = order.site.clone();
            if !running.released {
                effects.push(Effect::Order(name, order));
            }
            return;
        }
        // Two targets in one namespace would undo each other's work; when the other one has ended, there is another dispatch.
        if self.running.values().any(|running| running.site.is_same_static_pod(&order.site)) {
            return;
        }
        self.running.insert(name.clone(), Running { site: order.site.clone(), released: false });
        effects.push(Effect::Start(name, order));
    }
}

/// What a pod's target is asked for.
fn order_of(pod: &PodGoal) -> Order {
    Order { goal: Goal::Pod(pod.input.clone()), site: Site::Pod(pod.query.clone()) }
}
