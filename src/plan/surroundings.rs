//! What others have set up on a node that VIP packets do not survive: told to the user with the remedy, never changed.
//!
//! VIP packets are untracked, and untracked is not established: a chain that drops by default and accepts `established`
//! drops them, and no accept of ours in another table can override that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::conflict::Conflict;
use super::programmed::Around;
use super::{Observed, Settings};
use crate::model::{Cluster, Family, Problem, Reason, Subject, Vip};

/// What was found on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Chains of others that drop by default.
    pub drops: Vec<DropChain>,
    /// Families that this node does not forward.
    pub unforwarded: BTreeSet<Family>,
}

/// A base chain at the forward or input hook whose policy is `drop`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DropChain {
    /// Family of its table: `ip`, `ip6` or `inet`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// `forward` or `input`.
    pub hook: String,
    /// One of its rules accepts untracked packets.
    pub accepts_untracked: bool,
}

/// A chain of others through which packets pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HookedChain {
    /// Family of its table.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// `prerouting`, `forward`, …
    pub hook: String,
}

impl HookedChain {
    /// Whether packets of any of these families pass it.
    pub fn sees(&self, families: &BTreeSet<Family>) -> bool {
        families.iter().any(|family| sees(&self.family, *family))
    }
}

impl fmt::Display for HookedChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} of table {} {} ({})", self.name, self.family, self.table, self.hook)
    }
}

impl DropChain {
    fn concerns(&self, family: Family) -> bool {
        sees(&self.family, family)
    }
}

/// Whether chains of a table of this family see packets of a family.
fn sees(table: &str, family: Family) -> bool {
    match table {
        "ip" => family == Family::V4,
        "ip6" => family == Family::V6,
        _ => true,
    }
}

/// What users have to be told about this node, once for all Services; nothing where it has nothing to do with VIPs.
pub fn problems(cluster: &Cluster, found: &Surroundings, settings: &Settings) -> Vec<Problem> {
    let ingress = cluster.nodes.get(&settings.node_name).is_some_and(|n| n.ingress);
    let concerned = |vip: &&Vip| ingress || vip.pods().iter().any(|pod| pod.node == settings.node_name);
    let vips: Vec<&Vip> = cluster.vips().filter(concerned).collect();
    let drops = found.drops.iter().filter(|chain| {
        !chain.accepts_untracked && vips.iter().any(|vip| !vip.tracked && chain.concerns(vip.family()))
    });
    let unforwarded = found.unforwarded.iter().filter(|family| vips.iter().any(|vip| vip.family() == **family));
    let dropped = drops.map(|chain| (Reason::FirewallDrops, dropped_note(chain, settings)));
    let unforwarded = unforwarded.map(|family| (Reason::NotForwarding, unforwarded_note(*family, settings)));
    dropped.chain(unforwarded).map(|(reason, note)| of_node(cluster, settings, reason, note)).collect()
}

/// What users have to be told of rules that others have added since the agent started. Rules of others inside our block are
/// skipped by packets that are not ours, and those before it may catch ours.
pub fn rule_problems(cluster: &Cluster, conflicts: &[Conflict], settings: &Settings) -> Vec<Problem> {
    let ingress = cluster.nodes.get(&settings.node_name).is_some_and(|node| node.ingress);
    let concerned = conflicts.iter().filter(|_| ingress && !cluster.vips.is_empty());
    let note = |conflict: &Conflict| format!("node {}: {conflict}", settings.node_name);
    concerned.map(|conflict| of_node(cluster, settings, Reason::NodeFailed, note(conflict))).collect()
}

/// A problem of this node, whatever its Services.
pub(super) fn of_node(cluster: &Cluster, settings: &Settings, reason: Reason, note: String) -> Problem {
    Problem { subject: Subject::Node(cluster.node_ref(&settings.node_name)), reason, note }
}

/// VIPs that are addresses of this node itself, and the devices that have them. Rule 0 comes before all of ours: their packets end
/// here (kubernetes/kubernetes#59976).
pub fn local_vips(cluster: &Cluster, observed: &Observed) -> BTreeMap<IpAddr, String> {
    let foreign = observed.addresses.iter().filter(|(_, _, ours)| !ours).map(|(address, ..)| address);
    let local = foreign.filter(|address| cluster.vips.contains_key(&address.address));
    local.map(|address| (address.address, address.dev.clone())).collect()
}

