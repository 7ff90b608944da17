//! One row per line of the table: what comes, with which names, and what becomes of it.

use super::*;
use crate::model::handover::TunnelId;

fn name(number: u32) -> Name {
    Name::new(number).unwrap()
}

/// The pod is 1; 2 to 4 have IPv4 addresses, 5 has only an IPv6 one; 6 was retired, 10 was the last one given out.
fn verdict(packet: Packet, names: &[u32], non_tcp: bool, passed_on: bool, present: &[u32]) -> Verdict {
    let v4 = |n: u8| (name(n.into()), Addresses::from(std::net::Ipv4Addr::new(10, 0, 0, n)));
    let mut all: BTreeMap<Name, Addresses> = [1, 2, 3, 4].map(v4).into();
    all.insert(name(5), Addresses::from(std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST)));
    let present: Vec<Name> = present.iter().map(|n| name(*n)).collect();
    let known = Known { own: Some(name(1)), names: &all, last: Some(name(10)), outer: Family::V4, present: &present };
    let id = TunnelId::of(names.iter().map(|n| name(*n)), non_tcp);
    let id = if passed_on { id.passed_on() } else { id };
    decide(packet, id, &known)
}

/// What becomes of a TCP packet that belongs to no socket of the pod, told by names.
fn tcp(names: &[u32], passed_on: bool, present: &[u32]) -> Vec<u16> {
    match verdict(Packet::Tcp(Finds::Nothing), names, false, passed_on, present) {
        Verdict::Forward { to, id } => {
            assert!(id.is_passed_on() && !id.datagrams());
            std::iter::once(to).chain(id.list()).map(Name::get).collect()
        }
        Verdict::Take(Taken::Last) => Vec::new(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_takes_what_opens_a_connection_or_belongs_to_one() {
    for (packet, taken) in [
        (Packet::Syn, Taken::Opens),
        (Packet::Tcp(Finds::Socket), Taken::Socket),
        (Packet::Tcp(Finds::Cookie), Taken::Cookie),
        (Packet::NonTcp(Finds::Socket), Taken::Socket),
    ] {
        assert_eq!(verdict(packet, &[2, 3], true, false, &[4]), Verdict::Take(taken), "{packet:?}");
    }
}

#[test]
fn other_tcp_goes_to_the_first_name_with_the_rest_of_the_list() {
    assert_eq!(tcp(&[2, 3], false, &[]), [2, 3]);
    assert_eq!(tcp(&[3], true, &[]), [3]);
    assert!(tcp(&[], true, &[]).is_empty());
    assert!(tcp(&[], false, &[]).is_empty());
}

#[test]
fn names_that_cannot_be_asked_are_skipped() {
    assert_eq!(tcp(&[1, 2], false, &[]), [2], "its own name");
    assert_eq!(tcp(&[6, 2], false, &[]), [2], "a retired name");
    assert_eq!(tcp(&[5, 2], false, &[]), [2], "no address in the outer family");
    assert!(tcp(&[6, 1], false, &[]).is_empty());
}

#[test]
fn a_name_that_the_node_has_not_learnt_costs_tcp_a_retransmission() {
    let [tcp, udp] = [Packet::Tcp(Finds::Nothing), Packet::NonTcp(Finds::Nothing)]
        .map(|packet| verdict(packet, &[11, 2], true, false, &[]));
    assert_eq!(tcp, Verdict::Drop(name(11)));
    assert_eq!(udp, Verdict::Take(Taken::NonTcp));
    let known = Known { own: None, names: &BTreeMap::new(), last: None, outer: Family::V4, present: &[] };
    let id = TunnelId::of([name(3)], false);
    assert_eq!(decide(Packet::Tcp(Finds::Nothing), id, &known), Verdict::Drop(name(3)), "the node has no map");
}

#[test]
fn non_tcp_goes_to_the_first_name_only_where_the_id_says_so() {
    let packet = Packet::NonTcp(Finds::Nothing);
    assert_eq!(verdict(packet, &[2, 3], false, false, &[4]), Verdict::Take(Taken::NonTcp));
    let Verdict::Forward { to, id } = verdict(packet, &[2, 3], true, false, &[4]) else { panic!("it is taken") };
    assert_eq!((to, id.datagrams(), id.is_passed_on()), (name(2), false, true));
}

#[test]
fn the_first_pod_adds_what_its_node_lists_as_far_as_there_is_room() {
    assert_eq!(tcp(&[], false, &[2]), [2]);
    assert_eq!(tcp(&[], false, &[2, 3, 4]), [2, 3]);
    assert_eq!(tcp(&[], false, &[2, 1, 3]), [2, 3], "not itself");
    assert_eq!(tcp(&[4], false, &[2, 3]), [4, 2]);
    assert_eq!(tcp(&[2, 3], false, &[3, 4]), [2, 3], "the owner is named already");
    assert_eq!(tcp(&[3, 4], false, &[2, 1]), [3, 4], "there is no room");
    assert_eq!(tcp(&[3], true, &[2]), [3], "it is not the first pod");
}

#[test]
fn no_packet_meets_more_than_three_pods() {
    // Whatever the nodes know: after the first pod the list only gets shorter.
    for names in [&[][..], &[2], &[2, 3], &[6, 11]] {
        for present in [&[][..], &[4], &[4, 3, 2], &[1, 2]] {
            if let Verdict::Forward { id, .. } = verdict(Packet::Tcp(Finds::Nothing), names, false, false, present) {
                assert!(id.is_passed_on() && id.list().count() <= 1);
            }
        }
    }
}
