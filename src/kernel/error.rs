//! What the kernel, a sysctl or `nft` refused: the one place that knows which errno means "already there" or "gone".

use std::io;

use nix::errno::Errno;

/// An operation on the kernel that failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The socket itself, not a request.
    #[error("netlink socket: {doing}: {source}")]
    Socket {
        /// What was being done with it.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("{errno}{}", text.as_ref().map(|t| format!(": {t}")).unwrap_or_default())]
    Refused {
        /// The errno.
        errno: Errno,
        /// The kernel's own explanation (`NLMSGERR_ATTR_MSG`), for many requests there is none.
        text: Option<String>,
    },
    /// A dump was interrupted by changes again and again: what was read may miss objects.
    #[error("the list of {what} changed while it was read, {tries} times in a row")]
    Interrupted {
        /// What was read.
        what: &'static str,
        /// How often it was tried.
        tries: u32,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] crate::netns::NetnsError),
    /// Something could not be read back.
    #[error("read the {what}: {source}")]
    Read {
        /// What was read.
        what: &'static str,
        /// What went wrong.
        source: Box<KernelError>,
    },
    /// A message that does not look as the kernel's headers say.
    #[error("unintelligible answer from the kernel: {0}")]
    Malformed(String),
    /// A device that a request needs does not exist.
    #[error("no device {0}")]
    NoDevice(String),
    /// A link of that name, or with those parameters, exists already and is not what is wanted.
    #[error("{0}")]
    Occupied(String),
    /// A sysctl could not be read or written.
    #[error("{path}: {source}")]
    Sysctl {
        /// The file.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// `nft` could not be run.
    #[error("run nft: {0}")]
    NftSpawn(io::Error),
    /// `nft` did not end.
    #[error("nft did not end within {0:?} and was killed; look at what else changes the ruleset (`nft monitor`)")]
    NftTimeout(std::time::Duration),
    /// `nft` ran and refused.
    #[error("nft: {0}")]
    Nft(String),
    /// The program for second chances is not loaded, or no longer.
    #[error("the BPF program {0} is not loaded here")]
    NoProgram(u32),
    /// There is no route to an address, or one that rejects it.
    #[error("no route to {to}: {errno}")]
    NoRoute {
        /// The address.
        to: std::net::IpAddr,
        /// `ENETUNREACH` (no route), `EHOSTUNREACH` (`unreachable`), `EACCES` (`prohibit`), `EINVAL` (`blackhole`).
        errno: Errno,
    },
}

impl KernelError {
    /// A refusal from the positive or negative errno of a netlink message.
    pub(super) fn refused(errno: i32, text: Option<String>) -> Self {
        KernelError::Refused { errno: Errno::from_raw(errno.saturating_abs()), text }
    }

    /// The errno, if the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            KernelError::Refused { errno, .. } | KernelError::NoRoute { errno, .. } => Some(*errno),
            KernelError::Socket { source, .. } | KernelError::Sysctl { source, .. } | KernelError::NftSpawn(source) => {
                source.raw_os_error().map(Errno::from_raw)
            }
            KernelError::Read { source, .. } => source.errno(),
            _ => None,
        }
    }

    /// Something was in the way for a moment: somebody deleted a device between two steps, or memory was short.
    pub fn is_transient(&self) -> bool {
        use Errno::{EAGAIN, EBUSY, EINTR, ENOBUFS, ENODEV, ENOENT, ENOMEM, ENXIO};
        let passing = [EAGAIN, EBUSY, EINTR, ENOBUFS, ENODEV, ENOENT, ENOMEM, ENXIO];
        let is_passing = self.errno().is_some_and(|errno| passing.contains(&errno));
        is_passing || matches!(self, KernelError::NoDevice(_) | KernelError::Interrupted { .. } | KernelError::Netns(_))
    }

    /// The object does not exist: nothing left to delete.
    ///
    /// `ENOENT` rules and nexthops, `ESRCH` routes, `ENODEV` links and devices, `EADDRNOTAVAIL` addresses.
    pub fn is_not_found(&self) -> bool {
        use Errno::{EADDRNOTAVAIL, ENODEV, ENOENT, ESRCH};
        matches!(self, KernelError::NoDevice(_))
            || self.errno().is_some_and(|e| [ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL].contains(&e))
    }

    /// The object is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// The kernel does not know the kind of object at all: a module or a configuration option is missing.
    pub fn is_unsupported(&self) -> bool {
        use Errno::{EAFNOSUPPORT, EOPNOTSUPP, EPROTONOSUPPORT};
        self.errno().is_some_and(|e| [EOPNOTSUPP, EAFNOSUPPORT, EPROTONOSUPPORT].contains(&e))
    }
}
