//! Packets made by hand, and the witness that sees them: what tests of the guards will stand on.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use crate::common::lab_with_pods;
use integration::lab::{INTRUDER, Lab, STRANGER, STRANGER6};
use integration::traffic::packet::{ETHERTYPE_MPLS, Ipv4, Ipv6};
use integration::traffic::{Captured, FrameSender, RawSender, Sniffer};

const VICTIM: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 12345);

fn forged(from: [u8; 4], to: Ipv4Addr, data: &[u8]) -> Ipv4 {
    Ipv4::udp(SocketAddrV4::new(from.into(), 4444), SocketAddrV4::new(to, 9), data)
}

fn pod_ip(lab: &Lab) -> Ipv4Addr {
    lab.pod("ptp-wrk1").unwrap().ip()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_source_reaches_the_pod_unless_reverse_path_filtering_forbids_it() {
    let lab = lab_with_pods().await;
    let mut witness = Sniffer::open(lab.pod("ptp-wrk1").unwrap().netns(), "eth0").unwrap();
    let sender = RawSender::open(lab.stranger()).unwrap();
    // A source in the node's own pod network cannot come from outside; one of another client can.
    sender.send(&forged([10, 244, 3, 99], pod_ip(&lab), b"impossible")).unwrap();
    sender.send(&forged([198, 51, 100, 77], pod_ip(&lab), b"plausible")).unwrap();
    let seen = witness.until(|packet| packet.is_udp_with(b"plausible")).await.unwrap();
    let arrived = seen.last().unwrap();
    assert_eq!(arrived.ipv4().unwrap().source, Ipv4Addr::new(198, 51, 100, 77));
    assert!(!arrived.outgoing);
    assert!(!seen.iter().any(|packet| packet.contains(b"impossible")), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tunnel_packets_arrive_at_a_node_and_at_a_pod_as_they_were_made() {
    let lab = lab_with_pods().await;
    let node = lab.node("wrk1").unwrap();
    let mut at_node = Sniffer::open(node.netns(), "eth0").unwrap();
    let mut at_pod = Sniffer::open(lab.pod("ptp-wrk1").unwrap().netns(), "eth0").unwrap();
    let inner = forged([198, 51, 100, 77], *VICTIM.ip(), b"smuggled");
    let gre = inner.in_gre(STRANGER, node.address());
    let ends = (SocketAddrV4::new(INTRUDER, 5555), SocketAddrV4::new(pod_ip(&lab), 4790));
    let vxlan = inner.in_vxlan_gpe(ends.0, ends.1, 0);

    RawSender::open_on(lab.stranger(), "eth0").unwrap().send(&gre).unwrap();
    let seen = at_node.find(|packet| packet.contains(b"smuggled")).await.unwrap().ipv4().unwrap();
    assert_eq!((seen.source, seen.protocol, &seen.payload[4..]), (STRANGER, 47, &inner.to_bytes()[..]));

    RawSender::open(lab.stranger()).unwrap().send(&vxlan).unwrap();
    let seen = at_pod.find(|packet| packet.contains(b"smuggled")).await.unwrap().ipv4().unwrap();
    assert_eq!(seen.as_udp().unwrap().1, 4790);
    assert_eq!(Ipv4::parse(&seen.as_udp().unwrap().2[8..]), Some(Ipv4 { id: 1, ..inner }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labelled_frame_from_the_fabric_is_seen_at_the_node() {
    let lab = lab_with_pods().await;
    let node = lab.node("ing1").unwrap();
    let mut witness = Sniffer::open(node.netns(), "eth0").unwrap();
    let payload = forged([198, 51, 100, 77], *VICTIM.ip(), b"labelled").behind_label(100, 64);
    let sender = FrameSender::open(lab.stranger(), "eth1").unwrap();
    sender.send(node.stack().mac("eth0").await.unwrap(), ETHERTYPE_MPLS, &payload).unwrap();
    let seen = witness.find(|packet| packet.contains(b"labelled")).await.unwrap();
    assert_eq!((seen.ethertype, seen.bytes.as_slice()), (ETHERTYPE_MPLS, payload.as_slice()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_hears_its_own_device_only() {
    let lab = lab_with_pods().await;
    let mut elsewhere = Sniffer::open(lab.router(), "clients").unwrap();
    let mut here = Sniffer::open(lab.router(), "outside").unwrap();
    let sender = RawSender::open(lab.stranger()).unwrap();
    sender.send(&forged(STRANGER.octets(), pod_ip(&lab), b"by this way")).unwrap();
    here.find(|packet| packet.is_udp_with(b"by this way")).await.unwrap();
    let control = RawSender::open(lab.client()).unwrap();
    control.send(&forged([198, 51, 100, 2], pod_ip(&lab), b"control")).unwrap();
    let seen = elsewhere.until(|packet| packet.is_udp_with(b"control")).await.unwrap();
    assert!(!seen.iter().any(|packet| packet.contains(b"by this way")), "{seen:?}");
}

fn forged6(from: &str, to: Ipv6Addr, data: &[u8]) -> Ipv6 {
    let source = SocketAddrV6::new(from.parse().unwrap(), 4444, 0, 0);
    Ipv6::udp(source, SocketAddrV6::new(to, 9, 0, 0), data)
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_packets_of_any_source_arrive_as_they_were_made_whole_or_in_fragments() {
    let lab = lab_with_pods().await;
    let pod = lab.pod("ptp-wrk1").unwrap();
    let mut at_pod = Sniffer::open(pod.netns(), "eth0").unwrap();
    let sender = RawSender::open(lab.stranger()).unwrap();
    let whole = forged6("2001:db8:51::77", pod.ipv6(), b"whole");
    sender.send(&whole).unwrap();
    let seen = at_pod.find(|packet| packet.is_udp_with(b"whole")).await.unwrap().ipv6().unwrap();
    // Router and node have taken one hop each.
    assert_eq!(seen, Ipv6 { hop_limit: 62, ..whole });

    let socket = pod.netns().udp_socket("[::]:9".parse().unwrap()).unwrap();
    for fragment in forged6("2001:db8:51::77", pod.ipv6(), &[b'x'; 3000]).fragments(7, 1200) {
        sender.send(&fragment).unwrap();
    }
    let (length, from) = socket.recv_from(&mut [0; 4000]).await.unwrap();
    assert_eq!((length, from), (3000, "[2001:db8:51::77]:4444".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tunnel_packets_of_ipv6_arrive_at_a_pod() {
    let lab = lab_with_pods().await;
    let pod = lab.pod("ptp-wrk1").unwrap();
    let mut at_pod = Sniffer::open(pod.netns(), "eth0").unwrap();
    let sender = RawSender::open_on(lab.stranger(), "eth0").unwrap();
    let inner = forged6("2001:db8:51::77", "2001:db8:2::10".parse().unwrap(), b"smuggled");
    let gre = inner.in_gre(STRANGER6, pod.ipv6());
    sender.send(&gre).unwrap();
    let seen = at_pod.find(|packet| packet.contains(b"smuggled")).await.unwrap().ipv6().unwrap();
    assert_eq!((seen.source, seen.next_header, &seen.payload), (STRANGER6, 47, &gre.payload));
    // IPv6 in IPv4. The pod's error about the first may come in between.
    sender.send(&inner.in_gre(STRANGER, pod.ip())).unwrap();
    let mine = |packet: &Captured| packet.ipv4().is_some() && packet.contains(b"smuggled");
    let seen = at_pod.find(mine).await.unwrap().ipv4().unwrap();
    assert_eq!((seen.source, Ipv6::parse(&seen.payload[4..])), (STRANGER, Some(inner)));
}
