//! The rows of the program's table. A trace is the way of one packet: `to POD LIST` on the wire, `from POD` what it answers.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use tunnel_router::model::second_chance::{Count, Pair, VipNames};
use tunnel_router::model::{Addresses, Family};

use super::lab::{
    BULK, C, DATAGRAMS, Lab, P, Q, all_names, ask, bulk, checksum, ghost, list, listen, name, pod_address, pour, vip,
};
use super::packet::{ACK, ESP, FIN_ACK, Flow, PORT, PSH, RST};
use crate::support::sh;

pub fn each_family(lab: &mut Lab, mut row: impl FnMut(&mut Lab, Family)) {
    Family::ALL.into_iter().for_each(|family| row(lab, family));
}

/// An acknowledgement of a connection that nobody has.
pub fn stray(family: Family) -> Vec<u8> {
    ghost(family, 4000).tcp(ACK, 5000, 6000, b"")
}

/// Writes what the node knows about the VIPs.
pub fn knows(lab: &mut Lab, names: &VipNames) {
    Family::ALL.into_iter().for_each(|family| lab.program.write_vip(vip(family), Some(names)).unwrap());
}

pub fn a_packet_without_former_owners_is_taken(lab: &mut Lab) {
    lab.steer("c", 0);
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &["to c -", "from c R"])));
    lab.steer("c", DATAGRAMS);
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &["to c - datagrams", "from c R"])));
    assert_eq!(lab.counts().of(Count::Unlisted), 4);
}

pub fn a_syn_is_taken(lab: &mut Lab) {
    lab.steer("c", list(P, Q));
    each_family(lab, |lab, family| {
        lab.syn(ghost(family, 4000), &["to c 2,3", "from c SA"]);
    });
    assert_eq!(lab.counts().of(Count::Opened), 2);
}

pub fn open_connections_stay_and_new_ones_go_to_the_owner(lab: &mut Lab) {
    lab.steer("p", 0);
    let mut old = Family::ALL.map(|family| lab.connect(family));
    assert_eq!(old.each_mut().map(ask), ["p", "p"]);
    lab.steer("c", list(P, 0));
    let mut new = Family::ALL.map(|family| lab.connect(family));
    assert_eq!(old.each_mut().map(ask), ["p", "p"]);
    assert_eq!(new.each_mut().map(ask), ["c", "c"]);
    // And again to another owner.
    lab.steer("q", list(C, P));
    assert_eq!(old.each_mut().map(ask), ["p", "p"]);
    assert_eq!(new.each_mut().map(ask), ["c", "c"]);
    assert!(lab.counts().of(Count::Connection) > 0);
}

pub fn servers_on_the_vip_itself_pass_on_like_those_on_all_addresses(lab: &mut Lab) {
    let server = |family| (vip(family), PORT + 1);
    for (pod, netns) in &lab.pods {
        Family::ALL.into_iter().for_each(|family| listen(netns, pod, server(family)));
    }
    lab.steer("p", 0);
    let mut old = Family::ALL.map(|family| lab.connect_to(server(family)));
    lab.steer("c", list(P, 0));
    let mut new = Family::ALL.map(|family| lab.connect_to(server(family)));
    assert_eq!(
        (old.each_mut().map(ask), new.each_mut().map(ask)),
        (["p", "p"].map(String::from), ["c", "c"].map(String::from))
    );
}

pub fn what_is_passed_on_is_counted_where_it_leaves_and_where_it_arrives(lab: &mut Lab) {
    lab.steer("c", list(P, Q));
    each_family(lab, |lab, family| {
        drop(lab.trace(&stray(family), &["to c 2,3", "to p 3 passed", "to q - passed", "from q R"]));
    });
    let outer = lab.tunnel.outer();
    let pair = |from, to| Pair { from: pod_address(from, outer), to: pod_address(to, outer) };
    let expected = BTreeMap::from([(pair("c", "p"), 2), (pair("p", "q"), 2)]);
    let pairs = lab.program.pairs().unwrap();
    assert_eq!((pairs.passed, pairs.received), (expected.clone(), expected));
}

