//! Firewalls of every kind, found by counting: packets that come to one point and not to the next.
//!
//! ```text
//! node:  taken in ──► encapsulated ──► made (outer) ──► left ─ ─► arrived at the endpoint's node
//! pod:                                                             arrived in the pod ──► delivered
//! ```
//!
//! A list of chains that drop by default misses a rule that rejects at the end of a chain, legacy iptables, output hooks, filters
//! on a veth, and policies in BPF. Counters on one node miss none of them, as long as nothing gets through.
//!
//! Counters of two namespaces are never read at the same moment. So a loss is believed when two looks in a row have seen it, and
//! it is over when something gets through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Settings;
use super::nft::{NodeCounts, PodCounts};
use super::surroundings::HookedChain;
use crate::model::cluster::as_note;
use crate::model::handover::Intent;
use crate::model::{Cluster, Family, Mode, Problem, Reason, ServiceRef, Subject, Vip};

/// Packets that must come to a point before none at the next one means anything.
const ENOUGH: u64 = 5;

/// Looks in a row that must have seen a loss.
const BELIEVED: u32 = 2;

/// Where packets get lost.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// The node takes them in, and none is encapsulated.
    Forwarding,
    /// The node encapsulates them, and none leaves.
    Leaving,
    /// Outer packets for this pod come to the node, and none to the pod.
    BeforePod(String),
    /// They come to this pod, and none comes out of its tunnel.
    InPod(String),
}

/// What has been counted on a node at one time.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// In the node.
    pub node: NodeCounts,
    /// In pods, by UID.
    pub pods: BTreeMap<String, PodCounts>,
}

/// What can be judged: where each packet must get through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// VIPs all of whose buckets have a next hop that takes new connections, too.
    pub vips: BTreeSet<IpAddr>,
    /// Pods of this node that pass nothing on, by UID: their name, Services and addresses.
    pub pods: BTreeMap<String, JudgedPod>,
}

/// A pod that can be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedPod {
    /// `namespace/name`, or the UID where the API names it no longer.
    pub name: String,
    /// The Service of one of its VIPs.
    pub service: Subject,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// What can be judged on this node. Of Services that are `troubled` here, it is known already why packets get no further.
pub fn judged(cluster: &Cluster, troubled: &BTreeSet<ServiceRef>, settings: &Settings) -> Judged {
    let mut out = Judged::default();
    let mut unsure = BTreeSet::new();
    for vip in cluster.vips() {
        if has_next_hops(vip) && !settings.unavailable.contains_key(&vip.mode) && !troubled.contains(&vip.service) {
            out.vips.insert(vip.address);
        }
        let (former, owners) = (has_former(vip), vip.pods_of(&settings.node_name));
        for (uid, addresses) in owners {
            if former || vip.mode == Mode::Mpls || settings.unavailable.contains_key(&vip.mode) {
                unsure.insert(uid.to_owned());
            }
            let listed = vip.endpoints.iter().find(|endpoint| endpoint.pod_uid == uid);
            let name = listed.map_or_else(|| uid.to_owned(), |e| format!("{}/{}", e.namespace, e.pod));
            let new = JudgedPod { name, service: (&vip.service).into(), addresses: addresses.iter().collect() };
            out.pods.entry(uid.to_owned()).or_insert(new);
        }
    }
    out.pods.retain(|uid, _| !unsure.contains(uid));
    out
}

fn has_next_hops(vip: &Vip) -> bool {
    let whole = |intent: &Arc<Intent>| {
        let all = usize::try_from(intent.hash.buckets.get()).is_ok_and(|all| intent.next_hops.len() == all);
        all && intent.next_hops.values().all(|hop| !hop.refuses_syn)
    };
    vip.intent.as_ref().is_some_and(whole)
}

fn has_former(vip: &Vip) -> bool {
    vip.map.iter().flat_map(|map| &map.holdings).any(|holding| !holding.former.is_empty())
}

/// Looks at counters again and again.
#[derive(Debug, Default)]
pub struct Losses {
    before: Option<Sample>,
    /// In how many looks, and how many packets until it was believed.
    seen: BTreeMap<Loss, (u32, u64)>,
}

impl Losses {
    /// Pods whose counters must be read beside those of the node: something has come for them since the last look.
    pub fn asked<'a>(&self, node: &NodeCounts, judged: &'a Judged) -> BTreeSet<&'a str> {
        let Some(before) = &self.before else { return BTreeSet::new() };
        let moved = |pod: &JudgedPod| came(&before.node, node, pod).is_none_or(|packets| packets > 0);
        judged.pods.iter().filter(|(_, pod)| moved(pod)).map(|(uid, _)| uid.as_str()).collect()
    }

    /// Takes a look in. Pods that were not read keep what was known of them.
    pub fn look(&mut self, mut now: Sample, judged: &Judged) {
        if let Some(before) = &self.before {
            let verdicts = verdicts(before, &now, judged);
            for (loss, verdict) in verdicts {
                match verdict {
                    Verdict::Lost(packets) => {
                        // What is told does not change with each packet more.
                        let (times, sum) = self.seen.entry(loss).or_default();
                        if *times < BELIEVED {
                            (*times, *sum) = (*times + 1, *sum + packets);
                        }
                    }
                    Verdict::Through => drop(self.seen.remove(&loss)),
                }
            }
            for (uid, counts) in &before.pods {
                now.pods.entry(uid.clone()).or_insert(*counts);
            }
        }
        self.seen.retain(|loss, _| match loss {
            Loss::Forwarding | Loss::Leaving => !judged.vips.is_empty(),
            Loss::BeforePod(uid) | Loss::InPod(uid) => judged.pods.contains_key(uid),
        });
        now.pods.retain(|uid, _| judged.pods.contains_key(uid));
        self.before = Some(now);
    }

    /// What is believed to be lost, and how many packets were seen to be.
    pub fn believed(&self) -> BTreeMap<Loss, u64> {
        let believed = self.seen.iter().filter(|(_, (times, _))| *times >= BELIEVED);
        believed.map(|(loss, (_, packets))| (loss.clone(), *packets)).collect()
    }
}

