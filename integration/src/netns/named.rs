//! `/run/netns`: names for namespaces, bound exactly as iproute2 binds them, so that `ip netns exec NAME` works.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Where the names live.
pub const NETNS_DIR: &str = "/run/netns";

pub(super) fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// All names, in no particular order.
pub fn list() -> io::Result<Vec<String>> {
    match fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

pub(super) fn create(name: &str) -> io::Result<()> {
    share_directory()?;
    let target = path(name);
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o000).open(&target)?;
    let bound = std::thread::scope(|scope| {
        scope.spawn(|| bind_new_namespace(&target)).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    if bound.is_err() {
        // The name alone would look like a namespace; the first error is the one worth reporting.
        let _ = fs::remove_file(&target);
    }
    bound
}

/// Runs on a thread of its own, which ends up inside the new namespace.
fn bind_new_namespace(target: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    mount(Some("/proc/thread-self/ns/net"), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Makes the directory a shared mount of its own, so that a name that is deleted in one mount namespace goes away in the
/// others. The lock is what iproute2 takes too: without it two first callers stack two mounts.
fn share_directory() -> io::Result<()> {
    fs::create_dir_all(NETNS_DIR)?;
    let directory = File::open(NETNS_DIR)?;
    directory.lock()?;
    let share = || mount(Some(""), NETNS_DIR, Some("none"), MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // EINVAL: not a mount point yet.
        Err(Errno::EINVAL) => {
            mount(Some(NETNS_DIR), NETNS_DIR, Some("none"), MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
            share()?;
        }
        other => other?,
    }
    Ok(())
}

pub(super) fn delete(name: &str) -> io::Result<()> {
    let target = path(name);
    match umount2(&target, MntFlags::MNT_DETACH) {
        // EINVAL: a file that nothing is mounted on, left by an interrupted `create`.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match fs::remove_file(&target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