/// What matters to VIPs that come later.
pub fn around(found: &Surroundings, observed: &Observed) -> Around {
    let forwarded = Family::ALL.into_iter().filter(|family| !found.unforwarded.contains(family));
    let foreign = observed.addresses.iter().filter(|(_, _, ours)| !ours).map(|(address, ..)| address.address);
    Around {
        announces: forwarded.filter(|_| !observed.withdrawn).collect(),
        taken: foreign.chain(observed.next_hops.keys().copied()).collect(),
    }
}

/// What their owners have to be told.
pub fn local_problems(cluster: &Cluster, local: &BTreeMap<IpAddr, String>, settings: &Settings) -> Vec<Problem> {
    let told = local.iter().filter_map(|(address, dev)| {
        let vip = cluster.vips.get(address)?;
        let note = format!(
            "node {node} keeps packets to {address} for itself, drops what its pods answer from there, and does not announce \
             it, for device {dev} has that address: `ip addr del {address} dev {dev}`, or look who sets it there (kube-proxy in \
             mode ipvs, keepalived)",
            node = settings.node_name,
        );
        Some(Problem { subject: (&vip.service).into(), reason: Reason::NodeFailed, note })
    });
    told.collect()
}

fn dropped_note(chain: &DropChain, settings: &Settings) -> String {
    let DropChain { family, table, name, hook, .. } = chain;
    format!(
        "node {node}: chain {name} of table {family} {table} (hook {hook}) drops by default, and packets of VIPs are untracked, \
         so a rule that accepts established flows does not accept them: `nft insert rule {family} {table} {name} ct state \
         untracked accept` (with iptables: -I {name} -m conntrack --ctstate UNTRACKED -j ACCEPT), or let a Service's \
         packets be tracked (annotation cmd.nu/tunnel-conntrack: keep)",
        node = settings.node_name,
    )
}

