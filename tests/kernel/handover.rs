//! A bucket that changes hands, as a node programs it: the names of former owners travel with the packets, and where nobody may
//! own the bucket, new connections are refused and open ones go on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::support::{netns, require, settle, sh};
use tunnel_router::kernel::Writer;
use tunnel_router::kernel::bpf::Programs;
use tunnel_router::model::config::MplsLabels;
use tunnel_router::model::handover::{
    EndpointState, FlowHash, Generation, HashKey, Intent, Member, Name, NextHop, Served, TunnelId,
};
use tunnel_router::model::names::LinkPrefix;
use tunnel_router::model::{
    Addresses, BucketCount, Cluster, Endpoint, EndpointId, Family, MarkField, Mode, Node, ServiceRef, Vip,
};
use tunnel_router::netns::Netns;
use tunnel_router::plan::programmed::Doubts;
use tunnel_router::plan::{Settings, Step};
use tunnel_router::reconcile::{Execution, Goal, Memory, follow, reconcile};

const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8:99::10"];
const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(10);

/// Nothing of others has changed.
const NONE: Doubts = Doubts { veths: BTreeSet::new(), routes: false };

/// A client, a node, and a pod on it.
struct Lab {
    mode: Mode,
    outer: Family,
    client: Netns,
    node: Netns,
    pod: Netns,
}

