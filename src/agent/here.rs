//! The part of the cluster that concerns pods of this node: most VIPs of an ingress node have none there. And the VIPs without a map.

use std::sync::Arc;

use crate::model::cluster::differing;
use crate::model::{Cluster, Vip, Vips};

/// VIPs with pods on this node; found anew only for VIPs that have changed.
#[derive(Debug, Default)]
pub(super) struct Here {
    /// All VIPs as they were when they were last looked at.
    seen: Vips,
    part: Cluster,
    /// VIPs without a map, wherever their pods are.
    unmapped: Vips,
}

impl Here {
    /// Takes a new state of the cluster.
    pub fn look(&mut self, cluster: &Cluster, node: &str) {
        for (before, now) in differing(&self.seen, &cluster.vips) {
            let Some(address) = before.or(now).map(|vip| vip.address) else { continue };
            let keep = |vips: &mut Vips, vip: Option<&Arc<Vip>>| match vip {
                Some(vip) => drop(vips.insert(address, vip.clone())),
                None => drop(vips.remove(&address)),
            };
            keep(&mut self.part.vips, now.filter(|vip| is_on(vip, node)));
            keep(&mut self.unmapped, now.filter(|vip| vip.map.is_none()));
        }
        self.seen.clone_from(&cluster.vips);
        self.part.nodes.clone_from(&cluster.nodes);
    }

    /// VIPs without a map.
    pub fn unmapped(&self) -> impl Iterator<Item = &Vip> {
        self.unmapped.values().map(Arc::as_ref)
    }

    /// These VIPs, and all nodes; without problems.
    pub fn part(&self) -> &Cluster {
        &self.part
    }
}

/// Whether slices, the followed map or the stored one say that a pod of the VIP is on this node.
fn is_on(vip: &Vip, node: &str) -> bool {
    let followed = vip.intent.iter().flat_map(|intent| intent.members.values());
    let stored = vip.map.iter().flat_map(|map| map.members.values());
    vip.endpoints.iter().any(|endpoint| endpoint.node == node)
        || followed.chain(stored).any(|member| member.node.as_str() == node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;
    use crate::plan::tests::support::{bare_vip, cluster, draining_vip, endpoint};

    #[test]
    fn a_vip_concerns_a_node_while_a_pod_is_listed_or_named_there() {
        let mut here = Here::default();
        let mut look = |vips: Vec<Vip>| {
            here.look(&cluster(vips), "n1");
            here.part().vips.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        let other = || bare_vip("192.0.2.11", Mode::Gre, vec![endpoint(3, "n2")]);
        let listed = bare_vip("192.0.2.10", Mode::Gre, vec![endpoint(2, "n1")]);
        let drains = || draining_vip("192.0.2.10", Mode::Gre, vec![endpoint(3, "n2")], &[endpoint(2, "n1")]);
        assert_eq!(look(vec![listed, other()]), ["192.0.2.10"]);
        assert_eq!(look(vec![drains(), other()]), ["192.0.2.10"]);
        assert_eq!(look(vec![Vip { intent: None, ..drains() }, other()]), ["192.0.2.10"], "by the stored map");
        assert_eq!(look(vec![bare_vip("192.0.2.10", Mode::Gre, Vec::new()), other()]), [""; 0]);
        assert_eq!(look(vec![drains()]), ["192.0.2.10"]);
        assert_eq!(look(Vec::new()), [""; 0]);
    }
}
