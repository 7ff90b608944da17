//! What becomes of packets in the tables of nodes and pods, one row for each.

use std::collections::BTreeSet;

use super::pod::input;
use super::support::{cluster, draining_vip, endpoint, ip, on_nodes, routes, settings, unready, vip};
use super::tracer::{Packet, Traced, Verdict, trace};
use crate::model::hash::{Flow, bucket};
use crate::model::{Cluster, Mode};
use crate::plan::nft::Table;
use crate::plan::node::desired_node;
use crate::plan::pod::{PodInput, desired_pod};
use crate::plan::tests::fake::FakeKernel;
use crate::plan::{Desired, NFT_TABLE};

const VIP: &str = "192.0.2.10";
const CLIENT: &str = "198.51.100.2";

fn both_families() -> Cluster {
    cluster(vec![vip(VIP, Mode::Vxlan, on_nodes()), vip("2001:db8::10", Mode::Vxlan, on_nodes())])
}

fn node_table(cluster: &Cluster) -> Table {
    let Desired { nft, .. } = desired_node(cluster, &routes(cluster), &settings("n1")).0;
    nft.unwrap_or_else(|| panic!("no table {NFT_TABLE}"))
}

fn ingress() -> Table {
    node_table(&both_families())
}

fn serving() -> Table {
    let mut cluster = both_families();
    cluster.nodes.get_mut("n1").unwrap().ingress = false;
    node_table(&cluster)
}

fn pod_table(mode: Mode) -> Table {
    let input = PodInput { peers: BTreeSet::from([ip("10.244.2.3")]), ..input(mode) };
    desired_pod(&input, &FakeKernel::new("eth0", "10.244.1.2").observed, &settings("n1")).unwrap().nft.unwrap()
}

/// The mark of the bucket that the twin finds.
fn mark(packet: &Packet) -> u32 {
    let (settings, flow) = (settings("n1"), Flow { src: packet.src, dst: packet.dst, ports: Some(packet.ports) });
    settings.mark.mark(bucket(&flow, settings.buckets, settings.hash_seed))
}

/// A word for what becomes of a packet: `accept`, `drop` or `reject`, then `untracked`, `marked` and where to it was translated.
fn shown(Traced { verdict, packet, untracked, dnat, .. }: &Traced) -> String {
    let mut words = vec![format!("{verdict:?}").to_lowercase()];
    words.extend(untracked.then(|| "untracked".to_owned()));
    words.extend((packet.mark != 0).then(|| "marked".to_owned()));
    words.extend(dnat.map(|to| format!("to {to}")));
    words.join(" ")
}

fn check(table: &Table, rows: &[(&str, &str, Packet, &str)]) {
    for (what, hook, packet, expected) in rows {
        let traced = trace(table, hook, *packet);
        assert_eq!(shown(&traced), *expected, "{what} at {hook}: {traced:?}");
    }
}

#[test]
fn an_ingress_node_marks_packets_to_vips_and_lets_nothing_in_by_its_tunnels() {
    let tcp = Packet::tcp(CLIENT, VIP);
    check(
        &ingress(),
        &[
            ("a packet to a VIP", "prerouting", tcp.by("eth0"), "accept untracked marked"),
            ("its own", "output", tcp, "accept untracked marked"),
            (
                "of IPv6",
                "prerouting",
                Packet::tcp("2001:db8:51::2", "2001:db8::10").by("eth0"),
                "accept untracked marked",
            ),
            ("to somebody else", "prerouting", Packet::tcp(CLIENT, "192.0.2.99").by("eth0"), "accept"),
            ("of a tunnel", "prerouting", tcp.by("kst-vxlan"), "drop"),
            ("of a tunnel to somebody else", "prerouting", Packet::tcp(CLIENT, "10.0.0.1").by("kst-gre"), "drop"),
            ("a reply of a pod here", "prerouting", Packet::tcp(VIP, CLIENT).by("veth2"), "accept untracked"),
            ("a reply of a pod elsewhere", "prerouting", Packet::tcp(VIP, CLIENT).by("eth0"), "accept untracked"),
        ],
    );
}

