//! What a pod holds, and what it holds between two steps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::fake::FakeKernel;
use super::support::{both, ip, settings};
use crate::model::second_chance::TunnelId;
use crate::model::{Family, Mode};
use crate::plan::diff::diff;
use crate::plan::nft::{Elements, ObservedTable, TableFamily};
use crate::plan::pod::{PodInput, UnfitPod, desired_pod};
use crate::plan::step::RouteWrite;
use crate::plan::{Address, Desired, LinkKind, Nexthop, Plan, RouteKey, RuleAction, RuleSpec, Settings, Step, Sysctl};

const PORT: u16 = 4790;
const PROGRAM: u32 = 7;

/// A pod with an IPv4 VIP in a mode, which ingress nodes reach over IPv4.
pub(super) fn input(mode: Mode) -> PodInput {
    PodInput {
        vips: BTreeMap::from([(ip("192.0.2.10"), mode)]),
        addresses: both(ip("10.244.1.2")),
        outer: BTreeSet::from([Family::V4]),
        nodes: BTreeSet::from([ip("10.0.0.1")]),
        underlay_mtu: None,
        peers: BTreeSet::new(),
        program: Some(PROGRAM),
    }
}

fn pod() -> FakeKernel {
    FakeKernel::new("eth0", "10.244.1.2")
}

fn desired(input: &PodInput, settings: &Settings) -> Desired {
    desired_pod(input, &pod().observed, settings).unwrap()
}

pub(super) fn plan(input: &PodInput, kernel: &FakeKernel) -> Plan {
    let desired = desired_pod(input, &kernel.observed, &settings("n1")).unwrap();
    diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-")
}

fn without(mode: &[Mode]) -> Settings {
    Settings { unavailable: mode.iter().map(|mode| (*mode, String::new())).collect(), ..settings("n1") }
}

fn position(plan: &Plan, step: &Step) -> usize {
    plan.steps.iter().position(|other| other == step).unwrap_or_else(|| panic!("{step} is not in\n{plan}"))
}

fn devices(desired: &Desired, vip: &str) -> Vec<String> {
    desired.addresses.iter().filter(|a| a.address == ip(vip)).map(|a| a.dev.clone()).collect()
}

#[test]
fn the_program_is_on_every_tunnel_device_before_it_is_up() {
    for (mode, outer, names) in [
        (Mode::Gre, &[Family::V4, Family::V6][..], &["kst-xgre", "kst-xgre6"][..]),
        (Mode::Vxlan, &[Family::V4], &["kst-vxlan"]),
        (Mode::Mpls, &[Family::V4], &["kst-vxlan"]),
    ] {
        let input = PodInput { outer: outer.iter().copied().collect(), ..input(mode) };
        assert_eq!(desired(&input, &settings("n1")).filters.keys().collect::<Vec<_>>(), names, "{mode}");
        let plan = plan(&input, &pod());
        for name in names {
            let attach = Step::AttachFilter { dev: (*name).to_owned(), program: PROGRAM };
            assert!(position(&plan, &attach) < position(&plan, &Step::LinkUp((*name).to_owned())), "{plan}");
        }
    }
}

#[test]
fn a_pod_without_program_has_the_same_devices_and_no_filter() {
    for mode in Mode::ALL {
        let (with, settings) = (input(mode), settings("n1"));
        let without = PodInput { program: None, ..with.clone() };
        let expected = Desired { filters: BTreeMap::new(), ..desired(&with, &settings) };
        assert_eq!(desired(&without, &settings), expected);
    }
}

#[test]
fn another_program_replaces_the_one_that_is_there_and_none_removes_it() {
    let mut kernel = pod();
    kernel.apply(&plan(&input(Mode::Vxlan), &kernel), usize::MAX);
    let with = |program| plan(&PodInput { program, ..input(Mode::Vxlan) }, &kernel).steps;
    let dev = "kst-vxlan".to_owned();
    assert_eq!(with(Some(PROGRAM)), []);
    assert_eq!(with(Some(8)), [Step::AttachFilter { dev: dev.clone(), program: 8 }]);
    assert_eq!(with(None), [Step::DetachFilter(dev)]);
}

