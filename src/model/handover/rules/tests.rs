//! The controller's rules, one by one.

use std::net::Ipv4Addr;

use super::*;
use crate::model::BucketCount;
use crate::model::assign::favourite;
use crate::model::handover::{EndpointState, FlowHash, Generation, MOST_FORMER, Name, NodeReport, SetUp};

mod announced;
mod history;

/// A Service, its controller, and the nodes of its pods: pod `x` is on node `nx`.
struct Service {
    map: Assignment,
    endpoints: Vec<Endpoint>,
    witness: Witness,
    /// By pod, what its node says.
    reports: BTreeMap<char, NodeReport>,
    /// The nodes of these pods hear of no map.
    deaf: &'static str,
    lost: BTreeSet<EndpointId>,
    limit: Option<Duration>,
    now: Moment,
}

fn id(pod: char) -> EndpointId {
    EndpointId::from(pod.to_string().as_str())
}

fn node(pod: char) -> NodeName {
    NodeName::from(format!("n{pod}").as_str())
}

fn address(pod: char, last: u8) -> Addresses {
    Addresses::from(Ipv4Addr::new(10, 0, u8::try_from(pod).unwrap(), last))
}

impl Service {
    fn new(pods: &str) -> Service {
        let hash = FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 7, key: HashKey::Ports };
        let mut witness = Witness::default();
        witness.complete();
        let mut service = Service {
            map: Assignment::begin(hash, &"s".into(), 1, None),
            endpoints: Vec::new(),
            witness,
            reports: BTreeMap::new(),
            deaf: "",
            lost: BTreeSet::new(),
            limit: None,
            now: Moment { instant: std::time::Instant::now(), unix: 1000 },
        };
        pods.chars().for_each(|pod| service.add(pod));
        service.decide();
        service
    }

    fn list(&mut self, pod: char) {
        let state = EndpointState::Ready;
        self.endpoints.push(Endpoint { id: id(pod), node: node(pod), addresses: address(pod, 1), state });
    }

    fn report(&mut self, pod: char, change: impl FnOnce(&mut NodeReport)) {
        let set_up = SetUp { addresses: address(pod, 1), program: true, ..SetUp::default() };
        let mut report = NodeReport { pods: [(id(pod), set_up)].into(), ..NodeReport::default() };
        change(&mut report);
        let before = self.reports.get(&pod).and_then(|before| before.knows.clone()).unwrap_or_default();
        self.reports.insert(pod, NodeReport { knows: Some(before), ..report });
        self.hear(pod);
    }

    fn hear(&mut self, pod: char) {
        self.witness.hear(&node(pod), self.reports.get(&pod).cloned(), self.now.instant);
    }

    /// The report of a pod's node is deleted.
    fn forget(&mut self, pod: char) {
        self.witness.hear(&node(pod), None, self.now.instant);
    }

    fn add(&mut self, pod: char) {
        self.list(pod);
        self.report(pod, |_| {});
    }

    fn state(&mut self, pod: char, state: EndpointState) {
        self.endpoints.iter_mut().filter(|e| e.id == id(pod)).for_each(|e| e.state = state);
    }

    fn unlist(&mut self, pod: char) {
        self.endpoints.retain(|e| e.id != id(pod));
    }

    fn wait(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.unix += seconds;
    }

    /// One decision, and another one if moves were announced: by then all nodes know.
    fn decide(&mut self) -> Waiting {
        self.nodes_hear();
        let first = self.decide_once();
        if self.map.moves().next().is_none() {
            return first;
        }
        self.nodes_hear();
        let second = self.decide_once();
        Waiting { given_up: [first.given_up, second.given_up].concat(), ..second }
    }

    fn nodes_hear(&mut self) {
        let pods: Vec<char> = self.reports.keys().copied().filter(|pod| !self.deaf.contains(*pod)).collect();
        for pod in pods {
            let knows = Some([("s".into(), self.map.announced)].into());
            // A node writes what is new, and all of it.
            if self.reports[&pod].knows != knows {
                self.reports.entry(pod).and_modify(|report| report.knows = knows);
                self.hear(pod);
            }
        }
    }

    fn decide_once(&mut self) -> Waiting {
        let inputs = Inputs {
            service: &"s".into(),
            endpoints: &self.endpoints,
            witness: &self.witness,
            lost: &self.lost,
            key: HashKey::Ports,
            limits: DrainLimits { limit: self.limit, non_tcp: Duration::from_secs(30) },
            now: self.now,
        };
        let (map, waiting) = self.map.next(&inputs);
        self.map = map;
        waiting
    }

    /// Decides until nothing changes any more.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.decide();
            self.wait(1);
        }
    }

    fn count(&self, pod: char) -> u32 {
        self.map.counts().get(&id(pod)).copied().unwrap_or_default()
    }

    fn former(&self, pod: char) -> usize {
        self.map.holdings.iter().flat_map(|holding| &holding.former).filter(|f| f.endpoint == id(pod)).count()
    }

    /// The node of a pod says that all its drains are over.
    fn quiet(&mut self, pod: char) {
        let over = self.map.iter().flat_map(|(bucket, holding)| holding.former.iter().map(move |f| (bucket, f)));
        let over = over.filter(|(_, f)| f.endpoint == id(pod)).map(|(bucket, f)| Over {
            service: "s".into(),
            pod: id(pod),
            generation: f.generation,
            bucket,
        });
        let over = over.collect();
        self.report(pod, |report| report.over = over);
    }
}

