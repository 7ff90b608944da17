//! Small exact examples, and what all nodes agree on whatever they have seen.

use proptest::prelude::*;

use super::*;
use crate::model::Addresses;
use crate::testing::thorough;

const FLOWS: fn(u32) -> Flows = |buckets| Flows { buckets: BucketCount::new(buckets).unwrap(), seed: 1 };

/// `a` is a ready pod, `A` the same pod while it takes no new connections.
fn endpoint(letter: char) -> Endpoint {
    Endpoint {
        pod_uid: letter.to_ascii_lowercase().to_string(),
        namespace: "default".into(),
        pod: letter.to_ascii_lowercase().to_string(),
        node: "n1".into(),
        addresses: Addresses::default(),
        eligible: letter.is_ascii_lowercase(),
        terminating: false,
        state: crate::model::handover::EndpointState::Ready,
    }
}

fn endpoints(letters: &str) -> Vec<Endpoint> {
    letters.chars().map(endpoint).collect()
}

fn map(owners: &str) -> SharedMap {
    let owners: BucketMap = owners.chars().map(|c| (c != '.').then(|| c.to_string().as_str().into())).collect();
    SharedMap { generation: 1, flows: FLOWS(16), owners, previous: BTreeMap::new() }
}

fn letters(map: &SharedMap) -> String {
    map.owners.owners().iter().map(|o| o.as_ref().map_or(".", EndpointId::as_str)).collect()
}

/// Who drained first from each bucket.
fn previous(map: &SharedMap) -> String {
    map.flows.buckets.iter().map(|b| map.previous.get(&b).map_or(".", |d| d[0].endpoint.as_str())).collect()
}

/// All who drain from the first bucket, and its owner: `ab>c`.
fn chain(map: &SharedMap) -> String {
    let first = Bucket::new(0).unwrap();
    let drains = map.previous.get(&first).into_iter().flatten().map(|d| d.endpoint.as_str());
    format!("{}>{}", drains.collect::<String>(), map.owners.owner(first).map_or(".", EndpointId::as_str))
}

const RULES: DrainRules = DrainRules { limit: None, datagrams: Duration::from_secs(30) };

fn next(map: &SharedMap, letters: &str) -> SharedMap {
    map.next(&endpoints(letters), 1000, RULES, |_, _| false)
}

#[test]
fn a_gone_endpoint_leaves_its_buckets_to_the_rest_and_nothing_else_moves() {
    let bridged = map("aaaabbbbccccdddd").bridge(&endpoints("abc"));
    assert_eq!(&letters(&bridged)[..12], "aaaabbbbcccc");
    assert!(!letters(&bridged).contains('d'));
    assert!(bridged.previous.is_empty(), "who is gone has no connections");
}

#[test]
fn an_unready_endpoint_is_remembered_as_the_one_before() {
    let bridged = map("aaaabbbbccccdddd").bridge(&endpoints("abcD"));
    assert!(!letters(&bridged).contains('d'));
    assert_eq!(previous(&bridged), "............dddd");
}

#[test]
fn arrivals_wait_for_the_writer_unless_nobody_else_is_left() {
    let before = map("aaaabbbbccccdddd");
    assert_eq!(before.bridge(&endpoints("abcdx")), before);
    assert_eq!(letters(&before.bridge(&endpoints("x"))), "xxxxxxxxxxxxxxxx");
    assert_eq!(letters(&before.bridge(&endpoints("ABCD"))), "................");
}

#[test]
fn the_writer_lets_arrivals_take_their_share_and_says_from_whom() {
    let before = map("aaaaaaaabbbbbbbb");
    let after = next(&before, "abcd");
    for (letter, at) in letters(&after).chars().zip(0..) {
        let old = if at < 8 { 'a' } else { 'b' };
        let expected = if letter == old { '.' } else { old };
        assert_eq!(previous(&after).chars().nth(at), Some(expected), "bucket {at}");
    }
    assert!("abcd".chars().all(|c| letters(&after).matches(c).count() == 4), "{}", letters(&after));
}

#[test]
fn a_former_owner_that_stands_in_again_drains_anew() {
    let mut before = next(&map("bbbbbbbbbbbbbbbb"), "aBc");
    let moved = |map: &SharedMap| previous(map).chars().filter(|c| *c == 'b').count();
    assert_eq!((moved(&before), before.generation), (16, 2));
    before = before.next(&endpoints("abc"), 1031, RULES, |_, _| false);
    // `a` is gone, and `b` stands in where the map has it as a former owner; then `d` takes over.
    let bridged = before.bridge(&endpoints("bc"));
    let after = before.next(&endpoints("bcd"), 2000, RULES, |_, drain| drain.generation == 2);
    let stood_in = |bucket: &Bucket| bridged.owners.owner(*bucket).is_some_and(|id| id.as_str() == "b");
    let lost = |bucket: &Bucket| after.owners.owner(*bucket).is_some_and(|id| id.as_str() == "d");
    let buckets: Vec<Bucket> = FLOWS(16).buckets.iter().filter(|b| stood_in(b) && lost(b)).collect();
    assert!(!buckets.is_empty());
    for bucket in buckets {
        let drain = after.previous[&bucket].iter().find(|drain| drain.endpoint.as_str() == "b").unwrap();
        assert_eq!((drain.since, drain.generation), (2000, after.generation), "{bucket:?}");
    }
}

