//! Sysctls below `/proc/sys/net`.
//!
//! The files show the network namespace of the thread that opens them, whichever proc mount they belong to
//! (`net_ctl_header_lookup` in net/sysctl_net.c): no path names a namespace, and none is needed.
//!
//! A container runtime makes `/proc/sys` of a container read-only unless the container is privileged. The host's procfs, mounted
//! elsewhere, is writable: [`use_proc_root`] says where. It is one value per process, as `/proc` is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::plan::Sysctl;

use super::error::KernelError;

static PROC_ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Makes this process read and write sysctls below another mount of procfs. Only the first call counts.
pub fn use_proc_root(root: &Path) {
    let _ = PROC_ROOT.set(root.to_owned());
}

/// The file of a sysctl of any kind, such as `net/ipv4/ip_forward`.
pub(super) fn file(name: &str) -> PathBuf {
    below(PROC_ROOT.get().map_or(Path::new("/proc"), PathBuf::as_path), name)
}

fn below(root: &Path, name: &str) -> PathBuf {
    root.join("sys").join(name)
}

/// The present value; `None` if there is no such file (the device is gone, or the module is not loaded).
///
/// # Errors
/// [`KernelError::Sysctl`] for anything else, also for a value that is not a number.
pub(super) fn read(sysctl: &Sysctl) -> Result<Option<u32>, KernelError> {
    let path = file_of(sysctl);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| KernelError::Sysctl {
            path,
            source: io::Error::new(io::ErrorKind::InvalidData, format!("{:?} is no number", text.trim())),
        }),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(KernelError::Sysctl { path, source }),
    }
}

/// Writes a value.
///
/// # Errors
/// [`KernelError::Sysctl`]
pub(super) fn write(sysctl: &Sysctl, value: u32) -> Result<(), KernelError> {
    let path = file_of(sysctl);
    // Not fs::write: it would try to create the file, and say EACCES where there is none.
    let mut options = fs::OpenOptions::new();
    let written = options
        .write(true)
        .open(&path)
        .and_then(|mut opened| io::Write::write_all(&mut opened, format!("{value}\n").as_bytes()));
    written.map_err(|source| KernelError::Sysctl { path, source })
}

fn file_of(sysctl: &Sysctl) -> String {
    file(&format!("net/{}", sysctl.path())).display().to_string()
}

/// A device that disappears while its files are opened gives any of these.
fn is_gone(error: &io::Error) -> bool {
    use nix::errno::Errno::{ENODEV, ENOENT, ENXIO};
    error.raw_os_error().is_some_and(|raw| [ENOENT, ENODEV, ENXIO].iter().any(|e| *e as i32 == raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_lie_below_the_procfs_that_is_named() {
        assert_eq!(
            below(Path::new("/host/proc"), "net/ipv4/ip_forward"),
            Path::new("/host/proc/sys/net/ipv4/ip_forward")
        );
        assert_eq!(file("net/ipv4/ip_forward"), Path::new("/proc/sys/net/ipv4/ip_forward"));
    }
}
