//! Recording: the version's own binary says what it would do, and its controller and agents write the ConfigMaps.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;
use tunnel_router::model::Mode;
use tunnel_router::model::handover::Assignment;

use super::{CONTROLLER, Files, Names, PODS, replay, world};
use crate::lab::Node;
use crate::world::echo::SERVICE;
use crate::world::map::{drains, is_balanced, is_former};
use crate::world::{NAMESPACE, World, router_program};

/// How a plan gets the BPF program.
const OBJECT: &str = "tunnel-router bpf-object > second_chance.o";

/// Records in one mode what the binary that `KST_TUNNEL_ROUTER` names leaves behind, into the directory of its version, which need
/// not be there.
///
/// # Errors
/// The binary does not do what today's lab expects of it.
pub async fn record(version: &Path, mode: Mode) -> Result<()> {
    let mut world = world(mode).await?;
    let names = Names::of(&world).await?;
    world.start_controller("controller", "wrk1", &CONTROLLER)?;
    world.start_agents()?;
    let settled = |map: &_| is_balanced(map) && drains(map) == 0;
    world.stored_map(SERVICE, |map| map.counts().len() == PODS.len() && settled(map)).await?;
    world.stop_agents().await?;
    world.cleanup().await?;
    let files = Files { version: version.to_owned(), mode };
    fs::create_dir_all(version)?;
    // It may be there from another mode, and stripped since.
    if !files.object().exists() {
        fs::write(files.object(), output(&mut Command::new(router_program()?), &["bpf-object"]).await?)?;
    }

    scripts(&world, &names, &files.scripts("serving"), |_| true).await?;
    // What it does next depends on the numbers that the first scripts have given to objects.
    replay::run(&world, &names, &files, "serving").await?;
    let (drained, _) = PODS[0];
    let uid = world.lab.pod(drained)?.uid();
    world.set_ready(drained, false)?;
    // Balance moves nothing afterwards, so whatever moves in a test has been moved by the upgrade.
    let waits = |map: &Assignment| map.moves().next().is_some();
    let decided = |map: &_| is_former(map, uid) && (is_balanced(map) || waits(map));
    let map = world.stored_map(SERVICE, decided).await?;
    ensure!(is_balanced(&map), "balance waits for agents, and none runs: record again, with other UIDs it may not");
    // A filter that `tc` made is not the version's own, so it would make it again, with empty tables.
    scripts(&world, &names, &files.scripts("draining"), |line| !line.starts_with("tc ")).await?;
    let maps = serde_json::to_string_pretty(&config_maps(&world)?)?;
    Ok(fs::write(files.config_maps(), names.to_placeholders(&maps) + "\n")?)
}

/// Everything that the program stores, without what the API server adds.
fn config_maps(world: &World) -> Result<Vec<Value>> {
    let all = world.api.store().list("configmaps")?;
    let ours = all.iter().filter(|object| object["metadata"]["namespace"] == NAMESPACE);
    let stored = |object: &Value| {
        let metadata = &object["metadata"];
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": object["data"],
            "metadata": { "name": metadata["name"], "namespace": NAMESPACE, "labels": metadata["labels"] },
        })
    };
    Ok(ours.map(stored).collect())
}

async fn scripts(world: &World, names: &Names, into: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    fs::create_dir_all(into)?;
    for node in world.lab.nodes() {
        let plan = dry_run(world, node).await?;
        for (title, script) in sections(&plan, &wanted) {
            fs::write(into.join(format!("{title}.sh")), names.to_placeholders(&script))?;
        }
    }
    Ok(())
}

async fn dry_run(world: &World, node: &Node) -> Result<String> {
    let mut command = Command::new(router_program()?);
    command.arg("agent").args(world.agent_flags(node.name())).arg("--dry-run");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = node.netns().spawn_async(&mut command)?.wait_with_output().await?;
    ensure!(output.status.success(), "the dry run on {} ended with {}", node.name(), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// The plans of a dry run that have steps, by the name of the script.
fn sections(plan: &str, wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in plan.lines() {
        let title = line.strip_prefix("# node ").map(|rest| format!("node-{rest}"));
        let title = title.or_else(|| line.strip_prefix("# pod default/").map(|rest| format!("pod-{rest}")));
        match title {
            Some(title) => found.push((title.split([' ', ':']).next().unwrap_or_default().to_owned(), String::new())),
            None if line.starts_with("# ") => println!("{line}"),
            // It lies beside the scripts.
            None if line == OBJECT || !wanted(line) => {}
            None => found.iter_mut().last().into_iter().for_each(|(_, script)| *script += &format!("{line}\n")),
        }
    }
    found.retain(|(_, script)| !script.is_empty());
    found
}

async fn output(command: &mut Command, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = command.args(arguments).stdin(Stdio::null()).output().await.context("start the binary")?;
    ensure!(output.status.success(), "{arguments:?} ended with {}", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_is_one_script_for_each_namespace_with_steps() {
        let plan = "# NotSetUp default/echo: why\n# node n1: 2 steps\nip a\nnft -f - <<'EOF'\nadd x\nEOF\n\
                    # pod default/p1 (10.0.0.1, fd00::1): nothing to do\n# pod default/p2 (10.0.0.2): 1 steps\n\
                    tunnel-router bpf-object > second_chance.o\ntc q\nip b\n";
        let script = |title: &str, text: &str| (title.to_owned(), text.to_owned());
        let expected = [script("node-n1", "ip a\nnft -f - <<'EOF'\nadd x\nEOF\n"), script("pod-p2", "ip b\n")];
        assert_eq!(sections(plan, |line| line != "tc q"), expected);
    }
}
