//! VIPs that this node itself depends on: its next hops, resolvers and BGP neighbours.
//!
//! What the node sends to a VIP goes into a pod. Where that is a router or a resolver of the node, the node would lose its network, and
//! a tenant could answer in its place. So this node's namespace holds nothing of such a VIP, whoever holds it: it is not announced, and what
//! pods of this node answer from it passes as any other packet does, or not.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::Settings;
use crate::model::{Cluster, Problem, Reason};

/// The port of BGP (RFC 4271 §4).
pub const BGP: u16 = 179;

/// What this node has an address for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// Routes lead through it, by this device.
    NextHop(String),
    /// It resolves names, as this file says.
    Resolver(String),
    /// There is a BGP session with it.
    BgpNeighbour,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::NextHop(dev) => write!(f, "the next hop of its routes by device {dev} (`ip route`)"),
            Use::Resolver(file) => write!(f, "its resolver by {file}"),
            Use::BgpNeighbour => write!(f, "its BGP neighbour (`ss -tn '( sport = {BGP} or dport = {BGP} )'`)"),
        }
    }
}

/// Addresses that this node depends on. Of several uses one is named.
pub type Uses = BTreeMap<IpAddr, Use>;

/// Those of the cluster's VIPs that are in use.
pub fn used_vips(cluster: &Cluster, uses: Uses) -> Uses {
    uses.into_iter().filter(|(address, _)| cluster.vips.contains_key(address)).collect()
}

/// The cluster as far as this node serves it.
pub fn without<'a>(cluster: &'a Cluster, used: &Uses) -> Cow<'a, Cluster> {
    if used.is_empty() {
        return Cow::Borrowed(cluster);
    }
    let mut served = cluster.clone();
    used.keys().for_each(|address| drop(served.vips.remove(address)));
    Cow::Owned(served)
}

/// What the owners of such VIPs have to be told.
pub fn problems(cluster: &Cluster, used: &Uses, settings: &Settings) -> Vec<Problem> {
    let node = settings.node_name.as_str();
    let ingress = cluster.nodes.get(node).is_some_and(|node| node.ingress);
    let told = used.iter().filter_map(|(address, what)| {
        let vip = cluster.vips.get(address).filter(|vip| ingress || !vip.pods_of(node).is_empty())?;
        let note = format!(
            "node {node} neither serves nor announces {address}, for it is {what}: use an address that no node needs for itself"
        );
        Some(Problem { subject: (&vip.service).into(), reason: Reason::NodeFailed, note })
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;
    use crate::plan::tests::support::{cluster, endpoint, ip, settings, vip};

    fn both() -> Cluster {
        cluster(vec![
            vip("192.0.2.10", Mode::Gre, vec![endpoint(2, "n1")]),
            vip("192.0.2.20", Mode::Gre, vec![endpoint(2, "n1")]),
        ])
    }

    fn uses(address: &str, what: Use) -> Uses {
        Uses::from([(ip(address), what), (ip("10.0.0.1"), Use::NextHop("eth0".into()))])
    }

    #[test]
    fn a_vip_that_the_node_depends_on_is_not_served_and_told() {
        for (what, words) in [
            (Use::NextHop("eth0".into()), "the next hop of its routes by device eth0"),
            (Use::Resolver("/etc/resolv.conf".into()), "its resolver by /etc/resolv.conf"),
            (Use::BgpNeighbour, "its BGP neighbour"),
        ] {
            let (cluster, settings) = (both(), settings("n1"));
            let used = used_vips(&cluster, uses("192.0.2.10", what));
            assert_eq!(without(&cluster, &used).vips.keys().collect::<Vec<_>>(), [&ip("192.0.2.20")]);
            let problems = problems(&cluster, &used, &settings);
            assert_eq!((problems.len(), problems[0].subject.name()), (1, "svc-192.0.2.10"));
            assert!(problems[0].note.contains("node n1") && problems[0].note.contains(words), "{}", problems[0].note);
        }
    }

    #[test]
    fn a_node_that_has_nothing_to_do_with_the_vip_says_nothing() {
        let mut cluster = both();
        cluster.nodes.values_mut().for_each(|node| node.ingress = false);
        let used = used_vips(&cluster, uses("192.0.2.10", Use::BgpNeighbour));
        assert_eq!(problems(&cluster, &used, &settings("n1")).len(), 1, "its pod is here");
        assert_eq!(problems(&cluster, &used, &settings("n9")), []);
    }
}
