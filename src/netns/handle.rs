//! A handle on one network namespace, and the throw-away thread that enters it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

/// The namespace of the calling thread. `/proc/self` would be the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";

/// What makes a namespace the same or another one: device and inode of its file in nsfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    /// Device number of nsfs.
    pub dev: u64,
    /// Inode number; it is reused once the namespace is gone *and* no handle on it is open.
    pub inode: u64,
}

impl fmt::Display for NetnsId {
    /// As `readlink /proc/PID/ns/net` and `lsns` print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// What can go wrong when a namespace is opened or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The file does not exist, or may not be opened.
    #[error("open the network namespace {path}: {source}{}", right(.source))]
    Open {
        /// The file that was opened.
        path: PathBuf,
        /// Why it could not be.
        source: io::Error,
    },
    /// The file is there but is no network namespace, or entering it is not allowed.
    #[error("enter the network namespace {path}: {source} (setns needs CAP_SYS_ADMIN)")]
    Enter {
        /// The file that the handle was opened from.
        path: PathBuf,
        /// errno of setns(2) or unshare(2).
        source: Errno,
    },
    /// No thread could be made.
    #[error("start a thread for the network namespace {path}: {source}")]
    Thread {
        /// The file that the handle was opened from.
        path: PathBuf,
        /// Why there is no thread.
        source: io::Error,
    },
    /// The work panicked. The caller goes on: one pod's bug must not stop the others.
    #[error("work in the network namespace {path} panicked: {message}")]
    Panicked {
        /// The file that the handle was opened from.
        path: PathBuf,
        /// The panic's message.
        message: String,
    },
}

/// Of a process with other rights than ours, ptrace(2) guards the file ("ptrace access mode checking").
fn right(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (processes of others can be looked into with CAP_SYS_PTRACE)",
        _ => "",
    }
}

impl NetnsError {
    /// The errno of the system call that failed, if one did.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetnsError::Open { source, .. } | NetnsError::Thread { source, .. } => source.raw_os_error(),
            NetnsError::Enter { source, .. } => Some(*source as i32),
            NetnsError::Panicked { .. } => None,
        }
    }
}

/// An open network namespace. Cheap to clone; the namespace lives at least as long as the last clone.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    id: NetnsId,
    path: PathBuf,
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Netns {}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetnsError::Open`] if `/proc` is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(OWN)
    }

    /// The namespace behind a file: `/proc/PID/ns/net`, `/run/netns/NAME`.
    ///
    /// # Errors
    /// [`NetnsError::Open`]; that it is no namespace shows only when it is entered.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref().to_owned();
        let opened = File::open(&path).and_then(|file| file.metadata().map(|meta| (file, meta)));
        match opened {
            Ok((file, meta)) => {
                Ok(Netns { file: Arc::new(file), id: NetnsId { dev: meta.dev(), inode: meta.ino() }, path })
            }
            Err(source) => Err(NetnsError::Open { path, source }),
        }
    }

    /// A new, empty namespace that nobody else sees; it is gone with the last handle on it. For probes and tests.
    ///
    /// # Errors
    /// [`NetnsError::Enter`] without `CAP_SYS_ADMIN`.
    pub fn anonymous() -> Result<Self, NetnsError> {
        let path = PathBuf::from("(new)");
        on_thread(&path, || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|source| NetnsError::Enter { path: path.clone(), source })?;
            Self::current()
        })?
    }

    /// Device and inode: what to compare and to use as a key.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The file it was opened from, for messages only: it may mean something else by now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` in the namespace, on a thread of its own, and waits for it. Blocks: inside an async runtime call it from
    /// `spawn_blocking`. The caller's thread is never moved.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `f` panicked.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        on_thread(&self.path, || {
            setns(self.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|source| NetnsError::Enter { path: self.path.clone(), source })?;
            Ok(f())
        })?
    }
}

fn on_thread<T: Send>(path: &Path, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    // A new thread knows nothing of the span that it works for.
    let span = tracing::Span::current();
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || span.in_scope(f))
            .map_err(|source| NetnsError::Thread { path: path.to_owned(), source })?
            .join()
            .map_err(|panic| NetnsError::Panicked { path: path.to_owned(), message: panic_message(panic.as_ref()) })
    })
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