pub fn bulk_data_is_passed_on_unharmed(lab: &mut Lab) {
    each_family(lab, |lab, family| {
        lab.steer("p", 0);
        let mut stream = lab.connect(family);
        assert_eq!(ask(&mut stream), "p");
        // In segments of up to 64 KiB, which the tunnel splits.
        lab.steer("c", list(P, 0));
        assert_eq!(pour(stream), format!("p {BULK} {}", checksum(&bulk())));
    });
}

pub fn a_handshake_goes_on_where_it_began(lab: &mut Lab) {
    each_family(lab, |lab, family| {
        lab.steer("p", 0);
        let flow = ghost(family, 4000);
        let next = lab.syn(flow, &["to p -", "from p SA"]);
        lab.steer("c", list(P, 0));
        lab.trace(&flow.tcp(ACK, 1001, next, b""), &["to c 2", "to p - passed"]);
        // The server's answer tells that the connection is open there.
        let replies =
            lab.trace(&flow.tcp(ACK | PSH, 1001, next, b"?"), &["to c 2", "to p - passed", "from p A", "from p A"]);
        assert!(replies.iter().any(|reply| reply.payload.ends_with(b"p")));
        lab.trace(&flow.tcp(RST, 1002, 0, b""), &["to c 2", "to p - passed"]);
    });
}

pub fn a_half_open_connection_takes_only_its_own_packets(lab: &mut Lab) {
    lab.steer("c", list(P, 0));
    each_family(lab, |lab, family| {
        // Anybody can send a SYN with the address and port of a client that is connected to P.
        let flow = ghost(family, 4000);
        let next = lab.syn(flow, &["to c 2", "from c SA"]);
        let before = lab.counts();
        lab.trace(&flow.tcp(ACK, 1001, next.wrapping_add(7), b""), &["to c 2", "to p - passed", "from p R"]);
        lab.trace(&flow.tcp(RST, 1500, 0, b""), &["to c 2", "to p - passed"]);
        lab.trace(&flow.too_big(next.wrapping_add(7)), &["to c 2", "to p - passed"]);
        lab.trace(&flow.too_big(next.wrapping_sub(1)), &["to c 2"]);
        lab.trace(&flow.tcp(ACK, 1001, next, b""), &["to c 2"]);
        let counted = lab.counts().since(&before);
        assert_eq!((counted.of(Count::ForeignHalfOpen), counted.of(Count::HalfOpen)), (3, 2), "{counted}");
        lab.trace(&flow.tcp(RST, 1001, 0, b""), &["to c 2"]);
        // A client that gives up a handshake.
        lab.syn(flow, &["to c 2", "from c SA"]);
        lab.trace(&flow.tcp(RST, 1001, 0, b""), &["to c 2"]);
        lab.trace(&flow.tcp(ACK, 1001, 5, b""), &["to c 2", "to p - passed", "from p R"]);
    });
}

pub fn a_connection_in_time_wait_takes_its_packets(lab: &mut Lab) {
    each_family(lab, |lab, family| {
        for (pod, way) in [("p", &["to c 2", "to p - passed", "from p A"][..]), ("c", &["to c 2", "from c A"])] {
            let flow = ghost(family, 4000);
            lab.steer(pod, 0);
            let next = lab.syn(flow, &[&format!("to {pod} -"), &format!("from {pod} SA")]);
            lab.trace(&flow.tcp(ACK, 1001, next, b""), &[&format!("to {pod} -")]);
            // The server closes first.
            lab.trace_unordered(
                &flow.tcp(ACK | PSH, 1001, next, b"x"),
                &[&format!("to {pod} -"), &format!("from {pod} A"), &format!("from {pod} FA")],
            );
            let last = flow.tcp(FIN_ACK, 1002, next.wrapping_add(1), b"");
            lab.trace(&last, &[&format!("to {pod} -"), &format!("from {pod} A")]);
            lab.steer("c", list(P, 0));
            lab.trace(&last, way);
        }
    });
}

