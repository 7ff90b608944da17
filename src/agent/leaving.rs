//! What leaves goes on for a while: a node that is an ingress node no more, for routers have to hear of it first; and a node whose
//! Node object is gone, for it may be registered again in a moment.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Cluster, Node};

/// What routers get to learn that a node announces nothing any more.
const NOTICE: Duration = Duration::from_secs(30);

/// Whether this node is leaving.
#[derive(Debug, Default)]
pub struct Leaving {
    /// It took packets in when it was last looked at.
    ingress: bool,
    /// Until when it goes on.
    until: Option<Instant>,
    /// The nodes as they were when they were last looked at.
    present: BTreeMap<String, Node>,
    /// Nodes whose objects are gone, and until when they are remembered.
    absent: BTreeMap<String, (Node, Instant)>,
}

impl Leaving {
    /// Lets the node go on as an ingress node that announces nothing, as long as it has to.
    pub fn go_on(&mut self, cluster: &mut Cluster, node: &str, now: Instant) {
        let Some(me) = cluster.nodes.get_mut(node) else {
            // Deleted: there is nothing to go on with, and nothing to wait for.
            *self = Leaving::default();
            return;
        };
        if me.ingress || !self.ingress {
            (self.ingress, self.until) = (me.ingress, None);
            return;
        }
        let until = *self.until.get_or_insert(now + NOTICE);
        if now < until {
            (me.ingress, me.cordoned) = (true, true);
        } else {
            (self.ingress, self.until) = (false, None);
        }
    }

    /// Keeps nodes whose objects are gone, as if they were cordoned. Otherwise everybody would drop their packets at once, although
    /// nobody but the API has lost them.
    pub fn keep_absent(&mut self, cluster: &mut Cluster, now: Instant) {
        for (name, node) in std::mem::replace(&mut self.present, cluster.nodes.clone()) {
            if !cluster.nodes.contains_key(&name) {
                self.absent.entry(name).or_insert((node, now + NOTICE));
            }
        }
        self.absent.retain(|name, (_, until)| !cluster.nodes.contains_key(name) && now < *until);
        let kept = self.absent.iter().map(|(name, (node, _))| (name.clone(), Node { cordoned: true, ..node.clone() }));
        cluster.nodes.extend(kept);
    }

    /// When to look again although nothing changes.
    pub fn due(&self) -> Option<Instant> {
        self.absent.values().map(|(_, until)| *until).chain(self.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_whose_object_is_gone_goes_on_for_a_while_as_if_it_were_cordoned() {
        let (start, mut leaving) = (Instant::now(), Leaving::default());
        let mut look = |there: bool, seconds| {
            let node =
                Node { name: "n1".into(), uid: "uid-n1".into(), addresses: Vec::new(), ingress: true, cordoned: false };
            let nodes = there.then(|| ("n1".to_owned(), node)).into_iter().collect();
            let mut cluster = Cluster { nodes, ..Cluster::default() };
            leaving.keep_absent(&mut cluster, start + Duration::from_secs(seconds));
            (cluster.nodes.get("n1").map(|node| (node.ingress, node.cordoned)), leaving.due().is_some())
        };
        assert_eq!(look(true, 0), (Some((true, false)), false));
        assert_eq!(look(false, 10), (Some((true, true)), true));
        assert_eq!(look(true, 12), (Some((true, false)), false), "it is registered again");
        assert_eq!(look(false, 20), (Some((true, true)), true));
        assert_eq!(look(false, 49), (Some((true, true)), true));
        assert_eq!(look(false, 50), (None, false));
        assert_eq!(look(false, 51), (None, false));
    }

    #[test]
    fn a_node_that_was_an_ingress_node_goes_on_for_a_while_and_announces_nothing() {
        let (start, mut leaving) = (Instant::now(), Leaving::default());
        let mut look = |ingress, seconds| {
            let node =
                Node { name: "n1".into(), uid: "uid-n1".into(), addresses: Vec::new(), ingress, cordoned: false };
            let mut cluster = Cluster { nodes: [("n1".to_owned(), node)].into(), ..Cluster::default() };
            leaving.go_on(&mut cluster, "n1", start + Duration::from_secs(seconds));
            (cluster.nodes["n1"].ingress, cluster.nodes["n1"].cordoned, leaving.due().is_some())
        };
        assert_eq!(look(false, 0), (false, false, false), "it never was one");
        assert_eq!(look(true, 0), (true, false, false));
        assert_eq!(look(false, 10), (true, true, true));
        assert_eq!(look(true, 20), (true, false, false));
        assert_eq!(look(false, 30), (true, true, true));
        assert_eq!(look(false, 59), (true, true, true));
        assert_eq!(look(false, 60), (false, false, false));
        assert_eq!(look(false, 61), (false, false, false));
    }

    #[test]
    fn nothing_is_due_for_a_node_that_is_deleted_while_it_leaves() {
        let (start, mut leaving) = (Instant::now(), Leaving::default());
        let mut look = |ingress: Option<bool>, seconds| {
            let node = |ingress| Node {
                name: "n1".into(),
                uid: "uid-n1".into(),
                addresses: Vec::new(),
                ingress,
                cordoned: false,
            };
            let nodes = ingress.map(|ingress| ("n1".to_owned(), node(ingress))).into_iter().collect();
            let mut cluster = Cluster { nodes, ..Cluster::default() };
            leaving.go_on(&mut cluster, "n1", start + Duration::from_secs(seconds));
            leaving.due().is_some()
        };
        assert!(!look(Some(true), 0) && look(Some(false), 10));
        assert!(!look(None, 20), "what is due and never done would be due for ever");
    }
}
