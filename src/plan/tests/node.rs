//! What a node is asked for, case by case.

use std::collections::{BTreeMap, BTreeSet};

use super::fake::FakeKernel;
use super::support::{bare_vip, cluster, endpoint, first_map, following, ip, on_nodes, routes, settings, vip};
use crate::model::handover::{FlowHash, HashKey};
use crate::model::{BucketCount, Family, MarkField, Mode, Reason, Vip};
use crate::plan::diff::diff;
use crate::plan::nft::{Elements, NftAction, NftOp, Rule, SetType, TableFamily, TableName};
use crate::plan::node::desired_node;
use crate::plan::observed::ObservedRoute;
use crate::plan::step::RouteWrite;
use crate::plan::{PAUSED_TABLE, Plan, RouteKey, RouteTarget, RuleAction, RuleSpec, Settings, Source, Step, Sysctl};

#[test]
fn a_node_that_takes_nothing_in_and_runs_no_endpoint_holds_nothing() {
    let mut cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, vec![endpoint(3, "n2")])]);
    cluster.nodes.get_mut("n1").unwrap().ingress = false;
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    assert_eq!((desired, problems), Default::default());
}

#[test]
fn a_serving_node_untracks_replies_and_hashes_nothing() {
    let mut cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    cluster.nodes.get_mut("n1").unwrap().ingress = false;
    let (desired, _) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    let table = desired.nft.unwrap();
    assert!(!table.chains.contains_key("vip") && desired.links.is_empty());
    assert_eq!(table.sets["endpoint_devices"].elements, BTreeSet::from(["veth2".to_owned()]));
}

#[test]
fn a_device_without_an_address_gets_a_source_route_instead_of_loose_filtering() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    let mut facts = routes(&cluster);
    let (desired, _) = desired_node(&cluster, &facts, &settings("n1"));
    let key = RouteKey { table: 10_032, vip: ip("192.0.2.10") };
    assert_eq!(
        desired.routes[&key],
        RouteTarget::Devices(["eth0".to_owned(), "veth2".to_owned()].into()),
        "and the uplink"
    );
    assert!(desired.rules.iter().any(|r| r.mark == Some((0, 0xff)) && r.action == RuleAction::Lookup(10_032)));
    assert!(!desired.sysctls.contains_key(&Sysctl::RpFilter("veth2".into())));

    facts.get_mut(&ip("10.244.1.2")).unwrap().bare = false;
    let (desired, _) = desired_node(&cluster, &facts, &settings("n1"));
    assert!(!desired.routes.contains_key(&key) && desired.sysctls.contains_key(&Sysctl::RpFilter("veth2".into())));
}

#[test]
fn a_device_without_carrier_holds_up_nothing_but_what_goes_through_it() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Mpls, on_nodes())]);
    let (desired, _) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    kernel.device("veth2", false, 1500);
    let round = |kernel: &mut FakeKernel| {
        let plan = diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-");
        kernel.apply(&plan, usize::MAX);
        let again = diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-");
        assert!(again.steps.is_empty(), "{again}");
        let groups = kernel.observed.nexthops.values().filter_map(|nexthop| match &nexthop.source {
            Some(Source::Group(members)) => Some(members.len()),
            _ => None,
        });
        let unreachable = kernel.observed.routes.values().filter(|route| **route == ObservedRoute::Unreachable);
        (groups.collect::<Vec<_>>(), unreachable.count())
    };
    assert_eq!(round(&mut kernel), (vec![2], 0));
    kernel.carrier("veth2", false);
    let (groups, unreachable) = round(&mut kernel);
    assert!(groups == [1] && unreachable > 0 && unreachable < 16, "{groups:?}, {unreachable} unreachable");
    kernel.carrier("eth0", false);
    assert_eq!(round(&mut kernel), (vec![], 17), "all buckets, and the table of sources");
    kernel.carrier("veth2", true);
    kernel.carrier("eth0", true);
    assert_eq!(round(&mut kernel), (vec![2], 0));
}