#[test]
fn a_pod_that_is_not_set_up_for_the_service_owns_nothing() {
    let mut service = Service::new("ab");
    service.list('c');
    service.report('c', |report| report.pods.values_mut().for_each(|pod| pod.lacks = ["s".into()].into()));
    assert_eq!(service.decide().not_set_up, [(id('c'), node('c'))].into());
    service.settle();
    assert_eq!(service.count('c'), 0);
    service.report('c', |report| report.pods.values_mut().for_each(|pod| pod.lacks = ["t".into()].into()));
    service.settle();
    assert!(service.count('c') > 0, "it is not set up for another Service");
}

/// Nodes go by what is stored, and may have given a bucket to a former owner whose drain was over by then.
#[test]
fn whoever_stands_in_by_the_stored_map_gets_the_bucket_although_its_drain_is_over() {
    let mut service = Service::new("abc");
    // Those that come last want some of the buckets most.
    for pod in ['d', 'e', 'f'] {
        service.add(pod);
        service.settle();
    }
    service.wait(60);
    "abcef".chars().for_each(|pod| service.quiet(pod));
    service.state('d', EndpointState::NotReady);
    let (known, usable) = (service.map.clone(), "abcef".chars().map(id).collect());
    let of_d = known.iter().filter(|(_, holding)| holding.owner == Some(id('d'))).map(|(bucket, _)| bucket);
    let stand_ins: Vec<_> = of_d.map(|bucket| (bucket, known.stand_in(bucket, &usable))).collect();
    service.decide_once();
    for (bucket, stand_in) in &stand_ins {
        assert_eq!(service.map.holding(*bucket).unwrap().owner.as_ref(), *stand_in, "{bucket:?}");
    }
    assert!(stand_ins.iter().any(|(bucket, stand_in)| favourite(*bucket, &usable) != *stand_in), "{stand_ins:?}");
}

#[test]
fn nothing_is_decided_before_the_first_list_of_reports_is_complete() {
    let mut service = Service::new("ab");
    let before = service.map.clone();
    service.witness = Witness::default();
    service.state('a', EndpointState::NotReady);
    assert!(service.decide().reports);
    assert_eq!(service.map, before);
}

#[test]
fn an_endpoint_gets_buckets_when_its_node_has_set_it_up() {
    let mut service = Service::new("ab");
    service.list('c');
    let waiting = service.decide();
    assert_eq!(waiting.not_set_up, [(id('c'), node('c'))].into());
    assert_eq!((service.count('a'), service.count('c')), (8, 0));
    service.report('c', |_| {});
    service.decide();
    assert_eq!([service.count('a'), service.count('b'), service.count('c')].iter().sum::<u32>(), 16);
    assert_eq!(service.count('c'), 5);
}

