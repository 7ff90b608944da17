//! An agent that could not work does not start: it says what is missing or in the way, and what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::PodSpec;
use integration::netns::Netns;
use integration::world::{World, WorldSpec, router_program};
use tokio::process::Command;
use tunnel_router::model::Mode;

const VIP: &str = "192.0.2.10";
/// Far more than a refusal takes: an agent that is not refused runs for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// The agent's command line with some flags replaced or added.
fn agent(program: &Path, world: &World, other: &[(&str, &str)]) -> Command {
    let mut flags = world.agent_flags("ing1");
    for (flag, value) in other {
        match flags.iter().position(|word| word == flag) {
            Some(at) => (*value).clone_into(&mut flags[at + 1]),
            None => flags.extend([(*flag).to_owned(), (*value).to_owned()]),
        }
    }
    let mut command = Command::new(program);
    command.arg("agent").args(flags).env("NO_COLOR", "1").kill_on_drop(true);
    command
}

/// Runs an agent that must refuse to start and say all this.
async fn refuses(netns: &Netns, mut command: Command, words: &[&str]) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let ended = tokio::time::timeout(PATIENCE, netns.spawn_async(&mut command)?.wait_with_output()).await;
    let output = ended.with_context(|| format!("the agent runs, although it should say {words:?}"))??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "the agent ended with {}: {said}", output.status);
    for word in words {
        ensure!(said.contains(word), "the refusal does not say {word:?}: {said}");
    }
    Ok(())
}

/// The same with something foreign in the way that is removed afterwards.
async fn refuses_beside(world: &World, add: &str, remove: &str, words: &[&str]) -> Result<()> {
    let netns = world.lab.node("ing1")?.netns();
    World::run_in(netns, add)?;
    refuses(netns, agent(&router_program()?, world, &[]), words).await.with_context(|| add.to_owned())?;
    World::run_in(netns, remove)?;
    Ok(())
}

/// The program where everybody may run it: the build directory may be closed to others.
fn public_program(directory: &Path) -> Result<std::path::PathBuf> {
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    let (from, to) = (router_program()?, directory.join("tunnel-router"));
    fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))?;
    Ok(to)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_could_not_work_names_every_obstacle_and_starts_when_they_are_gone() -> Result<()> {
    let mut world = World::build(WorldSpec::new(Mode::Vxlan)).await?;
    let netns = world.lab.node("ing1")?.netns().clone();
    let program = router_program()?;
    let directory = tempfile::tempdir()?;

    let missing = "/nonexistent/kubeconfig";
    let words = [missing, "give a file that exists and can be read"];
    refuses(&netns, agent(&program, &world, &[("--kubeconfig", missing)]), &words).await?;
    let garbage = directory.path().join("garbage").display().to_string();
    fs::write(&garbage, "{{{")?;
    refuses(&netns, agent(&program, &world, &[("--kubeconfig", &garbage)]), &[&garbage, "correct it"]).await?;

    let mut without_nft = agent(&program, &world, &[]);
    without_nft.env("PATH", "/nonexistent");
    refuses(&netns, without_nft, &["nft program", "install nftables"]).await?;

    let mut nobody = agent(&public_program(directory.path())?, &world, &[]);
    nobody.uid(65534).gid(65534);
    refuses(&netns, nobody, &["this node lacks", "CAP_SYS_ADMIN"]).await?;

    let wrong = [("--buckets", "65"), ("--mode", "ipip")];
    let words = ["invalid configuration", "--buckets", "\"65\"", "--mode", "\"ipip\"", "use gre, mpls or vxlan"];
    refuses(&netns, agent(&program, &world, &wrong), &words).await?;

    let route = ("ip route add blackhole 198.18.0.1 table 10003", "ip route del blackhole 198.18.0.1 table 10003");
    let words = ["routing table 10003", "not ours", "--table-base"];
    refuses_beside(&world, route.0, route.1, &words).await?;
    let add = "ip rule add priority 50 fwmark 0x80/0x80 lookup 52";
    let words = ["ip rule 50", "fwmark 0x80/0x80", "not ours", "--mark-field"];
    refuses_beside(&world, add, "ip rule del priority 50", &words).await?;
    let words = ["link kst-vxlan", "not ours", "bridge", "--link-prefix"];
    refuses_beside(&world, "ip link add kst-vxlan type bridge", "ip link del kst-vxlan", &words).await?;
    let add = "ip link add other type vxlan dstport 4790 external gpe";
    refuses_beside(&world, add, "ip link del other", &["link other", "4790", "--vxlan-port"]).await?;

    World::run_in(&netns, route.0)?;
    let add = "ip rule add priority 102 lookup 52";
    let words = ["routing table 10003", "ip rule 102", "--rule-priority"];
    refuses_beside(&world, add, "ip rule del priority 102", &words).await.context("two obstacles, one message")?;
    World::run_in(&netns, route.1)?;

    ensure!(!World::run_in(&netns, "ip rule show")?.contains("proto 107"), "a refused agent made rules");
    let tables = World::run_in(&netns, "nft list tables")?;
    ensure!(!tables.contains("kube_service_tunnel"), "a refused agent made a table: {tables}");

    world.add_pods(vec![(PodSpec::new("echo", "wrk1"), "echo")]).await?;
    world.add_service("echo", "echo", &[("cmd.nu/tunnel", VIP)])?;
    world.start_agents()?;
    world.logged("ing1", "first pass complete").await?;
    world.converged().await?;
    world.route(VIP).await?;
    world.perfect(VIP, 10).await?;
    Ok(())
}