#[test]
fn a_mode_that_the_kernel_cannot_do_takes_only_its_own_vips_away() {
    let gre = ["192.0.2.10", "192.0.2.12"].map(|address| vip(address, Mode::Gre, on_nodes()));
    let cluster = cluster([vec![vip("192.0.2.11", Mode::Vxlan, on_nodes())], gre.into()].concat());
    let mut settings = settings("n1");
    settings.unavailable.insert(Mode::Gre, "no ip_gre: modprobe ip_gre".into());
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &settings);
    let target = |vip| &desired.routes[&RouteKey { table: 10_000, vip: ip(vip) }];
    assert_eq!(target("192.0.2.10"), &RouteTarget::Unreachable);
    assert!(matches!(target("192.0.2.11"), RouteTarget::Via { .. }));
    assert_eq!(desired.links.keys().collect::<Vec<_>>(), ["kst-vxlan"]);
    let [problem] = &problems[..] else { panic!("told once for both: {problems:?}") };
    assert_eq!((problem.subject.to_string().as_str(), problem.reason), ("node n1", Reason::NodeFailed));
    assert!(problem.note.contains("mode gre") && problem.note.contains("modprobe ip_gre"), "{}", problem.note);
}

#[test]
fn the_uplink_is_no_device_of_a_pod_that_has_ended() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    let mut facts = routes(&cluster);
    // Its own route went with it, and its address is one of the nodes' network.
    facts.insert(ip("10.244.1.2"), facts[&ip("10.0.0.2")].clone());
    let (desired, _) = desired_node(&cluster, &facts, &settings("n1"));
    assert!(desired.nft.unwrap().sets["endpoint_devices"].elements.is_empty());
    assert!(!desired.sysctls.contains_key(&Sysctl::RpFilter("eth0".into())));
}

/// A cloud lists addresses of pods among those of their node.
#[test]
fn of_an_address_that_pod_and_node_share_only_outer_packets_are_dropped() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    let (desired, _) = desired_node(&cluster, &routes(&cluster), &settings("n2"));
    let table = desired.nft.unwrap();
    let dropped: Vec<&str> = table.chains["from_endpoint"].rules.iter().map(|rule| rule.text.as_str()).collect();
    assert!(dropped.contains(&"meta l4proto 47 ip saddr @nodes drop"), "{dropped:?}");
    let outer = |rule: &&str| rule.starts_with("meta l4proto 47 ") || rule.starts_with("udp dport 4790 ");
    assert!(dropped.iter().filter(|rule| rule.contains("@nodes")).all(outer), "{dropped:?}");
}

/// A VIP whose stored map was made for this hash.
fn mapped(address: &str, buckets: u32, seed: u32, key: HashKey) -> Vip {
    let hash = FlowHash { buckets: BucketCount::new(buckets).unwrap(), seed, key };
    following(bare_vip(address, Mode::Gre, on_nodes()), first_map(hash, &on_nodes()))
}

#[test]
fn a_vip_is_hashed_as_its_map_says_and_the_others_as_the_flags_say() {
    let cluster = cluster(vec![mapped("192.0.2.10", 64, 7, HashKey::Ports), vip("192.0.2.11", Mode::Gre, on_nodes())]);
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    assert_eq!(problems, []);
    let table = desired.nft.unwrap();
    let rules = |chain: &str| table.chains[chain].rules.iter().map(|r| r.text.clone()).collect::<Vec<_>>().join("\n");
    assert!(rules("vip").contains("ip daddr @vips_64_7_ goto vip_64_7_") && rules("vip").contains("mod 16 seed"));
    assert!(rules("vip_64_7_").contains("mod 64 seed 0x7") && !rules("vip_64_7_").contains("mod 16"));
    assert!(rules("icmp_error").contains("goto icmp_error_64_7_"));
    assert_eq!(table.sets["vips_64_7_"].elements, BTreeSet::from(["192.0.2.10".to_owned()]));
    let buckets = |vip| desired.routes.keys().filter(|key| key.vip == ip(vip) && key.table < 10_064).count();
    assert_eq!((buckets("192.0.2.10"), buckets("192.0.2.11")), (64, 16));
    // The tree tells 64 buckets apart, whatever our own flags say.
    assert!(desired.rules.iter().any(|r| r.mark == Some((0x80 | 63, 0xff)) && r.action == RuleAction::Lookup(10_063)));
}

