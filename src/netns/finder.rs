//! From a pod to its network namespace, without a container runtime: through the processes that run in its cgroup.
//!
//! A process is only a hint. Its namespace counts if it is not the host's and holds the pod's address, so that a recycled
//! process id, a `runc` that has not entered the namespace yet, or a nested container cannot lead us astray: writing a
//! VIP into a foreign namespace would be worse than writing none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str;

use nix::errno::Errno;
use nix::sys::socket::SockaddrStorage;

use crate::model::Addresses;

use super::cgroup::pod_uids;
use super::{Netns, NetnsError, NetnsId, PodQuery};

/// Why a pod's namespace was not found. Says what was seen instead.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The processes could not be listed at all.
    #[error("list the processes below {path}: {source} (mount the node's /proc, and name it with --proc-root)")]
    Scan {
        /// Where the processes were looked for.
        path: PathBuf,
        /// Why they cannot be listed.
        source: io::Error,
    },
    /// No process belongs to the pod: it has not started yet, has ended, or the agent does not see the host's processes.
    #[error("pod {uid}: none of {pods} pods with processes on this node is this one")]
    NoProcess {
        /// The pod.
        uid: String,
        /// Number of pods that do have processes; 0 means that the agent does not see the host's.
        pods: usize,
    },
    /// All of the pod's processes that could be examined are in the host's namespace.
    #[error("pod {uid}: process {pid} is in the host's network namespace")]
    HostNetwork {
        /// The pod.
        uid: String,
        /// The process that was looked at.
        pid: u32,
    },
    /// The namespace does not hold the pod's address: the CNI plugin is not done, or it is not the pod's namespace.
    #[error("pod {uid}: {netns} of process {pid} does not hold {addresses}, only {seen:?}")]
    AddressMissing {
        /// The pod.
        uid: String,
        /// The addresses that were looked for.
        addresses: Addresses,
        /// The process that was looked at.
        pid: u32,
        /// Its namespace.
        netns: NetnsId,
        /// The addresses that the namespace does hold, without those of the loopback.
        seen: Vec<IpAddr>,
    },
    /// The pod's processes run on gVisor, which takes the address out of the namespace.
    #[error(
        "pod {uid}: process {pid} is gVisor's {program}, which has a network stack of its own; \
         run the pod with a RuntimeClass of runc or crun"
    )]
    OwnStack {
        /// The pod.
        uid: String,
        /// The process that was looked at.
        pid: u32,
        /// How it calls itself.
        program: String,
    },
    /// The namespace is there but cannot be opened or entered.
    #[error("pod {uid}: {source}")]
    Unreachable {
        /// The pod.
        uid: String,
        /// What failed; names the path and the errno.
        source: NetnsError,
    },
}

impl FindError {
    /// Whether the same question may have an answer a moment later. A lack of privileges does not heal.
    pub fn retry_makes_sense(&self) -> bool {
        match self {
            // A starting container's first process is in the pod's cgroup before it is in the pod's namespace.
            FindError::NoProcess { .. } | FindError::HostNetwork { .. } | FindError::AddressMissing { .. } => true,
            FindError::Unreachable { source, .. } => !is_one_of(source, &[Errno::EPERM, Errno::EACCES]),
            FindError::Scan { .. } | FindError::OwnStack { .. } => false,
        }
    }

    /// Whether the pod is of a kind that cannot be served at all.
    pub fn is_refusal(&self) -> bool {
        matches!(self, FindError::OwnStack { .. })
    }

    /// Of two failures the one that got further says more.
    fn rank(&self) -> u8 {
        match self {
            FindError::Scan { .. } => 0,
            FindError::NoProcess { .. } => 1,
            FindError::HostNetwork { .. } => 2,
            FindError::Unreachable { .. } => 3,
            FindError::AddressMissing { .. } => 4,
            FindError::OwnStack { .. } => 5,
        }
    }
}

/// The processes of every pod, at one moment: pod UID → process ids, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodProcesses {
    pids: BTreeMap<String, BTreeSet<u32>>,
}

impl PodProcesses {
    /// The processes of a pod, ascending; none for an unknown one.
    pub fn of(&self, uid: &str) -> impl Iterator<Item = u32> + '_ {
        self.pids.get(uid).into_iter().flatten().copied()
    }

    /// Number of pods that have a process.
    pub fn len(&self) -> usize {
        self.pids.len()
    }

    /// Whether no pod has a process: the agent most likely does not see the host's processes.
    pub fn is_empty(&self) -> bool {
        self.pids.is_empty()
    }
}

/// Finds namespaces through `<proc_root>/PID/cgroup` and `<proc_root>/PID/ns/net`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcFinder {
    /// A proc file system that shows the host's processes: `/proc` with `hostPID`, else where the host's is mounted.
    pub proc_root: PathBuf,
}

impl ProcFinder {
    /// A finder for the processes below `proc_root`.
    pub fn new(proc_root: impl Into<PathBuf>) -> Self {
        ProcFinder { proc_root: proc_root.into() }
    }

