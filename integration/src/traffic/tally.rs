//! What became of a number of flows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// What a pod answered, and how the answer looked from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Name of the pod that answered.
    pub pod: String,
    /// The client as the pod saw it.
    pub peer: SocketAddr,
    /// The address that the pod was spoken to at, as the pod saw it.
    pub local: IpAddr,
    /// Where the answer came from, as the client saw it.
    pub answered_from: SocketAddr,
}

impl Answer {
    /// The pod of an answer that does not name it: an echo reply.
    pub const UNKNOWN: &str = "?";

    /// An answer that says nothing but that it is one.
    pub(super) fn of_nobody(peer: SocketAddr, answered_from: SocketAddr, local: IpAddr) -> Answer {
        Answer { pod: Self::UNKNOWN.to_owned(), peer, local, answered_from }
    }

    /// Reads `<pod> <peer> <local> <DATA>`; `sent` is what must come back in upper case.
    pub(crate) fn parse(reply: &[u8], sent: &str, answered_from: SocketAddr) -> Result<Answer, Failure> {
        let text = String::from_utf8_lossy(reply);
        let mut words = text.trim_end().splitn(4, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (pod, peer, local, data) = (word(), word(), word(), word());
        match (peer.parse(), local.parse()) {
            (Ok(peer), Ok(local)) if data == sent.to_uppercase() => {
                Ok(Answer { pod: pod.to_owned(), peer, local, answered_from })
            }
            _ => Err(Failure { step: "answer", cause: format!("garbled: {text:?}") }),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{step}: {cause}")]
pub struct Failure {
    /// The step that failed: `bind`, `connect`, `send`, `receive`, `answer`.
    pub step: &'static str,
    /// What was wrong.
    pub cause: String,
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The client's end.
    pub source: SocketAddr,
    /// What became of it.
    pub outcome: Result<Answer, Failure>,
}

/// All flows towards one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Where they went.
    pub target: SocketAddr,
    /// Each flow, in the order of the sources.
    pub flows: Vec<Flow>,
}

impl Tally {
    pub(super) fn new(target: SocketAddr) -> Self {
        Self { target, flows: Vec::new() }
    }

    /// Number of flows.
    pub fn tried(&self) -> usize {
        self.flows.len()
    }

    /// Number of flows that were answered, rightly or wrongly.
    pub fn answered(&self) -> usize {
        self.answers().count()
    }

    fn answers(&self) -> impl Iterator<Item = (SocketAddr, &Answer)> {
        self.flows.iter().filter_map(|flow| Some((flow.source, flow.outcome.as_ref().ok()?)))
    }

    /// Answers by pod.
    pub fn per_pod(&self) -> BTreeMap<&str, usize> {
        count(self.answers().map(|(_, answer)| answer.pod.as_str()))
    }

    /// Which pod answered which client: equal for two runs with the same sources if and only if they were treated alike.
    pub fn owners(&self) -> BTreeMap<SocketAddr, &str> {
        self.answers().map(|(source, answer)| (source, answer.pod.as_str())).collect()
    }

    /// Clients that more than one pod answered: none of those whose flows cannot be told apart should be among them.
    pub fn scattered(&self) -> BTreeMap<IpAddr, BTreeSet<&str>> {
        let mut pods: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
        for (source, answer) in self.answers() {
            pods.entry(source.ip()).or_default().insert(&answer.pod);
        }
        pods.retain(|_, pods| pods.len() > 1);
        pods
    }

    /// Answers that did not come from the target.
    pub fn wrong_source(&self) -> Vec<(SocketAddr, &Answer)> {
        self.answers().filter(|(_, answer)| answer.answered_from != self.target).collect()
    }

    /// Answers to flows whose source was not what the pod saw: somebody translated it.
    pub fn translated(&self) -> Vec<(SocketAddr, &Answer)> {
        self.answers().filter(|(source, answer)| answer.peer != *source).collect()
    }

    /// Failures by kind.
    pub fn errors(&self) -> BTreeMap<String, usize> {
        count(self.flows.iter().filter_map(|flow| flow.outcome.as_ref().err().map(ToString::to_string)))
    }

    /// Every flow was answered, from the target, and the pod saw the true source.
    pub fn is_perfect(&self) -> bool {
        self.answered() == self.tried() && self.wrong_source().is_empty() && self.translated().is_empty()
    }

    /// The tally if it is perfect, else what is not, as an error.
    pub fn perfect(self) -> anyhow::Result<Self> {
        anyhow::ensure!(self.is_perfect(), "not every flow came through untouched: {self}");
        Ok(self)
    }

    /// Adds the flows of another tally for the same target.
    pub fn merge(&mut self, other: Tally) {
        self.flows.extend(other.flows);
    }
}

fn count<K: Ord>(items: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    items.fold(BTreeMap::new(), |mut counts, item| {
        *counts.entry(item).or_default() += 1;
        counts
    })
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}/{} answered", self.target, self.answered(), self.tried())?;
        for (pod, n) in self.per_pod() {
            write!(f, ", {pod} {n}")?;
        }
        for (kind, list) in [("from elsewhere", self.wrong_source()), ("translated", self.translated())] {
            if let Some((source, answer)) = list.first() {
                write!(
                    f,
                    "; {} {kind}, e.g. {source} saw {}, was seen as {}",
                    list.len(),
                    answer.answered_from,
                    answer.peer
                )?;
            }
        }
        for (error, n) in self.errors() {
            write!(f, "; {n}× {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn tally(replies: &[(&str, &[u8])]) -> Tally {
        let target = address("192.0.2.10:12345");
        let flow = |(source, reply): &(&str, &[u8])| Flow {
            source: address(source),
            outcome: Answer::parse(reply, "hello", target),
        };
        Tally { target, flows: replies.iter().map(flow).collect() }
    }

    #[test]
    fn a_perfect_tally_counts_by_pod() {
        let tally = tally(&[
            ("198.51.100.2:1000", b"a 198.51.100.2:1000 192.0.2.10 HELLO\n"),
            ("198.51.100.2:1001", b"b 198.51.100.2:1001 192.0.2.10 HELLO\n"),
        ]);
        assert!(tally.is_perfect());
        assert_eq!(tally.to_string(), "192.0.2.10:12345: 2/2 answered, a 1, b 1");
        assert_eq!(tally.owners()[&address("198.51.100.2:1001")], "b");
    }

    #[test]
    fn a_client_that_two_pods_answered_is_scattered() {
        let tally = tally(&[
            ("198.51.100.2:0", b"a 198.51.100.2:0 192.0.2.10 HELLO\n"),
            ("198.51.100.3:0", b"a 198.51.100.3:0 192.0.2.10 HELLO\n"),
            ("198.51.100.2:0", b"b 198.51.100.2:0 192.0.2.10 HELLO\n"),
        ]);
        assert_eq!(tally.scattered(), [(address("198.51.100.2:0").ip(), ["a", "b"].into())].into());
    }

    #[test]
    fn a_translated_source_is_noticed() {
        let tally = tally(&[("198.51.100.2:1000", b"a 10.0.0.11:777 10.244.1.2 HELLO\n")]);
        assert_eq!((tally.answered(), tally.translated().len(), tally.is_perfect()), (1, 1, false));
    }

    #[test]
    fn an_answer_to_another_question_is_a_failure() {
        let tally = tally(&[("198.51.100.2:1000", b"a 198.51.100.2:1000 192.0.2.10 GOODBYE\n")]);
        assert_eq!(tally.answered(), 0);
        assert_eq!(tally.errors().len(), 1);
    }
}