pub fn the_acknowledgement_of_a_cookie_is_taken(lab: &mut Lab) {
    // Only here: the secret of the cookies is one for all namespaces of the kernel.
    sh(&lab.pods["c"], "sysctl -qw net.ipv4.tcp_syncookies=2");
    lab.steer("c", list(P, 0));
    each_family(lab, |lab, family| {
        let flow = ghost(family, 4000);
        let next = lab.syn(flow, &["to c 2", "from c SA"]);
        lab.trace(&flow.tcp(ACK, 1001, next.wrapping_add(7), b""), &["to c 2", "to p - passed", "from p R"]);
        lab.trace(&flow.tcp(ACK, 1001, next, b""), &["to c 2"]);
        let replies = lab.trace(&flow.tcp(ACK | PSH, 1001, next, b"?"), &["to c 2", "from c A", "from c A"]);
        assert!(replies.iter().any(|reply| reply.payload.ends_with(b"c")));
        lab.trace(&flow.tcp(RST, 1002, 0, b""), &["to c 2"]);
    });
    assert_eq!(lab.counts().of(Count::Cookie), 2);
}

pub fn a_packet_that_nobody_knows_visits_each_pod_once_and_is_reset_once(lab: &mut Lab) {
    lab.steer("c", list(P, Q) | DATAGRAMS);
    let way = ["to c 2,3 datagrams", "to p 3 passed", "to q - passed", "from q R"];
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &way)));
    let counts = lab.counts();
    assert_eq!([Count::Passed, Count::Received, Count::Unlisted].map(|kind| counts.of(kind)), [4, 4, 2], "{counts}");
}

pub fn a_later_name_than_the_last_known_drops_tcp_and_delivers_datagrams(lab: &mut Lab) {
    each_family(lab, |lab, family| {
        let flow = ghost(family, 4000);
        lab.steer("c", list(4, P) | DATAGRAMS);
        lab.trace(&stray(family), &["to c 4,2 datagrams"]);
        lab.trace(&flow.udp(b"?"), &["to c 4,2 datagrams", "from c UDP"]);
        // A former owner that is known is asked first.
        lab.steer("c", list(P, 4));
        lab.trace(&stray(family), &["to c 2,4", "to p 4 passed"]);
    });
    let counts = lab.counts();
    assert_eq!([Count::AheadDropped, Count::AheadTaken].map(|kind| counts.of(kind)), [4, 2], "{counts}");
}

pub fn an_unknown_vip_drops_tcp(lab: &mut Lab) {
    lab.steer("c", list(P, 0));
    each_family(lab, |lab, family| {
        lab.program.write_vip(vip(family), None).unwrap();
        lab.trace(&stray(family), &["to c 2"]);
    });
    assert_eq!(lab.counts().of(Count::AheadDropped), 2);
}

pub fn a_retired_name_is_skipped(lab: &mut Lab) {
    let mut names = all_names();
    names.endpoints.remove(&name(P));
    knows(lab, &names);
    lab.steer("c", list(P, Q));
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &["to c 2,3", "to q - passed", "from q R"])));
    // Names wrap: 2047 is earlier than 3.
    lab.steer("c", list(2047, Q));
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &["to c 2047,3", "to q - passed", "from q R"])));
    assert_eq!(lab.counts().of(Count::Retired), 4);
}

pub fn the_pods_own_name_is_skipped(lab: &mut Lab) {
    lab.steer("c", list(C, P));
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &["to c 1,2", "to p - passed", "from p R"])));
    assert_eq!(lab.counts().of(Count::OwnName), 2);
}

pub fn a_name_without_address_in_the_outer_family_is_skipped(lab: &mut Lab) {
    let mut names = all_names();
    let other = if lab.tunnel.outer() == Family::V4 { Family::V6 } else { Family::V4 };
    names.endpoints.insert(name(P), Addresses::from(pod_address("p", other)));
    knows(lab, &names);
    lab.steer("c", list(P, Q));
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &["to c 2,3", "to q - passed", "from q R"])));
    assert_eq!(lab.counts().of(Count::NoAddress), 2);
}

pub fn a_list_of_skipped_names_is_taken(lab: &mut Lab) {
    let mut names = all_names();
    names.endpoints = BTreeMap::from([(name(C), names.endpoints[&name(C)])]);
    knows(lab, &names);
    lab.steer("c", list(C, P));
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &["to c 1,2", "from c R"])));
    assert_eq!(lab.counts().of(Count::Exhausted), 2);
}