#[test]
fn who_comes_back_gets_what_it_had() {
    let before = map("aaaabbbbccccdddd");
    let away = next(&before, "abcD");
    let back = next(&away, "abcd");
    assert_eq!(letters(&back), letters(&before));
    let all_away = next(&before, "ABCD");
    assert_eq!(previous(&all_away), letters(&before));
    assert_eq!(letters(&next(&all_away, "abcd")), letters(&before));
}

#[test]
fn every_decision_is_greater_than_the_one_before_and_bridging_decides_nothing() {
    let before = map("aaaabbbbccccdddd");
    assert_eq!(next(&before, "abcd").generation, 1);
    assert_eq!(next(&before, "abcD").generation, 2);
    assert_eq!(before.bridge(&endpoints("abcD")).generation, 1);
}

#[test]
fn the_one_before_is_forgotten_when_its_pod_is_gone() {
    let away = next(&map("aaaabbbbccccdddd"), "abcD");
    assert!(next(&away, "abc").previous.is_empty());
}

#[test]
fn several_who_had_a_bucket_drain_one_after_the_other() {
    let one = map("aaaaaaaaaaaaaaaa");
    let two = next(&one, "Ab");
    assert_eq!(chain(&two), "a>b");
    let three = next(&two, "ABc");
    assert_eq!(chain(&three), "ab>c");
    let bucket = Bucket::new(0).unwrap();
    let (a, b, c): (EndpointId, EndpointId, EndpointId) = ("a".into(), "b".into(), "c".into());
    let links = three.onward();
    assert_eq!((&links[&(bucket, c)], &links[&(bucket, b.clone())]), (&b, &a), "the last one first");
    assert_eq!(links.len(), 32);
    assert_eq!(chain(&next(&three, "aBC")), "bc>a", "who gets a bucket back is asked first, and the others as before");
    assert_eq!(chain(&next(&three, "Bc")), "b>c");
    let datagrams: Vec<bool> = three.previous[&bucket].iter().map(|drain| drain.datagrams).collect();
    assert_eq!(datagrams, [true, false], "datagrams stay where they are");
}

#[test]
fn no_more_than_eight_drain_from_a_bucket() {
    let mut map = map("aaaaaaaaaaaaaaaa");
    for letters in ["Ab", "ABc", "ABCd", "ABCDe", "ABCDEf", "ABCDEFg", "ABCDEFGh", "ABCDEFGHi"] {
        map = next(&map, letters);
    }
    assert_eq!(chain(&map), "abcdefgh>i");
    assert_eq!(chain(&next(&map, "ABCDEFGHIj")), "bcdefghi>j");
}

#[test]
fn a_drain_ends_by_its_limit_or_because_it_is_over_and_datagrams_earlier() {
    let at = |map: &SharedMap, now, limit, over: bool| {
        let rules = DrainRules { limit: Option::map(limit, Duration::from_secs), ..RULES };
        map.next(&endpoints("Ab"), now, rules, |_, drain| over && drain.generation == 2)
    };
    let before = map("aaaaaaaaaaaaaaaa");
    let begun = at(&before, 1000, Some(60), false);
    let first = &begun.previous[&Bucket::new(0).unwrap()][0];
    assert_eq!((first.since, first.generation, first.datagrams), (1000, 2, true));
    assert_eq!(begun.due(DrainRules { limit: Some(Duration::from_secs(60)), ..RULES }), Some(1030));
    assert_eq!(at(&begun, 1029, Some(60), false), begun);
    assert_eq!(at(&begun, 1029, None, true), begun, "there may be datagrams");
    let later = at(&begun, 1030, Some(60), false);
    assert!(later.generation == 3 && later.previous.values().flatten().all(|drain| !drain.datagrams));
    assert_eq!(later.due(DrainRules { limit: Some(Duration::from_secs(60)), ..RULES }), Some(1060));
    assert_eq!(later.due(RULES), None);
    assert!(at(&later, 1060, Some(60), false).previous.is_empty());
    assert!(at(&later, 1031, None, true).previous.is_empty());
    assert!(at(&before, 1000, Some(0), false).previous.is_empty());
    assert_eq!(at(&later, 9000, None, false), later);
}

/// What happens to one of eight pods.
#[derive(Debug, Clone, Copy)]
enum Event {
    Ready(u8),
    Unready(u8),
    Gone(u8),
}

