//! Which namespaces of this node have to become what: one target per namespace, each in a task of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use crate::model::{Cluster, Node, ServiceRef};
use crate::netns::{Netns, PodNetnsFinder, PodQuery, ProcFinder};
use crate::plan::pod::PodInput;
use crate::reconcile::Goal;
use crate::reconcile::target::{Locate, Shared, run};
use crate::state::Resolved;

/// Name of the target that is the node itself; pods have theirs from [`pod_target`].
pub const NODE: &str = "node";

/// Name of a pod's target.
pub fn pod_target(uid: &str) -> String {
    format!("pod {uid}")
}

/// What one pod is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct PodGoal {
    /// `namespace/name`, for people.
    pub name: String,
    /// The Services behind its VIPs.
    pub services: BTreeSet<ServiceRef>,
    /// VIPs, addresses.
    pub input: PodInput,
}

/// Goals of all pods of `node` that serve a VIP, by pod UID.
pub fn pod_goals(cluster: &Cluster, node: &str) -> BTreeMap<String, PodGoal> {
    let nodes: BTreeSet<Ipv4Addr> = cluster.nodes.values().filter_map(Node::ipv4).collect();
    let mut goals = BTreeMap::new();
    for vip in cluster.vips.values() {
        for endpoint in vip.endpoints.iter().filter(|e| e.node == node) {
            let goal = goals.entry(endpoint.pod_uid.clone()).or_insert_with(|| PodGoal {
                name: format!("{}/{}", endpoint.namespace, endpoint.pod),
                services: BTreeSet::new(),
                input: PodInput { vips: BTreeMap::new(), address: endpoint.address, nodes: nodes.clone() },
            });
            goal.services.insert(vip.service.clone());
            goal.input.vips.insert(vip.address, vip.mode);
        }
    }
    goals
}

/// The running targets.
pub struct Dispatcher {
    shared: Shared,
    node_netns: Arc<Netns>,
    finder: Arc<dyn PodNetnsFinder + Send + Sync>,
    /// Goals that running targets listen to.
    targets: HashMap<String, watch::Sender<Goal>>,
    /// Pods that served nothing when the agent started have been looked at once for leftovers.
    swept: bool,
}

impl Dispatcher {
    /// No targets yet. `proc_root` is where the host's `/proc` is seen.
    pub fn new(shared: Shared, node_netns: Netns, proc_root: PathBuf) -> Self {
        let finder = Arc::new(ProcFinder::new(proc_root));
        Dispatcher { shared, node_netns: Arc::new(node_netns), finder, targets: HashMap::new(), swept: false }
    }

    /// Hands out the goals of a new state of the cluster.
    pub fn dispatch(&mut self, resolved: &Resolved) {
        let node_name = self.shared.settings.node_name.clone();
        self.set(NODE.to_owned(), Goal::Node(Arc::new(resolved.cluster.clone())), || None);
        let pods = pod_goals(&resolved.cluster, &node_name);
        let wanted: BTreeSet<String> = pods.keys().map(|uid| pod_target(uid)).collect();
        for (uid, goal) in pods {
            let query = PodQuery { uid: uid.clone(), ip: goal.input.address };
            self.set(pod_target(&uid), Goal::Pod(goal.input), || Some(query));
        }
        for (name, goal) in &self.targets {
            if name != NODE && !wanted.contains(name) {
                send(goal, Goal::Nothing);
            }
        }
        if !self.swept {
            self.swept = true;
            self.sweep(resolved);
        }
    }

    /// A target has ended: its next goal starts a new one.
    pub fn ended(&mut self, target: &str) {
        self.targets.remove(target);
    }

    /// Number of namespaces that have a goal.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether nothing was dispatched yet.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Pods that lost their VIP while no agent ran still carry it.
    fn sweep(&mut self, resolved: &Resolved) {
        let mut looked_at = 0;
        for pod in resolved.local_pods.values().filter(|p| !p.host_network && !p.terminated) {
            let address = pod.addresses.iter().find_map(|a| match a {
                std::net::IpAddr::V4(v4) => Some(*v4),
                std::net::IpAddr::V6(_) => None,
            });
            let name = pod_target(&pod.uid);
            if let Some(ip) = address.filter(|_| !self.targets.contains_key(&name)) {
                let query = PodQuery { uid: pod.uid.clone(), ip };
                self.set(name, Goal::Nothing, || Some(query));
                looked_at += 1;
            }
        }
        info!(pods = looked_at, "looking for leftovers in pods without a VIP");
    }

    fn set(&mut self, name: String, goal: Goal, query: impl FnOnce() -> Option<PodQuery>) {
        if let Some(running) = self.targets.get(&name) {
            send(running, goal);
            return;
        }
        let (sender, receiver) = watch::channel(goal);
        let locate = self.locate(query());
        tokio::spawn(run(name.clone(), locate, receiver, self.shared.clone()));
        self.targets.insert(name, sender);
    }

    fn locate(&self, query: Option<PodQuery>) -> Locate {
        match query {
            Some(query) => {
                let finder = self.finder.clone();
                Arc::new(move || finder.find(&query))
            }
            None => {
                let netns = self.node_netns.clone();
                Arc::new(move || Ok(Netns::clone(&netns)))
            }
        }
    }
}

fn send(goal: &watch::Sender<Goal>, new: Goal) {
    goal.send_if_modified(|old| {
        let changed = *old != new;
        if changed {
            *old = new;
        }
        changed
    });
}
