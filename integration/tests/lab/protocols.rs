//! Every IP protocol between client and pods, at the pods' own addresses and at a VIP put there by hand, with nothing of the
//! product in it.

use std::net::IpAddr;
use std::time::Duration;

use crate::common::{lab, lab_with_pods};
use integration::lab::{Lab, Pod, PodSpec};
use integration::protocol::Protocol;
use integration::traffic::{Answer, Client, EchoWitness, Sources, Tally};

const FLOWS: usize = 40;

fn client(lab: &Lab) -> Client {
    Client::new(lab.client()).with_sources(Sources::fixed(lab.client_addresses(), 30_000))
}

/// All flows are answered by this pod, from the address that was asked.
async fn answered_by(lab: &Lab, pod: &Pod, address: IpAddr, protocol: Protocol) -> Tally {
    let mut witness = EchoWitness::start(lab.pods()).unwrap();
    let mut tally = client(lab).exchanges(protocol, FLOWS, address).await.unwrap();
    if protocol == Protocol::Icmp {
        assert_eq!(tally.per_pod(), [(Answer::UNKNOWN, FLOWS)].into(), "{tally}");
        witness.attribute(&mut tally).await;
    }
    let tally = tally.perfect().unwrap_or_else(|e| panic!("{protocol}: {e:#}"));
    assert_eq!(tally.per_pod(), [(pod.name(), FLOWS)].into(), "{protocol}: {tally}");
    assert!(tally.scattered().is_empty());
    tally
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_answers_every_protocol_in_both_families() {
    let lab = lab_with_pods().await;
    for pod in ["ptp-wrk1", "bridged-ing1"].map(|name| lab.pod(name).unwrap()) {
        for (protocol, address) in
            Protocol::ALL.into_iter().flat_map(|p| pod.addresses().into_iter().map(move |a| (p, a)))
        {
            answered_by(&lab, pod, address, protocol).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_server_answers_from_the_address_it_was_asked_at() {
    let lab = lab_with_pods().await;
    let pod = lab.pod("ptp-wrk1").unwrap();
    let node = lab.node("wrk1").unwrap();
    for (vip, prefix, via) in
        [("192.0.2.10", 32, IpAddr::from(pod.ip())), ("2001:db8:2::10", 128, IpAddr::from(pod.ipv6()))]
    {
        let vip: IpAddr = vip.parse().unwrap();
        pod.stack().add_address("lo", vip, prefix).await.unwrap();
        node.stack().add_route_via((vip, prefix), via).await.unwrap();
        lab.route_vip(vip, &["wrk1"]).await.unwrap();
        for protocol in Protocol::RAW.into_iter().chain([Protocol::Icmp]) {
            let tally = answered_by(&lab, pod, vip, protocol).await;
            let answers = tally.flows.iter().map(|flow| flow.outcome.as_ref().unwrap());
            assert!(answers.into_iter().all(|answer| answer.local == vip), "{protocol}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_of_protocols_with_ports_have_ports_of_their_own() {
    let lab = lab_with_pods().await;
    let pod = lab.pod("ptp-wrk1").unwrap();
    for (protocol, flows) in [(Protocol::Sctp, FLOWS), (Protocol::Icmp, FLOWS), (Protocol::Esp, 8)] {
        let tally = answered_by(&lab, pod, pod.ip().into(), protocol).await;
        assert_eq!(tally.owners().len(), flows, "{protocol}");
    }
    let unbound = Client::new(lab.client()).exchanges(Protocol::Sctp, 5, pod.ipv6().into()).await.unwrap();
    let unbound = unbound.perfect().unwrap();
    let addresses = lab.client_addresses();
    assert!(unbound.owners().keys().all(|source| addresses.contains(&source.ip())), "{unbound}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_raw_servers_leaves_raw_questions_unanswered() {
    let mut lab = lab().await;
    lab.add_pod(PodSpec { raw: false, ..PodSpec::new("plain", "wrk1") }).await.unwrap();
    let pod = lab.pod("plain").unwrap();
    let client = client(&lab).with_patience(Duration::from_millis(500));
    for address in pod.addresses() {
        let tally = client.exchanges(Protocol::Other253, 3, address).await.unwrap();
        assert_eq!(tally.errors(), [("receive: timed out".to_owned(), 3)].into());
        client.exchanges(Protocol::Udp, 3, address).await.unwrap().perfect().unwrap();
    }
}
