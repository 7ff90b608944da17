//! A bucket changes hands while nodes and pods are silent, dead or not ready: nobody waits for them, and nobody loses what it
//! has.
//!
//! Witnesses: connections that were open before, new ones, and pods that answer them.

use anyhow::{Context, Result, ensure};
use integration::lab::PodSpec;
use integration::traffic::{Connections, Sources};
use integration::world::World;
use integration::world::drain::{Held, draining_world, perfect};
use integration::world::echo::{SERVICE, VIP, VIP6, echo_at};
use integration::world::map::{is_balanced, is_former, owners};
use integration::world::{NAMESPACE, word_after};
use tunnel_router::model::Mode;

const OPEN: usize = 64;

fn uid(world: &World, pod: &str) -> Result<String> {
    Ok(world.lab.pod(pod)?.uid().to_owned())
}

/// Routes of the ingress nodes lead to none of these pods any more.
async fn followed(world: &World, gone: &[&str]) -> Result<()> {
    for node in ["ing1", "ing2"] {
        for pod in gone {
            let address = world.lab.pod(pod)?.addresses().into_iter().next().context("an address")?.to_string();
            integration::world::eventually("routes follow", || {
                let nexthops = World::run_in(world.lab.node(node)?.netns(), "ip nexthop show protocol 107")?;
                let leads = nexthops.lines().any(|line| line.split_whitespace().any(|word| word == address));
                ensure!(!leads, "{node} still sends packets to {pod} ({address}):\n{nexthops}");
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

/// Its packets are dropped, and nobody says so but the API.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serving_node_that_dies_costs_no_new_connection_and_none_of_other_pods() -> Result<()> {
    let world = draining_world(Mode::Vxlan, "5s").await?;
    let mut held = Held::open(&world, VIP, 30_000, OPEN).await?;
    world.lab.cut("wrk1").await?;
    for pod in ["echo-1", "echo-4"] {
        world.set_ready(pod, false)?;
    }
    followed(&world, &["echo-1", "echo-4"]).await?;
    for (n, vip) in [VIP, VIP6, VIP, VIP6].into_iter().enumerate() {
        let new = Held::open(&world, vip, 31_000 + 100 * u16::try_from(n)?, OPEN).await?;
        ensure!(new.on() == ["echo-2", "echo-3"].into(), "{:?}", new.on());
    }
    let tally = held.connections.probe_all().await;
    let lost = held.count("echo-1") + held.count("echo-4");
    ensure!(tally.tried() - tally.answered() == lost, "{lost} were on the dead node: {tally}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_no_pod_is_ready_open_connections_stay_and_new_ones_are_refused() -> Result<()> {
    let world = draining_world(Mode::Vxlan, "5s").await?;
    let mut held = [Held::open(&world, VIP, 30_000, OPEN).await?, Held::open(&world, VIP6, 30_000, OPEN).await?];
    let pods = ["echo-1", "echo-2", "echo-3", "echo-4"];
    for pod in pods {
        world.set_ready(pod, false)?;
    }
    world.stored_map(SERVICE, |map| map.refuses_new).await?;
    for vip in [VIP, VIP6] {
        integration::world::eventually("new connections are refused", || {
            let tally = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(world.client().tcp_exchanges(16, echo_at(vip)?))
            })?;
            let refused = tally.to_string().contains("refused");
            ensure!(tally.answered() == 0 && refused, "{tally}\n{}", world.logs());
            Ok(())
        })
        .await?;
    }
    for held in &mut held {
        held.stay(&world).await?;
    }
    world.set_ready("echo-2", true)?;
    world.stored_map(SERVICE, |map| !map.refuses_new).await?;
    followed(&world, &["echo-1", "echo-3", "echo-4"]).await?;
    let new = Held::open(&world, VIP, 31_000, OPEN).await?;
    ensure!(new.on() == ["echo-2"].into(), "{:?}", new.on());
    for held in &mut held {
        held.stay(&world).await?;
    }
    Ok(())
}

/// The only controller dies before it hears of them, and then all that its map knows end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_no_map_knows_are_served_when_all_others_are_gone_and_nobody_decides() -> Result<()> {
    let mut world = draining_world(Mode::Vxlan, "5s").await?;
    world.kill_controller("ctl-a").await?;
    let new = ["echo-5", "echo-6"];
    world.add_pods(vec![(PodSpec::new(new[0], "wrk2"), "echo"), (PodSpec::new(new[1], "ing1"), "echo")]).await?;
    for pod in ["echo-1", "echo-2", "echo-3", "echo-4"] {
        world.remove_pod(pod).await?;
    }
    for vip in [VIP, VIP6] {
        integration::world::eventually("those who have come are served", || {
            let exchanges = async { world.client().tcp_exchanges(16, echo_at(vip)?).await };
            let tally = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(exchanges))?;
            ensure!(tally.answered() == tally.tried(), "{tally}\n{}", world.logs());
            Ok(())
        })
        .await?;
    }
    let mut held = [Held::open(&world, VIP, 30_000, OPEN).await?, Held::open(&world, VIP6, 30_000, OPEN).await?];
    ensure!(held.iter().all(|held| held.on() == new.into()), "{held:?}");
    world.start_controller("ctl-b", "wrk2", &["--drain-udp", "5s"])?;
    world.stored_map(SERVICE, |map| map.counts().len() == 2 && is_balanced(map)).await?;
    for held in &mut held {
        held.stay(&world).await?;
    }
    Ok(())
}

/// Nobody there could set the pod up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_node_says_nothing_gets_nothing_and_is_told_of() -> Result<()> {
    let mut world = draining_world(Mode::Vxlan, "5s").await?;
    world.kill_agent("wrk2").await?;
    world.add_pods(vec![(PodSpec::new("echo-9", "wrk2"), "echo")]).await?;
    let mut held = Held::open(&world, VIP, 30_000, OPEN).await?;
    let note = world.event(SERVICE, "NotSetUp").await?;
    ensure!(note.contains("wrk2"), "{note}");
    let new = Held::open(&world, VIP, 31_000, OPEN).await?;
    ensure!(new.count("echo-9") == 0 && new.count("echo-2") > 0, "{:?}", new.on());
    world.start_agent("wrk2")?;
    world.converged().await?;
    held.stay(&world).await
}

