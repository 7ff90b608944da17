use proptest::prelude::*;

use super::event::{self, name};
use super::ledger::*;
use super::*;
use crate::model::{NodeRef, Reason, ServiceRef, Subject};
use jiff::{SignedDuration, Timestamp};
use std::time::{Duration, Instant};

fn mk_problem(note: &str) -> Problem {
    let service = ServiceRef { namespace: "shop".to_owned(), name: "echo".to_owned(), uid: "uid-echo".to_owned() };
    Problem { subject: Subject::Service(service), reason: Reason::InvalidVip, note: note.to_owned() }
}

/// A clock that a test sets, and a ledger.
struct Day {
    start: Now,
    at: Duration,
    ledger: Ledger,
}

impl Day {
    fn new() -> Self {
        Self { start: Now::read(), at: Duration::ZERO, ledger: Ledger::new("worker-a") }
    }

    fn now(&self) -> Now {
        Now { instant: self.start.instant + self.at, wall: self.wall(self.at) }
    }

    fn wall(&self, at: Duration) -> Timestamp {
        self.start.wall + SignedDuration::try_from(at).unwrap()
    }

    fn minutes(mut self, minutes: u64) -> Self {
        self.at += Duration::from_secs(60 * minutes);
        self
    }

    fn problems(mut self, notes: &[&str]) -> Self {
        let problems = notes.iter().map(|note| mk_problem(note)).collect();
        self.ledger.update(&problems, self.now());
        self
    }

    fn task(&self) -> Option<Task> {
        self.ledger.next(self.now())
    }

    fn done(mut self, outcome: Outcome) -> Self {
        let task = self.task().expect("there is no task");
        self.ledger.done(&task.problem, outcome, self.now());
        self
    }

    fn observed(self) -> Self {
        let now = self.now().wall;
        self.done(Outcome::Observed(now))
    }

    /// Minutes until the next task.
    fn wait(&self) -> Option<u64> {
        let due: Instant = self.ledger.next_due()?;
        Some((due - self.now().instant).as_secs() / 60)
    }
}

#[test]
fn what_is_no_fault_is_told_as_normal() {
    let kind = |reason| {
        let problem = Problem { reason, ..mk_problem("a") };
        event::new(&problem, "controller", Timestamp::UNIX_EPOCH).type_.unwrap()
    };
    assert_eq!([kind(Reason::WaitingForBalance), kind(Reason::NotSetUp)], ["Normal", "Warning"]);
}

#[test]
fn a_new_problem_is_published_at_once_and_then_left_alone() {
    let day = Day::new().problems(&["a"]);
    assert_eq!(day.task(), Some(Task { problem: mk_problem("a"), observed_since: None }));
    let day = day.observed();
    assert_eq!(day.task(), None);
    assert_eq!(day.minutes(29).task(), None);
}

#[test]
fn a_problem_that_lasts_is_refreshed_before_its_event_expires() {
    let day = Day::new().problems(&["a"]).observed();
    assert!((30..=45).contains(&day.wait().unwrap()), "{:?}", day.wait());
    let day = day.minutes(46);
    let since = day.task().unwrap().observed_since;
    assert_eq!(since, Some(day.wall(Duration::from_secs(16 * 60))), "half an hour ago");
}

#[test]
fn an_event_that_another_node_has_refreshed_is_looked_at_again_when_that_is_old() {
    let day = Day::new().problems(&["a"]).observed().minutes(46);
    let ten_minutes_ago = day.wall(Duration::from_secs(36 * 60));
    let day = day.done(Outcome::Observed(ten_minutes_ago));
    assert!((20..=35).contains(&day.wait().unwrap()), "{:?}", day.wait());
}

#[test]
fn a_problem_that_is_resolved_is_no_task_any_more() {
    assert_eq!(Day::new().problems(&["a"]).problems(&[]).task(), None);
    let day = Day::new().problems(&["a"]).observed().problems(&[]).minutes(46);
    assert_eq!(day.task(), None);
    assert_eq!(day.wait(), None);
}

#[test]
fn a_problem_that_comes_back_must_be_observed_again() {
    let day = Day::new().problems(&["a"]).observed().problems(&[]).minutes(10).problems(&["a"]);
    let back = day.now().wall;
    let day = day.minutes(1);
    assert_eq!(day.task(), Some(Task { problem: mk_problem("a"), observed_since: Some(back) }));
}