#[test]
fn reports_that_are_deleted_take_nothing_away() {
    let mut service = Service::new("ab");
    let before = service.map.clone();
    for pod in ['a', 'b'] {
        service.forget(pod);
    }
    service.wait(3600);
    service.decide();
    assert_eq!(service.map, before);
    // Nor does a restart of the controller, or a crash of the pod in between.
    service.state('a', EndpointState::NotReady);
    service.decide();
    service.state('a', EndpointState::Ready);
    service.settle();
    assert!(service.count('a') >= 7);
}

#[test]
fn an_owner_that_goes_is_replaced_at_once_and_drains() {
    for (state, why) in [
        (Some(EndpointState::NotReady), Why::NotReady),
        (Some(EndpointState::Terminating { serving: true }), Why::Terminating),
        (None, Why::Left),
    ] {
        let mut service = Service::new("abc");
        let had = service.count('a');
        match state {
            Some(state) => service.state('a', state),
            None => service.unlist('a'),
        }
        service.decide();
        assert_eq!(service.count('a'), 0);
        let former: Vec<&Former> = service.map.holdings.iter().flat_map(|holding| &holding.former).collect();
        assert_eq!(u32::try_from(former.len()).unwrap(), had);
        assert!(former.iter().all(|f| f.endpoint == id('a') && f.why == why), "{former:?}");
        assert!(service.map.holdings.iter().filter(|h| !h.former.is_empty()).all(|h| !h.planned));
    }
}

#[test]
fn a_bucket_goes_back_to_a_former_owner_that_may_own_it() {
    let mut service = Service::new("ab");
    service.wait(10);
    service.add('c');
    service.decide();
    let taken: Vec<(usize, EndpointId)> = (0..16)
        .filter(|n| service.map.holdings[*n].owner == Some(id('c')))
        .map(|n| (n, service.map.holdings[n].former[0].endpoint.clone()))
        .collect();
    service.wait(10);
    service.state('c', EndpointState::NotReady);
    service.decide();
    for (n, before) in taken {
        assert_eq!(service.map.holdings[n].owner, Some(before));
        assert_eq!(service.map.holdings[n].former[0].endpoint, id('c'));
        assert!(service.map.holdings[n].held(service.now.unix) >= 10, "what it held before counts");
    }
}

#[test]
fn a_move_for_balance_is_planned_and_a_replacement_is_not() {
    let mut service = Service::new("ab");
    service.add('c');
    service.decide();
    let (of_c, rest): (Vec<_>, Vec<_>) = service.map.holdings.iter().partition(|h| h.owner == Some(id('c')));
    assert!(of_c.iter().all(|h| h.planned && h.former[0].why == Why::Balance));
    assert!(rest.iter().all(|h| !h.planned && h.former.is_empty()));
}

#[test]
fn an_endpoint_with_less_than_its_share_waits_for_the_former_owners_at_those_with_more() {
    let mut service = Service::new("abc");
    service.settle();
    let short = |service: &Service| service.map.short(&service.endpoints).into_iter().collect::<Vec<_>>();
    assert_eq!(short(&service), []);
    service.state('a', EndpointState::NotReady);
    service.settle();
    assert_eq!(short(&service), [], "those that may own nothing have no share");
    // Back, and the controller has not looked yet.
    service.state('a', EndpointState::Ready);
    let [(pod, waits)] = &short(&service)[..] else { panic!("one has nothing") };
    assert_eq!((pod, waits.has, waits.share), (&id('a'), 0, 5));
    for holding in &mut service.map.holdings {
        let (generation, endpoint) = (Generation(1), id('c'));
        holding.former = vec![Former { endpoint, generation, since: 1000, held: 9, why: Why::Balance }];
    }
    assert_eq!(short(&service)[0].1.former, [id('c')].into());
    service.settle();
    assert_eq!(short(&service), []);
}

