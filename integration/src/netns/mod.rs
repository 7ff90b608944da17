//! Network namespaces: made like `ip netns add` makes them, and used without moving the caller's thread.
//!
//! A thread that has entered a namespace cannot be given back to a runtime: the next task on it would run in the wrong
//! place. So everything that must happen *inside* (opening a socket, forking a child, writing a sysctl) happens on a
//! thread that is started for it and thrown away. What comes out (a socket, a child, a netlink handle) stays bound to the
//! namespace and is used from wherever the caller is.
//!
//! A [`Netns`] is a handle: dropping it closes a file descriptor and removes nothing. Removal is [`Netns::delete`].

mod named;
mod sysctl;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;

pub use named::{NETNS_DIR, list};

/// What went wrong, with which namespace.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {name}: {action}")]
pub struct Error {
    name: String,
    action: String,
    #[source]
    source: io::Error,
}

/// Result of an operation on a namespace.
pub type Result<T> = std::result::Result<T, Error>;

/// What makes two handles the same namespace, whatever its name: the inode of its nsfs file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// Device of nsfs.
    pub dev: u64,
    /// Inode: unique as long as the namespace lives.
    pub inode: u64,
}

/// An open network namespace.
#[derive(Debug, Clone)]
pub struct Netns {
    name: Arc<str>,
    file: Arc<File>,
    id: NetnsId,
}

impl Netns {
    /// Creates the namespace and binds it to `/run/netns/<name>`. An existing name is an error.
    pub fn create(name: &str) -> Result<Netns> {
        named::create(name).map_err(|source| error(name, "create", source))?;
        Self::open(name)
    }

    /// Opens `/run/netns/<name>`.
    pub fn open(name: &str) -> Result<Netns> {
        let file = File::open(named::path(name)).map_err(|source| error(name, "open", source))?;
        Self::from_file(name, file)
    }

    /// Opens the namespace that process `pid` lives in.
    pub fn of_process(pid: u32) -> Result<Netns> {
        let name = format!("of process {pid}");
        let file = File::open(format!("/proc/{pid}/ns/net")).map_err(|source| error(&name, "open", source))?;
        Self::from_file(&name, file)
    }

    /// Unbinds the name; a name that does not exist is not an error. The kernel removes the namespace when the last
    /// process and the last open handle are gone too.
    pub fn delete(name: &str) -> Result<()> {
        named::delete(name).map_err(|source| error(name, "delete", source))
    }

    fn from_file(name: &str, file: File) -> Result<Netns> {
        let meta = file.metadata().map_err(|source| error(name, "stat", source))?;
        let id = NetnsId { dev: meta.dev(), inode: meta.ino() };
        Ok(Netns { name: name.into(), file: Arc::new(file), id })
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that the name is bound to.
    pub fn path(&self) -> PathBuf {
        named::path(&self.name)
    }

    /// Identity, independent of the name.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The descriptor, for `IFLA_NET_NS_FD`. Valid as long as `self`.
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `f` inside, on a thread of its own, and waits for it. A panic in `f` continues in the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || {
            setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(f())
        };
        let result = std::thread::scope(|scope| {
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        result.map_err(|source: nix::Error| error(&self.name, "enter", source.into()))
    }

    /// Like [`run`](Self::run) for an `f` that can fail with an I/O error; `action` says what was tried.
    pub fn run_io<T: Send>(&self, action: &str, f: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        self.run(f)?.map_err(|source| error(&self.name, action, source))
    }

    /// Like [`run_io`](Self::run_io), for objects that register with the caller's tokio runtime when they are made.
    pub fn run_in_runtime<T: Send>(&self, action: &str, f: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        let runtime = Handle::try_current().map_err(|e| error(&self.name, action, io::Error::other(e)))?;
        self.run_io(action, move || {
            let _guard = runtime.enter();
            f()
        })
    }

    /// Starts a process inside: a child inherits the namespace of the thread that forks it.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let action = format!("start {:?}", command.get_program());
        self.run_io(&action, || command.spawn())
    }

    /// Starts a process inside that the runtime looks after.
    pub fn spawn_async(&self, command: &mut tokio::process::Command) -> Result<tokio::process::Child> {
        let action = format!("start {:?}", command.as_std().get_program());
        self.run_in_runtime(&action, || command.spawn())
    }

    /// A TCP listener inside, driven by the caller's runtime.
    pub fn tcp_listener(&self, address: SocketAddr) -> Result<TcpListener> {
        self.run_in_runtime(&format!("listen on {address}"), || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        })
    }

    /// A UDP socket inside, bound and unconnected, driven by the caller's runtime.
    pub fn udp_socket(&self, address: SocketAddr) -> Result<UdpSocket> {
        self.run_in_runtime(&format!("bind UDP {address}"), || {
            let socket = std::net::UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        })
    }

    /// A route netlink handle for this namespace, driven by the caller's runtime until its last clone is dropped.
    pub fn netlink(&self) -> Result<rtnetlink::Handle> {
        let (connection, handle, _) = self.run_in_runtime("open netlink", rtnetlink::new_connection)?;
        tokio::spawn(connection);
        Ok(handle)
    }
}

fn error(name: &str, action: &str, source: io::Error) -> Error {
    Error { name: name.to_owned(), action: action.to_owned(), source }
}
