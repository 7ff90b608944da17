//! Commands that the demo and README print do what is said of them, as printed.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::demo::{self, hints};
use integration::world::{World, router_program};
use tempfile::TempDir;
use tunnel_router::model::Mode;

const README: &str = include_str!("../../../README.md");

/// What a command prints, by a text of the command. A new command needs a line here.
const SHOWN: [(&str, &str); 17] = [
    ("ip netns list", "-pod-echo-1"),
    (" ip rule", "fwmark"),
    ("ip route show table 10000", "192.0.2.10"),
    ("nft list table", "192.0.2.10"),
    ("ip -d address", "192.0.2.10"),
    ("/dev/tcp/192.0.2.10", "HELLO"),
    ("-client bash", ""),
    ("kubectl get services", "echo"),
    ("describe service echo", "cmd.nu/tunnel: 192.0.2.10"),
    ("tunnel-router status", "default/echo"),
    ("tunnel-router trace", "kernel         agrees"),
    ("ip rule show", "fwmark"),
    ("ip nexthop show", "proto 107"),
    ("/metrics", "192.0.2.10"),
    ("/readyz", ""),
    ("get configmap", "map-"),
    ("get lease", "tunnel-router-controller"),
];

/// The commands of README's section about looking at what runs on a node.
fn of_readme() -> impl Iterator<Item = &'static str> {
    let section = README.split("## Seeing what it does").nth(1).and_then(|rest| rest.split("\n## ").next());
    let blocks = section.unwrap_or_default().split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines)
}

struct Shell {
    path: String,
    home: TempDir,
}

impl Shell {
    fn new() -> Result<Shell> {
        let directory = router_program()?.parent().context("a directory")?.to_owned();
        let path = format!("{}:{}", directory.display(), std::env::var("PATH")?);
        Ok(Shell { path, home: TempDir::new()? })
    }

    /// Runs the words with `line` as the last one; it must succeed and print what [`SHOWN`] says.
    fn run(&self, words: &[&str], line: &str, kubeconfig: &Path) -> Result<()> {
        let shown = SHOWN.iter().find(|(part, _)| line.contains(part));
        let (_, shown) = shown.with_context(|| format!("what does {line:?} show? Say it in SHOWN"))?;
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(line).stdin(Stdio::null()).env("HOME", self.home.path());
        command.env("PATH", &self.path).env("KUBECONFIG", kubeconfig);
        let output = tokio::task::block_in_place(|| command.output()).context(line.to_owned())?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{line}\nfails: {printed}{complaint}");
        ensure!(printed.contains(shown), "{line}\ndoes not show {shown:?}: {printed}{complaint}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_demo_and_readme_work_as_printed() -> Result<()> {
    let world: World = demo::build(Mode::Vxlan).await?;
    let shell = Shell::new()?;
    let hints = hints::hints(&world);
    ensure!(hints.len() > 5, "{hints:?}");
    // The user's own kubeconfig must not be needed.
    hints.iter().try_for_each(|hint| shell.run(&["bash", "-c"], &hint.command, Path::new("/nonexistent")))?;

    let node = format!("{}-ing1", world.lab.prefix());
    let on_node = ["ip", "netns", "exec", &node, "bash", "-o", "pipefail", "-c"];
    ensure!(of_readme().count() > 5, "{:?}", of_readme().collect::<Vec<_>>());
    of_readme().try_for_each(|line| shell.run(&on_node, line, &world.kubeconfig()))
}
