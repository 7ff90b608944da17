//! What a pod holds between two steps.

use std::collections::{BTreeMap, BTreeSet};

use super::fake::FakeKernel;
use super::support::{both, ip, settings};
use crate::model::{Bucket, Family, MarkField, Mode};
use crate::plan::diff::diff;
use crate::plan::pod::{PodDrain, PodInput, UnfitPod, desired_pod};
use crate::plan::{NFT_TABLE, Settings, Step};

/// Passes on to this many others.
fn passing_on(others: u8) -> PodInput {
    let vip = ip("192.0.2.1");
    let next = |n: u8| ((vip, Bucket::new(n.into()).unwrap()), both([10, 244, 2, n].into()));
    PodInput {
        vips: BTreeMap::from([(vip, Mode::Vxlan)]),
        addresses: both(ip("10.244.1.2")),
        outer: BTreeSet::from([Family::V4]),
        nodes: BTreeSet::from([ip("10.0.0.1")]),
        underlay_mtu: None,
        drain: PodDrain {
            onward: (0..others).map(next).collect(),
            hashed: BTreeMap::from([(vip, (settings("n1").flows(), false))]),
            peers: BTreeSet::new(),
        },
    }
}

#[test]
fn while_the_mark_field_changes_a_pod_goes_on_passing_on() {
    let mut kernel = FakeKernel::new("eth0", "10.244.1.2");
    let old = settings("n1");
    let desired = desired_pod(&passing_on(1), &kernel.observed, &old).unwrap();
    kernel.apply(&diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-"), usize::MAX);
    let new = Settings { mark: MarkField::new(0x3ff_0000, old.flows().buckets).unwrap(), ..old };
    let desired = desired_pod(&passing_on(2), &kernel.observed, &new).unwrap();
    let plan = diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-");
    let text = |step: &Step| match step {
        Step::Nft(script) => script.clone(),
        _ => String::new(),
    };
    let hashes = format!("flush chain ip {NFT_TABLE} onward\n");
    let of_map = |verb: &str| format!("{verb} element ip {NFT_TABLE} onward ");
    let scripts: Vec<String> = plan.steps.iter().map(text).collect();
    let at = |what: &str| scripts.iter().position(|script| script.contains(what)).unwrap_or_else(|| panic!("{what}"));
    assert_eq!(at(&hashes), at(&of_map("add")), "{scripts:#?}");
    let all = scripts.concat();
    assert!(all.find(&of_map("delete")) > all.find(&hashes), "{all}");
}

#[test]
fn a_pod_whose_packets_a_virtual_machine_gets_is_refused() {
    let mut kernel = FakeKernel::new("eth0", "10.244.1.2");
    let eth0 = kernel.observed.links["eth0"].clone();
    kernel.observed.links.insert("tap0_kata".to_owned(), eth0);
    let refused = desired_pod(&passing_on(0), &kernel.observed, &settings("n1")).unwrap_err();
    assert_eq!(refused, UnfitPod::VirtualMachine("tap0_kata".to_owned()));
}

#[test]
fn a_namespace_without_the_pods_address_is_not_the_pods() {
    let kernel = FakeKernel::new("eth0", "10.244.1.3");
    let unfit = desired_pod(&passing_on(0), &kernel.observed, &settings("n1")).unwrap_err();
    assert!(matches!(unfit, UnfitPod::NoDevice(_)), "{unfit}");
}
