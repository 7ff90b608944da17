//! From a pod to its namespace, in proc trees made for the purpose whose `ns/net` lead to real namespaces.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{netns, sh};
use tunnel_router::model::Addresses;
use tunnel_router::netns::{FindError, Netns, PodQuery, ProcFinder};

const UID: &str = "8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81";
const OTHER: &str = "8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b82";
const IP: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);

fn pod() -> PodQuery {
    PodQuery::new(UID, IP)
}

fn find(root: &Path) -> Result<Netns, FindError> {
    let finder = ProcFinder::new(root);
    finder.find_among(&finder.scan()?, &pod())
}

fn cgroup(uid: &str) -> String {
    format!("0::/kubepods/burstable/pod{uid}/4b0f1e\n")
}

/// A process with a cgroup and, if given, a namespace.
fn process(root: &Path, pid: u32, cgroup: &str, netns: Option<&Netns>) {
    let dir = root.join(pid.to_string());
    fs::create_dir_all(dir.join("ns")).unwrap();
    fs::write(dir.join("cgroup"), cgroup).unwrap();
    if let Some(netns) = netns {
        let target = format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
        symlink(target, dir.join("ns/net")).unwrap();
    }
}

fn pod_netns() -> Netns {
    let netns = netns();
    sh(&netns, "ip link add eth0 type veth peer name far && ip addr add 10.244.1.2/24 dev eth0");
    netns
}

#[test]
fn a_pod_is_found_among_other_processes() {
    let root = tempfile::tempdir().unwrap();
    let (target, other) = (pod_netns(), netns());
    process(root.path(), 1, "0::/init.scope\n", None);
    process(root.path(), 20, &cgroup(OTHER), Some(&other));
    process(root.path(), 21, &cgroup(UID), Some(&target));
    fs::create_dir_all(root.path().join("self")).unwrap();
    fs::create_dir_all(root.path().join("30")).unwrap();
    let found = find(root.path()).unwrap();
    assert_eq!(found.id(), target.id());
}

#[test]
fn one_scan_serves_many_pods() {
    let root = tempfile::tempdir().unwrap();
    let (target, other) = (pod_netns(), pod_netns());
    process(root.path(), 20, &cgroup(OTHER), Some(&other));
    process(root.path(), 21, &cgroup(UID), Some(&target));
    process(root.path(), 22, &cgroup(UID), Some(&target));
    let finder = ProcFinder::new(root.path());
    let processes = finder.scan().unwrap();
    assert_eq!(processes.len(), 2);
    assert_eq!(processes.of(UID).collect::<Vec<_>>(), [21, 22]);
    assert_eq!(finder.find_among(&processes, &pod()).unwrap().id(), target.id());
    let query = PodQuery::new(OTHER, IP);
    assert_eq!(finder.find_among(&processes, &query).unwrap().id(), other.id());
}

#[test]
fn processes_that_have_ended_or_are_elsewhere_are_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let (target, nested) = (pod_netns(), netns());
    let host = Netns::current().unwrap();
    process(root.path(), 20, &cgroup(UID), None);
    process(root.path(), 21, &cgroup(UID), Some(&host));
    process(root.path(), 22, &cgroup(UID), Some(&nested));
    process(root.path(), 23, &cgroup(UID), Some(&target));
    assert_eq!(find(root.path()).unwrap().id(), target.id());
}

#[test]
fn a_pod_without_processes_says_so() {
    let root = tempfile::tempdir().unwrap();
    process(root.path(), 20, &cgroup(OTHER), None);
    let error = find(root.path()).unwrap_err();
    assert!(matches!(error, FindError::NoProcess { pods: 1, .. }), "{error}");
    assert!(error.retry_makes_sense());
}

#[test]
fn the_hosts_namespace_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let host = Netns::current().unwrap();
    process(root.path(), 21, &cgroup(UID), Some(&host));
    let error = find(root.path()).unwrap_err();
    assert!(matches!(error, FindError::HostNetwork { pid: 21, .. }), "{error}");
}

#[test]
fn a_namespace_without_the_pods_address_is_refused_and_says_what_it_holds() {
    let root = tempfile::tempdir().unwrap();
    let target = netns();
    sh(&target, "ip link add eth0 type veth peer name far && ip addr add 10.244.1.3/24 dev eth0");
    process(root.path(), 21, &cgroup(UID), Some(&target));
    let error = find(root.path()).unwrap_err();
    assert!(error.retry_makes_sense());
    match error {
        FindError::AddressMissing { seen, pid, .. } => {
            assert_eq!((pid, seen), (21, vec![IpAddr::from([10, 244, 1, 3])]));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_namespace_that_cannot_be_entered_is_named_with_its_errno() {
    let root = tempfile::tempdir().unwrap();
    process(root.path(), 21, &cgroup(UID), None);
    fs::write(root.path().join("21/ns/net"), "").unwrap();
    let error = find(root.path()).unwrap_err();
    assert!(matches!(error, FindError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("21/ns/net") && error.to_string().contains("EINVAL"), "{error}");
}

#[test]
fn a_proc_tree_that_is_not_there_is_not_an_empty_one() {
    let error = find(Path::new("/nonexistent")).unwrap_err();
    assert!(matches!(error, FindError::Scan { .. }), "{error}");
    assert!(!error.retry_makes_sense());
}

#[test]
fn a_static_pod_is_found_by_the_hash_of_its_manifest() {
    const HASH: &str = "5f3a9c0e7b1d4e8fa2c6d9b0e4f71a35";
    let root = tempfile::tempdir().unwrap();
    let target = pod_netns();
    process(root.path(), 21, &cgroup(HASH), Some(&target));
    let finder = ProcFinder::new(root.path());
    let scan = finder.scan().unwrap();
    assert!(finder.find_among(&scan, &pod()).is_err());
    let query = PodQuery { config_hash: Some(HASH.to_owned()), ..pod() };
    assert_eq!(finder.find_among(&scan, &query).unwrap().id(), target.id());
}

#[test]
fn of_two_namespaces_the_one_with_more_of_the_addresses_is_the_pods() {
    let root = tempfile::tempdir().unwrap();
    let (old, new) = (pod_netns(), pod_netns());
    for (netns, address) in [(&old, "fd00:1::8/64"), (&new, "fd00:1::9/64")] {
        sh(netns, &format!("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 && ip addr add {address} dev eth0 nodad"));
    }
    process(root.path(), 21, &cgroup(UID), Some(&old));
    process(root.path(), 22, &cgroup(UID), Some(&new));
    let finder = ProcFinder::new(root.path());
    let addresses = Addresses::first_of(&[IP.into(), "fd00:1::9".parse().unwrap()]);
    let found = finder.find_among(&finder.scan().unwrap(), &PodQuery::new(UID, addresses)).unwrap();
    assert_eq!(found.id(), new.id());
}

#[test]
fn gvisor_is_named_and_not_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let target = netns();
    process(root.path(), 21, &cgroup(UID), Some(&target));
    fs::write(root.path().join("21/cmdline"), "/usr/bin/runsc-sandbox\0--root=/run\0boot\0").unwrap();
    let error = find(root.path()).unwrap_err();
    assert!(error.is_refusal() && !error.retry_makes_sense(), "{error}");
    assert!(error.to_string().contains("runsc-sandbox"), "{error}");
}
