//! Any history: every decision is within the rules.

use proptest::prelude::*;

use super::*;
use crate::testing::thorough;

#[derive(Debug, Clone)]
enum Event {
    Add,
    State(u8, u8),
    Unlist(u8),
    Ended(u8),
    Quiet(u8),
    Forget(u8),
    Deaf(bool),
    Wait(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Add),
        4 => (0..6_u8, 0..4_u8).prop_map(|(pod, state)| Event::State(pod, state)),
        1 => (0..6_u8).prop_map(Event::Unlist),
        1 => (0..6_u8).prop_map(Event::Ended),
        2 => (0..6_u8).prop_map(Event::Quiet),
        1 => (0..6_u8).prop_map(Event::Forget),
        1 => any::<bool>().prop_map(Event::Deaf),
        2 => (0..40_u8).prop_map(Event::Wait),
    ]
}

fn happen(service: &mut Service, event: &Event, next: &mut u8) {
    let pod = |n: u8| char::from(b'a' + n % (*next).max(1));
    match *event {
        Event::Add => {
            service.add(char::from(b'a' + *next % 26));
            *next += 1;
        }
        Event::State(n, state) => {
            let states = [EndpointState::Ready, EndpointState::NotReady];
            let ends = [true, false].map(|serving| EndpointState::Terminating { serving });
            service.state(pod(n), [states, ends].concat()[usize::from(state)]);
        }
        Event::Unlist(n) => service.unlist(pod(n)),
        Event::Ended(n) => service.report(pod(n), |report| report.ended = [id(pod(n))].into()),
        Event::Quiet(n) => service.quiet(pod(n)),
        Event::Forget(n) => service.forget(pod(n)),
        Event::Deaf(some) => service.deaf = if some { "bcdh" } else { "" },
        Event::Wait(seconds) => service.wait(seconds.into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: thorough(5_000, 60), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_decision_is_within_the_rules_and_rests_on_the_one_before(
        history in proptest::collection::vec(event(), 1..25),
    ) {
        let (mut service, mut next) = (Service::new("abc"), 3);
        for event in &history {
            if next >= 20 { break; }
            happen(&mut service, event, &mut next);
            let before = service.map.clone();
            service.nodes_hear();
            let waiting = service.decide_once();
            let after = service.map.clone();
            prop_assert!(after.generation == before.generation || after.generation == before.generation.next());
            prop_assert_eq!(after.generation == before.generation, after == before);
            for (old, new) in before.holdings.iter().zip(&after.holdings) {
                prop_assert!(new.former.len() <= MOST_FORMER);
                prop_assert!(new.former.iter().all(|f| Some(&f.endpoint) != new.owner.as_ref()));
                if new.planned && new.owner != old.owner {
                    prop_assert_eq!(old.next.as_ref().map(|next| &next.endpoint), new.owner.as_ref(), "not announced");
                    // Balance: nobody was given up for it, and the loser drains.
                    prop_assert!(old.former.len() < 3);
                    prop_assert!(new.former.iter().any(|f| Some(&f.endpoint) == old.owner.as_ref()));
                }
            }
            let planned = |bucket: &Bucket| after.holdings[bucket.index()].planned && before.holdings[bucket.index()].owner != after.holdings[bucket.index()].owner;
            prop_assert!(!waiting.given_up.iter().any(|(bucket, _)| planned(bucket)));
            // Decided again at once, nothing changes but what was put off.
            let again = service.decide_once();
            let announced = after.moves().next().is_some();
            if !announced && waiting.due().is_none_or(|due| due > service.now.unix + 1) {
                prop_assert_eq!(&service.map, &after, "{:?}", again);
            }
        }
    }
}