impl Lab {
    fn new(mode: Mode, outer: Family) -> Lab {
        require(mode);
        let [client, node, pod] = [netns(), netns(), netns()];
        for one in [&client, &node, &pod] {
            sh(one, "cd /proc/sys/net/ipv6/conf; for d in all default lo; do echo 0 > $d/disable_ipv6; done");
            sh(one, "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
            sh(one, "echo 0 | tee /proc/sys/net/ipv4/conf/*/rp_filter");
        }
        sh(&node, "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        for (name, far) in [("client", &client), ("pod", &pod)] {
            let (pid, fd) = (std::process::id(), far.as_fd().as_raw_fd());
            sh(&node, &format!("ip link add {name} type veth peer name eth0 netns /proc/{pid}/fd/{fd}"));
            sh(&node, &format!("ip link set {name} up"));
        }
        sh(&node, "ip addr add 198.51.100.1/24 dev client; ip addr add 2001:db8:51::1/64 dev client nodad");
        sh(&node, "ip addr add 10.244.1.1/24 dev pod; ip addr add fd00:244:1::1/64 dev pod nodad");
        // Loose reverse path filtering and the node's own connections ask for some way to the VIP.
        sh(&node, "ip route add default via 198.51.100.2; ip -6 route add default via 2001:db8:51::2");
        let ends = [(&client, "198.51.100", "2001:db8:51:"), (&pod, "10.244.1", "fd00:244:1:")];
        for (one, v4, v6) in ends {
            sh(
                one,
                &format!("ip addr add {v4}.2/24 dev eth0; ip addr add {v6}:2/64 dev eth0 nodad; ip link set eth0 up"),
            );
            sh(one, &format!("ip route add default via {v4}.1; ip -6 route add default via {v6}:1"));
        }
        let lab = Lab { mode, outer, client, node, pod };
        lab.end_tunnel();
        [&lab.client, &lab.node, &lab.pod].into_iter().for_each(settle);
        lab
    }

    /// The device that the pod takes packets from, whatever their tunnel id.
    fn end_tunnel(&self) {
        let kind = match (self.mode, self.outer) {
            (Mode::Gre, Family::V4) => "gre external",
            (Mode::Gre, Family::V6) => "ip6gre external",
            _ => "vxlan external gpe dstport 4790 nolearning udp6zerocsumrx",
        };
        sh(&self.pod, &format!("ip link add tunnel type {kind}; ip link set tunnel up"));
        for vip in VIPS {
            sh(&self.pod, &format!("ip addr add {vip} dev tunnel {}", if vip.contains(':') { "nodad" } else { "" }));
        }
    }

    fn address(&self, last: u8) -> Addresses {
        Addresses::from(match self.outer {
            Family::V4 => IpAddr::from([10, 244, 1, last]),
            Family::V6 => format!("fd00:244:1::{last}").parse().unwrap(),
        })
    }

    /// The pod owns every bucket.
    fn intent(&self, id: TunnelId, refuses_syn: bool) -> Arc<Intent> {
        let owner = EndpointId::from("uid-pod");
        let hop = NextHop { owner: owner.clone(), addresses: self.address(2), id, refuses_syn };
        let member = Member {
            name: Name::FIRST,
            node: "node".into(),
            addresses: self.address(2),
            set_up: true,
            program: true,
            named: None,
        };
        let hash = FlowHash { buckets: BucketCount::DEFAULT, seed: 7, key: HashKey::Ports };
        Arc::new(Intent {
            generation: Generation(1),
            hash,
            next_hops: Arc::new(hash.buckets.iter().map(|bucket| (bucket, hop.clone())).collect()),
            served: Served::default(),
            members: BTreeMap::from([(owner, member)]),
        })
    }

    fn goal(&self, vips: impl IntoIterator<Item = Vip>) -> Goal {
        let addresses = self.address(1).iter().collect();
        let node =
            Node { name: "node".to_owned(), uid: "uid-node".to_owned(), addresses, ingress: true, cordoned: false };
        let nodes = BTreeMap::from([(node.name.clone(), node)]);
        Goal::Node(Arc::new(Cluster { nodes, ..Cluster::of_vips(vips) }))
    }

    /// All VIPs.
    fn all(&self, id: TunnelId, refuses_syn: bool) -> Goal {
        let intent = self.intent(id, refuses_syn);
        self.goal(VIPS.map(|vip| self.vip(vip.parse().unwrap(), &intent)))
    }

    /// Programs the node.
    fn program(&self, id: TunnelId, refuses_syn: bool) {
        let goal = self.all(id, refuses_syn);
        let round = || {
            reconcile(&self.node, &goal, &settings(), &mut Memory::default(), Execution::Apply(&Programs::default()))
                .unwrap()
        };
        assert_eq!(round().problems, []);
        let again = round().plan;
        assert!(again.is_empty(), "read back otherwise than it was written:\n{again}");
    }

    fn vip(&self, address: IpAddr, intent: &Arc<Intent>) -> Vip {
        let pod = Endpoint {
            pod_uid: "uid-pod".to_owned(),
            namespace: "default".to_owned(),
            pod: "echo".to_owned(),
            node: "node".to_owned(),
            addresses: self.address(2),
            state: EndpointState::Ready,
        };
        Vip {
            address,
            service: ServiceRef { namespace: "default".into(), name: "echo".into(), uid: "uid-echo".into() },
            mode: self.mode,
            client_ip_affinity: false,
            tracked: false,
            endpoints: vec![pod],
            local_only: false,
            drain_limit: None,
            map: None,
            intent: Some(intent.clone()),
            holds: false,
        }
    }

    /// Counts outer packets with this id that reach the pod, by a reading of the header that has nothing to do with the tunnel
    /// device: of GRE the flag and the key, of VXLAN the VNI (RFC 2890, RFC 7348).
    fn watch(&self, id: TunnelId) {
        let id = id.bits();
        let what = match self.mode {
            Mode::Gre if id == 0 => "meta l4proto 47 @th,0,16 0".to_owned(),
            Mode::Gre => format!("meta l4proto 47 @th,0,16 0x2000 @th,32,32 {id}"),
            _ => format!("udp dport 4790 @th,96,24 {id}"),
        };
        let table = "add table inet watch\ndelete table inet watch\nadd table inet watch";
        let chain = "add chain inet watch outer { type filter hook prerouting priority -400 ; }";
        sh(&self.pod, &format!("printf '{table}\n{chain}\nadd rule inet watch outer {what} counter\n' | nft -f -"));
    }

    fn watched(&self) -> u64 {
        let listed = sh(&self.pod, "nft list chain inet watch outer");
        let number = listed.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{listed}"))
    }
}

fn settings() -> Settings {
    Settings {
        node_name: "node".to_owned(),
        buckets: BucketCount::DEFAULT,
        table_base: 10_000,
        announce_table: None,
        link_prefix: LinkPrefix::new("kst-").unwrap(),
        hash_seed: 7,
        mark: MarkField::DEFAULT,
        rule_priority: 101,
        labels: MplsLabels::new(100, 65_536).unwrap(),
        vxlan_port: 4790,
        proc_root: "/proc".into(),
        vip_ranges: BTreeSet::new(),
        limits_udp: true,
        unavailable: BTreeMap::new(),
    }
}

fn connect(from: &Netns, vip: &str) -> std::io::Result<TcpStream> {
    let to = SocketAddr::new(vip.parse().unwrap(), PORT);
    let stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Ok(stream)
}

/// Sends a byte and waits for it at the other end.
fn passes(mut from: &TcpStream, mut to: &TcpStream) {
    from.write_all(b"x").unwrap();
    to.read_exact(&mut [0]).unwrap();
}

fn packets_carry_the_names_of_former_owners(mode: Mode, outer: Family) {
    let lab = Lab::new(mode, outer);
    let listener = lab.pod.run(|| TcpListener::bind(("::", PORT)).unwrap()).unwrap();
    let name = |number| Name::new(number).unwrap();
    let ids = [
        TunnelId::OWNER_ALONE,
        TunnelId::former(Name::FIRST),
        TunnelId::two_former(name(2047), name(2046)).with_datagrams(),
    ];
    let delivered = |id: TunnelId| {
        lab.watch(id);
        for vip in VIPS {
            let before = lab.watched();
            let client = connect(&lab.client, vip).unwrap();
            passes(&client, &listener.accept().unwrap().0);
            assert!(lab.watched() >= before + 2, "{mode} over {outer}, {vip}, {id}");
        }
    };
    for id in ids {
        lab.program(id, false);
        delivered(id);
    }
    // The same by what is known to be there, without a look.
    let (mut memory, mut writer) = (Memory::default(), Writer::open_in(&lab.node).unwrap());
    let programs = Programs::default();
    reconcile(&lab.node, &lab.all(ids[0], false), &settings(), &mut memory, Execution::Apply(&programs)).unwrap();
    for id in [ids[1], ids[2], ids[0]] {
        let goal = lab.all(id, false);
        let plan =
            follow(&lab.node, (&goal, &NONE), &settings(), &mut memory, &mut writer).expect("simple").unwrap().plan;
        let of_routes =
            |step: &Step| matches!(step, Step::ReplaceRoute(..) | Step::ReplaceNexthop(..) | Step::DelNexthop(_));
        assert!(!plan.is_empty() && plan.steps.iter().all(of_routes), "{plan}");
        delivered(id);
        let found = reconcile(&lab.node, &goal, &settings(), &mut Memory::default(), Execution::DryRun).unwrap();
        assert!(found.plan.is_empty(), "left after\n{plan}\n{}", found.plan);
    }
    pods_elsewhere_come_and_go(&lab, &mut memory, &mut writer);
    services_come_and_go(&lab, &listener, &mut memory, &mut writer);
    let (refusing, memory) = (lab.all(ids[0], true), &mut memory);
    assert!(follow(&lab.node, (&refusing, &NONE), &settings(), memory, &mut writer).is_none(), "that takes nft");
}

/// A pod of another node takes one more address in our table, which counts; nothing is read for it.
fn pods_elsewhere_come_and_go(lab: &Lab, memory: &mut Memory, writer: &mut Writer) {
    let goal = |with_other: bool| {
        let intent = lab.intent(TunnelId::OWNER_ALONE, false);
        let vips = VIPS.map(|vip| {
            let mut vip = lab.vip(vip.parse().unwrap(), &intent);
            let (addresses, node) = (lab.address(9), "elsewhere".to_owned());
            let other = Endpoint { pod_uid: "uid-other".into(), addresses, node, ..vip.endpoints[0].clone() };
            vip.endpoints.extend(with_other.then_some(other));
            vip
        });
        lab.goal(vips)
    };
    let address = lab.address(9).iter().next().unwrap();
    let set = if address.is_ipv4() { "endpoints" } else { "endpoints6" };
    for is_there in [true, false] {
        let goal = goal(is_there);
        let plan = follow(&lab.node, (&goal, &NONE), &settings(), memory, writer).expect("simple").unwrap().plan;
        let verb = if is_there { "add" } else { "delete" };
        let script = format!("{verb} element inet kube_service_tunnel {set} {{ {address} }}\n");
        assert_eq!(plan.to_string(), format!("nft -f - <<'EOF'\n{script}EOF\n"));
        let listed = sh(&lab.node, &format!("nft list set inet kube_service_tunnel {set}"));
        assert_eq!(listed.contains(&format!("{address} counter packets 0 bytes 0")), is_there, "{listed}");
        for known in [&mut Memory::default(), memory] {
            let found = reconcile(&lab.node, &goal, &settings(), known, Execution::Apply(&Programs::default()));
            let left = found.unwrap().plan;
            assert!(left.is_empty(), "left after\n{plan}\n{left}");
        }
    }
}

/// Services whose pods are known take routes and elements of sets and of a map, without a look and without nft.
fn services_come_and_go(lab: &Lab, listener: &TcpListener, memory: &mut Memory, writer: &mut Writer) {
    let more = ["192.0.2.77", "2001:db8::77"];
    for vip in more {
        sh(&lab.pod, &format!("ip addr add {vip} dev tunnel {}", if vip.contains(':') { "nodad" } else { "" }));
    }
    let goal = |vips: &[&str]| {
        let intent = lab.intent(TunnelId::OWNER_ALONE, false);
        lab.goal(vips.iter().map(|vip| lab.vip(vip.parse().unwrap(), &intent)))
    };
    let [first, second] = VIPS;
    for vips in [vec![first, second, more[0], more[1]], vec![second, first]] {
        let goal = goal(&vips);
        let plan = follow(&lab.node, (&goal, &NONE), &settings(), memory, writer).expect("simple").unwrap().plan;
        let listed = sh(&lab.node, "nft list table inet kube_service_tunnel");
        for vip in more {
            let is_there = vips.contains(&vip);
            // `vips`, `served` and the map for errors.
            assert_eq!(listed.matches(&vip).count(), if is_there { 3 } else { 0 }, "{vip}\n{listed}");
            let connected = connect(&lab.client, vip);
            assert_eq!(connected.is_ok(), is_there, "{vip} after\n{plan}");
            if let Ok(client) = connected {
                passes(&client, &listener.accept().unwrap().0);
            }
        }
        for known in [&mut Memory::default(), memory] {
            let found = reconcile(&lab.node, &goal, &settings(), known, Execution::Apply(&Programs::default()));
            let left = found.unwrap().plan;
            assert!(left.is_empty(), "left after\n{plan}\n{left}");
        }
    }
}

fn syns_are_refused_and_the_rest_is_delivered(mode: Mode, outer: Family) {
    let lab = Lab::new(mode, outer);
    let listener = lab.pod.run(|| TcpListener::bind(("::", PORT)).unwrap()).unwrap();
    lab.program(TunnelId::OWNER_ALONE, false);
    let open = VIPS.map(|vip| (connect(&lab.client, vip).unwrap(), listener.accept().unwrap().0));
    lab.program(TunnelId::OWNER_ALONE, true);
    for (vip, (client, server)) in VIPS.iter().zip(&open) {
        for from in [&lab.client, &lab.node] {
            let refused = connect(from, vip).map_err(|error| error.kind());
            assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused), "{vip}");
        }
        passes(client, server);
        passes(server, client);
        let datagrams = lab.pod.run(|| UdpSocket::bind((*vip, PORT)).unwrap()).unwrap();
        datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
        let any = if vip.contains(':') { "::" } else { "0.0.0.0" };
        for from in [&lab.client, &lab.node] {
            let sender = from.run(|| UdpSocket::bind((any, 0)).unwrap()).unwrap();
            sender.send_to(b"x", (*vip, PORT)).unwrap();
            datagrams.recv(&mut [0]).unwrap();
        }
    }
    lab.program(TunnelId::OWNER_ALONE, false);
    for from in [&lab.client, &lab.node] {
        for vip in VIPS {
            let client = connect(from, vip).unwrap();
            passes(&client, &listener.accept().unwrap().0);
        }
    }
}

