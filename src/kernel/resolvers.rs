//! Which resolvers the node has.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Files of the node that list them. The first is often that of a resolver on the node itself; the second then has the others
/// (man 8 `systemd-resolved.service`).
const FILES: [&str; 2] = ["etc/resolv.conf", "run/systemd/resolve/resolv.conf"];

/// The resolvers of the node whose procfs is mounted here, with the files that list them. A file that cannot be read lists none.
pub fn resolvers(proc_root: &Path) -> BTreeMap<IpAddr, String> {
    // The agent's own root is that of its image.
    let root = proc_root.join("1/root");
    let of = |file: &str| -> Vec<(IpAddr, String)> {
        let text = fs::read_to_string(within(&root, file)).unwrap_or_default();
        nameservers(&text).map(|address| (address, format!("/{file}"))).collect()
    };
    FILES.iter().rev().flat_map(|file| of(file)).collect()
}

/// The file, or what it is an absolute link to: the kernel would follow that from our own root.
fn within(root: &Path, file: &str) -> PathBuf {
    let path = root.join(file);
    let target = fs::read_link(&path).ok().filter(|target| target.is_absolute());
    target.and_then(|target| Some(root.join(target.strip_prefix("/").ok()?))).unwrap_or(path)
}

/// The addresses behind the word `nameserver` (man 5 `resolv.conf`), without the zone that a link-local one has.
fn nameservers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        address.split('%').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join("1/root").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_resolvers_are_those_of_the_node_with_their_file() {
        let proc_root = tempfile::tempdir().unwrap();
        assert_eq!(resolvers(proc_root.path()), BTreeMap::new());
        let text = "# nameserver 192.0.2.1\nsearch example.org\n nameserver\t192.0.2.53 # ours\nnameserver fe80::1%eth0\n\
                    nameserver\nnameserver none\n";
        write(proc_root.path(), "etc/resolv.conf", text);
        let file = || "/etc/resolv.conf".to_owned();
        assert_eq!(resolvers(proc_root.path()), [(ip("192.0.2.53"), file()), (ip("fe80::1"), file())].into());
    }

    #[test]
    fn those_behind_a_resolver_on_the_node_count_too() {
        let proc_root = tempfile::tempdir().unwrap();
        write(proc_root.path(), "etc/resolv.conf", "nameserver 127.0.0.53\n");
        write(proc_root.path(), "run/systemd/resolve/resolv.conf", "nameserver 192.0.2.53\n");
        let found = resolvers(proc_root.path());
        assert_eq!(found[&ip("192.0.2.53")], "/run/systemd/resolve/resolv.conf");
    }

    #[test]
    fn an_absolute_link_is_followed_on_the_node() {
        let proc_root = tempfile::tempdir().unwrap();
        write(proc_root.path(), "run/elsewhere/resolv.conf", "nameserver 192.0.2.53\n");
        fs::create_dir_all(proc_root.path().join("1/root/etc")).unwrap();
        symlink("/run/elsewhere/resolv.conf", proc_root.path().join("1/root/etc/resolv.conf")).unwrap();
        assert_eq!(resolvers(proc_root.path())[&ip("192.0.2.53")], "/etc/resolv.conf");
    }
}
