//! Where a containerd and all that it starts live: process ids and mounts of their own, on a node of the lab.
//!
//! Process 1 waits for the end of a pipe from us. When we end, however, so does it, and the kernel kills the others: no shim,
//! no container and no mount survives. Their control groups lie below one of ours, and are removed here.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::cgroup;
use crate::netns::Netns;

/// How long a process may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);
/// Names of other labs stay in sight of their owners only: a private copy would keep their namespaces alive.
const UNSHARE: [&str; 7] = ["--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Process 1. Shims and runc keep sockets and state in a directory that is the same for every containerd of a machine.
const FIRST: &str = "mkdir -p /run/containerd && mount -t tmpfs none /run/containerd && exec cat";

/// The namespaces, and process 1 in them.
#[derive(Debug)]
pub(super) struct Jail {
    netns: Netns,
    /// `unshare`; its child is process 1.
    outside: Child,
    first: u32,
    cgroup: String,
}

impl Jail {
    /// Starts process 1. `cgroup` is the name below which containers are accounted, in every hierarchy.
    pub fn start(netns: &Netns, cgroup: &str) -> Result<Jail> {
        let mut command = Command::new("unshare");
        command.args(UNSHARE).args(["sh", "-c", FIRST]).stdin(Stdio::piped()).stdout(Stdio::null());
        let outside = netns.spawn(&mut command)?;
        let mut jail = Jail { netns: netns.clone(), outside, first: 0, cgroup: cgroup.to_owned() };
        jail.first = child_of(jail.outside.id())?;
        Ok(jail)
    }

    /// Starts a program inside, with its output in a file.
    pub fn spawn(&self, words: &[&str], log: &Path) -> Result<Inmate> {
        let file = fs::File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--pid", "--"]).args(words);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Inmate { outside: self.netns.spawn(&mut command)? })
    }

    fn end(&mut self) -> Result<()> {
        drop(self.outside.stdin.take());
        self.outside.wait().context("wait for the end of process 1")?;
        cgroup::remove_everywhere(&self.cgroup)
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(error = format!("{error:#}"), "could not clean up after containerd");
        }
    }
}

/// A program inside.
#[derive(Debug)]
pub(super) struct Inmate {
    /// `nsenter`, which waits for the program.
    outside: Child,
}

impl Inmate {
    /// SIGTERM, and waits for the end; what the program has started runs on.
    pub fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(child_of(self.outside.id())?)?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        self.outside.wait()?;
        Ok(())
    }
}

impl Drop for Inmate {
    fn drop(&mut self) {
        // The program itself ends with process 1.
        let _ = self.outside.kill();
        let _ = self.outside.wait();
    }
}

/// The process that `unshare` or `nsenter` has forked.
fn child_of(pid: u32) -> Result<u32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).context("children of a process")?;
        if let Some(child) = text.split_whitespace().next() {
            return Ok(child.parse()?);
        }
        ensure!(Instant::now() < deadline, "process {pid} forks nothing");
        sleep(PAUSE);
    }
}
