//! A Service's life: whatever changes, flows follow, and in the end nothing is left.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use integration::lab::{PodSpec, Snapshot};
use integration::world::World;
use integration::world::echo::{ANNOTATION, PODS, SERVICE, VIP, echo_pods, load_modules, names};
use tunnel_router::model::Mode;

const SECOND_VIP: &str = "192.0.2.11";
const REMOVED: &str = "echo-2";
/// Starts on a node that had only taken traffic in until then.
const LATE: (&str, &str) = ("late", "ing2");
/// One pod of each attachment.
const WATCHED: [&str; 2] = ["echo-1", "echo-3"];

async fn pod_snapshots(world: &World) -> Result<BTreeMap<&'static str, Snapshot>> {
    let mut all = BTreeMap::new();
    for pod in WATCHED {
        all.insert(pod, Snapshot::of(world.lab.pod(pod)?.netns()).await?);
    }
    Ok(all)
}

/// What a line of a snapshot is about if it is about this pod.
fn traces(world: &World, pod: &str) -> Result<[String; 3]> {
    let pod = world.lab.pod(pod)?;
    Ok([format!("pod-{}", pod.name()), pod.host_device().to_owned(), pod.ip().to_string()])
}

fn mentions(line: &str, words: &BTreeSet<String>) -> bool {
    line.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '.')).any(|word| words.contains(word))
}

fn same(before: &Snapshot, after: &Snapshot, what: &str) -> Result<()> {
    let difference = before.diff(after);
    ensure!(difference.is_empty(), "{what} is not as it was:\n{difference}");
    ensure!(before.lines().count() > 100, "{what}: the snapshot is all but empty");
    Ok(())
}

async fn flows_follow_every_change_and_nothing_is_left(mode: Mode) -> Result<()> {
    load_modules();
    let mut world = echo_pods(mode).await?;
    for vip in [VIP, SECOND_VIP] {
        world.route(vip).await?;
    }
    let (first, pods) = (Snapshot::of_lab(&world.lab).await?, pod_snapshots(&world).await?);
    world.start_agents()?;

    println!("the annotation is added");
    world.annotate(SERVICE, ANNOTATION, Some(VIP))?;
    world.converged().await?;
    world.tcp_by(VIP, 100, &names(&PODS)).await?;

    println!("the annotation names another VIP");
    world.annotate(SERVICE, ANNOTATION, Some(SECOND_VIP))?;
    world.converged().await?;
    world.tcp_by(SECOND_VIP, 100, &names(&PODS)).await?;
    world.unanswered(VIP).await?;

    println!("a pod goes");
    let mut passing = BTreeSet::from(traces(&world, REMOVED)?);
    world.remove_pod(REMOVED).await?;
    world.converged().await?;
    let mut serving = names(&PODS);
    serving.remove(REMOVED);
    world.tcp_by(SECOND_VIP, 100, &serving).await?;

    println!("a pod comes");
    world.add_pods(vec![(PodSpec::new(LATE.0, LATE.1), "echo")]).await?;
    passing.extend(traces(&world, LATE.0)?);
    serving.insert(LATE.0);
    world.converged().await?;
    world.tcp_by(SECOND_VIP, 100, &serving).await?;

    println!("the Service goes and comes back");
    world.api.store().delete("services", "default", SERVICE)?;
    world.converged().await?;
    world.unanswered(SECOND_VIP).await?;
    world.add_service(SERVICE, "echo", &[(ANNOTATION, SECOND_VIP)])?;
    world.converged().await?;
    world.tcp_by(SECOND_VIP, 100, &serving).await?;

    println!("the annotation is removed");
    world.annotate(SERVICE, ANNOTATION, None)?;
    world.converged().await?;
    for (pod, now) in pod_snapshots(&world).await? {
        same(&pods[pod], &now, pod)?;
    }

    println!("the agents are removed in the middle of their work");
    world.annotate(SERVICE, ANNOTATION, Some(VIP))?;
    world.converged().await?;
    world.tcp_by(VIP, 100, &serving).await?;
    world.stop_agents().await?;
    world.cleanup().await?;
    let without = |snapshot: Snapshot| snapshot.without(|line| mentions(line, &passing));
    same(&without(first), &without(Snapshot::of_lab(&world.lab).await?), "the lab")
}

integration::modes! {
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_follows_every_change_and_leaves_nothing: flows_follow_every_change_and_nothing_is_left(Mode::Gre);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_follows_every_change_and_leaves_nothing: flows_follow_every_change_and_nothing_is_left(Mode::Mpls);
    vxlan_follows_every_change_and_leaves_nothing: flows_follow_every_change_and_nothing_is_left(Mode::Vxlan);
}
