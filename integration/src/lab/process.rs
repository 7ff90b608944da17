//! Processes of a lab: who lives in its namespaces, ending them, and what they have logged.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::NetnsId;

/// How long a killed process may take to go: generous, for emulated processors.
const PATIENCE: Duration = Duration::from_secs(30);

/// The last lines of a log; none if it cannot be read.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| format!("{line}\n")).collect()
}

/// Kills every process that lives in one of the namespaces and waits until they have left.
pub(super) fn kill_inhabitants(namespaces: &BTreeSet<NetnsId>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let inhabitants = inhabitants(namespaces);
        if inhabitants.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {inhabitants:?} survive SIGKILL");
        }
        for pid in inhabitants {
            match kill(pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => bail!("kill {pid}: {e}"),
            }
        }
        // They are not our children, so there is nothing to wait on but /proc.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A zombie has left its namespaces already: it is not found.
fn inhabitants(namespaces: &BTreeSet<NetnsId>) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own && lives_in(*pid, namespaces)).map(Pid::from_raw).collect()
}

fn lives_in(pid: i32, namespaces: &BTreeSet<NetnsId>) -> bool {
    let meta = fs::metadata(format!("/proc/{pid}/ns/net"));
    meta.is_ok_and(|m| namespaces.contains(&NetnsId { dev: m.dev(), inode: m.ino() }))
}
