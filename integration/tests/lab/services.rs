//! Several Services with the same port, pods in common and several VIPs each, in different modes.

use std::collections::BTreeSet;

use anyhow::Result;
use integration::world::World;
use integration::world::echo::{ANNOTATION, SERVICE, answered_by, echo_pods, names};
use serde_json::json;
use tunnel_router::model::Mode;

const VIPS: [&str; 2] = ["192.0.2.10", "192.0.2.11"];
const OTHER: &str = "other";
const FLOWS: usize = 60;
const OTHER_VIPS: [&str; 2] = ["192.0.2.20", "192.0.2.21"];

/// `echo` keeps four of the pods, `other` has two of them and one of its own.
fn add_other_service(world: &World, mode: Mode) -> Result<()> {
    let store = world.api.store();
    for (pod, app) in [("echo-1", "echo"), ("echo-3", "echo"), ("echo-5", OTHER)] {
        store.patch("pods", "default", pod, json!({ "metadata": { "labels": { "app": app, "group": OTHER } } }))?;
    }
    let (vips, mode) = (OTHER_VIPS.join(","), mode.to_string());
    world.add_service(OTHER, OTHER, &[(ANNOTATION, &vips), ("cmd.nu/tunnel-mode", &mode)])?;
    let selector = json!({ "spec": { "selector": { "app": null, "group": OTHER } } });
    store.patch("services", "default", OTHER, selector)?;
    Ok(())
}

async fn check(world: &World, vips: &[&str], pods: &BTreeSet<&str>) -> Result<()> {
    for vip in vips {
        world.tcp_by(vip, FLOWS, pods).await?;
        answered_by(&world.udp(vip, FLOWS).await?, pods)?;
    }
    Ok(())
}

async fn services_that_share_pods_do_not_mix(mode: Mode, other: Mode) -> Result<()> {
    let mut world = echo_pods(mode).await?;
    add_other_service(&world, other)?;
    world.annotate(SERVICE, ANNOTATION, Some(&VIPS.join(",")))?;
    world.start_agents()?;
    world.converged().await?;
    for vip in VIPS.iter().chain(&OTHER_VIPS) {
        world.route(vip).await?;
    }
    let pods = names(&["echo-1", "echo-2", "echo-3", "echo-4"]);
    check(&world, &VIPS, &pods).await?;
    check(&world, &OTHER_VIPS, &names(&["echo-1", "echo-3", "echo-5"])).await?;

    world.annotate(OTHER, ANNOTATION, None)?;
    world.converged().await?;
    check(&world, &VIPS, &pods).await?;
    for vip in OTHER_VIPS {
        world.unanswered(vip).await?;
    }
    world.converged().await
}

integration::modes! {
    gre_and_mpls_services_share_pods_and_do_not_mix: services_that_share_pods_do_not_mix(Mode::Gre, Mode::Mpls);
    #[ignore = "the gre and mpls one stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_and_vxlan_services_share_pods_and_do_not_mix: services_that_share_pods_do_not_mix(Mode::Mpls, Mode::Vxlan);
    #[ignore = "the gre and mpls one stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_and_vxlan_services_share_pods_and_do_not_mix: services_that_share_pods_do_not_mix(Mode::Vxlan, Mode::Gre);
}