enum Verdict {
    Lost(u64),
    Through,
}

/// Nothing is said where too little came.
fn verdicts(before: &Sample, now: &Sample, judged: &Judged) -> Vec<(Loss, Verdict)> {
    let mut out = Vec::new();
    let mut judge = |loss, came: Option<u64>, through: Option<u64>| match (came, through) {
        (_, Some(1..)) => out.push((loss, Verdict::Through)),
        (Some(came), Some(0)) if came >= ENOUGH => out.push((loss, Verdict::Lost(came))),
        _ => {}
    };
    let (old, new) = (&before.node, &now.node);
    let taken_in = total(judged.vips.iter().map(|vip| grown(&old.taken_in, &new.taken_in, vip)));
    let encapsulated = new.encapsulated.checked_sub(old.encapsulated);
    judge(Loss::Forwarding, taken_in, encapsulated);
    let made = total(new.made.keys().map(|to| grown(&old.made, &new.made, to)));
    judge(Loss::Leaving, made, new.left.checked_sub(old.left));
    for (uid, pod) in &judged.pods {
        let (Some(then), Some(counts)) = (before.pods.get(uid), now.pods.get(uid)) else { continue };
        let arrived = counts.arrived.checked_sub(then.arrived);
        judge(Loss::BeforePod(uid.clone()), came(old, new, pod), arrived);
        judge(Loss::InPod(uid.clone()), arrived, counts.delivered.checked_sub(then.delivered));
    }
    out
}

/// Outer packets for a pod that came to its node or were made there; `None` where a counter began anew.
fn came(before: &NodeCounts, now: &NodeCounts, pod: &JudgedPod) -> Option<u64> {
    let grown_at = |at| [grown(&before.arrived, &now.arrived, at), grown(&before.made, &now.made, at)];
    total(pod.addresses.iter().flat_map(grown_at))
}

/// The sum, `None` where a counter began anew.
fn total(grown: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    grown.into_iter().try_fold(0_u64, |sum, one| Some(sum.saturating_add(one?)))
}

/// By how much a counter has grown; `None` if it began anew.
fn grown(before: &BTreeMap<IpAddr, u64>, now: &BTreeMap<IpAddr, u64>, of: &IpAddr) -> Option<u64> {
    let at = |counts: &BTreeMap<IpAddr, u64>| counts.get(of).copied().unwrap_or_default();
    at(now).checked_sub(at(before))
}

/// What users are told of losses; `chains` are those of others that packets pass on this node.
pub fn problems(
    believed: &BTreeMap<Loss, u64>,
    chains: &[HookedChain],
    judged: &Judged,
    node: &Subject,
    settings: &Settings,
) -> BTreeSet<Problem> {
    let addresses = judged.vips.iter().chain(judged.pods.values().flat_map(|pod| &pod.addresses));
    let families: BTreeSet<Family> = addresses.map(|address| Family::of(*address)).collect();
    let chains: Vec<&HookedChain> = chains.iter().filter(|chain| chain.sees(&families)).collect();
    let told = believed.iter().filter_map(|(loss, packets)| {
        let (subject, what) = match loss {
            Loss::Forwarding => (node, format!("of {packets} packets to VIPs none was sent into a tunnel")),
            Loss::Leaving => (node, format!("of {packets} packets that it put into tunnels none left")),
            Loss::BeforePod(uid) => {
                let pod = judged.pods.get(uid)?;
                (&pod.service, format!("of {packets} tunnel packets for pod {} none reached the pod", pod.name))
            }
            Loss::InPod(uid) => {
                let pod = judged.pods.get(uid)?;
                (&pod.service, format!("of {packets} tunnel packets in pod {} none came out of the tunnel", pod.name))
            }
        };
        let note = format!("node {}: {what}: {}", settings.node_name, suspects(loss, &chains));
        Some(Problem { subject: subject.clone(), reason: Reason::PacketsLost, note: as_note(&note) })
    });
    told.collect()
}

/// Most chains that are named.
const NAMED: usize = 6;

fn suspects(loss: &Loss, chains: &[&HookedChain]) -> String {
    let hooks: &[&str] = match loss {
        Loss::Forwarding => &["prerouting", "forward"],
        Loss::Leaving => &["output", "postrouting"],
        Loss::BeforePod(_) => &["prerouting", "forward", "output", "postrouting", "ingress", "egress"],
        Loss::InPod(_) => return "look at the rules in the pod's network namespace (`nft list ruleset`)".to_owned(),
    };
    let mut named: Vec<String> =
        chains.iter().filter(|chain| hooks.contains(&chain.hook.as_str())).map(ToString::to_string).collect();
    let more = named.len().saturating_sub(NAMED);
    named.truncate(NAMED);
    if more > 0 {
        named.push(format!("{more} more"));
    }
    let nft = if named.is_empty() {
        "no chain of nft is in their way".to_owned()
    } else {
        format!("they pass {}", named.join(", "))
    };
    format!("{nft}; look also at `iptables-legacy-save`, `tc filter show` and the policies of the CNI plugin")
}

#[cfg(test)]
#[path = "losses_tests.rs"]
mod tests;
