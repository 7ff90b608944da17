//! The register of cgroup directories that labs made.
//!
//! Labs share parents such as `kubepods.slice`: the last one to leave removes them, whoever made them, and directories
//! that were there before are nobody's business. So every directory that a lab makes is written down in one file, and
//! whoever cleans up tries them all, deepest first; the kernel refuses those that are in use.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::claim::{STATE_DIR, lock_directory};

fn file() -> PathBuf {
    Path::new(STATE_DIR).join("cgroups")
}

/// Makes the directory with its parents and moves the process there. Both happen under the lock: an empty directory
/// could be swept away by a lab that cleans up at the same time.
pub(super) fn place(pid: u32, mount: &Path, group: &Path) -> Result<()> {
    let _guard = lock_directory()?;
    let mut register = fs::OpenOptions::new().create(true).append(true).open(file()).context("open cgroup register")?;
    let mut directory = mount.to_owned();
    for component in group {
        directory.push(component);
        match fs::create_dir(&directory) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made.with_context(|| format!("create cgroup {}", directory.display()))?;
                writeln!(register, "{}", directory.display()).context("write cgroup register")?;
            }
        }
    }
    let procs = directory.join("cgroup.procs");
    fs::write(&procs, pid.to_string()).with_context(|| format!("write {}", procs.display()))
}

/// Removes every registered directory that nobody uses.
pub(super) fn sweep() -> Result<()> {
    let _guard = lock_directory()?;
    let text = match fs::read_to_string(file()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.context("read cgroup register")?,
    };
    let mut directories: Vec<&str> = text.lines().collect();
    directories.sort_by_key(|d| std::cmp::Reverse(Path::new(d).components().count()));
    directories.dedup();
    let left: Vec<&str> = directories.into_iter().filter(|d| !removed(Path::new(d))).collect();
    if left.is_empty() {
        return fs::remove_file(file()).context("remove cgroup register");
    }
    fs::write(file(), left.join("\n") + "\n").context("write cgroup register")
}

fn removed(directory: &Path) -> bool {
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

/// The registered directories that still exist.
pub fn remaining() -> Vec<PathBuf> {
    let text = fs::read_to_string(file()).unwrap_or_default();
    text.lines().map(PathBuf::from).filter(|directory| directory.exists()).collect()
}