/// The cookie matches nothing but the listener, and whoever sent it has the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_of_new_pods_are_believed_while_their_buckets_drain() -> Result<()> {
    let mut world = draining_world(Mode::Vxlan, "5s").await?;
    let mut held = Held::open(&world, VIP, 30_000, OPEN).await?;
    let new = ["echo-5", "echo-6"];
    world.add_pods(new.iter().map(|name| (PodSpec::new(name, "wrk2"), "echo")).collect()).await?;
    for pod in new {
        World::run_in(world.lab.pod(pod)?.netns(), "sysctl -qw net.ipv4.tcp_syncookies=2")?;
    }
    world.stored_map(SERVICE, |map| map.counts().len() == 6).await?;
    world.converged().await?;
    for vip in [VIP, VIP6] {
        let mut opened = Held::open(&world, vip, 31_000, OPEN).await?;
        ensure!(new.iter().all(|pod| opened.count(pod) > 0), "{:?}", opened.on());
        opened.stay(&world).await?;
    }
    let sent = World::run_in(world.lab.pod("echo-5")?.netns(), "nstat -asz TcpExtSyncookiesRecv")?;
    ensure!(word_after(&sent, "TcpExtSyncookiesRecv", "TcpExtSyncookiesRecv")? != "0", "no cookie came back: {sent}");
    held.stay(&world).await
}

/// Its probe has failed and it may have crashed: nothing says that it still answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_do_not_stay_with_a_pod_that_serves_no_more() -> Result<()> {
    let world = draining_world(Mode::Vxlan, "1h").await?;
    let client = world.client().with_sources(Sources::fixed(world.lab.client_addresses(), 30_000));
    perfect(&world, client.udp_exchanges(OPEN, echo_at(VIP)?).await?)?;
    world.set_ready("echo-1", false)?;
    let gone = uid(&world, "echo-1")?;
    world.stored_map(SERVICE, |map| is_former(map, &gone)).await?;
    followed(&world, &["echo-1"]).await?;
    let tally = perfect(&world, client.udp_exchanges(OPEN, echo_at(VIP)?).await?)?;
    ensure!(!tally.per_pod().contains_key("echo-1"), "{tally}");
    Ok(())
}