pub fn datagrams_are_passed_on_once_and_only_when_the_list_says_so(lab: &mut Lab) {
    each_family(lab, |lab, family| {
        let datagram = ghost(family, 4000).udp(b"?");
        lab.steer("c", list(P, Q));
        lab.trace(&datagram, &["to c 2,3", "from c UDP"]);
        lab.steer("c", list(P, Q) | DATAGRAMS);
        lab.trace(&datagram, &["to c 2,3 datagrams", "to p 3 passed", "from p UDP"]);
    });
    assert_eq!(lab.counts().of(Count::Datagram), 4);
}

pub fn a_connected_udp_socket_takes_its_datagrams(lab: &mut Lab) {
    lab.steer("c", list(P, 0) | DATAGRAMS);
    each_family(lab, |lab, family| {
        let flow = ghost(family, 4000);
        let connected = lab.pods["c"].run(|| {
            let socket = UdpSocket::bind((vip(family), 0)).unwrap();
            socket.connect((flow.client, flow.port)).unwrap();
            socket
        });
        let port = connected.as_ref().unwrap().local_addr().unwrap().port();
        assert_ne!(port, PORT);
        let before = lab.counts();
        lab.trace(&flow.udp(b"?"), &["to c 2 datagrams", "to p - passed", "from p UDP"]);
        lab.trace(&Flow { vip_port: port, ..flow }.udp(b"?"), &["to c 2 datagrams"]);
        assert_eq!(lab.counts().since(&before).of(Count::Passed), 1);
    });
}

pub fn protocols_without_ports_are_datagrams(lab: &mut Lab) {
    each_family(lab, |lab, family| {
        let packet = ghost(family, 0).bare(ESP);
        lab.steer("c", list(P, 0));
        let taken: &[&str] = &["to c 2", "from c ICMP"];
        lab.trace(&packet, taken);
        lab.steer("c", list(P, 0) | DATAGRAMS);
        lab.trace(&packet, &["to c 2 datagrams", "to p - passed", "from p ICMP"]);
    });
}

pub fn later_fragments_follow_the_first(lab: &mut Lab) {
    lab.steer("c", list(P, Q) | DATAGRAMS);
    let (to_c, to_p) = ("to c 2,3 datagrams", "to p 3 passed");
    each_family(lab, |lab, family| {
        let [first, later] = ghost(family, 4000).udp_in_fragments(77, &[b'?'; 40]);
        lab.trace(&first, &[to_c, to_p]);
        // C and P share a node, and so the memory of fragments: what C has decided is not P's decision.
        lab.trace(&later, &[to_c, to_p, "from p UDP"]);
    });
    assert_eq!(lab.counts().of(Count::Fragment), 2);
}

pub fn a_repeated_fragment_id_is_decided_anew(lab: &mut Lab) {
    each_family(lab, |lab, family| {
        let [first, later] = ghost(family, 4000).udp_in_fragments(78, &[b'?'; 40]);
        lab.steer("c", list(P, 0) | DATAGRAMS);
        lab.trace(&first, &["to c 2 datagrams", "to p - passed"]);
        lab.steer("c", list(P, 0));
        lab.trace(&first, &["to c 2"]);
        lab.trace(&later, &["to c 2", "from c UDP"]);
    });
}

pub fn an_error_about_a_connection_goes_where_the_connection_is(lab: &mut Lab) {
    lab.steer("c", list(P, 0));
    each_family(lab, |lab, family| {
        let flow = ghost(family, 4000);
        lab.trace(&flow.too_big(5000), &["to c 2", "to p - passed"]);
        let next = lab.syn(flow, &["to c 2", "from c SA"]);
        lab.trace(&flow.tcp(ACK, 1001, next, b""), &["to c 2"]);
        lab.trace(&flow.too_big(next), &["to c 2"]);
        lab.trace(&flow.tcp(RST, 1001, 0, b""), &["to c 2"]);
    });
}

pub fn a_packet_is_passed_on_from_the_address_that_it_came_to(lab: &mut Lab) {
    sh(
        &lab.pods["c"],
        "ip addr add 10.244.0.99/32 dev eth0; ip addr add fd00:244::99/128 dev eth0 nodad
         ip route replace default via 10.244.0.1 src 10.244.0.99
         ip -6 route replace default via fd00:244::1 src fd00:244::99",
    );
    lab.steer("c", list(P, 0));
    // The trace checks the outer source of what is passed on.
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &["to c 2", "to p - passed", "from p R"])));
}
