//! The agent of one node, or a controller, as a process in the node's namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::converge::PATIENCE;
use crate::lab::Node;
use crate::lab::process::tail;

/// A running agent or controller. Dropping it kills it.
pub struct Agent {
    /// Name of the node, or of the controller.
    node: String,
    child: Child,
    log: PathBuf,
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

impl Agent {
    /// Starts the agent in the node's namespace, of this binary; its log goes into `directory`, after what an earlier one wrote
    /// there.
    pub fn start(program: &Path, node: &Node, flags: &[String], directory: &Path) -> Result<Agent> {
        Agent::run((program, "agent", node.name()), node, flags, directory)
    }

    /// Starts a controller in the node's namespace.
    pub fn start_controller(name: &str, node: &Node, flags: &[String], directory: &Path) -> Result<Agent> {
        Agent::run((&router_program()?, "controller", name), node, flags, directory)
    }

    fn run(what: (&Path, &str, &str), node: &Node, flags: &[String], directory: &Path) -> Result<Agent> {
        let (program, subcommand, name) = what;
        let log = directory.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        command.arg(subcommand).args(flags).env("NO_COLOR", "1").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = node.netns().spawn_async(&mut command)?;
        Ok(Agent { node: name.to_owned(), child, log })
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

/// Runs the clean-up of one node; only its own pods are touched, although all pods of the lab are visible.
pub async fn cleanup(node: &Node) -> Result<CleanUp> {
    let mut command = Command::new(router_program()?);
    command.args(["cleanup", "--node-name", node.name()]).env("NO_COLOR", "1").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = node.netns().spawn_async(&mut command)?.wait_with_output().await?;
    let log = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("cleanup on {} ended with {}:\n{log}", node.name(), output.status);
    }
    Ok(CleanUp { node: node.name().to_owned(), status: output.status, log })
}
