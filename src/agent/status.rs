//! What users have to know: the problems of the cluster, of this node and of its pods, brought together.

use std::collections::{BTreeMap, BTreeSet};

use tracing::info;

use super::goals::{PodGoal, pod_target};
use crate::model::cluster::as_note;
use crate::model::handover::{ServiceUid, SetUp};
use crate::model::{EndpointId, Mode, NodeRef, Problem, Reason, Subject};
use crate::plan::pod::PodInput;
use crate::reconcile::target::{NODE, Report, State};
use crate::reconcile::{Goal, Note};

/// A failure is told to the user after this many tries: a pod that is just starting needs one or two (about 3 s).
const TRIES: u32 = 4;

/// How a pod is set up.
#[derive(Debug)]
struct Stands {
    set_up: SetUp,
    /// The modes that it lacks.
    lacking: BTreeSet<Mode>,
    /// What it was asked for.
    input: PodInput,
}

/// The state of all targets.
#[derive(Debug, Default)]
pub struct Status {
    /// Problems of resolving the cluster; replaced by every dispatch.
    cluster: Vec<Problem>,
    /// This node, for failures that concern all its Services; replaced by every dispatch.
    node: Option<NodeRef>,
    /// Who is concerned by a pod, by target name; replaced by every dispatch.
    pods: BTreeMap<String, PodGoal>,
    /// Problems by target name; replaced by the target's reports.
    targets: BTreeMap<String, Vec<Problem>>,
    /// How each pod is set up, by target name; updated by the pod's reports.
    set_up: BTreeMap<String, Stands>,
    /// Steps of the first successful round of each target.
    first: BTreeMap<String, usize>,
    /// Something was dispatched.
    dispatched: bool,
    /// The last error of targets that fail more often than is usual at a start.
    failing: BTreeMap<String, String>,
    /// There was nothing to say against this node's readiness once.
    was_ready: bool,
    /// The first pass over all targets has been logged.
    announced: bool,
}

impl Status {
    /// A new state of the cluster was dispatched; pods by target.
    pub fn dispatched(&mut self, problems: &[Problem], node: NodeRef, pods: BTreeMap<String, PodGoal>) {
        self.dispatched = true;
        self.cluster = problems.to_vec();
        self.node = Some(node);
        self.pods = pods;
    }

    /// The goals of the pods, by target.
    pub fn pods(&self) -> &BTreeMap<String, PodGoal> {
        &self.pods
    }

    /// A target has reported.
    pub fn reported(&mut self, node: &str, report: Report) {
        let problems = match report.state {
            State::InSync { writes, mut problems, notes, goal, program, lacking } => {
                problems.extend(notes.iter().flat_map(|note| self.failure(node, &report.target, note)));
                if let Goal::Pod(input) = goal {
                    let set_up = SetUp { addresses: input.addresses, program, ..SetUp::default() };
                    self.set_up.insert(report.target.clone(), Stands { set_up, lacking, input });
                }
                self.first.entry(report.target.clone()).or_insert(writes);
                self.failing.remove(&report.target);
                problems
            }
            State::Pending { failures: 1, .. } => return,
            State::Pending { failures, .. } if failures < TRIES => {
                self.fell(&report.target);
                return;
            }
            State::Pending { error, .. } => {
                self.fell(&report.target);
                let problems = self.failure(node, &report.target, &of_all(Reason::EndpointFailed, &error));
                self.failing.insert(report.target.clone(), error);
                problems
            }
            State::Refused { error } => {
                self.fell(&report.target);
                let problems = self.failure(node, &report.target, &of_all(Reason::EndpointRefused, &error));
                self.failing.insert(report.target.clone(), error);
                problems
            }
            State::Gone => {
                self.first.remove(&report.target);
                self.failing.remove(&report.target);
                self.targets.remove(&report.target);
                self.set_up.remove(&report.target);
                return;
            }
        };
        self.targets.insert(report.target, problems);
    }

    /// All problems, each once. An nft that lists in an unknown form does so in the node and all its pods: one of them is told.
    pub fn problems(&self) -> BTreeSet<Problem> {
        let (listings, others): (Vec<&Problem>, Vec<&Problem>) =
            self.targets.values().flatten().partition(|problem| problem.reason == Reason::UnknownListing);
        let listing = listings.into_iter().take(1);
        self.cluster.iter().chain(others).chain(listing).cloned().collect()
    }