#[test]
fn balance_takes_buckets_without_former_owners_first_and_none_with_two() {
    let mut service = Service::new("a");
    "bcdefg".chars().for_each(|pod| {
        service.wait(1);
        service.add(pod);
        service.decide();
    });
    let most = service.map.holdings.iter().map(|holding| holding.former.len()).max();
    assert!(most <= Some(MOST_FORMER));
    // Then everything is full: a newcomer waits, until a drain is over.
    for holding in &mut service.map.holdings {
        let former =
            |pod| Former { endpoint: id(pod), generation: Generation(1), since: 1000, held: 9, why: Why::Balance };
        holding.owner = Some(id('a'));
        holding.former = vec![former('b'), former('c')];
    }
    service.wait(60);
    service.add('h');
    let waiting = service.decide();
    assert!(waiting.balance.contains(&id('h')) && service.count('h') == 0);
    assert!(service.map.short(&service.endpoints).contains_key(&id('h')));
    assert!(waiting.given_up.is_empty());
    service.quiet('b');
    let waiting = service.decide();
    assert!(service.count('h') >= 2, "{waiting:?}");
}

#[test]
fn of_three_former_owners_the_one_that_held_the_bucket_shortest_is_given_up() {
    let mut service = Service::new("abcd");
    let former =
        |pod, held| Former { endpoint: id(pod), generation: Generation(1), since: 900, held, why: Why::Terminating };
    let holding = &mut service.map.holdings[0];
    (holding.owner, holding.since) = (Some(id('a')), 500);
    holding.former = vec![former('b', 3), former('c', 4000)];
    for pod in ['a', 'b', 'c'] {
        service.state(pod, EndpointState::Terminating { serving: false });
    }
    let waiting = service.decide();
    let given_up: Vec<_> = waiting.given_up.iter().filter(|(bucket, _)| bucket.number() == 0).collect();
    assert_eq!(given_up, [&(Bucket::new(0).unwrap(), id('b'))]);
    let left: Vec<&str> = service.map.holdings[0].former.iter().map(|f| f.endpoint.as_str()).collect();
    assert_eq!(left, ["a", "c"]);
}

#[test]
fn former_owners_leave_when_they_have_nothing_left() {
    let ended = |service: &mut Service| service.report('a', |report| report.ended = [id('a')].into());
    let lost = |service: &mut Service| service.lost = [id('a')].into();
    let quiet = |service: &mut Service| service.quiet('a');
    let limit = |service: &mut Service| service.limit = Some(Duration::from_secs(40));
    for (n, change) in [&ended as &dyn Fn(&mut Service), &lost, &quiet, &limit].into_iter().enumerate() {
        let mut service = Service::new("abc");
        service.state('a', EndpointState::NotReady);
        service.decide();
        assert!(service.former('a') > 0);
        service.wait(39);
        service.decide();
        assert!(service.former('a') > 0);
        service.wait(1);
        change(&mut service);
        service.decide();
        assert_eq!(service.former('a'), 0, "case {n}");
    }
}

#[test]
fn a_report_about_an_earlier_loss_of_the_bucket_ends_nothing() {
    let mut service = Service::new("ab");
    service.state('a', EndpointState::NotReady);
    service.decide();
    let report = service.map.clone();
    service.state('a', EndpointState::Ready);
    service.settle();
    service.state('a', EndpointState::NotReady);
    service.settle();
    let lost_again = |f: &&Former| f.endpoint == id('a') && f.generation > report.generation;
    let draining = service.map.holdings.iter().flat_map(|holding| &holding.former).filter(lost_again).count();
    assert!(draining > 0);
    let now = std::mem::replace(&mut service.map, report.clone());
    service.quiet('a');
    service.map = now;
    service.decide();
    assert_eq!(service.former('a'), draining);
}

#[test]
fn non_tcp_keeps_a_former_owner_that_serves_for_its_time() {
    let mut service = Service::new("ab");
    service.state('a', EndpointState::Terminating { serving: true });
    let waiting = service.decide();
    assert_eq!(waiting.due(), Some(1030));
    service.wait(29);
    service.quiet('a');
    service.decide();
    assert!(service.former('a') > 0);
    service.wait(1);
    service.decide();
    assert_eq!(service.former('a'), 0);
}

#[test]
fn where_nobody_is_eligible_owners_keep_all_but_new_connections() {
    let mut service = Service::new("ab");
    let before = service.map.counts().into_iter().map(|(id, n)| (id.clone(), n)).collect::<BTreeMap<_, _>>();
    for pod in ['a', 'b'] {
        service.state(pod, EndpointState::NotReady);
    }
    service.decide();
    let now: BTreeMap<_, _> = service.map.counts().into_iter().map(|(id, n)| (id.clone(), n)).collect();
    assert!(service.map.refuses_new && now == before);
    service.report('a', |report| report.ended = [id('a')].into());
    service.unlist('a');
    service.decide();
    assert_eq!((service.count('a'), service.count('b')), (0, before[&id('b')]));
    service.state('b', EndpointState::Ready);
    service.decide();
    assert!(!service.map.refuses_new && service.count('b') == 16);
}

