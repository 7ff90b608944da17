//! The state machine of a bucket: every arrow of its drawing.

use super::*;
use crate::model::BucketCount;
use crate::model::handover::{EndpointState, FlowHash, Former, HashKey, Member, Next, Why};

/// One Service, seen by one node.
struct Node {
    follow: Follow,
    start: Moment,
}

const READY: EndpointState = EndpointState::Ready;
const NOT_READY: EndpointState = EndpointState::NotReady;
const ENDS: EndpointState = EndpointState::Terminating { serving: true };

fn id(pod: char) -> EndpointId {
    EndpointId::from(pod.to_string().as_str())
}

fn name(pod: char) -> Name {
    Name::new(u32::from(pod)).unwrap()
}

/// A map in which all buckets are alike. Of `owner`, the first generation is that of the map.
fn map(generation: u64, owner: char, planned: bool, former: &str) -> Assignment {
    let hash = FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 7, key: HashKey::Ports };
    let mut map = Assignment::begin(hash, &"s".into(), 0, None);
    let generation = Generation(generation);
    let lost = |pod| Former { endpoint: id(pod), generation, since: 1000, held: 60, why: Why::Balance };
    let former = former.chars().map(lost).collect();
    map.holdings = vec![Holding { owner: Some(id(owner)), generation, since: 1000, planned, former, next: None }; 16];
    let member = |pod| {
        let addresses = Addresses::from(std::net::Ipv4Addr::new(10, 0, 0, u8::try_from(pod).unwrap()));
        (id(pod), Member { name: name(pod), node: "n".into(), addresses, set_up: true, program: true, named: None })
    };
    map.members = "pcsd".chars().map(member).collect();
    (map.generation, map.drain_non_tcp, map.last_name) = (generation, 30, name('s'));
    map
}

fn endpoints(list: &[(char, EndpointState)]) -> Vec<Endpoint> {
    let endpoint = |(pod, state): &(char, EndpointState)| Endpoint {
        id: id(*pod),
        node: "n".into(),
        addresses: Addresses::default(),
        state: *state,
    };
    list.iter().map(endpoint).collect()
}

impl Node {
    fn new(map: Assignment, list: &[(char, EndpointState)]) -> Node {
        let start = Moment { instant: Instant::now(), unix: 1000 };
        Node { follow: Follow::new(map.into(), endpoints(list), start), start }
    }

    fn at(&self, ms: u64) -> Moment {
        Moment { instant: self.start.instant + Duration::from_millis(ms), unix: self.start.unix + ms / 1000 }
    }

    fn see(&mut self, ms: u64, list: &[(char, EndpointState)]) -> String {
        let now = self.at(ms);
        self.follow.see(&endpoints(list), now);
        self.shown(ms)
    }

    fn offer(&mut self, ms: u64, map: &Assignment) -> String {
        let now = self.at(ms);
        assert_eq!(self.follow.offer(&map.clone().into(), now), Offered::Followed);
        self.shown(ms)
    }

    /// The first bucket: owner, names, `+` for non-TCP, `!` for refused SYNs.
    fn shown(&mut self, ms: u64) -> String {
        let now = self.at(ms);
        self.follow.step(now);
        let Some(hop) = self.follow.next_hops().values().next() else { return String::new() };
        let names: String = hop.id.list().map(|name| char::from(u8::try_from(name.get()).unwrap())).collect();
        let (non_tcp, refuses) = (if hop.id.datagrams() { "+" } else { "" }, if hop.refuses_syn { "!" } else { "" });
        format!("{}({names}){non_tcp}{refuses}", hop.owner)
    }

    fn deadline(&self, ms: u64) -> Option<u128> {
        let due = self.follow.next_deadline(self.at(ms))?;
        Some((due - self.start.instant).as_millis())
    }
}