#[test]
fn a_vni_names_the_former_owners_over_ipv4() {
    packets_carry_the_names_of_former_owners(Mode::Vxlan, Family::V4);
}

#[test]
fn a_vni_names_the_former_owners_over_ipv6() {
    packets_carry_the_names_of_former_owners(Mode::Vxlan, Family::V6);
}

#[test]
fn a_bucket_that_nobody_may_own_refuses_syns_and_delivers_the_rest() {
    for outer in Family::ALL {
        syns_are_refused_and_the_rest_is_delivered(Mode::Vxlan, outer);
    }
}

mod gre {
    use super::*;

    #[test]
    fn its_vips_go_on_where_the_port_of_vxlan_is_taken() {
        let lab = Lab::new(Mode::Gre, Family::V4);
        let taken = lab.node.run(|| UdpSocket::bind(("0.0.0.0", 4790)).unwrap()).unwrap();
        let intent = lab.intent(TunnelId::OWNER_ALONE, false);
        let other = Vip { mode: Mode::Vxlan, ..lab.vip("192.0.2.20".parse().unwrap(), &intent) };
        let goal = lab.goal([lab.vip(VIPS[0].parse().unwrap(), &intent), other]);
        let (mut memory, programs) = (Memory::default(), Programs::default());
        let round = |memory: &mut Memory| {
            reconcile(&lab.node, &goal, &settings(), memory, Execution::Apply(&programs)).unwrap()
        };
        let routes =
            || ["192.0.2.10", "192.0.2.20"].map(|vip| sh(&lab.node, &format!("ip route show table 10000 {vip}")));

        let outcome = round(&mut memory);
        let [problem] = &outcome.problems[..] else { panic!("{:?}", outcome.problems) };
        assert!(problem.note.contains("cannot serve VIPs in mode vxlan"), "{}", problem.note);
        let [gre, vxlan] = routes();
        assert!(gre.contains("dst 10.244.1.2") && vxlan.starts_with("unreachable"), "{gre}{vxlan}");
        let again = round(&mut memory);
        assert!(again.plan.is_empty() && again.problems == outcome.problems, "{}", again.plan);

        drop(taken);
        memory.doubt();
        assert_eq!(round(&mut memory).problems, []);
        assert!(routes().iter().all(|route| route.contains("dst 10.244.1.2")), "{:?}", routes());
    }

    #[test]
    fn a_key_names_the_former_owners_over_ipv4() {
        packets_carry_the_names_of_former_owners(Mode::Gre, Family::V4);
    }

    #[test]
    fn a_key_names_the_former_owners_over_ipv6() {
        packets_carry_the_names_of_former_owners(Mode::Gre, Family::V6);
    }

    #[test]
    fn a_bucket_that_nobody_may_own_refuses_syns_and_delivers_the_rest() {
        for outer in Family::ALL {
            syns_are_refused_and_the_rest_is_delivered(Mode::Gre, outer);
        }
    }
}
