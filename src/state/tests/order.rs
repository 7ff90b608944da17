//! Every node must come to the same cluster, whatever the order in which it learned about it.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index as Pick, subsequence};

use super::*;

/// A cluster with every kind of trouble in it.
pub(super) fn objects() -> Vec<Change> {
    let broken = Endpoint { node_name: None, ..mk_endpoint("d", "10.244.2.4") };
    let leaving = with_conditions(mk_endpoint("b", "10.244.2.2"), false, true, true);
    let mut moved = mk_slice("a-2", "a", vec![mk_endpoint("a", "10.244.2.9"), leaving.clone()]);
    moved.metadata.generation = Some(3);
    let mut fqdn = mk_slice("b-names", "b", Vec::new());
    fqdn.address_type = "FQDN".to_owned();
    let services = [
        mk_service("a", "192.0.2.10,192.0.2.11"),
        mk_service("b", "192.0.2.11,192.0.2.12,banana,10.0.0.21"),
        annotated(mk_service("c", "192.0.2.12"), "cmd.nu/tunnel-mode", "banana"),
        annotated(mk_service("d", "192.0.2.13,10.244.2.1"), "cmd.nu/tunnel-mode", "mpls"),
        with_spec(mk_service("e", "192.0.2.14"), |spec| spec.external_ips = Some(vec!["192.0.2.13".to_owned()])),
    ];
    let slices = [
        mk_slice("a-1", "a", vec![mk_endpoint("a", "10.244.2.1"), leaving, broken]),
        moved,
        mk_slice("b-1", "b", vec![mk_endpoint("c", "10.0.0.22"), mk_endpoint("e", "10.244.1.5")]),
        fqdn,
    ];
    let nodes = [mk_node("worker-a", "10.0.0.21", "10.244.1.0/24"), mk_node("worker-b", "10.0.0.22", "10.244.2.0/24")];
    let services = services.into_iter().map(|o| Change::Service(Watched::Apply(Box::new(o))));
    let slices = slices.into_iter().map(|o| Change::EndpointSlice(Watched::Apply(Box::new(o))));
    let nodes = nodes.into_iter().map(|o| Change::Node(Watched::Apply(Box::new(o))));
    let pods = [Change::Pod(Watched::Apply(Box::new(mk_pod("e", "10.244.1.5"))))];
    services.chain(slices).chain(nodes).chain(pods).collect()
}

/// The same objects, with what a later list of their kind would say.
pub(super) fn as_lists(changes: &[Change]) -> Vec<Change> {
    let mut all = Vec::new();
    macro_rules! list {
        ($kind:ident) => {
            all.push(Change::$kind(Watched::Init));
            for change in changes {
                if let Change::$kind(Watched::Apply(object)) = change {
                    all.push(Change::$kind(Watched::InitApply(object.clone())));
                }
            }
            all.push(Change::$kind(Watched::InitDone));
        };
    }
    list!(Pod);
    list!(Node);
    list!(EndpointSlice);
    list!(Service);
    all
}

fn resolved(changes: impl IntoIterator<Item = Change>) -> Resolved {
    let mut world = World::new();
    for change in changes {
        world.0.apply(change);
    }
    world.resolve()
}

#[test]
fn the_cluster_of_these_tests_has_every_kind_of_trouble() {
    let resolved = resolved(objects());
    let mut reasons: Vec<&str> = resolved.cluster.problems.iter().map(|p| p.reason.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons, ["EndpointRefused", "InvalidMode", "InvalidVIP", "VIPConflict"]);
    assert_eq!(vips(&resolved), ["192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.14"]);
}

proptest! {
    #[test]
    fn any_order_gives_the_same_cluster(changes in Just(objects()).prop_shuffle()) {
        prop_assert_eq!(resolved(changes), resolved(objects()));
    }

    #[test]
    fn repeated_events_change_nothing(
        changes in Just(objects()).prop_shuffle(),
        again in vec(any::<Pick>(), 0..20),
    ) {
        let repeats: Vec<Change> = again.iter().map(|pick| pick.get(&changes).clone()).collect();
        prop_assert_eq!(resolved(changes.into_iter().chain(repeats)), resolved(objects()));
    }

    #[test]
    fn lists_and_single_changes_come_to_the_same(changes in Just(objects()).prop_shuffle()) {
        prop_assert_eq!(resolved(as_lists(&changes)), resolved(objects()));
    }

    #[test]
    fn a_list_wipes_out_whatever_was_believed_before(
        left in subsequence(objects(), 0..=objects().len()).prop_shuffle(),
        before in Just(objects()).prop_shuffle(),
    ) {
        prop_assert_eq!(resolved(before.into_iter().chain(as_lists(&left))), resolved(left));
    }

    #[test]
    fn any_part_of_a_cluster_is_consistent(part in subsequence(objects(), 0..=objects().len())) {
        let resolved = resolved(part);
        for (address, vip) in &resolved.cluster.vips {
            prop_assert_eq!(address, &vip.address);
            prop_assert!(vip.endpoints.is_sorted_by(|a, b| a.pod_uid < b.pod_uid));
        }
        for problem in &resolved.cluster.problems {
            prop_assert!(problem.note.len() <= MAX_NOTE);
            prop_assert!(problem.note.contains(&problem.subject.to_string()), "{}", problem.note);
            prop_assert!(problem.note.contains(": "));
        }
    }

    #[test]
    fn no_annotation_breaks_the_others(text in any::<String>(), mode in any::<String>()) {
        let odd = annotated(mk_service("z-odd", &text), "cmd.nu/tunnel-mode", &mode);
        let world = World::new().service(mk_service("echo", "192.0.2.10")).service(odd);
        let resolved = world.resolve();
        prop_assert_eq!(&resolved.cluster.vips[&ip("192.0.2.10")].service.name, "echo");
        prop_assert!(resolved.cluster.problems.iter().all(|p| p.note.len() <= MAX_NOTE));
    }
}
