//! One `bird` as a process in one namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use crate::lab::process::tail;
use crate::netns::Netns;

/// A running `bird`. Dropping it kills it.
pub(super) struct Daemon {
    netns: Netns,
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts it with the configuration. Its files are in `directory`, under this name; its log continues that of the one before.
    pub fn start(name: &str, netns: &Netns, conf: &str, directory: &Path) -> Result<Daemon> {
        let file = |extension: &str| directory.join(format!("{name}.{extension}"));
        let (socket, log) = (file("ctl"), file("log"));
        fs::write(file("conf"), conf)?;
        // BFD's 300 ms are meant for a machine of its own; here all nodes share one, and it may be an emulated one.
        let mut command = Command::new("chrt");
        command.args(["--fifo", "1", "bird"]);
        command.arg("-f").arg("-c").arg(file("conf")).arg("-s").arg(&socket).arg("-P").arg(file("pid"));
        let stderr = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).kill_on_drop(true);
        let child = netns.spawn_async(&mut command).context("hack/install has BIRD")?;
        Ok(Daemon { netns: netns.clone(), child, socket, log })
    }

    /// SIGKILL.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// What `birdc` says to a command.
    pub async fn ask(&self, question: &str) -> Result<String> {
        let mut command = Command::new("birdc");
        command.arg("-s").arg(&self.socket).args(question.split(' '));
        output_of(&self.netns, &mut command).await
    }

    /// The last lines of its log.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

/// Standard output of a command that is run in the namespace and must succeed.
pub(super) async fn output_of(netns: &Netns, command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = netns.spawn_async(command)?.wait_with_output().await?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {:?}: {}", netns.name(), command.as_std(), complaint.trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
