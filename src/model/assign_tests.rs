//! Small exact examples, and the promises of `assign` over random histories.

use proptest::prelude::*;

use super::*;

fn count(buckets: u32) -> BucketCount {
    BucketCount::new(buckets).unwrap()
}

fn id(number: usize) -> EndpointId {
    EndpointId::from(format!("{number:08x}-0000-4000-8000-000000000000").as_str())
}

fn ids(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<EndpointId> {
    numbers.into_iter().map(id).collect()
}

fn fresh(set: &BTreeSet<EndpointId>, buckets: BucketCount) -> BucketMap {
    assign(&BucketMap::empty(buckets), set, buckets)
}

/// Buckets whose owner differs, with the owner before.
fn moved<'a>(before: &'a BucketMap, after: &BucketMap) -> Vec<Option<&'a EndpointId>> {
    let pairs = before.owners().iter().zip(after.owners());
    pairs.filter(|(b, a)| a != b).map(|(b, _)| b.as_ref()).collect()
}

/// The least and the greatest number of buckets of an eligible endpoint.
fn extremes(map: &BucketMap, eligible: &BTreeSet<EndpointId>) -> (u32, u32) {
    let counts = map.counts();
    let each: Vec<u32> = eligible.iter().map(|e| counts.get(e).copied().unwrap_or(0)).collect();
    (each.iter().copied().min().unwrap_or(0), each.iter().copied().max().unwrap_or(0))
}

/// Letters for endpoints, dots for buckets without an owner.
fn letters(map: &BucketMap) -> String {
    map.owners().iter().map(|o| o.as_ref().map_or(".", EndpointId::as_str)).collect()
}

fn lettered(text: &str) -> BucketMap {
    text.split("").filter(|s| !s.is_empty()).map(|s| (s != ".").then(|| EndpointId::from(s))).collect()
}

fn letter_set(text: &str) -> BTreeSet<EndpointId> {
    text.split("").filter(|s| !s.is_empty()).map(EndpointId::from).collect()
}

#[test]
fn nobody_owns_anything_without_endpoints() {
    assert_eq!(letters(&assign(&lettered("aaaabbbbccccdddd"), &BTreeSet::new(), count(16))), "................");
}

#[test]
fn a_single_endpoint_owns_everything() {
    assert_eq!(letters(&fresh(&letter_set("a"), count(16))), "aaaaaaaaaaaaaaaa");
}

#[test]
fn an_unchanged_set_changes_nothing() {
    let before = lettered("aaaabbbbccccdddd");
    assert_eq!(assign(&before, &letter_set("abcd"), count(16)), before);
}

#[test]
fn a_departure_moves_only_its_own_buckets() {
    let after = letters(&assign(&lettered("aaaabbbbccccdddd"), &letter_set("abc"), count(16)));
    assert_eq!(&after[..12], "aaaabbbbcccc");
    assert!(!after.contains('d'), "{after}");
}

#[test]
fn an_arrival_takes_one_bucket_from_each() {
    let after = letters(&assign(&lettered("aaaaaabbbbbccccc"), &letter_set("abcd"), count(16)));
    assert_eq!(after.matches('d').count(), 4);
    for (old, range) in [("a", 0..6), ("b", 6..11), ("c", 11..16)] {
        assert!(after[range].split("").filter(|s| !s.is_empty()).all(|s| s == old || s == "d"), "{after}");
    }
}

#[test]
fn a_map_for_another_number_of_buckets_counts_as_none() {
    let set = ids(0..5);
    assert_eq!(assign(&fresh(&set, count(16)), &set, count(64)), fresh(&set, count(64)));
}

#[test]
fn with_more_endpoints_than_buckets_each_bucket_has_its_own() {
    let set = ids(0..100);
    let map = fresh(&set, count(16));
    assert_eq!(map.counts().len(), 16);
    assert_eq!(extremes(&map, &set), (0, 1));
}

#[test]
fn an_endpoint_beyond_the_buckets_waits_for_a_departure() {
    let before = fresh(&ids(0..16), count(16));
    let waiting = assign(&before, &ids(0..17), count(16));
    assert_eq!(waiting, before);
    let after = assign(&waiting, &ids(1..17), count(16));
    assert_eq!(moved(&waiting, &after), [Some(&id(0))]);
    assert!(after.counts().contains_key(&id(16)));
}