fn unforwarded_note(family: Family, settings: &Settings) -> String {
    let sysctl = match family {
        Family::V4 => "net.ipv4.ip_forward",
        Family::V6 => "net.ipv6.conf.all.forwarding",
    };
    format!(
        "node {node} does not forward {family} ({sysctl} is 0), so it passes on no packet of {family} VIPs: `sysctl -w \
         {sysctl}=1` on the node, and keep it in /etc/sysctl.d",
        node = settings.node_name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mode, NodeRef};
    use crate::plan::Address;
    use crate::plan::tests::support::{bare_vip, cluster, endpoint, ip, settings, vip};

    fn chain(family: &str, accepts_untracked: bool) -> DropChain {
        let text = |t: &str| t.to_owned();
        DropChain {
            family: text(family),
            table: text("filter"),
            name: text("FORWARD"),
            hook: text("forward"),
            accepts_untracked,
        }
    }

    fn both() -> Cluster {
        cluster(vec![
            vip("192.0.2.10", Mode::Gre, vec![endpoint(2, "n1")]),
            vip("2001:db8::10", Mode::Gre, vec![endpoint(2, "n1")]),
        ])
    }

    /// How often a chain that drops is told about this node.
    fn told(cluster: &Cluster, chain: DropChain) -> usize {
        let found = Surroundings { drops: vec![chain], ..Surroundings::default() };
        let problems = problems(cluster, &found, &settings("n1"));
        let node = Subject::Node(NodeRef { name: "n1".into(), uid: Some("uid-n1".into()) });
        assert!(problems.iter().all(|p| p.subject == node && p.reason == Reason::FirewallDrops), "{problems:?}");
        problems.len()
    }

    #[test]
    fn a_chain_that_drops_by_default_is_told_where_there_are_vips_of_its_family() {
        let v4 = cluster(vec![vip("192.0.2.10", Mode::Gre, vec![endpoint(2, "n1")])]);
        assert_eq!(told(&v4, chain("ip", false)), 1);
        assert_eq!(told(&v4, chain("ip6", false)), 0);
        assert_eq!(told(&v4, chain("inet", false)), 1);
        assert_eq!(told(&v4, chain("inet", true)), 0);
        assert_eq!(told(&both(), chain("inet", false)), 1);
    }

    #[test]
    fn a_problem_of_a_node_with_a_thousand_services_is_told_once() {
        let address = |n: usize| format!("192.0.{}.{}", n / 250, n % 250);
        let vips = (0..1000).map(|n| bare_vip(&address(n), Mode::Gre, vec![endpoint(2, "n1")]));
        let cluster = cluster(vips.collect());
        assert_eq!(cluster.vips.len(), 1000);
        assert_eq!(told(&cluster, chain("ip", false)), 1);
        let found = Surroundings { unforwarded: BTreeSet::from([Family::V4]), ..Surroundings::default() };
        assert_eq!(problems(&cluster, &found, &settings("n1")).len(), 1);
        let clash = [Conflict::RulePriority { priority: 150, first: 101, last: 262 }];
        assert_eq!(rule_problems(&cluster, &clash, &settings("n1")).len(), 1);
    }

    /// Changes the first so many VIPs.
    fn change(cluster: &mut Cluster, count: usize, change: impl Fn(&mut Vip)) {
        for vip in cluster.vips.clone().values().take(count) {
            let mut vip = vip.as_ref().clone();
            change(&mut vip);
            cluster.vips.insert(vip.address, vip.into());
        }
    }

    #[test]
    fn services_whose_packets_are_tracked_are_not_concerned() {
        let mut cluster = both();
        change(&mut cluster, 1, |vip| vip.tracked = true);
        assert_eq!(told(&cluster, chain("inet", false)), 1, "the other one is");
        change(&mut cluster, 2, |vip| vip.tracked = true);
        assert_eq!(told(&cluster, chain("inet", false)), 0);
    }

    #[test]
    fn a_node_without_ingress_and_endpoints_is_not_concerned() {
        let mut cluster = both();
        cluster.nodes.values_mut().for_each(|node| node.ingress = false);
        change(&mut cluster, 2, |vip| (vip.endpoints, vip.intent) = Default::default());
        assert_eq!(told(&cluster, chain("inet", false)), 0);
    }

    #[test]
    fn a_rule_of_others_that_clashes_with_ours_is_told_on_ingress_nodes() {
        let clash = [Conflict::RulePriority { priority: 102, first: 101, last: 102 }];
        let told = rule_problems(&both(), &clash, &settings("n1"));
        assert_eq!((told.len(), told[0].reason), (1, Reason::NodeFailed));
        assert!(told[0].note.contains("node n1: ip rule 102 is not ours") && told[0].note.contains("--rule-priority"));
        let mut serving = both();
        serving.nodes.values_mut().for_each(|node| node.ingress = false);
        assert_eq!(rule_problems(&serving, &clash, &settings("n1")), []);
    }

    #[test]
    fn a_vip_that_the_node_has_itself_is_told_with_the_device() {
        let on = |address: &str, ours| (Address { dev: "kube-ipvs0".into(), address: ip(address) }, 32, ours);
        let addresses = vec![on("192.0.2.10", false), on("2001:db8::10", true), on("192.0.2.99", false)];
        let observed = Observed { addresses, ..Observed::default() };
        let local = local_vips(&both(), &observed);
        assert_eq!(local, BTreeMap::from([(ip("192.0.2.10"), "kube-ipvs0".to_owned())]));
        let problems = local_problems(&both(), &local, &settings("n1"));
        assert_eq!((problems.len(), problems[0].subject.name()), (1, "svc-192.0.2.10"));
        assert!(problems[0].note.contains("`ip addr del 192.0.2.10 dev kube-ipvs0`"), "{}", problems[0].note);
    }

    #[test]
    fn the_remedy_is_a_command_and_fits_into_an_event() {
        let found = Surroundings { drops: vec![chain("ip", false)], unforwarded: BTreeSet::from([Family::V6]) };
        let notes: Vec<String> = problems(&both(), &found, &settings("n1")).into_iter().map(|p| p.note).collect();
        assert!(notes[0].contains("`nft insert rule ip filter FORWARD ct state untracked accept`"), "{notes:?}");
        assert!(notes[1].contains("`sysctl -w net.ipv6.conf.all.forwarding=1`"), "{notes:?}");
        assert!(notes.iter().all(|note| note.len() < 1024));
    }
}
