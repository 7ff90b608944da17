//! The snapshot notices what somebody configured, and nothing else.

use std::net::IpAddr;

use crate::common::{echo_of, lab, lab_with_pods};
use integration::lab::{Lab, PodSpec, Snapshot, nft};
use integration::traffic::{Client, Sniffer};
use integration::world::World;

async fn snapshot(lab: &Lab) -> Snapshot {
    Snapshot::of_lab(lab).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_and_witnesses_change_nothing() {
    let lab = lab_with_pods().await;
    let before = snapshot(&lab).await;
    let _sniffer = Sniffer::open(lab.node("wrk1").unwrap().netns(), "eth0").unwrap();
    for pod in lab.pods() {
        let client = Client::new(lab.client());
        client.tcp_exchanges(20, echo_of(&lab, pod.name())).await.unwrap().perfect().unwrap();
    }
    let difference = before.diff(&snapshot(&lab).await);
    assert!(difference.is_empty(), "{difference}");
    for (place, count) in [("wrk1 ", 200), ("pod-ptp-wrk1 ", 200), ("router ", 200)] {
        assert!(before.lines().filter(|line| line.starts_with(place)).count() > count, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_shows_and_its_reversal_restores_equality() {
    let lab = lab_with_pods().await;
    let node = lab.node("wrk2").unwrap();
    let destination = (IpAddr::from([203, 0, 113, 128]), 25);
    let before = snapshot(&lab).await;

    node.netns().set_sysctl("net/ipv4/conf/eth0/rp_filter", "2").unwrap();
    node.stack().add_route_via(destination, IpAddr::from([10, 0, 0, 1])).await.unwrap();
    nft::load(node.netns(), "add element inet host-firewall admins { 198.51.100.251 }").unwrap();
    let difference = before.diff(&snapshot(&lab).await);
    assert_eq!(
        difference.to_string(),
        "- wrk2 sysctl net/ipv4/conf/eth0/rp_filter = 1\n\
         + wrk2 ip unicast 203.0.113.128/25 via 10.0.0.1 dev eth0 table main proto static scope global\n\
         + wrk2 nft table inet host-firewall / set admins / element 198.51.100.251\n\
         + wrk2 sysctl net/ipv4/conf/eth0/rp_filter = 2"
    );

    node.netns().set_sysctl("net/ipv4/conf/eth0/rp_filter", "1").unwrap();
    node.stack().del_route(destination).await.unwrap();
    nft::load(node.netns(), "delete element inet host-firewall admins { 198.51.100.251 }").unwrap();
    let difference = before.diff(&snapshot(&lab).await);
    assert!(difference.is_empty(), "{difference}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_ipv6_shows_and_its_reversal_restores_equality() {
    let lab = lab_with_pods().await;
    let pod = lab.pod("ptp-wrk1").unwrap();
    let before = snapshot(&lab).await;
    let run = |line: &str| World::run_in(pod.netns(), &format!("ip -6 {line}")).map(drop).unwrap();

    run("address add 2001:db8:2::10/128 dev lo nodad");
    run("route add 2001:db8:9::/64 via fe80::1 dev eth0 table 77");
    run("rule add pref 300 from 2001:db8:2::10 lookup 77");
    pod.stack().settle().await.unwrap();
    let difference = before.diff(&snapshot(&lab).await);
    assert_eq!(
        difference.to_string(),
        "+ pod-ptp-wrk1 ip lo inet6 2001:db8:2::10/128 scope global nodad\n\
         + pod-ptp-wrk1 ip local 2001:db8:2::10 dev lo table local proto kernel scope global metric 0 pref medium\n\
         + pod-ptp-wrk1 ip unicast 2001:db8:2::10 dev lo table main proto kernel scope global metric 256 pref medium\n\
         + pod-ptp-wrk1 ip unicast 2001:db8:9::/64 via fe80::1 dev eth0 table 77 proto boot scope global metric 1024 \
         pref medium\n\
         + pod-ptp-wrk1 ip6 300: from 2001:db8:2::10 lookup 77 proto unspec"
    );

    run("rule del pref 300");
    run("route del 2001:db8:9::/64 table 77");
    run("address del 2001:db8:2::10/128 dev lo");
    let difference = before.diff(&snapshot(&lab).await);
    assert!(difference.is_empty(), "{difference}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_in_another_order_are_another_ruleset() {
    let lab = lab().await;
    let netns = lab.node("wrk1").unwrap().netns();
    let table = |first, second| {
        format!(
            "table inet order\ndelete table inet order\n\
             table inet order {{ chain c {{ type filter hook input priority 0; {first}; {second}; }}; }}"
        )
    };
    nft::load(netns, &table("tcp dport 1 drop", "tcp dport 2 drop")).unwrap();
    let before = Snapshot::of(netns).await.unwrap();
    nft::load(netns, &table("tcp dport 2 drop", "tcp dport 1 drop")).unwrap();
    let difference = before.diff(&Snapshot::of(netns).await.unwrap());
    assert!(difference.reordered, "{difference}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_came_and_went_leaves_its_node_as_it_was() {
    let mut lab = lab().await;
    let before = snapshot(&lab).await;
    lab.add_pod(PodSpec::new("passing", "ing2")).await.unwrap();
    let with_pod = before.diff(&snapshot(&lab).await);
    assert!(with_pod.gone.is_empty() && with_pod.new.iter().any(|line| line.starts_with("ing2 ip ")), "{with_pod}");
    lab.remove_pod("passing").await.unwrap();
    let difference = before.diff(&snapshot(&lab).await);
    assert!(difference.is_empty(), "{difference}");
}