#[test]
fn a_planned_move_is_followed_at_once() {
    let mut node = Node::new(map(1, 'p', false, ""), &[('p', READY), ('c', READY)]);
    assert_eq!(node.offer(100, &map(2, 'c', true, "p")), "c(p)+");
    assert_eq!(node.follow.served().present.values().next().unwrap()[..], [name('c'), name('p')]);
}

#[test]
fn pods_know_of_a_move_that_is_announced_and_ingress_nodes_do_nothing() {
    let mut node = Node::new(map(1, 'p', false, ""), &[('p', READY), ('c', READY)]);
    let mut announced = map(2, 'p', false, "");
    announced.holdings[0].next = Some(Next { endpoint: id('c'), generation: Generation(2) });
    assert_eq!(node.offer(0, &announced), "p()");
    assert_eq!(node.follow.served().present, [(Bucket::new(0).unwrap(), vec![name('p'), name('c')])].into());
    assert_eq!(node.shown(3_600_000), "p()");
    assert_eq!(node.follow.served().present.len(), 1, "for as long as it is announced");
}

#[test]
fn a_move_that_is_taken_back_leaves_everything_as_it_was() {
    let mut node = Node::new(map(1, 'p', false, ""), &[('p', READY), ('c', READY)]);
    node.offer(0, &map(2, 'c', true, "p"));
    assert_eq!(node.offer(500, &map(3, 'p', true, "c")), "p(c)+");
    assert_eq!(node.shown(5000), "p(c)+");
}

#[test]
fn a_stand_in_comes_after_5_s_or_2_s_and_names_the_owner() {
    for (state, seconds, expected) in [(Some(NOT_READY), 5, "c(p)"), (Some(ENDS), 2, "c(p)+"), (None, 2, "c(p)")] {
        let mut node = Node::new(map(1, 'p', false, ""), &[('p', READY), ('c', READY)]);
        let list: Vec<_> = state.map(|state| ('p', state)).into_iter().chain([('c', READY)]).collect();
        assert_eq!(node.see(1000, &list), "p()");
        assert_eq!(node.deadline(1000), Some(1000 + seconds * 1000));
        assert_eq!(node.follow.served().present.values().next().unwrap()[..], [name('p'), name('c')]);
        let due = 1000 + u64::try_from(seconds).unwrap() * 1000;
        assert_eq!(node.shown(due - 1), "p()");
        assert_eq!(node.shown(due), expected);
    }
}

#[test]
fn an_owner_that_is_back_owns_and_the_stand_in_is_named_for_2_minutes() {
    let mut node = Node::new(map(1, 'p', false, ""), &[('p', READY), ('c', READY)]);
    node.see(0, &[('p', NOT_READY), ('c', READY)]);
    assert_eq!(node.shown(5000), "c(p)");
    assert_eq!(node.see(6000, &[('p', READY), ('c', READY)]), "p(c)");
    assert_eq!(node.shown(125_999), "p(c)");
    assert_eq!(node.shown(126_000), "p()");
}

#[test]
fn a_stand_in_that_the_map_makes_the_owner_goes_on() {
    let mut node = Node::new(map(1, 'p', false, ""), &[('p', READY), ('c', READY)]);
    node.see(0, &[('p', NOT_READY), ('c', READY)]);
    assert_eq!(node.shown(5000), "c(p)");
    assert_eq!(node.offer(9000, &map(2, 'c', false, "p")), "c(p)");
    assert_eq!(node.shown(200_000), "c(p)");
}

#[test]
fn a_map_may_name_any_time_for_which_datagrams_stay() {
    let mut node =
        Node::new(Assignment { drain_non_tcp: u64::MAX, ..map(1, 'p', false, "") }, &[('p', READY), ('c', READY)]);
    node.see(0, &[('p', NOT_READY), ('c', READY)]);
    assert_eq!(node.shown(5000), "c(p)");
    assert_eq!(node.deadline(5000), Some(60_000 + 5000));
}