#[test]
fn a_vip_with_client_ip_affinity_is_hashed_on_addresses_alone() {
    let Settings { buckets, hash_seed, .. } = settings("n1");
    let cluster = cluster(vec![mapped("2001:db8::10", buckets.get(), hash_seed, HashKey::Addresses)]);
    let (desired, _) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    let table = desired.nft.unwrap();
    let texts = |chain: &str| table.chains[chain].rules.iter().map(|rule| rule.text.as_str()).collect::<Vec<_>>();
    assert_eq!(
        texts("vip_16_6b737401_addresses_6"),
        ["meta mark set jhash ip6 saddr . ip6 daddr mod 16 seed 0x6b737401 offset 128 return"]
    );
    assert!(texts("icmp_error6")[0].contains("@vips_16_6b737401_addresses_6 goto icmp_error_16_6b737401_addresses_6"));
}

#[test]
fn a_map_with_more_buckets_than_the_mark_can_hold_is_refused_and_the_others_are_served() {
    let cluster = cluster(vec![mapped("192.0.2.10", 128, 7, HashKey::Ports), vip("192.0.2.11", Mode::Gre, on_nodes())]);
    let narrow = Settings { mark: MarkField::new(0x7f, settings("n1").buckets).unwrap(), ..settings("n1") };
    let (desired, problems) = desired_node(&cluster, &routes(&cluster), &narrow);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].reason == Reason::NodeFailed && problems[0].note.contains("128 buckets"), "{problems:?}");
    assert!(problems[0].note.contains("--mark-field 0x7f"), "{problems:?}");
    let target = |vip| &desired.routes[&RouteKey { table: 10_000, vip: ip(vip) }];
    assert_eq!(target("192.0.2.10"), &RouteTarget::Unreachable);
    assert!(matches!(target("192.0.2.11"), RouteTarget::Via { .. }));
}

#[test]
fn no_packet_comes_in_while_the_tree_of_rules_takes_another_shape() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    kernel.device("veth2", false, 1500);
    let plan = |kernel: &FakeKernel, settings: &Settings| {
        let (desired, _) = desired_node(&cluster, &routes(&cluster), settings);
        diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-")
    };
    let nowhere = |plan: &Plan| !plan.to_string().contains(PAUSED_TABLE);
    let first = plan(&kernel, &settings("n1"));
    assert!(nowhere(&first), "nothing came in before");
    kernel.apply(&first, usize::MAX);

    let buckets = BucketCount::new(32).unwrap();
    let other = Settings { buckets, mark: MarkField::new(0x1ff, buckets).unwrap(), ..settings("n1") };
    let change = plan(&kernel, &other);
    let mut during = kernel.clone();
    for (step, n) in change.steps.iter().zip(1..) {
        let rules = during.observed.rules.clone();
        during = kernel.clone();
        during.apply(&change, n);
        let changed = during.observed.rules != rules;
        assert!(!changed || during.observed.paused, "packets come in while this is done: {step}");
    }
    let text = change.to_string();
    assert!(text.contains("ip daddr { 192.0.2.10 } drop") && !during.observed.paused, "{text}");
    assert!(plan(&during, &other).is_empty(), "{}", plan(&during, &other));

    // Whoever dies in the middle is made up for.
    let mut torn = kernel.clone();
    torn.apply(&change, change.steps.len() / 2);
    assert!(torn.observed.paused);
    let rest = plan(&torn, &other);
    torn.apply(&rest, usize::MAX);
    assert!(!torn.observed.paused && plan(&torn, &other).is_empty());
}

