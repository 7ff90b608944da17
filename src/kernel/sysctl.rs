//! Sysctls below `/proc/sys/net`.
//!
//! The files show the network namespace of the thread that opens them, whichever proc mount they belong to
//! (`net_ctl_header_lookup` in net/sysctl_net.c): no path names a namespace, and none is needed.

use std::fs;
use std::io;

use crate::plan::Sysctl;

use super::error::KernelError;

/// The present value; `None` if there is no such file (the device is gone, or the module is not loaded).
///
/// # Errors
/// [`KernelError::Sysctl`] for anything else, also for a value that is not a number.
pub(super) fn read(sysctl: &Sysctl) -> Result<Option<u32>, KernelError> {
    let path = file(sysctl);
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
    let path = file(sysctl);
    // Not fs::write: it would try to create the file, and say EACCES where there is none.
    let mut options = fs::OpenOptions::new();
    let written = options
        .write(true)
        .open(&path)
        .and_then(|mut opened| io::Write::write_all(&mut opened, format!("{value}\n").as_bytes()));
    written.map_err(|source| KernelError::Sysctl { path, source })
}

fn file(sysctl: &Sysctl) -> String {
    format!("/proc/sys/net/{}", sysctl.path())
}

/// A device that disappears while its files are opened gives any of these.
fn is_gone(error: &io::Error) -> bool {
    use nix::errno::Errno::{ENODEV, ENOENT, ENXIO};
    error.raw_os_error().is_some_and(|raw| [ENOENT, ENODEV, ENXIO].iter().any(|e| *e as i32 == raw))
}