#[test]
fn a_replaced_device_gets_its_program_anew() {
    let mut kernel = pod();
    kernel.apply(&plan(&input(Mode::Vxlan), &kernel), usize::MAX);
    kernel.observed.links.get_mut("kst-vxlan").unwrap().kind = Some(LinkKind::VxlanGpe { port: PORT + 1 });
    let plan = plan(&input(Mode::Vxlan), &kernel);
    assert!(plan.steps.contains(&Step::AttachFilter { dev: "kst-vxlan".to_owned(), program: PROGRAM }), "{plan}");
    kernel.apply(&plan, usize::MAX);
    let gone = diff(&Desired::default(), &kernel.observed, &BTreeMap::new(), "kst-");
    assert!(!gone.steps.iter().any(|step| matches!(step, Step::DetachFilter(_))), "it goes with its link:\n{gone}");
}

#[test]
fn a_pod_in_mpls_takes_lists_of_names_in_vxlan_or_else_in_gre() {
    let carriers = |settings: &Settings| desired(&input(Mode::Mpls), settings).links.into_keys().collect::<Vec<_>>();
    assert_eq!(carriers(&settings("n1")), ["kst-vxlan"]);
    assert_eq!(carriers(&without(&[Mode::Vxlan])), ["kst-xgre"]);
    assert_eq!(carriers(&without(&[Mode::Vxlan, Mode::Gre])), [""; 0]);
}

#[test]
fn an_ipv4_vip_is_on_every_device_that_its_packets_come_in_by() {
    let vips = [("192.0.2.10", Mode::Mpls), ("192.0.2.11", Mode::Gre), ("2001:db8::11", Mode::Gre)];
    let vips = vips.map(|(vip, mode)| (ip(vip), mode)).into();
    let outer = BTreeSet::from(Family::ALL);
    let desired = desired(&PodInput { vips, outer, ..input(Mode::Gre) }, &settings("n1"));
    assert_eq!(devices(&desired, "192.0.2.10"), ["kst-vxlan", "lo"]);
    assert_eq!(devices(&desired, "192.0.2.11"), ["kst-xgre", "kst-xgre6"]);
    assert_eq!(devices(&desired, "2001:db8::11"), ["kst-xgre"]);
}

#[test]
fn segments_leave_room_for_whatever_carries_the_packet_in_any_state() {
    let mss = |mode, settings: &Settings| {
        let table = desired(&input(mode), settings).nft.unwrap();
        let text = table.chains["mss"].rules[0].text.clone();
        text.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    };
    let fits = 1500 - 20 - 20;
    assert_eq!(mss(Mode::Gre, &settings("n1")), fits - 28, "with a key");
    assert_eq!(mss(Mode::Vxlan, &settings("n1")), fits - 36);
    assert_eq!(mss(Mode::Mpls, &settings("n1")), fits - 36, "in vxlan while a bucket drains");
    assert_eq!(mss(Mode::Mpls, &without(&[Mode::Vxlan])), fits - 28, "in gre while a bucket drains");
    assert_eq!(mss(Mode::Mpls, &without(&[Mode::Vxlan, Mode::Gre])), fits - 4);
}

#[test]
fn peers_that_come_and_go_change_a_set_and_no_rule() {
    let peers: BTreeSet<IpAddr> = both(ip("10.244.2.3")).iter().collect();
    for mode in [Mode::Gre, Mode::Vxlan] {
        let mut kernel = pod();
        kernel.apply(&plan(&input(mode), &kernel), usize::MAX);
        let plan = plan(&PodInput { peers: peers.clone(), ..input(mode) }, &kernel);
        let [Step::Nft(ops)] = &plan.steps[..] else { panic!("{plan}") };
        let of_peers = |(is_added, elements): (bool, &Elements)| is_added && elements.set.starts_with("peers");
        assert!(ops.iter().all(|op| op.elements().is_some_and(of_peers)), "{plan}");
    }
}