#[test]
fn an_endpoint_that_ends_and_serves_owns_until_another_one_is_set_up() {
    let mut service = Service::new("a");
    service.state('a', EndpointState::Terminating { serving: true });
    service.list('b');
    service.decide();
    assert_eq!((service.count('a'), service.map.refuses_new), (16, false));
    service.report('b', |_| {});
    service.decide();
    assert_eq!((service.count('b'), service.former('a')), (16, 16));
}

#[test]
fn another_address_is_another_network_namespace() {
    let mut service = Service::new("ab");
    service.endpoints[0].addresses = address('a', 2);
    service.decide();
    assert_eq!((service.count('a'), service.former('a')), (0, 0), "its connections are gone");
    service.report('a', |report| report.pods.get_mut(&id('a')).unwrap().addresses = address('a', 2));
    service.settle();
    assert_eq!(service.count('a'), 8);
    assert_eq!(service.map.members[&id('a')].addresses, address('a', 2));
}

#[test]
fn without_the_program_buckets_move_without_a_second_chance() {
    let mut service = Service::new("ab");
    service.list('x');
    service.report('x', |report| report.pods.get_mut(&id('x')).unwrap().program = false);
    let waiting = service.decide();
    assert_eq!(waiting.without_program, [id('x')].into());
    assert_eq!(service.count('x'), 5, "it has its share");
    service.wait(100);
    service.state('x', EndpointState::NotReady);
    service.decide();
    assert_eq!(service.former('x'), 0);
    // Buckets of an owner that goes, and whose pod lives, go to those with the program.
    let mut service = Service::new("ab");
    service.list('x');
    service.report('x', |report| report.pods.get_mut(&id('x')).unwrap().program = false);
    service.settle();
    let of_x = service.count('x');
    service.state('a', EndpointState::NotReady);
    service.decide();
    assert!(
        service
            .map
            .holdings
            .iter()
            .filter(|h| h.owner == Some(id('x')))
            .all(|h| h.since < service.now.unix || h.planned)
    );
    assert!(service.count('x') >= of_x);
}

#[test]
fn more_endpoints_than_names_are_served_as_far_as_buckets_go() {
    let mut service = Service::new("");
    let state = EndpointState::Ready;
    let pod = |n: u32| EndpointId::from(format!("pod-{n:04}").as_str());
    let addresses = address('a', 1);
    service.endpoints = (0..3000).map(|n| Endpoint { id: pod(n), node: "n".into(), addresses, state }).collect();
    let set_up = SetUp { addresses, program: true, ..SetUp::default() };
    let pods = (0..3000).map(|n| (pod(n), set_up.clone())).collect();
    service.reports.insert('n', NodeReport { pods, ..NodeReport::default() });
    service.witness.hear(&"n".into(), service.reports.get(&'n').cloned(), service.now.instant);
    let waiting = service.decide();
    assert_eq!(service.map.counts().len(), 16);
    assert_eq!(service.map.members.len(), 32);
    assert_eq!(waiting.no_bucket, 3000 - 16);
    let map = service.map.clone();
    service.decide();
    assert_eq!(service.map, map, "nothing changes, so nothing is written");
}

#[test]
fn names_ascend_and_a_new_life_has_other_names() {
    let mut service = Service::new("abc");
    let first = service.map.last_name;
    service.add('d');
    service.decide();
    assert_eq!(service.map.members[&id('d')].name, first.next());
    let again = service.map.begin_again(&"s".into(), 5, Generation(99));
    assert_eq!(again.generation, Generation(100));
    let names = |map: &Assignment| map.members.values().map(|member| member.name).collect::<BTreeSet<Name>>();
    assert!(names(&service.map).is_disjoint(&names(&again)));
    assert_eq!(again.holdings, service.map.holdings);
}