/// Reports, the map, and the Node object of a node that serves are deleted; the latter is registered again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_deleted_takes_anything_away() -> Result<()> {
    let world = draining_world(Mode::Vxlan, "5s").await?;
    let mut held = Held::open(&world, VIP, 30_000, OPEN).await?;
    let text = |map: &tunnel_router::model::handover::Assignment| {
        owners(map).into_iter().map(|owner| owner.map(ToString::to_string)).collect::<Vec<_>>()
    };
    let before = text(&world.stored_map(SERVICE, is_balanced).await?);
    let store = world.api.store();
    for object in store.list("configmaps")? {
        let name = object["metadata"]["name"].as_str().context("a name")?;
        store.delete_now("configmaps", NAMESPACE, name)?;
    }
    ensure!(text(&world.stored_map(SERVICE, |_| true).await?) == before, "another map was made");
    held.stay(&world).await?;

    // Kubernetes takes the pods of a node that is not there out of the slices.
    let mut node = store.get("nodes", "", "wrk1")?;
    store.delete_now("nodes", "", "wrk1")?;
    let gone = uid(&world, "echo-1")?;
    world.stored_map(SERVICE, |map| is_former(map, &gone)).await?;
    held.stay(&world).await?;
    for key in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        node["metadata"].as_object_mut().context("metadata")?.remove(key);
    }
    store.create_with_status(node)?;
    world.converged().await?;
    held.stay(&world).await?;
    Held::open(&world, VIP, 31_000, OPEN).await?.stay(&world).await
}

/// A network policy lets the nodes' packets in and those of other pods not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pods_pass_on_and_never_arrives_is_told() -> Result<()> {
    let world = draining_world(Mode::Vxlan, "5s").await?;
    let patient = world.client().with_patience(std::time::Duration::from_secs(120));
    let (connections, tally) = Connections::open(&patient, OPEN, echo_at(VIP)?).await?;
    let mut held = Held::new(connections, tally)?;
    ensure!(held.count("echo-1") > 0, "{:?}", held.on());
    let node = world.lab.node("wrk1")?.netns();
    let address = world.lab.pod("echo-1")?.addresses().into_iter().find(|a| a.is_ipv4()).context("an address")?;
    let blocked = format!("add rule inet others forward ip saddr 10.244.0.0/16 ip daddr {address} udp dport 4790 drop");
    for line in
        ["add table inet others", "add chain inet others forward { type filter hook forward priority 0; }", &blocked]
    {
        World::run_in(node, &format!("nft {line}"))?;
    }
    world.set_ready("echo-1", false)?;
    followed(&world, &["echo-1"]).await?;
    let told_and_ended = async {
        let note = world.event(SERVICE, "ForwardingBlocked").await?;
        ensure!(note.contains("to pod echo-1") && note.contains("from pod echo-"), "{note}");
        World::run_in(node, "nft delete table inet others")?;
        anyhow::Ok(())
    };
    let (tally, told) = tokio::join!(held.connections.probe_all(), told_and_ended);
    told?;
    perfect(&world, tally)?;
    held.stay(&world).await
}

/// The pod runs on and is in no slice any more: it drains like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_relabelled_keeps_its_connections() -> Result<()> {
    let world = draining_world(Mode::Vxlan, "5s").await?;
    let mut held = Held::open(&world, VIP, 30_000, OPEN).await?;
    ensure!(held.count("echo-1") > 0, "{:?}", held.on());
    let labels = serde_json::json!({ "metadata": { "labels": { "app": "other" } } });
    world.api.store().patch("pods", "default", "echo-1", labels)?;
    let left = uid(&world, "echo-1")?;
    world.stored_map(SERVICE, |map| is_former(map, &left)).await?;
    world.converged().await?;
    let mut new = Held::open(&world, VIP, 31_000, OPEN).await?;
    ensure!(new.count("echo-1") == 0, "{:?}", new.on());
    held.stay(&world).await?;
    new.stay(&world).await
}