/// What 0.1 left in a pod that forwarded packets to 10.244.2.3: a device that takes no key, a second one, rules, routes and
/// tables.
pub(super) fn left_by_0_1(mode: Mode) -> FakeKernel {
    let mut kernel = pod();
    let address = |dev: &str| Address { dev: dev.to_owned(), address: ip("192.0.2.10") };
    let encap = Nexthop::EncapIp {
        family: Family::V4,
        dev: "kst-vxlan".to_owned(),
        src: ip("10.244.1.2"),
        dst: ip("10.244.2.3"),
        id: TunnelId::OWNER_ALONE,
    };
    let key = RouteKey { table: 10_000, vip: ip("250.244.2.3") };
    let rule = RuleSpec { family: Family::V4, priority: 101, mark: None, action: RuleAction::Lookup(10_000) };
    let gre = [
        Step::AddLink("kst-gre".to_owned(), LinkKind::GreLocal(ip("10.244.1.2"))),
        Step::SetSysctl(Sysctl::RpFilter("kst-gre".to_owned()), 2),
        Step::LinkUp("kst-gre".to_owned()),
        Step::AddAddress(address("kst-gre")),
    ];
    let rest = [
        Step::AddLink("kst-vxlan".to_owned(), LinkKind::VxlanGpe { port: PORT }),
        Step::SetSysctl(Sysctl::RpFilter("kst-vxlan".to_owned()), 2),
        Step::LinkUp("kst-vxlan".to_owned()),
        Step::AddAddress(address("kst-vxlan")),
        Step::ReplaceNexthop(9, encap),
        Step::ReplaceRoute(key, RouteWrite::Nhid { id: 9, mtu: 65_520 }),
        Step::AddRule(rule),
    ];
    let steps = gre.into_iter().filter(|_| mode == Mode::Gre).chain(rest).collect();
    kernel.apply(&Plan { steps }, usize::MAX);
    let tables = [TableFamily::Ip, TableFamily::Ip6].map(|family| (family, ObservedTable::default()));
    kernel.observed.frames = tables.into();
    kernel
}

#[test]
fn what_0_1_left_is_replaced_and_removed() {
    for mode in Mode::ALL {
        let mut kernel = left_by_0_1(mode);
        kernel.apply(&plan(&input(mode), &kernel), usize::MAX);
        let mut fresh = pod();
        fresh.apply(&plan(&input(mode), &fresh), usize::MAX);
        // Devices that came and went have counted the numbers up.
        kernel.observed.links.iter_mut().for_each(|(name, link)| link.index = fresh.observed.links[name].index);
        assert_eq!(kernel.observed, fresh.observed, "{mode}");
    }
}

#[test]
fn at_every_step_a_vip_of_0_1_is_on_a_device_that_takes_packets() {
    let kernel = left_by_0_1(Mode::Gre);
    let plan = plan(&input(Mode::Gre), &kernel);
    for cut in 0..=plan.steps.len() {
        let mut kernel = kernel.clone();
        kernel.apply(&plan, cut);
        let takes = |dev: &str| {
            let here = |(a, _, _): &(Address, u8, bool)| a.dev == dev && a.address == ip("192.0.2.10");
            kernel.observed.links.get(dev).is_some_and(|link| link.up) && kernel.observed.addresses.iter().any(here)
        };
        assert!(takes("kst-gre") || takes("kst-xgre"), "after {cut} steps of\n{plan}");
        let judged = kernel.observed.filters.contains_key("kst-xgre");
        assert!(judged || !takes("kst-xgre"), "after {cut} steps of\n{plan}");
    }
}

#[test]
fn a_pod_whose_packets_a_virtual_machine_gets_is_refused() {
    let mut kernel = pod();
    let eth0 = kernel.observed.links["eth0"].clone();
    kernel.observed.links.insert("tap0_kata".to_owned(), eth0);
    let refused = desired_pod(&input(Mode::Vxlan), &kernel.observed, &settings("n1")).unwrap_err();
    assert_eq!(refused, UnfitPod::VirtualMachine("tap0_kata".to_owned()));
}

#[test]
fn the_pods_own_external_gre_device_is_named_and_stays() {
    let mut kernel = pod();
    kernel.device("vpn", false, 1476);
    kernel.observed.links.get_mut("vpn").unwrap().kind = Some(LinkKind::GreExternal(Family::V4));
    let unfit = desired_pod(&input(Mode::Gre), &kernel.observed, &settings("n1")).unwrap_err().to_string();
    assert!(
        unfit.contains("device vpn") && unfit.contains("`type gre external`") && unfit.contains("vxlan"),
        "{unfit}"
    );
    assert!(desired_pod(&input(Mode::Vxlan), &kernel.observed, &settings("n1")).is_ok());
}

#[test]
fn a_namespace_without_the_pods_address_is_not_the_pods() {
    let kernel = FakeKernel::new("eth0", "10.244.1.3");
    let unfit = desired_pod(&input(Mode::Vxlan), &kernel.observed, &settings("n1")).unwrap_err();
    assert!(matches!(unfit, UnfitPod::NoDevice(_)), "{unfit}");
}