#[test]
fn where_nobody_may_own_the_owner_keeps_all_but_new_connections() {
    let mut node = Node::new(map(1, 'p', false, ""), &[('p', READY)]);
    assert_eq!(node.see(0, &[('p', NOT_READY)]), "p()");
    assert_eq!(node.shown(5000), "p()!");
    assert_eq!(node.see(6000, &[('p', READY)]), "p()");
    let mut refuses = map(2, 'p', false, "");
    refuses.refuses_new = true;
    assert_eq!(node.offer(7000, &refuses), "p()", "the map is older than the endpoint");
    assert_eq!(node.see(7000, &[('p', NOT_READY)]), "p()!", "the map says so: at once");
}

#[test]
fn where_nobody_decides_and_nobody_of_the_map_is_left_those_who_have_come_stand_in() {
    let (mut node, come) = (Node::new(map(1, 'p', false, ""), &[('p', READY)]), [('x', READY), ('y', NOT_READY)]);
    assert_eq!(node.see(1000, &come), "p()");
    assert_eq!((node.shown(2999), node.shown(3000)), ("p()".into(), "x(p)".into()));
    let mut refuses = map(2, 'p', false, "");
    refuses.refuses_new = true;
    assert_eq!(node.offer(4000, &refuses), "x(p)", "connections are open there");
    assert_eq!(node.see(5000, &[('x', READY), ('c', READY)]), "c(p)", "the map knows it");
    let mut node = Node::new(map(1, 'p', false, ""), &[('p', READY)]);
    node.offer(500, &refuses);
    node.see(1000, &come);
    assert_eq!(node.shown(60_000), "p()!", "a controller has looked, and waits for their nodes");
}

#[test]
fn an_older_map_changes_nothing_and_is_reported() {
    let mut node = Node::new(map(5, 'p', false, ""), &[('p', READY), ('c', READY)]);
    let now = node.at(0);
    assert_eq!(node.follow.offer(&map(4, 'c', false, "p").into(), now), Offered::Older(Generation(5)));
    assert_eq!(node.shown(10_000), "p()");
}

#[test]
fn former_owners_that_may_be_dead_are_asked_last() {
    let list = [('p', NOT_READY), ('c', READY), ('d', ENDS)];
    let mut node = Node::new(map(1, 'c', false, "pd"), &list);
    assert_eq!(node.shown(0), "c(dp)");
    assert_eq!(node.see(0, &[('p', READY), ('c', READY), ('d', ENDS)]), "c(pd)+");
    assert_eq!(node.see(0, &[('p', NOT_READY), ('c', READY)]), "c(dp)", "one that is not listed may live");
}

#[test]
fn non_tcp_stays_with_a_former_owner_that_serves_for_its_time() {
    let mut node = Node::new(map(1, 'c', false, "p"), &[('p', ENDS), ('c', READY)]);
    assert_eq!(node.deadline(0), Some(30_000));
    assert_eq!((node.shown(29_999), node.shown(30_000)), ("c(p)+".into(), "c(p)".into()));
    let mut node = Node::new(map(1, 'c', false, "p"), &[('p', NOT_READY), ('c', READY)]);
    assert_eq!(node.shown(0), "c(p)", "it has crashed");
}

#[test]
fn an_owner_without_the_program_gets_no_names() {
    let mut without = map(1, 'c', false, "p");
    without.members.get_mut(&id('c')).unwrap().program = false;
    assert_eq!(Node::new(without, &[('p', READY), ('c', READY)]).shown(0), "c()");
}

#[test]
fn pods_know_every_name_and_what_has_changed_in_the_last_minute() {
    let mut node = Node::new(map(1, 'p', false, ""), &[('p', READY), ('c', READY)]);
    let served = node.follow.served();
    assert_eq!((served.names.len(), served.last, served.present.len()), (4, Some(name('s')), 0));
    node.offer(0, &map(2, 'c', false, "p"));
    node.shown(59_999);
    assert_eq!(node.follow.served().present.len(), 16);
    node.shown(60_000);
    assert!(node.follow.served().present.is_empty());
}
