//! Every network namespace of the machine, for `cleanup`, which must find what is ours without asking an API server.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::finder::process_ids;
use super::{Netns, NetnsId};

/// Where `ip netns` and most CNI plugins pin namespaces; `/var/run` is the same place on any current distribution, but
/// containerd and CRI-O ask for it by the old name.
const PINNED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Every distinct network namespace that a process below `proc_root` lives in or that is pinned in `/run/netns`, each
/// once. What cannot be opened (a process that just ended, a stale pin) is left out: there is nothing to clean there.
pub fn all_netns(proc_root: &Path) -> Vec<Netns> {
    let processes = process_ids(proc_root)
        .unwrap_or_default()
        .into_iter()
        .map(|pid| proc_root.join(pid.to_string()).join("ns/net"));
    let mut found: BTreeMap<NetnsId, Netns> = BTreeMap::new();
    for path in processes.chain(PINNED.iter().flat_map(|dir| entries(Path::new(dir)))) {
        let Ok(netns) = Netns::open(&path) else { continue };
        // Most processes share one: enter it once, not once per process.
        if !found.contains_key(&netns.id()) && is_network_namespace(&netns) {
            found.insert(netns.id(), netns);
        }
    }
    found.into_values().collect()
}

/// A pin whose mount is gone is an empty plain file on tmpfs.
fn is_network_namespace(netns: &Netns) -> bool {
    netns.run(|| ()).is_ok()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|list| list.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}
