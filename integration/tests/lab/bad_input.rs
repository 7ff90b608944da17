//! What users get wrong: each mistake is named, with a remedy, at the Service that has it, and no other Service suffers.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::PodSpec;
use integration::traffic::Client;
use integration::world::{World, WorldSpec};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tunnel_router::model::Mode;

const VIP: &str = "192.0.2.10";
/// The longest note that the API takes.
const MAX_NOTE: usize = 1024;

/// Two pods behind the Service `good`.
async fn good_world() -> Result<(World, Value)> {
    let mut world = World::build(WorldSpec::new(Mode::Vxlan)).await?;
    // First of all, so that it is older than any Service that wants the same VIP.
    let good = world.add_service("good", "good", &[("cmd.nu/tunnel", VIP)])?;
    let created = Instant::now();
    let pods = [("good-1", "wrk1"), ("good-2", "wrk2")];
    world.add_pods(pods.map(|(name, node)| (PodSpec::new(name, node), "good")).into()).await?;
    world.start_agents()?;
    world.converged().await?;
    world.route(VIP).await?;
    world.perfect(VIP, 40).await?;
    // The API's time stamps count seconds.
    sleep_until(created + Duration::from_secs(1)).await;
    Ok((world, good))
}

/// Awaits the Event and checks that it says all this.
async fn says(world: &World, service: &str, reason: &str, words: &[&str]) -> Result<()> {
    let note = world.event(service, reason).await?;
    for word in words {
        ensure!(note.contains(word), "{reason} about {service} does not say {word:?}: {note}");
    }
    ensure!(note.len() <= MAX_NOTE, "{reason} about {service} has {} bytes", note.len());
    Ok(())
}

/// The agents are done with everything, and the good Service has noticed nothing.
/// Nothing is told of a Service but that it has got its VIP.
fn no_complaint(world: &World, service: &str) -> Result<()> {
    let complaints: Vec<_> = world.events(service).into_iter().filter(|(reason, _)| reason != "VIPAssigned").collect();
    ensure!(complaints.is_empty(), "Events about Service {service}: {complaints:?}");
    Ok(())
}

async fn all_is_well(world: &World) -> Result<()> {
    world.converged().await?;
    world.perfect(VIP, 40).await?;
    no_complaint(world, "good")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_annotations_are_named_with_a_remedy_and_leave_other_services_alone() -> Result<()> {
    let (world, good) = good_world().await?;
    let pod = world.lab.pod("good-1")?.ip().to_string();
    let cluster_ip = good["spec"]["clusterIP"].as_str().context("a cluster IP")?;
    let (garbage, endless) = ("x".repeat(1500), ",".repeat(100_000));
    let unicast = "use a unicast address";
    let taken = "use an address that nothing in the cluster has";
    let bad: [(&str, &str, &[&str]); 23] = [
        ("banana", "InvalidVIP", &["\"banana\"", "write IP addresses"]),
        ("", "InvalidVIP", &["\"\"", "write an IP address"]),
        ("0.0.0.0", "InvalidVIP", &["0.0.0.0", unicast]),
        ("127.0.0.1", "InvalidVIP", &["127.0.0.1", "loopback", unicast]),
        ("169.254.1.1", "InvalidVIP", &["169.254.1.1", "link-local", unicast]),
        ("224.0.0.1", "InvalidVIP", &["224.0.0.1", "multicast", unicast]),
        ("255.255.255.255", "InvalidVIP", &["255.255.255.255", "broadcast", unicast]),
        ("10.0.0.11", "InvalidVIP", &["10.0.0.11", "node ing1", taken]),
        (&pod, "InvalidVIP", &[&pod, taken]),
        (cluster_ip, "InvalidVIP", &[cluster_ip, "cluster IP of Service default/good", taken]),
        ("10.96.200.1", "InvalidVIP", &["10.96.0.0/16, the Service network of ServiceCIDR kubernetes", taken]),
        ("192.0.2.10/24", "InvalidVIP", &["192.0.2.10/24", "without a prefix length"]),
        ("192.0.2.77,banana", "InvalidVIP", &["\"banana\"", "write IP addresses"]),
        ("::", "InvalidVIP", &["\"::\"", "unspecified", unicast]),
        ("::1", "InvalidVIP", &["\"::1\"", "loopback", unicast]),
        ("fe80::1", "InvalidVIP", &["fe80::1", "link-local", unicast]),
        ("ff02::1", "InvalidVIP", &["ff02::1", "multicast", unicast]),
        ("::ffff:192.0.2.10", "InvalidVIP", &["::ffff:192.0.2.10", "IPv4 address in IPv6", "write the IPv4 address"]),
        ("fe80::1%eth0", "InvalidVIP", &["fe80::1%eth0", "zone", unicast]),
        ("fd00:10::11%0", "InvalidVIP", &["fd00:10::11%0", "zone", unicast]),
        (VIP, "VIPConflict", &[VIP, "is held by Service default/good", "use another address"]),
        (&garbage, "InvalidVIP", &["xxxx", "(1500 bytes)", "write IP addresses"]),
        (&endless, "InvalidVIP", &["more than 2048 bytes", "list at most 16 VIPs"]),
    ];
    for (n, (value, ..)) in bad.iter().enumerate() {
        let made = world.add_service(&format!("bad-{n}"), "good", &[("cmd.nu/tunnel", value)])?;
        let (old, new) = (&good["metadata"]["creationTimestamp"], &made["metadata"]["creationTimestamp"]);
        ensure!(old != new, "who is older is not decided by age");
    }
    let moded = [("cmd.nu/tunnel", "192.0.2.115"), ("cmd.nu/tunnel-mode", "ipip")];
    world.add_service("bad-mode", "good", &moded)?;

    for (n, (_, reason, words)) in bad.iter().enumerate() {
        says(&world, &format!("bad-{n}"), reason, words).await?;
    }
    says(&world, "bad-mode", "InvalidMode", &["\"ipip\"", "use one of", "gre"]).await?;
    all_is_well(&world).await?;
    // The good member of a list with a bad one.
    world.route("192.0.2.77").await?;
    world.perfect("192.0.2.77", 40).await?;
    Ok(())
}

/// A pod that exists in the API only.
fn pod_on_paper(world: &World, name: &str, spec: Value, status: Value) -> Result<()> {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": name } },
        "spec": { "nodeName": "wrk1", "containers": [{ "name": "echo", "image": "echo" }] },
        "status": status,
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    world.api.store().create_with_status(pod)?;
    Ok(())
}

fn running_at(ip: &str) -> Value {
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": ready })
}

/// A Service without selector and an EndpointSlice that somebody wrote for it.
fn hand_made(world: &World, name: &str, vip: &str, address_type: &str, endpoints: Vec<Value>) -> Result<()> {
    let ports = json!([{ "name": "udp", "protocol": "UDP", "port": 12345 }]);
    world.api.store().create(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default", "annotations": { "cmd.nu/tunnel": vip } },
        "spec": { "ports": ports },
    }))?;
    world.api.store().create(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": address_type,
        "metadata": { "name": format!("{name}-by-hand"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": name } },
        "endpoints": endpoints, "ports": ports,
    }))?;
    Ok(())
}

