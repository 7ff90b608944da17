//! Looks at counters that were made up.

use super::*;
use crate::model::ServiceRef;
use crate::plan::tests::support::{bare_vip, cluster, endpoint, ip, settings, vip};

const VIP: &str = "192.0.2.10";
const POD: &str = "uid-1";
const ADDRESS: &str = "10.244.1.2";

/// Packets that have passed each point by now, in the order of the drawing; the pod's come from other nodes.
fn sample([taken_in, encapsulated, made, left, reached, arrived, delivered]: [u64; 7]) -> Sample {
    let node = NodeCounts {
        taken_in: [(ip(VIP), taken_in)].into(),
        encapsulated,
        made: [(ip("10.244.2.2"), made)].into(),
        left,
        arrived: [(ip(ADDRESS), reached)].into(),
    };
    Sample { node, pods: [(POD.to_owned(), PodCounts { arrived, delivered })].into() }
}

fn all() -> Judged {
    let service = ServiceRef { namespace: "default".into(), name: "echo".into(), uid: "s".into() };
    let pod = JudgedPod { name: "default/echo-1".into(), service: (&service).into(), addresses: [ip(ADDRESS)].into() };
    Judged { vips: [ip(VIP)].into(), pods: [(POD.to_owned(), pod)].into() }
}

/// What is believed after each of these looks.
fn believed(looks: &[[u64; 7]]) -> Vec<Vec<Loss>> {
    let mut losses = Losses::default();
    let look = |counts: &[u64; 7]| {
        losses.look(sample(*counts), &all());
        losses.believed().into_keys().collect()
    };
    looks.iter().map(look).collect()
}

#[test]
fn where_packets_come_and_never_get_further_is_believed_at_the_second_look() {
    let (before_pod, in_pod) = (Loss::BeforePod(POD.into()), Loss::InPod(POD.into()));
    for (per_look, loss) in [
        ([9, 0, 0, 0, 0, 0, 0], Loss::Forwarding),
        ([9, 9, 9, 0, 0, 0, 0], Loss::Leaving),
        ([9, 9, 9, 9, 9, 0, 0], before_pod),
        ([9, 9, 9, 9, 9, 9, 0], in_pod),
    ] {
        let looks = [0, 1, 2, 3].map(|n| per_look.map(|packets| n * packets));
        assert_eq!(believed(&looks), [vec![], vec![], vec![loss.clone()], vec![loss]]);
    }
}

#[test]
fn nothing_is_believed_where_something_gets_through_or_little_comes() {
    for per_look in [[9; 7], [9, 1, 1, 1, 1, 1, 1], [4, 0, 0, 0, 0, 0, 0], [0; 7]] {
        let looks = [0, 1, 2, 3].map(|n| per_look.map(|packets| n * packets));
        assert!(believed(&looks).iter().all(Vec::is_empty), "{per_look:?}");
    }
}

#[test]
fn it_is_over_when_something_gets_through_and_not_when_nothing_comes() {
    let lost = |n| [n, 0, 0, 0, 0, 0, 0];
    let found = believed(&[lost(0), lost(9), lost(18), lost(18), [27, 1, 1, 1, 1, 1, 1]]);
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 1, 1, 0]);
}

#[test]
fn counters_that_begin_anew_say_nothing() {
    let found = believed(&[[99; 7], [9, 0, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0]]);
    assert!(found.iter().all(Vec::is_empty), "{found:?}");
}

#[test]
fn a_pod_is_read_when_something_has_come_for_it() {
    let mut losses = Losses::default();
    let asked = |losses: &Losses, reached| losses.asked(&sample([0, 0, 0, 0, reached, 0, 0]).node, &all()).len();
    assert_eq!(asked(&losses, 9), 0, "there is nothing to compare with");
    losses.look(sample([0; 7]), &all());
    assert_eq!((asked(&losses, 0), asked(&losses, 1)), (0, 1));
}

#[test]
fn only_vips_with_all_next_hops_and_pods_that_pass_nothing_on_are_judged() {
    let on_node = || vec![endpoint(2, "n1")];
    let cluster = cluster(vec![
        vip(VIP, Mode::Vxlan, on_node()),
        bare_vip("192.0.2.11", Mode::Vxlan, vec![]),
        vip("192.0.2.12", Mode::Mpls, vec![endpoint(3, "n1")]),
    ]);
    let judged = |troubled: &[&Vip]| {
        let troubled = troubled.iter().map(|vip| vip.service.clone()).collect();
        judged(&cluster, &troubled, &settings("n1"))
    };
    assert!(!judged(&[&cluster.vips[&ip(VIP)]]).vips.contains(&ip(VIP)));
    let judged = judged(&[]);
    assert!(judged.vips.contains(&ip(VIP)) && !judged.vips.contains(&ip("192.0.2.11")), "{judged:?}");
    let pods: Vec<&str> = judged.pods.keys().map(String::as_str).collect();
    assert_eq!(pods, [endpoint(2, "n1").pod_uid]);
}

#[test]
fn what_is_told_names_the_chains_on_the_way_and_fits_into_an_event() {
    let chain = |n: u32, hook: &str| HookedChain {
        family: "inet".into(),
        table: "firewalld".into(),
        name: format!("filter_{n}_{}", "x".repeat(40)),
        hook: hook.into(),
    };
    let chains: Vec<HookedChain> = (0..30).map(|n| chain(n, "forward")).chain([chain(99, "output")]).collect();
    let node = all().pods[POD].service.clone();
    let losses = [Loss::Forwarding, Loss::Leaving, Loss::BeforePod(POD.into()), Loss::InPod(POD.into())];
    let believed = losses.into_iter().map(|loss| (loss, 18)).collect();
    let told: Vec<String> =
        problems(&believed, &chains, &all(), &node, &settings("n1")).into_iter().map(|problem| problem.note).collect();
    assert!(told.iter().all(|note| note.len() < 1024 && note.starts_with("node n1: of 18 ")), "{told:?}");
    let forwarding = told.iter().find(|note| note.contains("none was sent into a tunnel")).unwrap();
    assert!(forwarding.contains("(forward)") && forwarding.contains("24 more"), "{forwarding}");
    assert!(!forwarding.contains("(output)") && forwarding.contains("iptables-legacy-save"), "{forwarding}");
    assert_eq!(told.iter().filter(|note| note.contains("pod default/echo-1")).count(), 2);
}
