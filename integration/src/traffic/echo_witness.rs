//! Who answers echo requests. A kernel does not put its name into what it echoes, so its pod is watched: the pod that an
//! echo reply leaves from is the one that answered.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::packet::{ICMP, ICMPV6};
use super::{Answer, Captured, Sniffer, Tally};
use crate::lab::{Family, Pod};
use crate::protocol::{Frame, Protocol};

/// How long a reply that the client has got may take to be noticed in the pod that it left from.
const PATIENCE: Duration = Duration::from_secs(10);

/// Client with identifier and sender of an echo reply, and the pod that it left from.
type Replies = BTreeMap<(SocketAddr, IpAddr), String>;

/// Watches pods from its start until it is dropped.
#[derive(Debug)]
pub struct EchoWitness {
    replies: watch::Receiver<Replies>,
    _tasks: JoinSet<()>,
}

impl EchoWitness {
    /// Starts to watch what leaves the pods.
    pub fn start<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Result<EchoWitness> {
        let (sender, replies) = watch::channel(Replies::new());
        let mut tasks = JoinSet::new();
        for pod in pods {
            let (name, sender) = (pod.name().to_owned(), sender.clone());
            let mut sniffer = Sniffer::open(pod.netns(), "eth0")?;
            tasks.spawn(async move {
                while let Ok(packet) = sniffer.next().await {
                    if let Some(reply) = echo_reply(&packet) {
                        sender.send_modify(|all| drop(all.insert(reply, name.clone())));
                    }
                }
            });
        }
        Ok(EchoWitness { replies, _tasks: tasks })
    }

    /// Writes into the answers of an ICMP tally which pod gave them, and to whom.
    pub async fn attribute(&mut self, tally: &mut Tally) {
        let key = |answer: &Answer| (answer.peer, answer.answered_from.ip());
        let keys: Vec<_> = tally.flows.iter().filter_map(|flow| Some(key(flow.outcome.as_ref().ok()?))).collect();
        let all = self.replies.wait_for(|seen| keys.iter().all(|key| seen.contains_key(key)));
        // Who was not seen stays unknown.
        drop(tokio::time::timeout(PATIENCE, all).await);
        let seen = self.replies.borrow();
        for answer in tally.flows.iter_mut().filter_map(|flow| flow.outcome.as_mut().ok()) {
            if let Some(pod) = seen.get(&key(answer)) {
                answer.pod.clone_from(pod);
            }
        }
    }
}

fn echo_reply(packet: &Captured) -> Option<(SocketAddr, IpAddr)> {
    let (from, to, payload): (IpAddr, IpAddr, _) = match (packet.ipv4(), packet.ipv6()) {
        (Some(ipv4), _) if ipv4.protocol == ICMP => (ipv4.source.into(), ipv4.destination.into(), ipv4.payload),
        (_, Some(ipv6)) if ipv6.next_header == ICMPV6 => (ipv6.source.into(), ipv6.destination.into(), ipv6.payload),
        _ => return None,
    };
    let frame = Frame::parse(Protocol::Icmp, Family::of(from), &payload)?;
    packet.outgoing.then_some((SocketAddr::new(to, frame.ports.0), from))
}