#[test]
fn an_unbalanced_map_is_balanced_with_the_fewest_moves() {
    let after = assign(&lettered("aaaaaaaaaaaaaaab"), &letter_set("ab"), count(16));
    assert_eq!(extremes(&after, &letter_set("ab")), (8, 8));
    assert_eq!(moved(&lettered("aaaaaaaaaaaaaaab"), &after).len(), 7);
}

/// A map from nothing resembles that of the set without one endpoint: all ten departures together move 85 buckets where
/// 64 must move (13 % of the flows each; a hash by modulo moves 82 %).
#[test]
fn from_nothing_one_endpoint_less_moves_little_more_than_it_must() {
    let all = fresh(&ids(0..10), count(64));
    let without = |gone| fresh(&ids((0..10).filter(|i| *i != gone)), count(64));
    let total: usize = (0..10).map(|gone| moved(&all, &without(gone)).len()).sum();
    assert!((64..100).contains(&total), "moved {total} of 640");
}

fn bucket_counts() -> impl Strategy<Value = BucketCount> {
    prop_oneof![Just(count(16)), Just(count(32)), Just(count(64)), Just(count(128))]
}

/// A random history: each step toggles one endpoint of 40.
fn histories() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0_usize..40, 1..80)
}

/// Any map at all, also one that nobody would have made.
fn arbitrary_maps() -> impl Strategy<Value = BucketMap> {
    prop::collection::vec(prop::option::of(0_usize..40), 64)
        .prop_map(|owners| owners.into_iter().map(|o| o.map(id)).collect())
}

fn toggle(set: &mut BTreeSet<EndpointId>, endpoint: usize) -> bool {
    let id = id(endpoint);
    let arrives = !set.remove(&id);
    if arrives {
        set.insert(id);
    }
    arrives
}

proptest! {
    #[test]
    fn along_every_history_the_map_is_balanced_and_moves_only_what_it_must(
        history in histories(), buckets in bucket_counts()
    ) {
        let mut set = BTreeSet::new();
        let mut map = BucketMap::empty(buckets);
        for endpoint in history {
            let arrives = toggle(&mut set, endpoint);
            let next = assign(&map, &set, buckets);
            let (least, most) = extremes(&next, &set);
            prop_assert!(most - least <= 1);
            prop_assert_eq!(next.owners().iter().all(Option::is_some), !set.is_empty());
            prop_assert!(next.owners().iter().flatten().all(|owner| set.contains(owner)));
            let changed = map.owners().iter().zip(next.owners()).filter(|(before, after)| before != after);
            for (before, after) in changed {
                let cause = if arrives { after } else { before };
                prop_assert_eq!(cause.as_ref(), Some(&id(endpoint)));
            }
            map = next;
        }
    }

    #[test]
    fn any_previous_map_is_repaired_with_the_fewest_moves(previous in arbitrary_maps(), endpoints in 1_usize..100) {
        let set = ids(0..endpoints);
        let next = assign(&previous, &set, count(64));
        let (least, most) = extremes(&next, &set);
        prop_assert!(most - least <= 1);
        // Every endpoint keeps what fits its share, and the spare buckets stay with those that had more.
        let n = u32::try_from(endpoints).unwrap();
        let (share, extra) = (64 / n, 64 % n);
        let held: Vec<u32> = previous.counts().into_iter().filter(|(e, _)| set.contains(*e)).map(|(_, c)| c).collect();
        let over = u32::try_from(held.iter().filter(|c| **c > share).count()).unwrap();
        let kept: u32 = held.iter().map(|c| (*c).min(share)).sum::<u32>() + over.min(extra);
        prop_assert_eq!(moved(&previous, &next).len(), 64 - usize::try_from(kept).unwrap());
    }

    #[test]
    fn nodes_that_saw_the_endpoints_in_another_order_agree(
        order in Just((0_usize..30).collect::<Vec<_>>()).prop_shuffle(), previous in arbitrary_maps()
    ) {
        let shuffled: BTreeSet<EndpointId> = ids(order);
        prop_assert_eq!(assign(&previous, &shuffled, count(64)), assign(&previous, &ids(0..30), count(64)));
    }

    #[test]
    fn assigning_twice_is_assigning_once(previous in arbitrary_maps(), endpoints in 0_usize..100) {
        let set = ids(0..endpoints);
        let once = assign(&previous, &set, count(64));
        prop_assert_eq!(&assign(&once, &set, count(64)), &once);
    }
}
