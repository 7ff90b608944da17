//! The lab carries traffic: client → router → node → pod and back, with nothing of the product in it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::common::{echo_of, lab, lab_with_pods, serve};
use integration::lab::{API_CLUSTER_IP, API_CLUSTER_IP6, API6, Lab};
use integration::pod::{DEFAULT_PORT, Servers};
use integration::traffic::{Client, Connections, Sources};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const FLOWS: usize = 200;
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));

#[tokio::test(flavor = "multi_thread")]
async fn the_client_reaches_every_pod_by_tcp_and_udp() {
    let lab = lab_with_pods().await;
    let client = Client::new(lab.client());
    for pod in lab.pods() {
        for target in pod.addresses().into_iter().map(|ip| SocketAddr::new(ip, DEFAULT_PORT)) {
            for tally in [client.tcp_exchanges(FLOWS, target).await, client.udp_exchanges(FLOWS, target).await] {
                let tally = tally.unwrap().perfect().unwrap();
                assert_eq!(tally.per_pod(), [(pod.name(), FLOWS)].into(), "{tally}");
            }
        }
    }
    lab.remove().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datagram_that_needs_fragments_comes_back_whole_in_both_families() {
    const BIG: usize = 4000;
    let lab = lab_with_pods().await;
    for (own, ip) in ["0.0.0.0:0", "[::]:0"].into_iter().zip(lab.pod("ptp-wrk1").unwrap().addresses()) {
        let socket = lab.client().udp_socket(own.parse().unwrap()).unwrap();
        socket.send_to(&[b'x'; BIG], (ip, DEFAULT_PORT)).await.unwrap();
        let mut answer = vec![0; 2 * BIG];
        let (length, from) = socket.recv_from(&mut answer).await.unwrap();
        assert_eq!(from, SocketAddr::new(ip, DEFAULT_PORT));
        assert_eq!(answer[..length].iter().filter(|byte| **byte == b'X').count(), BIG);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_ipv6_stay_open() {
    let lab = lab_with_pods().await;
    let target = SocketAddr::from((lab.pod("bridged-wrk1").unwrap().ipv6(), DEFAULT_PORT));
    let client = Client::new(lab.client()).with_sources(Sources::fixed(lab.client_addresses(), 30000));
    let (mut connections, opened) = Connections::open(&client, 20, target).await.unwrap();
    assert_eq!((opened.perfect().unwrap().answered(), connections.len()), (20, 20));
    connections.probe_all().await.perfect().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_the_api_server_and_the_world_over_ipv6_too() {
    let lab = lab_with_pods().await;
    let (pod, node) = (lab.pod("ptp-wrk1").unwrap(), lab.node("wrk1").unwrap());
    let listener = lab.api().tcp_listener(SocketAddr::from((API6, 6443))).unwrap();
    let connect = || std::net::TcpStream::connect(SocketAddr::from((API_CLUSTER_IP6, 443)));
    let (stream, accepted) = tokio::join!(async { pod.netns().run_io("connect", connect) }, listener.accept());
    assert_eq!((stream.is_ok(), accepted.unwrap().1.ip()), (true, IpAddr::V6(pod.ipv6())));

    let outside = lab.client().udp_socket("[2001:db8:51::2]:9999".parse().unwrap()).unwrap();
    let inside = pod.netns().udp_socket("[::]:0".parse().unwrap()).unwrap();
    inside.send_to(b"hello", "[2001:db8:51::2]:9999").await.unwrap();
    let (_, seen) = outside.recv_from(&mut [0; 16]).await.unwrap();
    assert_eq!(seen.ip(), IpAddr::V6(node.address6()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_chooses_its_addresses_and_ports() {
    let lab = lab_with_pods().await;
    let sources = Sources::fixed(lab.client_addresses(), 20000);
    let client = Client::new(lab.client()).with_sources(sources);
    let target = echo_of(&lab, "ptp-wrk1");
    let first = client.tcp_exchanges(64, target).await.unwrap().perfect().unwrap();
    let again = client.tcp_exchanges(64, target).await.unwrap().perfect().unwrap();
    assert_eq!(first.owners(), again.owners());
    assert!(first.owners().contains_key(&"198.51.100.9:20007".parse().unwrap()), "{:?}", first.owners());
    let udp = client.udp_exchanges(64, target).await.unwrap().perfect().unwrap();
    assert_eq!(udp.owners(), first.owners());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_spreads_the_flows_of_a_vip_over_the_nodes_it_is_routed_to() {
    let lab = lab().await;
    let servers = [vip_on_node(&lab, "ing1").await, vip_on_node(&lab, "ing2").await];
    let target = SocketAddr::new(VIP, DEFAULT_PORT);
    let client = Client::new(lab.client()).with_sources(Sources::fixed(lab.client_addresses(), 30000));

    lab.route_vip(VIP, &["ing1", "ing2"]).await.unwrap();
    let both = client.tcp_exchanges(FLOWS, target).await.unwrap().perfect().unwrap();
    assert!(both.per_pod().values().all(|n| *n > FLOWS / 4) && both.per_pod().len() == 2, "{both}");
    client.udp_exchanges(FLOWS, target).await.unwrap().perfect().unwrap();

    lab.route_vip(VIP, &["ing2"]).await.unwrap();
    let one = client.tcp_exchanges(20, target).await.unwrap().perfect().unwrap();
    assert_eq!(one.per_pod(), [("ing2", 20)].into(), "{one}");

    lab.unroute_vip(VIP).await.unwrap();
    let none = client.tcp_exchanges(5, target).await.unwrap();
    assert_eq!((none.answered(), none.errors().len()), (0, 1), "{none}");
    drop(servers);
}

/// Lets a node itself answer for the VIP.
async fn vip_on_node(lab: &Lab, name: &str) -> Servers {
    let node = lab.node(name).unwrap();
    node.stack().add_address("lo", VIP, 32).await.unwrap();
    serve(node.netns(), name, SocketAddr::new(VIP, DEFAULT_PORT))
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_stay_open_until_their_pod_ends() {
    let mut lab = lab_with_pods().await;
    let client = Client::new(lab.client());
    let (mut connections, opened) = Connections::open(&client, 50, echo_of(&lab, "ptp-wrk1")).await.unwrap();
    assert_eq!((opened.perfect().unwrap().answered(), connections.len()), (50, 50));
    for _ in 0..3 {
        connections.probe_all().await.perfect().unwrap();
    }
    lab.pod_mut("ptp-wrk1").unwrap().stop_process().await.unwrap();
    let ended = connections.probe_all().await;
    assert_eq!((ended.tried(), ended.answered()), (50, 0), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_flow_is_an_error_of_its_own_kind() {
    let lab = lab_with_pods().await;
    let client = Client::new(lab.client()).with_patience(Duration::from_millis(100));
    // The node knows no pod there: a black hole.
    let nobody = "10.244.1.250:12345".parse().unwrap();
    let tally = client.udp_exchanges(3, nobody).await.unwrap();
    assert_eq!(tally.errors(), [("receive: timed out".to_owned(), 3)].into());
    let closed = SocketAddr::from((lab.pod("ptp-ing1").unwrap().ip(), 1));
    let tally = Client::new(lab.client()).tcp_exchanges(3, closed).await.unwrap();
    assert!(tally.errors().keys().all(|error| error.starts_with("connect: Connection refused")), "{tally}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_the_api_server_by_its_cluster_ip_and_the_world_masqueraded() {
    let lab = lab_with_pods().await;
    let listener = lab.api_listener(6443).unwrap();
    let peers = tokio::spawn(async move {
        let mut peers = Vec::new();
        for _ in 0..2 {
            let (mut stream, peer) = listener.accept().await.unwrap();
            stream.write_all(b"!").await.unwrap();
            peers.push(peer.ip());
        }
        peers
    });
    let pod = lab.pod("ptp-wrk1").unwrap();
    for netns in [pod.netns(), lab.node("ing2").unwrap().netns()] {
        let target = SocketAddr::from((API_CLUSTER_IP, 443));
        let connect = move || std::net::TcpStream::connect(target);
        let mut stream = netns.run_in_runtime("connect", || {
            let stream = connect()?;
            stream.set_nonblocking(true)?;
            tokio::net::TcpStream::from_std(stream)
        });
        assert_eq!(stream.as_mut().unwrap().read_u8().await.unwrap(), b'!');
    }
    assert_eq!(peers.await.unwrap(), [IpAddr::V4(pod.ip()), lab.node("ing2").unwrap().address().into()]);

    let outside = lab.client().udp_socket("198.51.100.2:9999".parse().unwrap()).unwrap();
    let inside = pod.netns().udp_socket("0.0.0.0:0".parse().unwrap()).unwrap();
    inside.send_to(b"hello", "198.51.100.2:9999").await.unwrap();
    let (_, seen) = outside.recv_from(&mut [0; 16]).await.unwrap();
    assert_eq!(seen.ip(), IpAddr::V4(lab.node("wrk1").unwrap().address()));
}
