//! What version 0.1 has left in a namespace is recognised and replaced: its plans (`tests/fixtures/upgrade/0.1`) are run as scripts, then one
//! round brings the namespace to what this version wants. Witnesses: `ip`, `nft`, `tc`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::support::{load_program, netns, sh};
use tunnel_router::agent::start::plan_settings;
use tunnel_router::cli::{Cli, Command, Host, agent_config};
use tunnel_router::kernel::bpf::{OBJECT, Programs, Sizes};
use tunnel_router::model::handover::{
    EndpointState, FlowHash, Generation, HashKey, Intent, Member, Name, NextHop, Served, TunnelId,
};
use tunnel_router::model::{
    Addresses, BucketCount, Cluster, Endpoint, EndpointId, Family, Mode, Node, ServiceRef, Vip,
};
use tunnel_router::netns::Netns;
use tunnel_router::plan::Settings;
use tunnel_router::plan::pod::PodInput;
use tunnel_router::reconcile::{Execution, Goal, Memory, reconcile};

fn settings() -> Settings {
    let words = ["tunnel-router", "agent", "--node-name", "n1", "--buckets", "16"];
    let Ok(Command::Agent(args)) = Cli::try_parse_from(words.map(str::to_owned)) else { panic!("{words:?}") };
    plan_settings(&agent_config(&args, &Host::default()).unwrap())
}

fn run_old(netns: &Netns, script: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/upgrade/0.1").join(script);
    // The `ip` of Debian 12 cannot say whose an address is; those here stay in any case.
    let known = "sed '/^ip address/s/ proto 107//'";
    sh(netns, &format!("{known} {} | sh -e", path.display()));
}

