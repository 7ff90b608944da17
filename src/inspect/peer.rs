//! The process that holds the other end of a local socket, and whether it can be an agent.
//!
//! Any process of the network namespace may bind the agent's name while the agent is not there, and pods with `hostNetwork` run in
//! that of the node, often as root. The kernel says which process began to listen; an agent is one of root's and may enter
//! namespaces and change them, which no container may that was not trusted with the node.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` (include/uapi/linux/capability.h).
const NEEDED: u64 = 1 << 12 | 1 << 21;

/// The other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    uid: u32,
    /// 0: of a PID namespace that this process cannot see into.
    pid: i32,
    /// `None`: it has ended, or cannot be seen.
    process: Option<Process>,
}

/// What `/proc` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    name: String,
    /// Its effective capabilities.
    capabilities: u64,
}

impl Peer {
    /// The process that listened when this socket connected to it.
    ///
    /// # Errors
    /// It is not a connected local socket.
    pub(super) fn of(socket: &impl AsFd) -> io::Result<Peer> {
        let found = getsockopt(socket, PeerCredentials)?;
        let status = || fs::read_to_string(format!("/proc/{}/status", found.pid())).ok();
        let process = (found.pid() > 0).then(status).flatten().and_then(|status| process(&status));
        Ok(Peer { uid: found.uid(), pid: found.pid(), process })
    }

    /// Whether it is one of root's.
    pub(super) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Why this is not an agent, as the end of a sentence about the process; `None` if it can be one.
    pub(super) fn doubt(&self) -> Option<&'static str> {
        match &self.process {
            _ if !self.is_root() => Some("and an agent runs as root"),
            None => Some("which cannot be seen from here: ask on the node itself, or in the agent's pod"),
            Some(process) if process.capabilities & NEEDED != NEEDED => {
                Some("which lacks the capabilities of an agent (CAP_NET_ADMIN, CAP_SYS_ADMIN)")
            }
            Some(_) => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(process) => write!(f, "process {} ({}) of user {}", self.pid, process.name, self.uid),
            None if self.pid > 0 => write!(f, "process {} of user {}", self.pid, self.uid),
            None => write!(f, "a process of user {}", self.uid),
        }
    }
}

/// Reads `/proc/PID/status`.
fn process(status: &str) -> Option<Process> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let capabilities = u64::from_str_radix(field("CapEff:")?, 16).ok()?;
    Some(Process { name: field("Name:")?.to_owned(), capabilities })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn peer(uid: u32, capabilities: Option<u64>) -> Peer {
        let process = capabilities.map(|capabilities| Process { name: "python3".into(), capabilities });
        Peer { uid, pid: 4711, process }
    }

    #[test]
    fn only_a_process_of_root_with_the_capabilities_of_an_agent_is_believed() {
        assert_eq!(peer(0, Some(0x0000_01ff_ffff_ffff)).doubt(), None);
        assert_eq!(peer(0, Some(NEEDED)).doubt(), None);
        assert!(peer(1000, Some(u64::MAX)).doubt().unwrap().contains("runs as root"));
        // What containerd gives to every container, and each of the two alone.
        for capabilities in [0x0000_0000_a804_25fb, 1 << 12, 1 << 21, 0] {
            assert!(peer(0, Some(capabilities)).doubt().unwrap().contains("CAP_NET_ADMIN"), "{capabilities:#x}");
        }
        assert!(peer(0, None).doubt().unwrap().contains("cannot be seen"));
    }

    #[test]
    fn a_process_is_named_as_far_as_it_can_be_seen() {
        assert_eq!(peer(1000, Some(0)).to_string(), "process 4711 (python3) of user 1000");
        assert_eq!(peer(1000, None).to_string(), "process 4711 of user 1000");
        assert_eq!(Peer { pid: 0, ..peer(0, None) }.to_string(), "a process of user 0");
    }

    #[test]
    fn the_kernel_and_proc_say_who_the_other_end_is() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer.pid, nix::unistd::getpid().as_raw());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(!peer.process.unwrap().name.is_empty());
    }
}
