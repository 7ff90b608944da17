//! Proof in the small: nodes, a controller and clients, each of which hears of everything after a delay of its own, or never.
//!
//! | file | what |
//! |---|---|
//! | `world` | what is true, what the API shows, and who hears of it when |
//! | `node` | an agent, on an ingress node or a serving node or both |
//! | `controller` | the controller, which is away or replaced now and then |
//! | `traffic` | connections, the path of their packets, and what may become of them |
//!
//! A history is a list of [`Step`]s, so that a failure shrinks to the few that matter. Everywhere and always:
//!
//! - a packet meets at most 3 pods;
//! - a new connection that enters by an ingress node which is not late is answered, if the owner that it gets lives and its node
//!   has set it up, whatever other nodes know;
//! - a packet of an open connection is answered, or one of the branches in `traffic` says why not;
//! - once everybody has heard of everything, all nodes do what the last map says, and it is balanced.

mod controller;
mod node;
mod traffic;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::testing::thorough;
use traffic::Frequencies;
use world::{Step, World};

fn step() -> impl Strategy<Value = Step> {
    let pod = 0..8_u8;
    let node = 0..5_u8;
    // Where there are delays, they are of any length up to 10 s.
    let delay = prop_oneof![3 => Just(0_u64), 3 => 0..3_000_u64, 2 => 0..10_000_u64];
    prop_oneof![
        3 => node.clone().prop_map(Step::Add),
        4 => (pod.clone(), any::<bool>()).prop_map(|(pod, ready)| Step::Ready(pod, ready)),
        3 => (pod.clone(), 0..20_000_u64, any::<bool>()).prop_map(|(pod, grace, serving)| Step::End(pod, grace, serving)),
        1 => pod.clone().prop_map(Step::Relabel),
        1 => (node.clone(), 0..40_000_u64).prop_map(|(node, noticed)| Step::Dies(node, noticed)),
        6 => (0..6_u8, delay).prop_map(|(hearer, ms)| Step::Delay(hearer, ms)),
        1 => node.clone().prop_map(Step::Deaf),
        1 => node.prop_map(Step::Hears),
        1 => (0..20_000_u64).prop_map(Step::NoController),
        1 => Just(Step::NewController),
        3 => (pod, any::<u16>()).prop_map(|(pod, buckets)| Step::Close(pod, buckets)),
        4 => Just(Step::Wait),
    ]
}

#[test]
fn open_connections_find_their_pods_whoever_has_heard_what() {
    let config = ProptestConfig { cases: thorough(600, 8), failure_persistence: None, ..ProptestConfig::default() };
    // The same histories every time: a failure is found again, and more cases find more.
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let all = std::cell::RefCell::new(Frequencies::default());
    let outcome = runner.run(
        &proptest::collection::vec((step(), prop_oneof![4 => 0..3_000_u64, 1 => 0..20_000_u64]), 1..40),
        |history| {
            let mut world = World::new();
            for (step, wait) in history {
                world.apply(&step);
                world.run(wait).map_err(TestCaseError::fail)?;
            }
            world.settle().map_err(TestCaseError::fail)?;
            all.borrow_mut().add(&world.frequencies);
            Ok(())
        },
    );
    println!("{}", all.borrow());
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