/// Endpoint number `n`, whose pod nobody has seen.
fn invented(n: u16, node: Option<&str>) -> Value {
    let [high, low] = n.to_be_bytes();
    let target = json!({ "kind": "Pod", "namespace": "default", "name": format!("invented-{n}"),
        "uid": format!("00000000-0000-4000-8000-{n:012}") });
    let mut endpoint = json!({ "addresses": [Ipv4Addr::new(10, 250, high, low)], "targetRef": target,
        "conditions": { "ready": true } });
    if let Some(node) = node {
        endpoint["nodeName"] = json!(node);
    }
    endpoint
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_cannot_be_served_are_named_with_a_remedy_and_leave_other_services_alone() -> Result<()> {
    let (world, _) = good_world().await?;
    let node = world.lab.node("wrk1")?.address().to_string();
    pod_on_paper(&world, "host", json!({ "hostNetwork": true }), running_at(&node))?;
    pod_on_paper(&world, "vanished", json!({}), running_at("10.244.3.200"))?;
    pod_on_paper(&world, "no-ip", json!({}), json!({ "phase": "Pending" }))?;
    for (name, vip) in [("host", "192.0.2.120"), ("vanished", "192.0.2.121"), ("no-ip", "192.0.2.122")] {
        world.add_service(name, name, &[("cmd.nu/tunnel", vip)])?;
    }
    let fqdn = vec![json!({ "addresses": ["echo.example.org"], "conditions": { "ready": true } })];
    hand_made(&world, "fqdn", "192.0.2.123", "FQDN", fqdn)?;
    hand_made(&world, "no-node", "192.0.2.124", "IPv4", vec![invented(0xff01, None)])?;
    let many = (1..=1000).map(|n| invented(n, Some("elsewhere"))).collect();
    hand_made(&world, "many", "192.0.2.125", "IPv4", many)?;

    let host = ["pod default/host", "hostNetwork", "run the pod without hostNetwork"];
    says(&world, "host", "EndpointRefused", &host).await?;
    says(&world, "fqdn", "EndpointRefused", &["fqdn-by-hand", "FQDN", "use addressType IPv4"]).await?;
    let no_node = ["invented-65281", "nodeName is missing", "set nodeName in the EndpointSlice"];
    says(&world, "no-node", "EndpointRefused", &no_node).await?;
    says(&world, "many", "TooManyEndpoints", &["64 buckets", "raise --buckets"]).await?;
    says(&world, "vanished", "EndpointFailed", &["default/vanished", "wrk1", "tried again"]).await?;
    all_is_well(&world).await?;

    // Nothing is wrong with a pod that has no address yet; until then the client is told at once.
    world.route("192.0.2.122").await?;
    let client = Client::new(world.lab.client()).with_patience(Duration::from_secs(2));
    let tally = client.tcp_exchanges(1, "192.0.2.122:12345".parse()?).await?;
    ensure!(tally.answered() == 0, "somebody answers for a pod without address: {tally}");
    no_complaint(&world, "no-ip")
}
