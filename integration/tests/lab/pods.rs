//! Pods whose sandbox is made again: the namespace is another one, and the UID the same.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::lab::PodSpec;
use integration::world::{World, WorldSpec};
use tunnel_router::model::Mode;

const VIPS: [&str; 2] = ["192.0.2.10", "192.0.2.11"];
/// From the moment when the API names the address.
const SOON: Duration = Duration::from_secs(2);
/// So long that no timer of an agent, whose waits double, ends soon after it.
const LONG_ENOUGH: Duration = Duration::from_millis(3300);

/// Two pods on one node, each behind a VIP of its own; agents are not started. No timer brings anything back.
async fn world() -> Result<World> {
    let mut spec = WorldSpec::new(Mode::Vxlan);
    spec.flags = vec!["--resync".to_owned(), "1h".to_owned()];
    let mut world = World::build(spec).await?;
    world.add_pods(vec![(PodSpec::new("one", "wrk1"), "one"), (PodSpec::new("two", "wrk1"), "two")]).await?;
    for (name, vip) in ["one", "two"].into_iter().zip(VIPS) {
        world.add_service(name, name, &[("cmd.nu/tunnel", vip)])?;
        world.route(vip).await?;
    }
    Ok(world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_is_made_again_has_its_vip_soon_at_any_address() -> Result<()> {
    let mut world = world().await?;
    world.start_agents()?;
    world.converged().await?;
    world.tcp(VIPS[0], 20).await?;
    let same = world.lab.pod("one")?.ip();
    for ip in [Ipv4Addr::new(10, 244, 3, 77), same, same] {
        let lost = world.lose_sandbox("one").await?;
        tokio::time::sleep(LONG_ENOUGH).await;
        world.make_sandbox(lost, ip).await?;
        let took = world.answers_within(VIPS[0], SOON).await?;
        println!("at {ip} after {took:?}");
        world.converged().await?;
    }
    world.tcp(VIPS[1], 20).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_swap_addresses_at_a_reboot_are_served_once_the_api_knows() -> Result<()> {
    let mut world = world().await?;
    let (one, two) = (world.lose_sandbox("one").await?, world.lose_sandbox("two").await?);
    let ips = [world_ip(&two)?, world_ip(&one)?];
    let specs = [one, two].into_iter().zip(ips).map(|(spec, ip)| PodSpec { ip: Some(ip), ..spec });
    world.lab.add_pods(specs.collect()).await?;

    world.start_agents()?;
    world.event("one", "EndpointFailed").await?;
    for vip in VIPS {
        world.unanswered(vip).await?;
    }
    for (name, ip) in ["one", "two"].into_iter().zip(ips) {
        world.tell_running(name, ip.into(), world.lab.pod(name)?.container_id())?;
    }
    for vip in VIPS {
        println!("{vip} after {:?}", world.answers_within(vip, SOON).await?);
    }
    world.converged().await
}

fn world_ip(spec: &PodSpec) -> Result<Ipv4Addr> {
    ensure!(spec.ip.is_some(), "pod {} had an address", spec.name);
    Ok(spec.ip.unwrap_or(Ipv4Addr::UNSPECIFIED))
}

/// The kernel has no GRE, or the pod has another device of that name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mode_that_a_pod_lacks_costs_only_services_of_that_mode() -> Result<()> {
    let mut world = world().await?;
    World::run_in(world.lab.pod("one")?.netns(), "ip link add kst-xgre type bridge")?;
    world.add_service("by-gre", "one", &[("cmd.nu/tunnel", "192.0.2.12"), ("cmd.nu/tunnel-mode", "gre")])?;
    world.start_agents()?;
    world.answers_within(VIPS[0], Duration::from_secs(60)).await?;
    world.tcp(VIPS[0], 20).await?;
    let note = world.event("by-gre", "NotSetUp").await?;
    ensure!(note.contains("one on node wrk1"), "{note}");
    world.stored_map("by-gre", |map| map.counts().is_empty()).await?;
    let told = world.events("one");
    ensure!(told.iter().all(|(reason, _)| reason == "VIPAssigned"), "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_turns_out_to_be_a_virtual_machine_is_refused_by_name() -> Result<()> {
    let mut world = world().await?;
    world.start_agents()?;
    world.converged().await?;
    let netns = world.lab.pod("one")?.netns().clone();
    ensure!(World::run_in(&netns, "ip -o link")?.contains("kst-vxlan"), "the pod has no tunnel");

    World::run_in(&netns, "ip link add tap0_kata type bridge")?;
    let note = world.event("one", "EndpointRefused").await?;
    ensure!(note.contains("pod default/one on node wrk1 is not served: device tap0_kata"), "{note}");
    ensure!(!World::run_in(&netns, "ip -o link")?.contains("kst-vxlan"), "the tunnel is still there");
    world.tcp(VIPS[1], 10).await?;
    Ok(())
}