    /// Logs once that everything that was asked for at the start is in place, and what it took.
    pub fn announce(&mut self) {
        let ready = self.first.contains_key(NODE) && self.pods.keys().all(|target| self.first.contains_key(target));
        if ready && !self.announced {
            self.announced = true;
            let writes: usize = self.first.values().sum();
            info!(targets = self.first.len(), writes, "first pass complete");
        }
    }

    /// The targets of this node that have not been as asked for yet.
    pub fn waiting(&self) -> BTreeSet<String> {
        let targets = self.pods.keys().map(String::as_str).chain(self.dispatched.then_some(NODE));
        targets.filter(|target| !self.first.contains_key(*target)).map(ToOwned::to_owned).collect()
    }

    /// `namespace/name` of the pods that serve a VIP, by target.
    pub fn pod_names(&self) -> BTreeMap<String, String> {
        self.pods.iter().map(|(target, goal)| (target.clone(), goal.name.clone())).collect()
    }

    /// Why this agent does not follow the API yet, a line each; `missing` are the kinds of objects that the API server has not
    /// listed yet.
    ///
    /// The node and the pods that are found at the start must have been as asked for once, or fail so persistently that people have
    /// been told. Readiness is what a rollout waits for: a node that cannot be set up, or a broken pod, must not keep the others from
    /// their new agents. What comes later does not count, and neither does an API server that goes away: the kernel works on.
    pub fn unready(&mut self, missing: &[&str]) -> Vec<String> {
        if !self.dispatched {
            return vec![format!("the API server has not listed yet: {}", missing.join(", "))];
        }
        let waiting = self.waiting();
        let counts = |target: &&String| !self.failing.contains_key(*target) && !self.was_ready;
        let waiting = waiting.iter().filter(counts).map(|target| format!("{}: is being set up", self.name(target)));
        let reasons: Vec<String> = waiting.collect();
        self.was_ready |= reasons.is_empty();
        reasons
    }

    /// What is not as asked for, a line each: the last error, or that nothing has been heard of it yet.
    pub fn pending(&self) -> Vec<String> {
        let waiting = self.waiting().into_iter().filter(|target| !self.failing.contains_key(target));
        let failing = self.failing.iter().map(|(target, error)| format!("{}: {error}", self.name(target)));
        failing.chain(waiting.map(|target| format!("{}: is being set up", self.name(&target)))).collect()
    }

    /// How the pods are set up that have been, by UID.
    pub fn set_up(&self) -> BTreeMap<EndpointId, SetUp> {
        let uid = |target: &str| target.strip_prefix(pod_target("").as_str()).map(EndpointId::from);
        let all = self.set_up.iter().filter_map(|(target, stands)| {
            let lacks = self.pods.get(target).map(|goal| lacks(goal, &stands.lacking)).unwrap_or_default();
            Some((uid(target)?, SetUp { lacks, ..stands.set_up.clone() }))
        });
        all.collect()
    }

    /// Services with a pod that is not as it is asked to be now, so that it may not let in whom the followed map names. Those that fail
    /// hold up no other. One that is not heard of yet may be as an agent before this one has left it.
    pub fn outdated(&self) -> BTreeSet<ServiceUid> {
        let is_current = |target: &String, goal: &PodGoal| {
            self.failing.contains_key(target)
                || self.set_up.get(target).is_some_and(|stands| stands.input == goal.input)
        };
        let outdated = self.pods.iter().filter(|(target, goal)| !is_current(target, goal));
        outdated.flat_map(|(_, goal)| goal.services.keys()).map(|service| service.uid.as_str().into()).collect()
    }

    /// What stood cannot be made again.
    fn fell(&mut self, target: &str) {
        if let Some(stands) = self.set_up.get_mut(target) {
            stands.set_up.fallen = true;
        }
    }

    /// A target as people know it.
    fn name(&self, target: &str) -> String {
        self.pods.get(target).map_or(target.to_owned(), |pod| format!("pod {}", pod.name))
    }

