//! The agent of one node, or a controller, as a process in the node's namespace.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::converge::PATIENCE;
use crate::lab::process::tail;
use crate::lab::{Lab, Node};
use crate::netns::{Netns, NetnsId};

/// What an agent's image holds, where it differs from this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Directory of its `nft`.
    pub nft: Option<PathBuf>,
    /// There is no `/etc/protocols` and no `/etc/services`.
    pub without_names: bool,
}

/// Hides the files by which names become numbers, in a mount namespace of its own.
const WITHOUT_NAMES: &str = r#"
for file in /etc/protocols /etc/services; do
    [ ! -e $file ] || mount --bind /dev/null $file || exit
done
exec "$@"
"#;

impl Image {
    /// With the nft of a Debian suite (`trixie`, `sid`), unpacked and not installed.
    pub fn of_suite(suite: &str) -> Result<Image> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/lib/nft-versions");
        let output = std::process::Command::new(script).arg(suite).output().context(script)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "no nft of {suite}: run {script} {suite}\n{said}");
        let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Ok(Image { nft: Some(directory), ..Image::default() })
    }

    /// A program as it runs in this image.
    fn command(&self, program: &Path) -> Command {
        let mut command = match self.without_names {
            true => Command::new("unshare"),
            false => Command::new(program),
        };
        if self.without_names {
            command.args(["--mount", "sh", "-c", WITHOUT_NAMES, "sh"]).arg(program);
        }
        if let Some(nft) = &self.nft {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", nft.display()));
        }
        command
    }
}

/// A running agent or controller. Dropping it kills it.
pub struct Agent {
    /// Name of the node, or of the controller.
    node: String,
    child: Child,
    log: PathBuf,
    /// Length of the log when the process was started: one before it may have written there.
    begins: usize,
}

/// What `tunnel-router cleanup` said.
#[derive(Debug)]
pub struct CleanUp {
    /// Name of the node.
    pub node: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its log.
    pub log: String,
}

/// Finds the product's binary: `KST_TUNNEL_ROUTER`, or next to the running program (tests run from `deps/`).
pub fn router_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KST_TUNNEL_ROUTER") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let candidates = own.ancestors().skip(1).take(2).map(|dir| dir.join("tunnel-router"));
    candidates.into_iter().find(|p| p.is_file()).context("tunnel-router is not built: run cargo build")
}

/// Puts the clock that a program sees an hour ahead (libfaketime); what counts from the boot on goes on as it is.
pub(super) fn ahead(command: &mut Command) -> Result<()> {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    ensure!(Path::new(&library).is_file(), "{library} is missing: run hack/install");
    command.env("LD_PRELOAD", library).env("FAKETIME", "+1h").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Ok(())
}

impl Agent {
    /// Starts the agent in the node's namespace, of this binary; its log goes into `directory`, after what an earlier one wrote
    /// there.
    pub fn start((program, image): (&Path, &Image), node: &Node, flags: &[String], directory: &Path) -> Result<Agent> {
        Agent::run((image.command(program), "agent", node.name()), node, flags, directory)
    }

    /// Starts a controller in the node's namespace.
    pub fn start_controller(
        (program, name): (Command, &str),
        node: &Node,
        flags: &[String],
        directory: &Path,
    ) -> Result<Agent> {
        Agent::run((program, "controller", name), node, flags, directory)
    }

    fn run(what: (Command, &str, &str), node: &Node, flags: &[String], directory: &Path) -> Result<Agent> {
        let (mut command, subcommand, name) = what;
        let log = directory.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let begins = usize::try_from(file.metadata()?.len())?;
        command.arg(subcommand).args(flags).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = node.netns().spawn_async(&mut command)?;
        Ok(Agent { node: name.to_owned(), child, log, begins })
    }

    /// Name of its node, or of the controller.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Everything it has logged, including its predecessors on this node.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line with this text, of this process and not of one before it.
    pub async fn line(&self, text: &str) -> Result<String> {
        self.line_after(self.begins, text).await
    }

    /// Waits for a line with this text, behind the first `offset` bytes of the log.
    pub async fn line_after(&self, offset: usize, text: &str) -> Result<String> {
        let found = async {
            loop {
                let log = self.log();
                // A line without its end is still being written.
                let complete = log.get(offset..).unwrap_or_default().rsplit_once('\n').map_or("", |(lines, _)| lines);
                if let Some(line) = complete.lines().find(|line| line.contains(text)) {
                    return line.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.with_context(|| format!("agent of {} never said {text:?}:\n{}", self.node, self.tail(20)))
    }

    /// The last lines of its log.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().context("the agent has ended")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// SIGTERM; it must end with success.
    pub async fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.child.wait().await?;
        ensure!(status.success(), "agent of {} ended with {status}:\n{}", self.node, self.tail(20));
        Ok(())
    }

    /// SIGKILL.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}

/// Keeps the pins of one lab and leaves the others' behind, in a mount namespace of its own.
const ONLY_THIS_LAB: &str = r#"
for pin in /run/netns/*; do
    case ${pin##*/} in "$1"-*) ;; *) umount "$pin" 2>/dev/null ;; esac
done
shift
exec "$@"
"#;

/// Runs the clean-up of one node. It sees the namespaces and processes of its own lab, as on a machine of its own: labs stand side by
/// side here, and their nodes have the same names.
pub async fn cleanup(lab: &Lab, node: &Node) -> Result<CleanUp> {
    let proc = processes_of(lab)?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", ONLY_THIS_LAB, "sh", lab.prefix()]);
    command.arg(router_program()?).args(["cleanup", "--node-name", node.name(), "--proc-root"]).arg(proc.path());
    command.env("NO_COLOR", "1").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = node.netns().spawn_async(&mut command)?.wait_with_output().await?;
    let log = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("cleanup on {} ended with {}:\n{log}", node.name(), output.status);
    }
    Ok(CleanUp { node: node.name().to_owned(), status: output.status, log })
}

/// A directory like `/proc` in which only the processes are that live in this lab's namespaces.
fn processes_of(lab: &Lab) -> Result<TempDir> {
    let ids: BTreeSet<NetnsId> = lab.stacks().map(|stack| stack.netns().id()).collect();
    let directory = TempDir::new()?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since.
        let Ok(netns) = Netns::of_process(pid) else { continue };
        if ids.contains(&netns.id()) {
            symlink(entry.path(), directory.path().join(&name))?;
        }
    }
    symlink("/proc/sys", directory.path().join("sys"))?;
    Ok(directory)
}