#[test]
fn what_is_not_encapsulated_does_not_leave() {
    let tcp = Packet::tcp(CLIENT, VIP).by("eth0");
    let marked = trace(&ingress(), "prerouting", tcp).packet;
    check(
        &ingress(),
        &[
            ("into the tunnel", "forward", marked.to("kst-vxlan"), "accept marked"),
            ("past it", "forward", marked.to("eth0"), "reject marked"),
            ("to somebody else", "forward", Packet::tcp(CLIENT, "192.0.2.99").by("eth0").to("veth2"), "accept"),
        ],
    );
    let leaves = trace(&ingress(), "postrouting", marked.to("kst-vxlan"));
    assert_eq!((shown(&leaves).as_str(), leaves.packet.mark), ("accept", 0), "the outer packet walks no rules");
}

#[test]
fn a_flow_has_the_bucket_that_the_twin_finds_and_errors_about_it_too() {
    for (client, vip, router) in [(CLIENT, VIP, "203.0.113.1"), ("2001:db8:51::2", "2001:db8::10", "2001:db8:99::1")] {
        for there in [Packet::tcp(client, vip), Packet::udp(client, vip, 53)] {
            let traced = trace(&ingress(), "prerouting", there.by("eth0"));
            assert_eq!(traced.packet.mark, mark(&there), "{there:?}");
            let back = Packet { src: there.dst, dst: there.src, ports: (there.ports.1, there.ports.0), ..there };
            let error = trace(&ingress(), "prerouting", back.error(router).by("eth0"));
            assert_eq!(error.packet.mark, mark(&there), "{error:?}");
        }
    }
}

#[test]
fn an_error_that_a_node_makes_comes_from_the_vip() {
    let about = Packet::tcp(CLIENT, VIP).error("10.0.0.1");
    assert_eq!(trace(&ingress(), "output", about).packet.src, ip(VIP));
    let of_others = Packet::tcp(CLIENT, "192.0.2.99").error("10.0.0.1");
    assert_eq!(trace(&ingress(), "output", of_others).packet.src, ip("10.0.0.1"));
}

#[test]
fn nobody_but_nodes_sends_outer_packets_past_a_node() {
    let outer = |from: &str, port| Packet::udp(from, "10.244.1.2", port);
    for (role, table) in [("ingress", ingress()), ("serving", serving())] {
        check(
            &table,
            &[
                (role, "prerouting", outer("10.0.0.2", 4790).by("eth0"), "accept untracked"),
                (role, "prerouting", Packet { protocol: 47, ..outer("10.0.0.2", 0) }.by("eth0"), "accept untracked"),
                (role, "prerouting", outer("10.0.0.2", 4790).by("veth2"), "drop"),
                (role, "prerouting", outer("10.0.0.2", 53).by("veth2"), "accept"),
                (role, "prerouting", Packet { comes_back: false, ..outer("10.244.2.3", 4790) }.by("veth9"), "drop"),
                (role, "prerouting", outer("10.244.2.3", 4790).by("veth9"), "accept"),
                (role, "prerouting", Packet::udp("172.16.0.1", "172.16.0.2", 4790).by("eth0"), "accept"),
            ],
        );
        let counted = trace(&table, "prerouting", outer("10.0.0.2", 4790).by("eth0"));
        assert!(counted.met("they reach the node"), "{role}: {counted:?}");
    }
}

#[test]
fn a_serving_node_leaves_packets_to_vips_alone_and_does_not_track_replies() {
    let transit = settings("n1").mark.transit();
    let passing = trace(&serving(), "prerouting", Packet::tcp(CLIENT, VIP).by("eth0"));
    assert_eq!((passing.verdict, passing.untracked, passing.packet.mark), (Verdict::Accept, false, transit));
    check(
        &serving(),
        &[
            ("a reply", "prerouting", Packet::tcp(VIP, CLIENT).by("veth2"), "accept untracked"),
            ("a reply to the node", "prerouting", Packet::tcp(VIP, "10.0.0.1").by("veth2"), "accept"),
            ("of somebody else", "prerouting", Packet::tcp(VIP, CLIENT).by("eth0"), "accept"),
        ],
    );
}

