//! Clusters of IPv4, of IPv6 and of both: what Kubernetes knows of them, and that VIPs of either family find their way in
//! each, with nothing of the product in it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::common::{lab_of, with_pods};
use integration::lab::{Families, Family, Lab, Snapshot};
use integration::netns::Netns;
use integration::pod::DEFAULT_PORT;
use integration::traffic::{Client, Sources};
use integration::world::echo::{PODS, VIP, VIP6, echo_pods_in};
use integration::world::{World, WorldSpec};
use serde_json::Value;
use tunnel_router::model::Mode;

const ALL: [Families; 3] = [Families::V4, Families::V6, Families::Dual];
const FLOWS: usize = 40;

async fn lab(families: Families) -> Lab {
    with_pods(lab_of(families).await).await
}

/// TCP and UDP from one namespace to a pod, at any of its addresses.
async fn reaches(from: &Netns, sources: Sources, pod: &str, address: IpAddr) {
    let (client, target) = (Client::new(from).with_sources(sources), SocketAddr::new(address, DEFAULT_PORT));
    for tally in [client.tcp_exchanges(FLOWS, target).await, client.udp_exchanges(FLOWS, target).await] {
        let tally = tally.unwrap().perfect().unwrap_or_else(|e| panic!("{} to {pod}: {e:#}", from.name()));
        assert_eq!(tally.per_pod(), [(pod, FLOWS)].into(), "{tally}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_pods_reach_every_pod_in_every_family_of_the_cluster() {
    for families in ALL {
        let lab = lab(families).await;
        for pod in lab.pods() {
            for address in pod.addresses() {
                reaches(lab.client(), Sources::fixed(lab.client_addresses(), 30_000), pod.name(), address).await;
                // Two attachments on one node are no real cluster: a port of the bridge takes the other for its neighbour.
                for other in lab.pods().filter(|other| other.spec().node != pod.spec().node) {
                    reaches(other.netns(), Sources::default(), pod.name(), address).await;
                }
            }
        }
        lab.remove().unwrap();
    }
}

/// Makes a VIP live in a pod by hand, behind one ingress node and the pod's own.
async fn put_vip(lab: &Lab, vip: IpAddr, pod: &str) {
    let pod = lab.pod(pod).unwrap();
    let (family, prefix) = if vip.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
    let over_ipv4 = vip.is_ipv4() && lab.spec().families.has_ipv4();
    let via = if over_ipv4 { pod.ip().to_string() } else { format!("inet6 {}", pod.ipv6()) };
    let node = lab.node(&pod.spec().node).unwrap();
    pod.stack().add_address("lo", vip, prefix).await.unwrap();
    let route = format!("ip {family} route add {vip}/{prefix} via {via} dev {}", pod.route_device());
    World::run_in(node.netns(), &route).unwrap();
    lab.route_vip(vip, &[node.name()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vip_of_either_family_reaches_pods_of_either_attachment_in_every_cluster() {
    for families in ALL {
        let lab = lab(families).await;
        let bridged = [("192.0.2.11", "bridged-ing1"), ("2001:db8:2::11", "bridged-ing1")];
        for (vip, pod) in [(VIP, "ptp-wrk1"), (VIP6, "ptp-wrk1")].into_iter().chain(bridged) {
            let vip = vip.parse().unwrap();
            put_vip(&lab, vip, pod).await;
            let client = Client::new(lab.client()).with_sources(Sources::fixed(lab.client_addresses(), 30_000));
            let tally = client.tcp_exchanges(FLOWS, SocketAddr::new(vip, DEFAULT_PORT)).await.unwrap();
            let tally = tally.perfect().unwrap_or_else(|e| panic!("{families:?} {vip} at {pod}: {e:#}"));
            assert_eq!(tally.per_pod(), [(pod, FLOWS)].into(), "{tally}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_vip_is_spread_over_the_nodes_it_is_routed_to() {
    let lab = lab(Families::Dual).await;
    let vip: IpAddr = VIP6.parse().unwrap();
    let mut servers = Vec::new();
    for name in ["ing1", "ing2"] {
        let node = lab.node(name).unwrap();
        node.stack().add_address("lo", vip, 128).await.unwrap();
        servers.push(crate::common::serve(node.netns(), name, SocketAddr::new(vip, DEFAULT_PORT)));
    }
    lab.route_vip(vip, &["ing1", "ing2"]).await.unwrap();
    let client = Client::new(lab.client()).with_sources(Sources::fixed(lab.client_addresses(), 30_000));
    let target = SocketAddr::new(vip, DEFAULT_PORT);
    let both = client.tcp_exchanges(200, target).await.unwrap().perfect().unwrap();
    assert!(both.per_pod().len() == 2 && both.per_pod().values().all(|n| *n > 50), "{both}");
    lab.unroute_vip(vip).await.unwrap();
    let none = client.tcp_exchanges(5, target).await.unwrap();
    assert_eq!((none.answered(), none.errors().len()), (0, 1), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_ipv6_has_no_ipv4_address_on_any_node_or_pod() {
    let lab = lab(Families::V6).await;
    let snapshot = Snapshot::of_lab(&lab).await.unwrap();
    let inside = |line: &&str| line.starts_with("ing") || line.starts_with("wrk") || line.starts_with("pod-");
    let addresses: BTreeSet<&str> = snapshot
        .lines()
        .filter(inside)
        .filter(|line| line.contains(" eth0 inet ") || line.contains(" cni0 inet "))
        .collect();
    assert!(addresses.is_empty(), "{addresses:?}");
    let routes = snapshot.lines().filter(inside).filter(|line| line.contains("via inet6")).count();
    assert_eq!(routes, 8, "each node and pod has one default route");
}

fn texts(values: &Value, pointer: &str) -> Vec<String> {
    let values = values.as_array().into_iter().flatten();
    values.filter_map(|value| Some(value.pointer(pointer)?.as_str()?.to_owned())).collect()
}

/// What the API server has: addresses of a node and of a pod, address types of a Service's slices, their endpoints.
async fn published(families: Families) -> [Vec<String>; 4] {
    let mut spec = WorldSpec::new(Mode::Vxlan);
    spec.lab.families = families;
    let world = echo_pods_in(spec).await.unwrap();
    world.add_service("single", "echo", &[]).unwrap();
    world.api.settled().await;
    let store = world.api.store();
    let node = store.get("nodes", "", "ing1").unwrap();
    let pod = store.get("pods", "default", "echo-1").unwrap();
    let slices = Value::Array(store.list("endpointslices").unwrap());
    let of_service = |name: &str| {
        let mut slices = slices.as_array().unwrap().clone();
        slices.retain(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name);
        assert!(slices.iter().all(|slice| slice["endpoints"].as_array().unwrap().len() == PODS.len()), "{slices:?}");
        Value::Array(slices)
    };
    let mut dual = texts(&of_service("echo"), "/addressType");
    dual.sort();
    let internal = texts(&node["status"]["addresses"], "/address").into_iter().filter(|text| text != "ing1").collect();
    [internal, texts(&pod["status"]["podIPs"], "/ip"), dual, texts(&of_service("single"), "/addressType")]
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_knows_of_the_families_of_the_cluster_and_the_first_is_the_default() {
    for (families, wanted) in [
        (Families::V4, [vec!["10.0.0.11"], vec!["10.244.3.2"], vec!["IPv4"], vec!["IPv4"]]),
        (Families::V6, [vec!["fd00:10::11"], vec!["fd00:244:3::2"], vec!["IPv6"], vec!["IPv6"]]),
        (
            Families::Dual,
            [
                vec!["10.0.0.11", "fd00:10::11"],
                vec!["10.244.3.2", "fd00:244:3::2"],
                vec!["IPv4", "IPv6"],
                vec![Family::V4.name()],
            ],
        ),
    ] {
        assert_eq!(published(families).await, wanted, "{families:?}");
    }
}
