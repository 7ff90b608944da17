//! What a target is asked for.

use super::once::Goal;
use crate::netns::{Netns, PodQuery};

/// A goal, and where it is to be reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// What the namespace is to become.
    pub goal: Goal,
    /// Which namespace.
    pub site: Site,
}

/// Which namespace an [`Order`] is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Site {
    /// The node's own.
    Node(Netns),
    /// That of a pod, which is looked for again whenever the query changes.
    Pod(PodQuery),
}

impl Site {
    /// Whether both are of one pod: a mirror pod that is made again gets another UID, and its static pod runs on.
    pub fn is_same_static_pod(&self, other: &Site) -> bool {
        let hash = |site: &Site| match site {
            Site::Pod(query) => query.config_hash.clone(),
            Site::Node(_) => None,
        };
        hash(self).is_some_and(|own| hash(other) == Some(own))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn site(uid: &str, hash: Option<&str>) -> Site {
        let query = PodQuery::new(uid, Ipv4Addr::new(10, 244, 1, 2));
        Site::Pod(PodQuery { config_hash: hash.map(str::to_owned), ..query })
    }

    #[test]
    fn mirrors_of_one_static_pod_are_one_site_and_other_pods_are_not() {
        assert!(site("old", Some("hash")).is_same_static_pod(&site("new", Some("hash"))));
        assert!(!site("old", Some("hash")).is_same_static_pod(&site("new", Some("other"))));
        assert!(!site("old", None).is_same_static_pod(&site("new", None)));
    }
}