/// Of 16 buckets: before the rules of others, with two priorities behind each pair.
fn tree_of_version_0_1() -> Vec<RuleSpec> {
    let rule = |priority, mark, action| RuleSpec { family: Family::V4, priority, mark, action };
    let jump = |(at, bits, to)| rule(at, Some((bits, bits)), RuleAction::Goto(to));
    let jumps =
        [(102, 0x88, 122), (103, 0x84, 113), (104, 0x82, 109), (113, 0x82, 118), (122, 0x84, 132), (123, 0x82, 128)];
    let leaf = |(first, bucket): (u32, u32)| {
        [0u32, 1].map(|n| rule(first + n, Some((0x80 + bucket + n, 0xff)), RuleAction::Lookup(10_000 + bucket + n)))
    };
    let pairs = [105, 109, 114, 118, 124, 128, 133, 137].into_iter().zip((0..).step_by(2));
    let mut rules = vec![rule(101, Some((0, 0x80)), RuleAction::Goto(141)), rule(141, None, RuleAction::Nop)];
    rules.extend(jumps.into_iter().chain([(132, 0x82, 137)]).map(jump));
    rules.extend(pairs.flat_map(leaf));
    rules.sort();
    rules
}

fn drains_of_version_0_1() -> Vec<NftOp> {
    let (name, kind) = (str::to_owned, SetType::AddressMark(Family::V4));
    let rule = |chain, text| NftAction::AddRule { chain: name(chain), rule: Rule::new("old", text) };
    let elements = Elements { set: name("draining"), kind, elements: [name("192.0.2.10 . 131")].into() };
    let actions = [
        NftAction::AddSet { name: name("draining"), kind, counted: false, learns: false },
        NftAction::AddElements(elements),
        NftAction::AddChain { name: name("drain"), base: None },
        rule("drain", "ip daddr . meta mark @draining accept"),
        rule("vip", "goto drain"),
    ];
    TableName::ours(TableFamily::Inet).ops(actions)
}

#[test]
fn what_version_0_1_has_left_of_rules_and_drains_is_replaced_without_a_pause() {
    let cluster = cluster(vec![vip("192.0.2.10", Mode::Gre, on_nodes())]);
    let mut kernel = FakeKernel::new("eth0", "10.0.0.1");
    kernel.device("veth2", false, 1500);
    let (desired, _) = desired_node(&cluster, &routes(&cluster), &settings("n1"));
    let plan = |kernel: &FakeKernel| diff(&desired, &kernel.observed, &BTreeMap::new(), "kst-");
    kernel.apply(&plan(&kernel), usize::MAX);
    let clean = kernel.clone();

    let ours: Vec<RuleSpec> =
        kernel.observed.rules.iter().filter(|rule| rule.ours).filter_map(|rule| rule.spec).collect();
    let replaced =
        ours.into_iter().map(Step::DelRule).chain(tree_of_version_0_1().into_iter().rev().map(Step::AddRule));
    kernel.apply(&Plan { steps: replaced.collect() }, usize::MAX);
    let (leaf, key) = ((0xc3, 0xff), RouteKey { table: 10_019, vip: ip("192.0.2.10") });
    let former =
        RuleSpec { family: Family::V4, priority: 112, mark: Some(leaf), action: RuleAction::Lookup(key.table) };
    let id = *kernel.observed.nexthops.first_key_value().unwrap().0;
    kernel.apply(
        &Plan {
            steps: vec![
                Step::AddRule(former),
                Step::ReplaceRoute(key, RouteWrite::Nhid { id, mtu: 1472 }),
                Step::Nft(drains_of_version_0_1()),
            ],
        },
        usize::MAX,
    );
    let upgrade = plan(&kernel);
    assert!(!upgrade.to_string().contains(PAUSED_TABLE), "{upgrade}");
    kernel.apply(&upgrade, usize::MAX);
    assert_eq!(kernel.observed, clean.observed);
}
