//! Agents that are killed while they write to the kernel, again and again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use integration::lab::Snapshot;
use integration::world::World;
use integration::world::echo::{ANNOTATION, PODS, SERVICE, echo_pods, load_modules, names};
use tunnel_router::model::Mode;

const SETS: [[&str; 2]; 2] = [["192.0.2.10", "192.0.2.11"], ["192.0.2.12", "192.0.2.13"]];
/// How often agents are killed: on an emulated CPU each takes 15 s.
const fn kills(mode: Mode) -> u64 {
    if matches!(mode, Mode::Vxlan) { 12 } else { 6 }
}
/// The kills fall between the change and this long after it, in milliseconds.
const LATEST: u64 = 300;

/// Random delays, one from each of equal parts of the time, so that early, middle and late kills are all among them.
struct Delays {
    state: u64,
    drawn: u64,
    parts: u64,
}

impl Delays {
    /// `KST_SEED` repeats a run.
    fn new(parts: u64) -> Result<Self> {
        let seed = match std::env::var("KST_SEED") {
            Ok(text) => text.parse().context("KST_SEED")?,
            Err(_) => u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos()),
        };
        println!("KST_SEED={seed}");
        // A generator that shifts never leaves zero.
        Ok(Self { state: seed | 1 << 40, drawn: 0, parts })
    }

    fn next(&mut self) -> Duration {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let slot = self.drawn * 5 % self.parts;
        self.drawn += 1;
        let width = LATEST / self.parts;
        Duration::from_millis(slot * width + self.state % width)
    }
}

/// Asks for other VIPs and kills every agent a moment later. Returns how many namespaces were not done then.
async fn kill_after_change(world: &mut World, vips: [&str; 2], delay: Duration) -> Result<usize> {
    world.annotate(SERVICE, ANNOTATION, Some(&vips.join(",")))?;
    // The moment of the kill is the fault that is injected.
    tokio::time::sleep(delay).await;
    world.kill_agents().await?;
    let left = tokio::task::block_in_place(|| world.differences())?.len();
    println!("killed {delay:?} after the change: {left} namespaces unfinished");
    Ok(left)
}

async fn killed_agents_are_made_up_for(mode: Mode) -> Result<()> {
    load_modules();
    let mut delays = Delays::new(kills(mode))?;
    let mut world = echo_pods(mode).await?;
    for vip in SETS.as_flattened() {
        world.route(vip).await?;
    }
    let first = Snapshot::of_lab(&world.lab).await?;
    world.start_agents()?;

    let mut unfinished = 0;
    let turns = SETS.iter().cycle();
    for (kill, vips) in (0..kills(mode)).zip(turns) {
        // Every other kill meets agents that found an earlier one's ruins, or have not even started.
        if kill % 2 == 0 {
            world.converged().await?;
        }
        unfinished += usize::from(kill_after_change(&mut world, *vips, delays.next()).await? > 0);
        world.start_agents()?;
    }
    ensure!(unfinished > 0, "no kill came before the work was done: nothing was tested");
    world.converged().await?;
    let [gone, there] = SETS;
    for vip in there {
        world.tcp_by(vip, 100, &names(&PODS)).await?;
    }
    world.unanswered(gone[0]).await?;

    kill_after_change(&mut world, gone, delays.next()).await?;
    for cleaned in world.cleanup().await? {
        println!("{}: {}", cleaned.node, cleaned.log.trim_end());
    }
    let difference = first.diff(&Snapshot::of_lab(&world.lab).await?);
    ensure!(difference.is_empty(), "the clean-up after a crash left:\n{difference}");
    Ok(())
}

integration::modes! {
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    gre_survives_kills_at_any_moment_and_is_cleaned_up_after_one: killed_agents_are_made_up_for(Mode::Gre);
    #[ignore = "vxlan stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
    mpls_survives_kills_at_any_moment_and_is_cleaned_up_after_one: killed_agents_are_made_up_for(Mode::Mpls);
    vxlan_survives_kills_at_any_moment_and_is_cleaned_up_after_one: killed_agents_are_made_up_for(Mode::Vxlan);
}
