//! Nodes that are gone. A Node object is deleted and registered again within seconds when a kubelet restarts under another
//! configuration or somebody repairs a node; its pods live on all the while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// For how long there has been no Node object, by the controller's own clock, before the node counts as gone.
const GONE: Duration = Duration::from_secs(60);

/// Since when nodes that something is known of have no Node object.
#[derive(Debug, Clone, Default)]
pub(super) struct AbsentNodes(BTreeMap<String, Instant>);

impl AbsentNodes {
    /// Looks which of the nodes that are `mentioned` somewhere are not `there`.
    pub(super) fn look<'a>(
        &mut self,
        mentioned: impl IntoIterator<Item = &'a str>,
        there: &BTreeSet<&str>,
        now: Instant,
    ) {
        let absent: BTreeSet<&str> = mentioned.into_iter().filter(|node| !there.contains(node)).collect();
        self.0.retain(|node, _| absent.contains(node.as_str()));
        for node in absent {
            if !self.0.contains_key(node) {
                self.0.insert(node.to_owned(), now);
            }
        }
    }

    /// Whether a node has been absent for so long that it does not come back.
    pub(super) fn is_gone(&self, node: &str, now: Instant) -> bool {
        self.0.get(node).is_some_and(|since| *since + GONE <= now)
    }

    /// Nodes that do not come back.
    pub(super) fn gone(&self, now: Instant) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).filter(move |node| self.is_gone(node, now))
    }

    /// When the next one is gone.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|since| *since + GONE).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_gone_after_a_minute_and_comes_back_at_once() {
        let (start, mut nodes) = (Instant::now(), AbsentNodes::default());
        let mut at = |seconds: u64, there: &[&str]| {
            let now = start + Duration::from_secs(seconds);
            nodes.look(["a", "b"], &there.iter().copied().collect(), now);
            let due = nodes.due(now).map(|due| due.duration_since(start).as_secs());
            (nodes.is_gone("a", now), nodes.is_gone("b", now), due)
        };
        assert_eq!(at(0, &["a", "b"]), (false, false, None));
        assert_eq!(at(5, &["a"]), (false, false, Some(65)));
        assert_eq!(at(64, &["a"]), (false, false, Some(65)));
        assert_eq!(at(65, &["a"]), (false, true, None));
        assert_eq!(at(66, &["b"]), (false, false, Some(126)));
        assert_eq!(at(125, &["a", "b"]), (false, false, None), "registered again");
        assert_eq!(at(130, &["b"]), (false, false, Some(190)), "another absence counts anew");
    }
}