    /// Reads the cgroups of all processes once. About 10 µs per process: keep the result for all pods of one reconcile.
    ///
    /// # Errors
    /// [`FindError::Scan`] if the root cannot be listed; a process that ends meanwhile is left out.
    pub fn scan(&self) -> Result<PodProcesses, FindError> {
        let ids =
            process_ids(&self.proc_root).map_err(|source| FindError::Scan { path: self.proc_root.clone(), source })?;
        let mut found = PodProcesses::default();
        for pid in ids {
            let Ok(text) = fs::read_to_string(self.process(pid).join("cgroup")) else { continue };
            for uid in pod_uids(&text) {
                found.pids.entry(uid).or_default().insert(pid);
            }
        }
        Ok(found)
    }

    /// The namespace of a pod among the processes of a [`ProcFinder::scan`], verified: it is not the caller's own (the host's)
    /// and holds the pod's address. Of several the one that holds most of the addresses.
    ///
    /// # Errors
    /// If none of the pod's processes leads to its namespace: what was wrong with the one that got furthest.
    pub fn find_among(&self, processes: &PodProcesses, pod: &PodQuery) -> Result<Netns, FindError> {
        let host = Netns::current().map_err(|source| FindError::Unreachable { uid: pod.uid.clone(), source })?.id();
        let mut failure = FindError::NoProcess { uid: pod.uid.clone(), pods: processes.len() };
        let mut seen = BTreeSet::new();
        let mut best: Option<(usize, Netns)> = None;
        for pid in pod.names().flat_map(|name| processes.of(name)) {
            let netns = match Netns::open(self.process(pid).join("ns/net")) {
                Ok(netns) => netns,
                Err(error) if has_ended(&error) => continue,
                Err(source) => {
                    keep_better(&mut failure, FindError::Unreachable { uid: pod.uid.clone(), source });
                    continue;
                }
            };
            if !seen.insert(netns.id()) {
                continue;
            }
            match verify(&netns, host, pid, pod) {
                Ok(held) if best.as_ref().is_none_or(|(most, _)| held > *most) => best = Some((held, netns)),
                Ok(_) => {}
                Err(error) => keep_better(&mut failure, self.explained(error)),
            }
        }
        best.map(|(_, netns)| netns).ok_or(failure)
    }

    /// A namespace without the pod's address may be one that will never have it.
    fn explained(&self, error: FindError) -> FindError {
        match error {
            FindError::AddressMissing { uid, pid, .. } if let Some(program) = self.gvisor(pid) => {
                FindError::OwnStack { uid, pid, program }
            }
            other => other,
        }
    }

    /// `runsc-sandbox` or `runsc-gofer`: so gVisor calls its processes (runsc/sandbox/sandbox.go).
    fn gvisor(&self, pid: u32) -> Option<String> {
        let command = fs::read(self.process(pid).join("cmdline")).ok()?;
        let program = str::from_utf8(command.split(|byte| *byte == 0).next()?).ok()?;
        let name = program.rsplit('/').next()?;
        name.starts_with("runsc").then(|| name.to_owned())
    }

    fn process(&self, pid: u32) -> PathBuf {
        self.proc_root.join(pid.to_string())
    }
}

fn keep_better(best: &mut FindError, candidate: FindError) {
    if candidate.rank() > best.rank() {
        *best = candidate;
    }
}

/// How many of the pod's addresses the namespace holds, at least one.
fn verify(netns: &Netns, host: NetnsId, pid: u32, pod: &PodQuery) -> Result<usize, FindError> {
    if netns.id() == host {
        return Err(FindError::HostNetwork { uid: pod.uid.clone(), pid });
    }
    let addresses = addresses_in(netns).map_err(|source| FindError::Unreachable { uid: pod.uid.clone(), source })?;
    let held = pod.addresses.iter().filter(|a| addresses.contains(a)).count();
    if held > 0 {
        return Ok(held);
    }
    let seen = addresses.into_iter().filter(|a| !a.is_loopback()).collect();
    Err(FindError::AddressMissing { uid: pod.uid.clone(), addresses: pod.addresses, pid, netns: netns.id(), seen })
}

/// All addresses of a namespace (getifaddrs(3) asks over netlink, in the namespace of the calling thread).
///
/// # Errors
/// The namespace cannot be entered, or does not answer.
pub fn addresses_in(netns: &Netns) -> Result<BTreeSet<IpAddr>, NetnsError> {
    let listed = netns.run(|| {
        let list = nix::ifaddrs::getifaddrs()?;
        Ok::<_, Errno>(list.filter_map(|entry| ip_of(&entry.address?)).collect())
    })?;
    listed.map_err(|source| NetnsError::Enter { path: netns.path().to_owned(), source })
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn has_ended(error: &NetnsError) -> bool {
    // ESRCH: the directory was still there when it was listed, the process was already reaped.
    is_one_of(error, &[Errno::ENOENT, Errno::ESRCH])
}

fn is_one_of(error: &NetnsError, codes: &[Errno]) -> bool {
    error.errno().is_some_and(|raw| codes.contains(&Errno::from_raw(raw)))
}

/// The ids of the processes below a proc root, ascending.
pub(super) fn process_ids(proc_root: &Path) -> io::Result<BTreeSet<u32>> {
    let entries = fs::read_dir(proc_root)?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}