#[test]
fn an_event_that_was_changed_a_moment_ago_is_changed_later() {
    let day = Day::new().problems(&["a"]).observed().problems(&[]).minutes(1).problems(&["a"]).minutes(0);
    let back = day.now().wall;
    let created = day.start.wall;
    let mut day = day;
    day.at += Duration::from_secs(5);
    assert!(is_too_soon(created, day.now()));
    let day = day.done(Outcome::TooSoon(created));
    assert_eq!(day.task(), None);
    let day = day.minutes(2);
    assert!(!is_too_soon(created, day.now()));
    assert_eq!(day.task().unwrap().observed_since, Some(back));
}

#[test]
fn a_problem_that_comes_back_after_its_event_has_expired_is_new() {
    let day = Day::new().problems(&["a"]).observed().problems(&[]).minutes(61).problems(&[]).problems(&["a"]);
    assert_eq!(day.task().unwrap().observed_since, None);
}

#[test]
fn what_fails_is_tried_again_ever_more_slowly() {
    let mut day = Day::new().problems(&["a"]);
    let mut waits = Vec::new();
    for _ in 0..10 {
        day = day.done(Outcome::Failed);
        let wait = day.ledger.next_due().unwrap() - day.now().instant;
        waits.push(wait.as_secs());
        day.at += wait;
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    assert_eq!(day.task().unwrap().observed_since, None, "it still has to be created");
    let day = day.observed().minutes(46).done(Outcome::Failed);
    assert_eq!((day.ledger.next_due().unwrap() - day.now().instant).as_secs(), 2, "a success starts over");
}

#[test]
fn a_problem_that_is_resolved_while_its_event_is_on_its_way_stays_resolved() {
    let mut day = Day::new().problems(&["a"]);
    let task = day.task().unwrap();
    day = day.problems(&[]);
    let now = day.now();
    day.ledger.done(&task.problem, Outcome::Failed, now);
    assert_eq!(day.wait(), None);
}

#[test]
fn what_has_waited_longest_goes_first() {
    let mut day = Day::new().problems(&["b"]);
    day.at += Duration::from_secs(1);
    let day = day.problems(&["a", "b"]);
    assert_eq!(day.task().unwrap().problem.note, "b");
    assert_eq!(day.observed().task().unwrap().problem.note, "a");
}

#[test]
fn clocks_that_disagree_do_no_harm() {
    let day = Day::new().problems(&["a"]);
    let future = day.wall(Duration::from_secs(3600));
    let day = day.done(Outcome::Observed(future));
    assert!((30..=45).contains(&day.wait().unwrap()));
}

#[test]
fn the_name_of_an_event_is_the_same_in_every_version() {
    // A change here makes every node of an upgrade publish everything again.
    assert_eq!(name(&mk_problem("note")), "echo.d11a6e0c76b2fc4a");
}

fn of_node(name: &str) -> Problem {
    let node = NodeRef { name: name.to_owned(), uid: None };
    Problem { subject: Subject::Node(node), ..mk_problem("note") }
}

#[test]
fn the_event_of_a_node_with_the_longest_name_has_a_name_that_the_api_takes() {
    let label = "a".repeat(58);
    let node = [label.as_str(); 4].join(".") + ".example.com-and.more";
    let event = name(&of_node(&node));
    assert!(event.len() <= 253, "{event}");
    assert!(
        event
            .split('.')
            .all(|label| label.starts_with(char::is_alphanumeric) && label.ends_with(char::is_alphanumeric))
    );
    // Cut behind each of its characters in turn.
    for start in 0..30 {
        let event = name(&of_node(&node[start..]));
        assert!(!event.contains("..") && !event.contains("-."), "{event}");
    }
}

proptest! {
    #[test]
    fn names_are_good_and_differ_when_the_problems_do(a in "\\PC{0,40}", b in "\\PC{0,40}") {
        let (one, other) = (name(&mk_problem(&a)), name(&mk_problem(&b)));
        prop_assert_eq!(a == b, one == other);
        prop_assert!(one.len() < 253 && one.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.'));
    }
}