    fn failure(&self, node: &str, target: &str, note: &Note) -> Vec<Problem> {
        match self.pods.get(target).filter(|_| note.reason != Reason::UnknownListing) {
            Some(pod) => pod_failure(node, pod, note),
            None => self.node_failure(target, note.reason, &note.text).into_iter().collect(),
        }
    }

    /// A failure of the node itself, or of its nft.
    fn node_failure(&self, target: &str, reason: Reason, error: &str) -> Option<Problem> {
        let node = self.node.clone()?;
        let (reason, note) = match reason {
            Reason::UnknownListing => (reason, format!("node {}: {error}", node.name)),
            _ if target == NODE => {
                (Reason::NodeFailed, format!("node {} cannot be set up: {error}; it is tried again", node.name))
            }
            // A pod that is nobody's any more.
            _ => return None,
        };
        Some(Problem { subject: Subject::Node(node), reason, note: as_note(&note) })
    }
}

/// A failure of a pod, told to those of its Services whose mode it is about.
fn pod_failure(node: &str, pod: &PodGoal, Note { reason, mode, text }: &Note) -> Vec<Problem> {
    let name = &pod.name;
    let in_mode = mode.map(|mode| format!(" in mode {mode}")).unwrap_or_default();
    let note = match reason {
        Reason::NoSecondChance => {
            format!("pod {name} on node {node} cannot give packets a second chance: {text}; it is tried again")
        }
        Reason::EndpointRefused => format!("pod {name} on node {node} is not served: {text}"),
        _ => format!("pod {name} on node {node} cannot be set up{in_mode}: {text}; it is tried again"),
    };
    let note = as_note(&note);
    let concerned = pod.services.iter().filter(|(_, of)| mode.is_none_or(|mode| mode == **of));
    concerned.map(|(service, _)| Problem { subject: service.into(), reason: *reason, note: note.clone() }).collect()
}

/// The Services for which a pod that lacks these modes is not set up.
fn lacks(goal: &PodGoal, lacking: &BTreeSet<Mode>) -> BTreeSet<ServiceUid> {
    let of_modes = goal.services.iter().filter(|(_, mode)| lacking.contains(mode));
    let of_modes = of_modes.map(|(service, _)| ServiceUid::from(service.uid.as_str()));
    goal.unavailable.iter().cloned().chain(of_modes).collect()
}

