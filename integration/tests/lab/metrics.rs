//! What the agents' pages say is what went over the wire, and goes on being said whatever happens to agents and VIPs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use integration::lab::LabSpec;
use integration::netns::Netns;
use integration::world::dual::dual_world;
use integration::world::echo::{ANNOTATION, SERVICE, VIP, VIP6};
use integration::world::{CONTROLLER_PAGES, World, eventually};
use tunnel_router::model::Mode;

const NODES: [&str; 4] = ["ing1", "ing2", "wrk1", "wrk2"];
const FLOWS: usize = 60;
const THIRD: &str = "192.0.2.30";

/// Status and body of a page of the agent in a namespace.
fn get(netns: &Netns, page: &str) -> Result<(u16, String)> {
    get_at(netns, "127.0.0.1:9469", page)
}

fn get_at(netns: &Netns, address: &str, page: &str) -> Result<(u16, String)> {
    let answer = netns.run_io("ask the agent", || {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {page} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// The samples of a page by name and labels; every line must be one, or a comment.
fn parse(page: &str) -> Result<BTreeMap<String, f64>> {
    let mut samples = BTreeMap::new();
    let mut described = String::new();
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ") {
            described = name.split(' ').next().unwrap_or_default().to_owned();
        }
        if line.starts_with("# ") {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line:?}"))?;
        ensure!(name.starts_with(&described), "{name} follows the description of {described}");
        ensure!(samples.insert(name.to_owned(), value.parse()?).is_none(), "{name} twice");
    }
    Ok(samples)
}

/// The samples of all nodes whose name begins so and whose labels contain this, added up.
fn total(world: &World, name: &str, label: &str) -> Result<f64> {
    let mut sum = 0.0;
    for node in NODES {
        let (status, page) = get(world.lab.node(node)?.netns(), "/metrics")?;
        ensure!(status == 200, "{node}: {status} {page}");
        sum += added_up(&page, name, label).with_context(|| format!("{node}:\n{page}"))?;
    }
    Ok(sum)
}

/// The same of the page of the controller, which runs beside the first agent.
fn of_controller(world: &World, name: &str, label: &str) -> Result<f64> {
    let (status, page) = get_at(world.lab.node(NODES[0])?.netns(), CONTROLLER_PAGES, "/metrics")?;
    ensure!(status == 200, "{status} {page}");
    added_up(&page, name, label).with_context(|| format!("controller:\n{page}"))
}

fn added_up(page: &str, name: &str, label: &str) -> Result<f64> {
    let (samples, full) = (parse(page)?, format!("tunnel_router_{name}"));
    let wanted = samples.iter().filter(|(key, _)| key.split('{').next() == Some(&full) && key.contains(label));
    Ok(wanted.map(|(_, value)| value).sum())
}

fn of_vip(vip: &str) -> String {
    format!("vip=\"{vip}\"")
}

/// Packets out of the tunnels, and back.
fn packets(world: &World, vip: &str) -> Result<[f64; 2]> {
    let names = ["pod_vip_received_packets_total", "pod_vip_sent_packets_total"];
    let mut counts = [0.0; 2];
    for (count, name) in counts.iter_mut().zip(names) {
        *count = total(world, name, &of_vip(vip))?;
    }
    Ok(counts)
}

async fn ready(world: &World, node: &str) -> Result<()> {
    let netns = world.lab.node(node)?.netns();
    let look = || {
        let (status, body) = get(netns, "/readyz")?;
        ensure!(status == 200, "{status}: {body}");
        Ok(())
    };
    eventually(&format!("{node} is ready"), look).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_counted_is_what_was_sent_and_no_restart_or_change_loses_it() -> Result<()> {
    let mut world = dual_world(Mode::Vxlan, LabSpec::default(), 1500).await?;
    for node in NODES {
        ready(&world, node).await?;
        ensure!(get(world.lab.node(node)?.netns(), "/healthz")? == (200, "ok\n".to_owned()), "{node}");
    }
    #[allow(clippy::cast_precision_loss, reason = "small")]
    let flows = FLOWS as f64;
    let taken_in = |world: &World| total(world, "received_packets_total", "");
    for (vip, before) in [(VIP, 0.0), (VIP6, flows)] {
        ensure!(packets(&world, vip)? == [0.0; 2], "{vip}: {:?}", packets(&world, vip)?);
        ensure!(taken_in(&world)? == before, "{vip}: {}", taken_in(&world)?);
        // One datagram each way.
        world.udp(vip, FLOWS).await?;
        ensure!(packets(&world, vip)? == [flows; 2], "{vip}: {:?}", packets(&world, vip)?);
        ensure!(taken_in(&world)? == before + flows, "{vip}: {}", taken_in(&world)?);
    }
    // The client's data, an IP header (20 bytes) and a UDP header (8) each.
    let bytes = total(&world, "pod_vip_received_bytes_total", &of_vip(VIP))?;
    ensure!(bytes > 28.0 * flows, "{bytes}");
    let all = total(&world, "received_bytes_total", "")?;
    ensure!(all == bytes + total(&world, "pod_vip_received_bytes_total", &of_vip(VIP6))?, "{all}");
    ensure!(
        total(&world, "endpoints", "eligible=\"true\"")? == 2.0 * 5.0 * 4.0,
        "five pods, as each of four nodes sees it"
    );
    ensure!(of_controller(&world, "vip_endpoints", "eligible=\"true\"")? == 2.0 * 5.0, "each of two VIPs once");
    ensure!(total(&world, "pending", "")? == 0.0 && total(&world, "build_info", "version=")? == 4.0);
    ensure!(total(&world, "reconciles_total", "target=\"node\",result=\"changed\"")? >= 4.0);

    // Another VIP comes and goes, an endpoint goes, every agent is replaced.
    world.annotate(SERVICE, ANNOTATION, Some(&format!("{VIP},{VIP6},{THIRD}")))?;
    world.converged().await?;
    world.route(THIRD).await?;
    world.udp(THIRD, FLOWS).await?;
    ensure!(packets(&world, THIRD)?[0] >= flows, "{:?}", packets(&world, THIRD)?);
    let before = taken_in(&world)?;
    ensure!(before >= 3.0 * flows, "{before}");
    world.annotate(SERVICE, ANNOTATION, Some(&format!("{VIP},{VIP6}")))?;
    world.converged().await?;
    world.remove_pod("echo-2").await?;
    world.converged().await?;
    let forgotten = || {
        let left = total(&world, "vips", "")?;
        ensure!(left == 2.0 * 4.0, "{left}");
        let left = of_controller(&world, "vip_endpoints", &of_vip(THIRD))?;
        ensure!(left == 0.0, "{left}");
        Ok(())
    };
    eventually("the third VIP is forgotten", forgotten).await?;
    ensure!(packets(&world, THIRD)? == [0.0; 2]);
    ensure!(total(&world, "buckets_moved_total", "")? > 0.0, "its buckets went elsewhere");
    ensure!(of_controller(&world, "service_buckets_moved_total", SERVICE)? > 0.0, "its buckets went elsewhere");
    ensure!(taken_in(&world)? == before, "{} after {before}", taken_in(&world)?);
    let left = packets(&world, VIP)?;
    ensure!(left[0] > 0.0 && left[0] < flows, "those of the pod are gone: {left:?}");
    world.kill_agents().await?;
    world.start_agents()?;
    for node in NODES {
        ready(&world, node).await?;
    }
    ensure!(packets(&world, VIP)? == left, "{:?}", packets(&world, VIP)?);
    ensure!(taken_in(&world)? == 0.0, "{}, and these agents have just begun", taken_in(&world)?);
    world.udp(VIP, FLOWS).await?;
    ensure!(packets(&world, VIP)?[0] == left[0] + flows, "{:?}", packets(&world, VIP)?);
    ensure!(taken_in(&world)? == flows, "{}", taken_in(&world)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_address_is_taken_works_on_and_listens_when_it_is_free() -> Result<()> {
    let mut world = dual_world(Mode::Vxlan, LabSpec::default(), 1500).await?;
    world.kill_agent("ing1").await?;
    let ing1 = world.lab.node("ing1")?.netns();
    let taken = ing1.run_io("take the address", || TcpListener::bind("127.0.0.1:9469"))?;
    world.start_agent("ing1")?;
    world.logged("ing1", "or give another --metrics-address, or off").await?;
    world.annotate(SERVICE, ANNOTATION, Some(THIRD))?;
    world.converged().await?;
    world.lab.route_vip(THIRD.parse()?, &["ing1"]).await?;
    world.udp(THIRD, FLOWS).await?;
    drop(taken);
    ready(&world, "ing1").await
}