fn event() -> impl Strategy<Value = Event> {
    (0..3_u8, 0..8_u8).prop_map(|(kind, pod)| match kind {
        0 => Event::Ready(pod),
        1 => Event::Unready(pod),
        _ => Event::Gone(pod),
    })
}

/// What somebody knows of the pods.
#[derive(Debug, Clone, Default)]
struct Known(BTreeMap<u8, bool>);

impl Known {
    fn learn(&mut self, event: Event) {
        match event {
            Event::Ready(pod) => drop(self.0.insert(pod, true)),
            Event::Unready(pod) => drop(self.0.insert(pod, false)),
            Event::Gone(pod) => drop(self.0.remove(&pod)),
        }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let letter = |pod: u8, ready: bool| char::from(if ready { b'a' } else { b'A' } + pod);
        self.0.iter().map(|(pod, ready)| endpoint(letter(*pod, *ready))).collect()
    }
}

proptest! {
    // Histories of up to 40 events: no history at all may divide the nodes.
    #![proptest_config(ProptestConfig { cases: thorough(10_000, 1_000), ..ProptestConfig::default() })]

    /// `gaps[n]` says which node reads the event at once, at what the writer writes, and who sleeps through it.
    #[test]
    fn once_the_map_is_read_all_nodes_agree_and_nothing_moved_without_cause(
        history in proptest::collection::vec((event(), 0..16_u8), 1..40),
        buckets in prop_oneof![Just(16_u32), Just(64)],
    ) {
        let mut truth = Known::default();
        let mut stored = SharedMap::new(FLOWS(buckets), &[]);
        // Three nodes that know the pods and the map as of different moments.
        let mut nodes = vec![(Known::default(), stored.clone()); 3];
        for (event, awake) in history {
            truth.learn(event);
            if awake & 8 != 0 {
                let next = stored.next(&truth.endpoints(), 1000, RULES, |_, _| false);
                check_step(&stored, &next, &truth.endpoints());
                stored = next;
            }
            for (n, (known, map)) in nodes.iter_mut().enumerate() {
                if awake & (1 << n) != 0 {
                    // A watch that was away lists again: it skips to the present state, whatever was between.
                    (*known, *map) = (truth.clone(), stored.clone());
                }
            }
            // Nodes that know the same use the same, written or not.
            let used: Vec<(Vec<Endpoint>, &SharedMap, SharedMap)> =
                nodes.iter().map(|(known, map)| (known.endpoints(), map, map.bridge(&known.endpoints()))).collect();
            for pair in used.windows(2) {
                if pair[0].0 == pair[1].0 && pair[0].1 == pair[1].1 {
                    prop_assert_eq!(&pair[0].2, &pair[1].2);
                }
            }
        }
        let last = stored.next(&truth.endpoints(), 1000, RULES, |_, _| false);
        check_step(&stored, &last, &truth.endpoints());
        // Read by all, it is what all use: bridging changes nothing that the writer has seen.
        prop_assert_eq!(last.bridge(&truth.endpoints()), last.clone());
        prop_assert_eq!(last.next(&truth.endpoints(), 1000, RULES, |_, _| false), last);
    }
}

/// Balanced, and a bucket has moved only if its owner takes no new connections, or for the balance: then it went to an
/// endpoint that had less than its share.
fn check_step(before: &SharedMap, after: &SharedMap, endpoints: &[Endpoint]) {
    let eligible = eligible(endpoints);
    let counts = after.owners.counts();
    let of = |id: &EndpointId| counts.get(id).copied().unwrap_or(0);
    let (least, most) = (eligible.iter().map(of).min().unwrap_or(0), eligible.iter().map(of).max().unwrap_or(0));
    assert!(most - least <= 1, "{least} to {most}");
    let had = before.owners.counts();
    let mut free = 0;
    for bucket in after.flows.buckets.iter() {
        let (old, new) = (before.owners.owner(bucket), after.owners.owner(bucket));
        assert_eq!(new.is_none(), eligible.is_empty(), "bucket {bucket}");
        free += u32::from(old.is_none_or(|old| !eligible.contains(old)));
        let Some(old) = old.filter(|old| eligible.contains(*old) && Some(*old) != new) else { continue };
        assert!(had[old] > of(old), "{old} lost bucket {bucket} and has {} of {}", of(old), had[old]);
    }
    // What was taken from those who stay is what those who had too little needed beyond the free ones.
    let taken: u32 = eligible.iter().map(|id| had.get(id).copied().unwrap_or(0).saturating_sub(of(id))).sum();
    let moved = after.flows.buckets.iter().filter(|b| {
        let old = before.owners.owner(*b);
        old.is_some_and(|old| eligible.contains(old)) && old != after.owners.owner(*b)
    });
    assert_eq!(u32::try_from(moved.count()).unwrap(), taken, "free {free}");
}