/// What concerns all Services of a pod.
fn of_all(reason: Reason, error: &str) -> Note {
    Note { reason, mode: None, text: error.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::ServiceRef;
    use crate::netns::PodQuery;
    use crate::plan::pod::PodInput;
    use crate::reconcile::Note;

    fn service(name: &str) -> ServiceRef {
        ServiceRef { namespace: "default".into(), name: name.into(), uid: name.into() }
    }

    fn node() -> NodeRef {
        NodeRef { name: "n1".into(), uid: Some("uid-n1".into()) }
    }

    fn input() -> PodInput {
        PodInput {
            vips: BTreeMap::new(),
            addresses: std::net::Ipv4Addr::new(10, 244, 1, 2).into(),
            outer: BTreeSet::new(),
            nodes: BTreeSet::new(),
            underlay_mtu: None,
            peers: BTreeSet::new(),
            program: None,
        }
    }

    fn goal(services: BTreeSet<ServiceRef>, input: PodInput) -> PodGoal {
        let services = services.into_iter().zip([Mode::Gre, Mode::Vxlan]).collect();
        PodGoal {
            name: "default/echo-1".into(),
            services,
            unavailable: BTreeSet::new(),
            query: PodQuery::new("uid-1", input.addresses),
            input,
        }
    }

    fn status() -> Status {
        let services = BTreeSet::from([service("echo"), service("dns")]);
        let goal = goal(services, input());
        let mut status = Status::default();
        status.dispatched(&[], node(), BTreeMap::from([(pod_target("uid-1"), goal)]));
        status
    }

    fn pending(target: &str, failures: u32) -> Report {
        Report {
            target: target.into(),
            took: Duration::ZERO,
            state: State::Pending { failures, error: "no such thing".into() },
        }
    }

    fn in_sync(target: &str) -> Report {
        let state = State::InSync {
            writes: 3,
            problems: Vec::new(),
            notes: Vec::new(),
            goal: Goal::Pod(input()),
            program: true,
            lacking: BTreeSet::new(),
        };
        Report { target: target.into(), took: Duration::ZERO, state }
    }

    #[test]
    fn a_pod_that_fails_a_few_times_is_told_to_each_of_its_services_until_it_works() {
        let mut status = status();
        status.reported("n1", pending("pod uid-1", TRIES - 1));
        assert_eq!(status.problems().len(), 0, "a pod that is starting is no problem");
        status.reported("n1", pending("pod uid-1", TRIES));
        let problems = status.problems();
        assert_eq!(problems.len(), 2);
        assert!(problems.iter().all(|p| p.reason == Reason::EndpointFailed && p.note.contains("default/echo-1")));
        status.reported("n1", in_sync("pod uid-1"));
        assert_eq!(status.problems().len(), 0);
    }

    #[test]
    fn a_mode_that_a_pod_lacks_is_told_to_its_services_alone_and_reported() {
        let mut status = status();
        let mut report = in_sync("pod uid-1");
        let State::InSync { notes, lacking, .. } = &mut report.state else { panic!("{report:?}") };
        notes.push(Note { mode: Some(Mode::Vxlan), ..of_all(Reason::EndpointFailed, "UDP port 4790 is in use") });
        lacking.insert(Mode::Vxlan);
        status.reported("n1", report);
        let problems: Vec<Problem> = status.problems().into_iter().collect();
        assert_eq!((problems.len(), problems[0].subject.name()), (1, "echo"));
        assert!(problems[0].note.contains("cannot be set up in mode vxlan: UDP port 4790"), "{}", problems[0].note);
        assert_eq!(status.set_up()["uid-1"].lacks, ["echo".into()].into());
        status.reported("n1", in_sync("pod uid-1"));
        assert!(status.problems().is_empty() && status.set_up()["uid-1"].lacks.is_empty());
    }

    #[test]
    fn a_pod_that_cannot_be_served_is_told_of_at_once() {
        let mut status = status();
        let error = "device tap0_kata".to_owned();
        status.reported(
            "n1",
            Report { target: "pod uid-1".into(), took: Duration::ZERO, state: State::Refused { error } },
        );
        let problems = status.problems();
        assert_eq!(problems.len(), 2);
        assert!(problems.iter().all(|p| p.reason == Reason::EndpointRefused && p.note.contains("tap0_kata")));
    }

    #[test]
    fn a_pod_stands_from_its_first_good_round_until_it_cannot_be_made_again() {
        let mut status = status();
        let mut after = |report| {
            status.reported("n1", report);
            status.set_up().get("uid-1").map(|set_up| set_up.fallen)
        };
        assert_eq!(after(pending("pod uid-1", 2)), None, "it never stood");
        assert_eq!(after(in_sync("pod uid-1")), Some(false));
        assert_eq!(after(pending("pod uid-1", 1)), Some(false), "the next round is tried at once");
        assert_eq!(after(pending("pod uid-1", 2)), Some(true));
        assert_eq!(after(in_sync("pod uid-1")), Some(false));
        let gone = Report { target: "pod uid-1".into(), took: Duration::ZERO, state: State::Gone };
        assert_eq!(after(gone), None);
    }

    #[test]
    fn pods_know_of_a_map_when_those_that_do_not_fail_are_as_it_asks_for() {
        let mut status = status();
        let knows = |status: &Status| !status.outdated().contains("echo");
        assert!(!knows(&status), "an agent before this one may have left it otherwise");
        assert!(!status.outdated().contains("another"), "no pod of this node");
        status.reported("n1", in_sync("pod uid-1"));
        assert!(knows(&status));
        let peers = BTreeSet::from([std::net::Ipv4Addr::new(10, 244, 2, 3).into()]);
        let asked = goal(BTreeSet::from([service("echo")]), PodInput { peers, ..input() });
        status.dispatched(&[], node(), BTreeMap::from([(pod_target("uid-1"), asked)]));
        assert!(!knows(&status), "it does not let the new one in yet");
        status.reported("n1", pending("pod uid-1", TRIES));
        assert!(knows(&status), "one that fails holds up no other");
    }

    #[test]
    fn a_target_that_has_ended_leaves_nothing_behind() {
        let mut status = status();
        status.reported("n1", in_sync("pod uid-1"));
        status.reported("n1", pending("pod uid-1", TRIES));
        status.reported("n1", Report { target: "pod uid-1".into(), took: Duration::ZERO, state: State::Gone });
        assert!(status.problems().is_empty() && status.targets.is_empty() && status.first.is_empty());
    }

    #[test]
    fn a_node_that_fails_is_told_once_by_name_whatever_its_services() {
        let mut status = status();
        status.reported("n1", pending(NODE, TRIES));
        let problems: Vec<Problem> = status.problems().into_iter().collect();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!((&problem.subject, problem.reason), (&Subject::Node(node()), Reason::NodeFailed));
        assert!(problem.note.contains("node n1") && problem.note.contains("no such thing"));
    }

    #[test]
    fn an_nft_that_lists_in_an_unknown_form_is_told_once_for_the_node_and_all_pods() {
        let mut status = status();
        let note = |text: &str| Note { reason: Reason::UnknownListing, mode: None, text: text.into() };
        let mut listing = |target, text| {
            let State::InSync { writes, problems, program, goal, .. } = in_sync(target).state else { unreachable!() };
            let state =
                State::InSync { writes, problems, lacking: BTreeSet::new(), notes: vec![note(text)], program, goal };
            status.reported("n1", Report { target: target.into(), took: Duration::ZERO, state });
        };
        listing("pod uid-1", "set nodes is listed otherwise");
        listing(NODE, "set vips is listed otherwise");
        let problems: Vec<Problem> = status.problems().into_iter().collect();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!((&problem.subject, problem.reason), (&Subject::Node(node()), Reason::UnknownListing));
        assert_eq!(problem.note, "node n1: set vips is listed otherwise");
    }

    #[test]
    fn the_first_pass_is_complete_when_node_and_pods_are_in_sync() {
        let mut status = status();
        for target in [NODE, "pod uid-1"] {
            status.announce();
            assert!(!status.announced, "{target} is not in sync yet");
            status.reported("n1", in_sync(target));
        }
        status.announce();
        assert!(status.announced);
    }

    #[test]
    fn a_long_error_does_not_exceed_what_an_event_takes() {
        let mut status = status();
        let error = "ü".repeat(5000);
        status.reported(
            "n1",
            Report { target: NODE.into(), took: Duration::ZERO, state: State::Pending { failures: TRIES, error } },
        );
        assert!(status.problems().iter().all(|p| p.note.len() <= crate::model::MAX_NOTE));
    }

    #[test]
    fn a_node_is_ready_when_everything_has_been_in_place_once() {
        let mut none = Status::default();
        assert_eq!(none.unready(&["Services", "pods"]), ["the API server has not listed yet: Services, pods"]);
        let mut status = status();
        assert_eq!(status.unready(&[]), ["node: is being set up", "pod default/echo-1: is being set up"]);
        status.reported("n1", in_sync(NODE));
        status.reported("n1", pending("pod uid-1", 1));
        assert_eq!(status.unready(&[]), ["pod default/echo-1: is being set up"]);
        status.reported("n1", in_sync("pod uid-1"));
        assert!(status.unready(&[]).is_empty());
        status.reported("n1", pending("pod uid-1", TRIES));
        assert!(status.unready(&[]).is_empty(), "it was in place");
        status.reported("n1", Report { target: "pod uid-1".into(), took: Duration::ZERO, state: State::Gone });
        assert!(status.unready(&[]).is_empty(), "a pod that comes later");
    }

    #[test]
    fn neither_a_pod_nor_a_node_that_cannot_be_set_up_keeps_the_agent_unready() {
        for (healthy, broken) in [("pod uid-1", NODE), (NODE, "pod uid-1")] {
            let mut status = status();
            status.reported("n1", in_sync(healthy));
            status.reported("n1", pending(broken, TRIES - 1));
            assert_eq!(status.unready(&[]), [format!("{}: is being set up", status.name(broken))]);
            status.reported("n1", pending(broken, TRIES));
            assert!(status.unready(&[]).is_empty());
            assert_eq!(status.pending(), [format!("{}: no such thing", status.name(broken))]);
        }
    }
}