/// A pod's namespace as a CNI plugin makes it.
fn pod() -> Netns {
    let netns = netns();
    sh(&netns, "ip link add eth0 type veth peer name veth0 && ip link set eth0 up && ip link set veth0 up");
    sh(&netns, "ip address add 10.244.1.2/24 dev eth0 && ip address add fd00:244:1::2/64 dev eth0 nodad");
    netns
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn input(mode: Mode, program: u32) -> PodInput {
    PodInput {
        vips: BTreeMap::from([(ip("192.0.2.10"), mode), (ip("2001:db8::10"), mode)]),
        addresses: Addresses::first_of(&[ip("10.244.1.2"), ip("fd00:244:1::2")]),
        outer: BTreeSet::from([Family::V4]),
        nodes: BTreeSet::from([ip("10.0.0.1"), ip("10.0.0.2")]),
        underlay_mtu: None,
        peers: BTreeSet::from([ip("10.244.2.3")]),
        program: Some(program),
    }
}

/// Nothing of the old hand-over is left, and a second round finds nothing to do.
fn is_replaced(script: &str, mode: Mode) {
    let netns = pod();
    run_old(&netns, script);
    let before = sh(&netns, "ip rule; ip -6 rule");
    assert!(before.contains("107") || before.contains("lookup 10000"), "{before}");

    let program = load_program(OBJECT, Sizes::LEAST);
    let programs = Programs::default();
    programs.insert(program.handle());
    let goal = Goal::Pod(input(mode, program.id()));
    let mut memory = Memory::default();
    let mut round = || reconcile(&netns, &goal, &settings(), &mut memory, Execution::Apply(&programs)).unwrap();
    let first = round();
    assert!(first.problems.is_empty(), "{:?}", first.problems);
    let second = round();
    assert!(second.plan.is_empty(), "{}", second.plan);

    let rules = sh(&netns, "ip rule; ip -6 rule");
    assert!(!rules.contains("10000"), "{rules}");
    let routes = sh(&netns, "ip -4 route show table all; ip -6 route show table all; ip nexthop");
    assert!(!routes.contains("proto 107") && !routes.contains("encap"), "{routes}");
    let tables = sh(&netns, "nft list tables");
    assert_eq!(tables.trim(), "table inet kube_service_tunnel");
    let links = sh(&netns, "ip -d link");
    assert!(!links.contains("local 10.244.1.2"), "{links}");
    for vip in ["192.0.2.10/32", "2001:db8::10/128"] {
        let addresses = sh(&netns, "ip -o address");
        assert!(addresses.contains(vip), "{addresses}");
    }
    let devices: Vec<&str> = links
        .lines()
        .filter_map(|line| line.split([':', '@']).nth(1))
        .map(str::trim)
        .filter(|dev| dev.starts_with("kst-"))
        .collect();
    assert!(!devices.is_empty(), "{links}");
    for device in devices {
        let filters = sh(&netns, &format!("tc filter show dev {device} ingress"));
        assert!(filters.contains("direct-action"), "{device}: {filters}");
    }
}

#[test]
fn a_pod_with_vxlan_loses_what_it_passed_packets_on_by() {
    is_replaced("pod-vxlan-drain.sh", Mode::Vxlan);
}

#[test]
fn gre_a_pod_gets_another_device_and_loses_what_it_passed_packets_on_by() {
    is_replaced("pod-gre-drain.sh", Mode::Gre);
}

#[test]
fn mpls_a_pod_loses_what_it_passed_packets_on_by() {
    is_replaced("pod-mpls-drain.sh", Mode::Mpls);
}

/// A node's namespace with its uplink and the device of one pod.
fn node() -> Netns {
    let netns = netns();
    for (device, peer) in [("eth0", "up0"), ("veth2", "pod0")] {
        sh(
            &netns,
            &format!("ip link add {device} type veth peer name {peer}; ip link set {device} up; ip link set {peer} up"),
        );
    }
    sh(&netns, "echo 1 > /proc/sys/net/ipv4/ip_forward");
    sh(&netns, "ip address add 10.0.0.1/24 dev eth0; ip route add default via 10.0.0.254");
    sh(&netns, "ip route add 10.244.1.2 dev veth2");
    netns
}

/// The pod owns every bucket.
fn intent(pod: &Endpoint) -> Intent {
    let owner = EndpointId::from(pod.pod_uid.as_str());
    let hop = NextHop { owner: owner.clone(), addresses: pod.addresses, id: TunnelId::default(), refuses_syn: false };
    let member = Member {
        name: Name::FIRST,
        node: pod.node.as_str().into(),
        addresses: pod.addresses,
        set_up: true,
        program: true,
        named: None,
    };
    let hash = FlowHash { buckets: BucketCount::new(16).unwrap(), seed: 7, key: HashKey::Ports };
    Intent {
        generation: Generation(1),
        hash,
        next_hops: Arc::new(hash.buckets.iter().map(|bucket| (bucket, hop.clone())).collect()),
        served: Served::default(),
        members: BTreeMap::from([(owner, member)]),
    }
}

fn node_goal() -> Goal {
    let addresses = Addresses::from(ip("10.244.1.2"));
    let pod = Endpoint {
        pod_uid: "uid-pod".to_owned(),
        namespace: "default".to_owned(),
        pod: "echo".to_owned(),
        node: "n1".to_owned(),
        addresses,
        state: EndpointState::Ready,
    };
    let vip = Vip {
        address: ip("192.0.2.10"),
        service: ServiceRef { namespace: "default".into(), name: "echo".into(), uid: "uid-echo".into() },
        mode: Mode::Vxlan,
        client_ip_affinity: false,
        tracked: false,
        intent: Some(Arc::new(intent(&pod))),
        endpoints: vec![pod],
        local_only: false,
        drain_limit: None,
        map: None,
        holds: false,
    };
    let addresses = vec![ip("10.0.0.1")];
    let node = Node { name: "n1".to_owned(), uid: "uid-n1".to_owned(), addresses, ingress: true, cordoned: false };
    let nodes = BTreeMap::from([(node.name.clone(), node)]);
    Goal::Node(Arc::new(Cluster { nodes, ..Cluster::of_vips([vip]) }))
}

/// What `ip` and `nft` list after two rounds, the second of which finds nothing to do. The numbers of next hops are left out.
fn programmed(netns: &Netns) -> String {
    let (goal, mut memory) = (node_goal(), Memory::default());
    let mut round =
        || reconcile(netns, &goal, &settings(), &mut memory, Execution::Apply(&Programs::default())).unwrap();
    let first = round();
    assert!(first.problems.is_empty(), "{:?}", first.problems);
    let second = round();
    assert!(second.plan.is_empty(), "{}", second.plan);
    sh(
        netns,
        "ip rule; (ip route show table all proto 107; ip -6 route show table all proto 107) | sed -E 's/nhid [0-9]+//'; nft -s list table inet kube_service_tunnel",
    )
}

#[test]
fn a_node_of_version_0_1_becomes_what_a_new_node_is() {
    let (old, new) = (node(), node());
    run_old(&old, "node-vxlan.sh");
    let rules = sh(&old, "ip rule");
    assert!(rules.contains("141:"), "the tree of 0.1 stands before the rules of others: {rules}");
    assert_eq!(programmed(&old), programmed(&new));
}