#[test]
fn where_nobody_may_own_a_bucket_only_syns_are_refused() {
    let endpoints = vec![endpoint(3, "n2"), endpoint(5, "n2")];
    let nobody = endpoints.iter().cloned().map(unready).collect();
    let table = node_table(&cluster(vec![
        draining_vip(VIP, Mode::Vxlan, nobody, &endpoints),
        vip("192.0.2.11", Mode::Vxlan, endpoints),
    ]));
    let there = |to: &str| trace(&table, "prerouting", Packet::tcp(CLIENT, to).by("eth0")).packet.to("kst-vxlan");
    let syn = |packet: Packet| Packet { syn: true, ack: false, ..packet };
    check(
        &table,
        &[
            ("a SYN", "forward", syn(there(VIP)), "reject marked"),
            ("a SYN of the node", "output", syn(Packet::tcp("10.0.0.1", VIP)), "reject untracked marked"),
            ("of an open connection", "forward", there(VIP), "accept marked"),
            ("a SYN to another VIP", "forward", syn(there("192.0.2.11")), "accept marked"),
        ],
    );
}

#[test]
fn a_pod_takes_outer_packets_of_nodes_and_peers_and_what_is_inside_for_its_vips() {
    let outer = |from: &str| Packet::udp(from, "10.244.1.2", 4790).by("eth0");
    check(
        &pod_table(Mode::Vxlan),
        &[
            ("of a node", "prerouting", outer("10.0.0.1"), "accept untracked"),
            ("of a pod that passes on", "prerouting", outer("10.244.2.3"), "accept untracked"),
            ("of anybody else", "prerouting", outer("10.244.2.9"), "drop"),
            ("of a node, over IPv6", "prerouting", Packet::udp("fd00::9", "fd00:244:1::2", 4790).by("eth0"), "drop"),
            ("to a VIP", "prerouting", Packet::tcp(CLIENT, VIP).by("kst-vxlan"), "accept untracked"),
            ("to anything else", "prerouting", Packet::tcp(CLIENT, "10.244.1.2").by("kst-vxlan"), "drop"),
            ("a tunnel in it", "prerouting", Packet::udp(CLIENT, VIP, 4790).by("kst-vxlan"), "drop"),
            ("the pod's own", "prerouting", Packet::tcp(CLIENT, "10.244.1.2").by("eth0"), "accept"),
        ],
    );
}

#[test]
fn a_server_on_any_address_answers_from_the_vip() {
    let asks = Packet { wildcard: true, ..Packet::udp(CLIENT, VIP, 53).by("kst-vxlan") };
    check(
        &pod_table(Mode::Vxlan),
        &[
            ("it asks", "prerouting", asks, "accept to 10.244.1.2"),
            ("one that is bound", "prerouting", Packet { wildcard: false, ..asks }, "accept untracked"),
            ("an answer from the VIP", "output", Packet::udp(VIP, CLIENT, 30_000), "accept untracked"),
            ("what is passed on", "output", Packet::udp("10.0.0.1", "10.244.2.3", 4790), "accept untracked"),
            ("its own", "output", Packet::tcp("10.244.1.2", CLIENT), "accept"),
        ],
    );
}

#[test]
fn a_syn_from_a_vip_announces_what_fits_through_the_tunnel() {
    let table = pod_table(Mode::Vxlan);
    let syn_ack = Packet { syn: true, ..Packet::tcp(VIP, CLIENT) };
    let fits = trace(&table, "postrouting", syn_ack).mss;
    assert!(fits.is_some_and(|mss| (1300..1500).contains(&mss)), "{fits:?}");
    assert_eq!(trace(&table, "postrouting", Packet { src: ip("10.244.1.2"), ..syn_ack }).mss, None);
    assert_eq!(trace(&table, "postrouting", Packet::tcp(VIP, CLIENT)).mss, None);
}

#[test]
fn gre_of_a_client_is_no_tunnel_of_ours() {
    let table = pod_table(Mode::Gre);
    let gre = Packet { protocol: 47, ..Packet::tcp(CLIENT, VIP) }.by("kst-xgre");
    let inside = trace(&table, "prerouting", gre);
    assert_eq!(shown(&inside), "accept untracked marked");
    // Our own device has unpacked it, and the mark has stayed.
    let unpacked = Packet { mark: inside.packet.mark, ..Packet::tcp(CLIENT, VIP) }.by("kst-xgre");
    check(&table, &[("a tunnel in it", "prerouting", unpacked, "drop marked")]);
}
